//! StatefulSet: pods with a number, a name and claims of their own, made and replaced one after the other.

mod identity;
mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};

use crate::caches::Caches;
use crate::claim;
use crate::informer::Key;
use crate::owner::selects;
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
        let (queue, sets) = (work.clone(), caches.stateful_sets.clone());
        caches
            .pods
            .subscribe(move |c| claim::wake(c, &sets, takes, &queue));
        let caches = caches.clone();
        (Self { caches }, work)
    }
}

/// Whether a pod is one of the set's by its labels and its name.
fn takes(set: &StatefulSet, pod: &Pod) -> bool {
    let spec = set.spec.as_ref();
    identity::ordinal(set, pod).is_some()
        && spec.is_some_and(|s| selects(&s.selector, pod.labels()))
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
