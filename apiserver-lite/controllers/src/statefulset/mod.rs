//! StatefulSet: pods with a number, a name and claims of their own, made and replaced one after the other.

mod identity;
mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{ApiResource, DynamicObject};

use crate::caches::Caches;
use crate::informer::Key;
use crate::owner::controller_key;
use crate::runner::{Controller, Outcome, Work};

pub use plan::{Around, plan};

/// The controller.
pub struct StatefulSets {
    caches: Arc<Caches>,
}

impl StatefulSets {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .stateful_sets
            .subscribe(move |c| c.states().for_each(|s| queue.add(Key::of(s))));
        let queue = work.clone();
        caches.pods.subscribe(move |c| {
            let owners = c.states().filter_map(controller_key::<StatefulSet>);
            owners.for_each(|o| queue.add(o));
        });
        let caches = caches.clone();
        (Self { caches }, work)
    }
}

#[async_trait]
impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(set) = self.caches.stateful_sets.get(key) else {
            return Ok(Outcome::default());
        };
        let around = Around {
            pods: self.caches.pods.list(&key.namespace),
            claims: self.caches.claims.list(&key.namespace),
            revisions: self.caches.revisions.list(&key.namespace),
        };
        Ok(plan(&set, &around, Timestamp::now()))
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

#[cfg(test)]
mod tests;
