//! DaemonSet: one pod of a template on each node that takes it.

mod placement;
mod plan;
mod update;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};

use crate::caches::Caches;
use crate::claim;
use crate::informer::Key;
use crate::owner::selects;
use crate::runner::{Controller, Outcome, Work};

pub use plan::{Around, plan};

/// The controller.
pub struct DaemonSets {
    caches: Arc<Caches>,
}

impl DaemonSets {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .daemon_sets
            .subscribe(move |c| c.states().for_each(|s| queue.add(Key::of(s))));
        let (queue, sets) = (work.clone(), caches.daemon_sets.clone());
        caches
            .pods
            .subscribe(move |c| claim::wake(c, &sets, takes, &queue));
        let (queue, sets) = (work.clone(), caches.daemon_sets.clone());
        caches.nodes.subscribe(move |c| {
            // Heartbeats change nothing here.
            let place = |n: &Node| {
                let taints = n.spec.as_ref().and_then(|s| s.taints.clone());
                (n.labels().clone(), taints)
            };
            if c.old.map(place) != c.new.map(place) {
                let all = sets.list("");
                all.iter().for_each(|s| queue.add(Key::of(s.as_ref())));
            }
        });
        let caches = caches.clone();
        (Self { caches }, work)
    }
}

/// Whether the set's selector names a pod.
fn takes(set: &DaemonSet, pod: &Pod) -> bool {
    let spec = set.spec.as_ref();
    spec.is_some_and(|s| selects(&s.selector, pod.labels()))
}

#[async_trait]
impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(set) = self.caches.daemon_sets.get(key) else {
            return Ok(Outcome::default());
        };
        let around = Around {
            pods: self.caches.pods.list(&key.namespace),
            nodes: self.caches.nodes.list(""),
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
