//! Writes in a namespace with a ResourceQuota go one after the other: what admission counted must still be true when
//! the object is stored, or several at once exceed the quota.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use keelson_api::Status;
use keelson_store::Range;
use tokio::sync::OwnedMutexGuard;

use crate::handler::Ctx;
use crate::object;
use crate::state::store_error;

/// Turns of this many namespaces are kept before those that nobody waits for are dropped.
const KEPT: usize = 64;

/// A lock a namespace.
#[derive(Default)]
pub(crate) struct Turns {
    namespaces: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    fn of(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self
            .namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if all.len() > KEPT {
            all.retain(|_, turn| turn.strong_count() > 0);
        }
        if let Some(turn) = all.get(namespace).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        all.insert(namespace.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

/// Waits until nobody else writes in the namespace, if it has a quota. The turn ends with the guard.
pub(crate) async fn take(
    ctx: &Ctx,
    namespace: &str,
) -> Result<Option<OwnedMutexGuard<()>>, Status> {
    let server = &ctx.server;
    if namespace.is_empty() {
        return Ok(None);
    }
    let quotas = server.row("", "v1", "resourcequotas")?;
    let range = Range {
        prefix: object::prefix(&quotas, namespace),
        limit: 1,
        uncounted: true,
        ..Range::default()
    };
    let page = server.store.list(range).await.map_err(store_error)?;
    if page.items.is_empty() {
        return Ok(None);
    }
    Ok(Some(server.turns.of(namespace).lock_owned().await))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_in_a_namespace() {
        let turns = Turns::default();
        let mine = turns.of("a").lock_owned().await;
        assert!(turns.of("a").try_lock_owned().is_err());
        assert!(turns.of("b").try_lock_owned().is_ok());
        drop(mine);
        assert!(turns.of("a").try_lock_owned().is_ok());
        for n in 0..3 * KEPT {
            turns.of(&n.to_string());
        }
        let kept = turns.namespaces.lock().expect("lock").len();
        assert!(kept <= KEPT + 1, "{kept}");
    }
}
