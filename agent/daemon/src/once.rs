//! Work that several want at the same time is done once.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

type Running<V> = Shared<BoxFuture<'static, Result<V, String>>>;

/// What is under way, by what it is about.
pub(crate) struct Once<K, V: Clone>(Arc<Mutex<BTreeMap<K, Running<V>>>>);

impl<K, V: Clone> Default for Once<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, V> Once<K, V>
where
    K: Clone + Ord + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Waits for the work about `key` that is under way, or begins it. It is a task of its own: it goes on when whoever
    /// began it goes away.
    pub(crate) async fn run<F>(&self, key: K, work: impl FnOnce() -> F) -> Result<V, String>
    where
        F: Future<Output = Result<V, String>> + Send + 'static,
    {
        let running = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = || self.begin(key.clone(), work());
            all.entry(key.clone()).or_insert_with(begin).clone()
        };
        running.await
    }

    fn begin(
        &self,
        key: K,
        work: impl Future<Output = Result<V, String>> + Send + 'static,
    ) -> Running<V> {
        let all = self.0.clone();
        let task = tokio::spawn(async move {
            let done = work.await;
            all.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&key);
            done
        });
        let flat = |joined: Result<Result<V, String>, tokio::task::JoinError>| {
            joined.unwrap_or_else(|error| Err(error.to_string()))
        };
        task.map(flat).boxed().shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn all_who_wait_share_one() {
        let once: Arc<Once<&str, usize>> = Arc::default();
        let (begun, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ask = |key| {
            let (once, begun, go) = (once.clone(), begun.clone(), go.clone());
            tokio::spawn(async move {
                let work = || async move {
                    let n = begun.fetch_add(1, Ordering::SeqCst);
                    go.notified().await;
                    Ok(n)
                };
                once.run(key, work).await
            })
        };
        let first = ask("a");
        tokio::task::yield_now().await;
        let others = [ask("a"), ask("a"), ask("b")];
        while begun.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        // Whoever began it goes away.
        first.abort();
        tokio::task::yield_now().await;
        go.notify_one();
        go.notify_one();
        let mut done = Vec::new();
        for task in others {
            done.push(task.await.expect("joined").expect("done"));
        }
        assert_eq!((done, begun.load(Ordering::SeqCst)), (vec![0, 0, 1], 2));
        go.notify_one();
        assert_eq!(ask("a").await.expect("joined"), Ok(2), "done is done");
    }
}
