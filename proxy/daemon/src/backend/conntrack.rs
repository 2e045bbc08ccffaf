//! UDP flows that outlived their endpoint end.

use keelson_proxy_kernel::{Error, conntrack};
use keelson_proxy_plan::conntrack::Wanted;
use keelson_proxy_plan::model::{Change, Family, Protocol};
use keelson_proxy_plan::state::State;

/// Whether a change may leave such flows behind.
pub(crate) fn concerns(change: &Change) -> bool {
    let entries = change.before.iter().chain(&change.after);
    entries
        .into_iter()
        .any(|e| e.port.protocol == Protocol::Udp)
}

/// Compares the connection table with where flows may go, and removes those that go elsewhere.
pub(crate) async fn clean(state: &State) -> Result<(), Error> {
    let families = [Family::V4, Family::V6];
    let wanted = Wanted::new(&families.map(|f| (f, state.served(f))));
    let done = tokio::task::spawn_blocking(move || conntrack::clean(&wanted)).await;
    // A panic there would be a bug; the next sync tries again.
    let removed = done.map_err(|e| Error::Netlink {
        action: "clean conntrack",
        source: e.into(),
    })??;
    if removed > 0 {
        tracing::info!(removed, "stale UDP flows removed");
    }
    Ok(())
}
