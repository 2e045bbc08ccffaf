//! Garbage collection by owner references, for all kinds there are.
//!
//! ```text
//! discovery -> a metadata-only watch a kind -> graph (who owns whom) -> queue of UIDs
//!                                     owners not in it: asked of the API -> plan (pure) -> delete, let go
//! ```

mod graph;
mod monitor;
mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Client, ResourceExt};
use tokio::sync::watch;

use crate::informer::Key;
use crate::runner::{Controller, Outcome, Work};

use graph::{Graph, Object};
use plan::Presence;

/// When to look again at an object whose owner is of an unknown kind.
const UNKNOWN_KIND: Duration = Duration::from_secs(30);

/// The controller, by UID.
pub struct GarbageCollector {
    client: Client,
    graph: Mutex<Graph>,
    kinds: RwLock<Kinds>,
    work: Work,
    told: OnceLock<Told>,
    ready: watch::Sender<bool>,
}

/// Hears of the kind and namespace of objects that came or went.
type Told = Box<dyn Fn(&ApiResource, &str) + Send + Sync>;

/// Kinds by group and kind, and whether they are namespaced.
type Kinds = HashMap<(String, String), (Arc<ApiResource>, bool)>;

impl GarbageCollector {
    /// A collector that knows nothing yet; [`GarbageCollector::watch`] feeds it.
    pub fn new(client: Client) -> (Arc<Self>, Work) {
        let work = Work::default();
        let it = Self {
            client,
            graph: Mutex::default(),
            kinds: RwLock::default(),
            work: work.clone(),
            told: OnceLock::new(),
            ready: watch::Sender::new(false),
        };
        (Arc::new(it), work)
    }

    /// Calls a function, the only one there may be, for each object that comes or goes.
    pub fn on_presence(&self, told: impl Fn(&ApiResource, &str) + Send + Sync + 'static) {
        if self.told.set(Box::new(told)).is_err() {
            tracing::error!("only one may hear of all objects");
        }
    }

    /// Waits until all kinds that were there at first are known.
    pub async fn complete(&self) {
        // The sender lives as long as `self`.
        let _ = self.ready.subscribe().wait_for(|r| *r).await;
    }

    /// How many objects of a kind a namespace has.
    pub fn count(&self, group: &str, plural: &str, namespace: &str) -> usize {
        self.graph(|g| g.count(group, plural, namespace))
    }

    fn take(&self, object: Option<Object>) -> Vec<Arc<str>> {
        let Some(object) = object else {
            return Vec::new();
        };
        let (resource, namespace) = (object.resource.clone(), object.key.namespace.clone());
        let (new, wake) = self.graph(|g| (g.get(&object.uid).is_none(), g.apply(object)));
        if new {
            self.tell(&resource, &namespace);
        }
        wake
    }

    fn lose(&self, uid: &str) -> Vec<Arc<str>> {
        let (old, wake) = self.graph(|g| (g.get(uid).cloned(), g.remove(uid)));
        if let Some(old) = old {
            self.tell(&old.resource, &old.key.namespace);
        }
        wake
    }

    fn tell(&self, resource: &ApiResource, namespace: &str) {
        if let Some(told) = self.told.get() {
            told(resource, namespace);
        }
    }

    fn graph<T>(&self, f: impl FnOnce(&mut Graph) -> T) -> T {
        f(&mut self.graph.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self, uids: Vec<Arc<str>>) {
        for uid in uids {
            self.work.add(Key::new("", &*uid));
        }
    }

    fn kind(&self, kind: &(String, String)) -> Option<(Arc<ApiResource>, bool)> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.get(kind).cloned()
    }

    /// Whether an owner is there: the graph knows those it has seen; of others the API is asked, as a missing owner
    /// is a reason to delete.
    async fn presence(
        &self,
        object: &Object,
        owner: &OwnerReference,
    ) -> Result<Presence, kube::Error> {
        let group = owner.api_version.split_once('/').map_or("", |(g, _)| g);
        let kind = (group.to_owned(), owner.kind.clone());
        let Some((resource, namespaced)) = self.kind(&kind) else {
            return Ok(Presence::Unknown);
        };
        if namespaced && object.key.namespace.is_empty() {
            // A cluster object cannot have an owner in a namespace: a mistake, not a reason to delete.
            return Ok(Presence::Unknown);
        }
        let namespace = if namespaced {
            object.key.namespace.as_str()
        } else {
            ""
        };
        let key = Key::new(namespace, &owner.name);
        let known = self.graph(|g| {
            let there = g.get(&owner.uid)?;
            (there.key == key && there.resource.kind == resource.kind).then(|| there.is_waiting())
        });
        if let Some(waiting) = known {
            return Ok(Presence::Here { waiting });
        }
        let api: Api<DynamicObject> = match key.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &*resource),
            None => Api::all_with(self.client.clone(), &*resource),
        };
        Ok(match api.get_metadata_opt(&owner.name).await? {
            Some(there) if there.uid().as_ref() == Some(&owner.uid) => Presence::Here {
                waiting: graph::waits(&there.metadata),
            },
            _ => Presence::Gone,
        })
    }
}

#[async_trait]
impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "generic-garbage-collector"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let found = self.graph(|g| {
            let object = g.get(&key.name)?.clone();
            Some((object, g.dependents(&key.name)))
        });
        let Some((object, dependents)) = found else {
            return Ok(Outcome::default());
        };
        let mut owners = Vec::with_capacity(object.owners.len());
        for owner in &object.owners {
            owners.push(self.presence(&object, owner).await?);
        }
        let again = owners.contains(&Presence::Unknown).then_some(UNKNOWN_KIND);
        Ok(Outcome {
            actions: plan::plan(&object, &owners, &dependents),
            again,
        })
    }
}

#[cfg(test)]
mod tests;
