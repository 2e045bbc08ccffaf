//! One metadata-only watch a kind; kinds come and go with discovery.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::metadata::PartialObjectMeta;
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::graph::Object;
use super::{GarbageCollector, Kinds};

/// How often is looked for new kinds.
const DISCOVER: Duration = Duration::from_secs(30);
/// How soon again after discovery failed.
const RETRY: Duration = Duration::from_secs(1);
/// How long the first lists may take before work begins without the slowest.
const PATIENCE: Duration = Duration::from_secs(60);

struct Monitor {
    task: AbortHandle,
    synced: watch::Receiver<bool>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl GarbageCollector {
    /// Watches all kinds for ever. It is [complete](Self::complete) when all that were there at first are known: a graph
    /// with holes would let owners go too early.
    pub async fn watch(self: Arc<Self>) {
        let mut monitors: HashMap<String, Monitor> = HashMap::new();
        loop {
            let kinds = match discover(&self.client).await {
                Ok(kinds) => kinds,
                Err(error) => {
                    tracing::debug!(%error, "discover kinds");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            self.adapt(&mut monitors, kinds);
            if !*self.ready.borrow() {
                let all = monitors.values().map(|m| {
                    let mut synced = m.synced.clone();
                    async move { drop(synced.wait_for(|s| *s).await) }
                });
                let all = futures::future::join_all(all);
                if tokio::time::timeout(PATIENCE, all).await.is_err() {
                    tracing::warn!("some kinds cannot be listed, collecting garbage without them");
                }
                self.ready.send_replace(true);
            }
            tokio::time::sleep(DISCOVER).await;
        }
    }

    /// Starts and stops watches, so that there is one for each kind.
    fn adapt(self: &Arc<Self>, monitors: &mut HashMap<String, Monitor>, kinds: Kinds) {
        let name = |r: &ApiResource| format!("{}/{}", r.api_version, r.plural);
        let wanted: HashMap<String, Arc<ApiResource>> =
            kinds.values().map(|(r, _)| (name(r), r.clone())).collect();
        *self.kinds.write().unwrap_or_else(PoisonError::into_inner) = kinds;
        monitors.retain(|name, _| wanted.contains_key(name));
        for (name, resource) in wanted {
            monitors.entry(name).or_insert_with(|| {
                let (sender, synced) = watch::channel(false);
                let task = tokio::spawn(self.clone().follow(resource, sender));
                Monitor {
                    task: task.abort_handle(),
                    synced,
                }
            });
        }
    }

    async fn follow(self: Arc<Self>, resource: Arc<ApiResource>, synced: watch::Sender<bool>) {
        let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(self.client.clone(), &resource);
        let mut events = watcher(api, watcher::Config::default())
            .default_backoff()
            .boxed();
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            let wake = match event {
                Ok(watcher::Event::Init) => {
                    listed.clear();
                    Vec::new()
                }
                Ok(watcher::Event::InitApply(o)) => {
                    let object = Object::new(&resource, o.metadata);
                    listed.extend(object.as_ref().map(|o| o.uid.clone()));
                    self.take(object)
                }
                Ok(watcher::Event::InitDone) => {
                    let gone = self.graph(|g| &g.of_kind(&resource) - &listed);
                    let wake = gone.iter().flat_map(|uid| self.lose(uid)).collect();
                    listed.clear();
                    synced.send_replace(true);
                    wake
                }
                Ok(watcher::Event::Apply(o)) => {
                    let object = Object::new(&resource, o.metadata);
                    self.take(object)
                }
                Ok(watcher::Event::Delete(o)) => {
                    let uid = o.metadata.uid.unwrap_or_default();
                    self.lose(&uid)
                }
                Err(error) => {
                    tracing::debug!(kind = resource.kind, %error, "watch interrupted");
                    Vec::new()
                }
            };
            self.wake(wake);
        }
    }
}

/// Kinds that can be listed, watched and deleted. Events own nothing, are owned by nobody, and are many.
async fn discover(client: &kube::Client) -> Result<Kinds, kube::Error> {
    let found = Discovery::new(client.clone()).run_aggregated().await?;
    let all = found.groups().flat_map(|g| g.recommended_resources());
    let needed = [verbs::LIST, verbs::WATCH, verbs::DELETE];
    let all =
        all.filter(|(r, c)| r.kind != "Event" && needed.iter().all(|v| c.supports_operation(v)));
    let kinds = all.map(|(r, c)| {
        let key = (r.group.clone(), r.kind.clone());
        (key, (Arc::new(r), c.scope == Scope::Namespaced))
    });
    Ok(kinds.collect())
}
