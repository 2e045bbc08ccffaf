//! PodDisruptionBudget: how many of some pods may be evicted now. The API server takes evictions from what is told here.

mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};

use crate::caches::Caches;
use crate::informer::{Informer, Key};
use crate::owner::{controller, selects};
use crate::runner::{Controller, Outcome, Work};

pub use plan::{Expected, plan};

/// The controller.
pub struct Disruptions {
    caches: Arc<Caches>,
}

impl Disruptions {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .budgets
            .subscribe(move |c| c.states().for_each(|b| queue.add(Key::of(b))));
        let (queue, budgets) = (work.clone(), caches.budgets.clone());
        caches.pods.subscribe(move |c| {
            for pod in c.states() {
                let all = budgets.list(&pod.namespace().unwrap_or_default());
                let over = all.iter().filter(|b| covers(b, pod));
                over.for_each(|b| queue.add(Key::of(b.as_ref())));
            }
        });
        let caches = caches.clone();
        (Self { caches }, work)
    }

    /// The replicas that a pod's workload wants, by that workload's UID. A pod nobody controls counts for nothing.
    fn expected(&self, pod: &Pod) -> Expected {
        let Some(owner) = controller(pod) else {
            return Expected::Nothing;
        };
        let key = Key::new(pod.namespace().unwrap_or_default(), owner.name.clone());
        let c = &self.caches;
        let uid = owner.uid.clone();
        let replicas = match owner.kind.as_str() {
            "ReplicaSet" => match found(&c.replica_sets, &key, owner) {
                Some(set) => return self.of_replica_set(&set),
                None => None,
            },
            "StatefulSet" => found(&c.stateful_sets, &key, owner)
                .map(|s: Arc<StatefulSet>| s.spec.as_ref().and_then(|s| s.replicas)),
            "ReplicationController" => found(&c.replication_controllers, &key, owner)
                .map(|s: Arc<ReplicationController>| s.spec.as_ref().and_then(|s| s.replicas)),
            _ => None,
        };
        match replicas {
            Some(n) => Expected::Replicas(uid, n.unwrap_or(1)),
            None => Expected::Unknown(format!("{} {}", owner.kind, owner.name)),
        }
    }

    fn of_replica_set(&self, set: &ReplicaSet) -> Expected {
        let own = Expected::Replicas(
            set.uid().unwrap_or_default(),
            set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1),
        );
        let Some(owner) = controller(set).filter(|o| o.kind == "Deployment") else {
            return own;
        };
        let key = Key::new(set.namespace().unwrap_or_default(), owner.name.clone());
        found(&self.caches.deployments, &key, owner).map_or(own, |d: Arc<Deployment>| {
            let replicas = d.spec.as_ref().and_then(|s| s.replicas);
            Expected::Replicas(owner.uid.clone(), replicas.unwrap_or(1))
        })
    }
}

/// An owner in its cache, unless that is a namesake.
fn found<K>(cache: &Informer<K>, key: &Key, owner: &OwnerReference) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    cache
        .get(key)
        .filter(|o| o.uid().as_ref() == Some(&owner.uid))
}

/// Whether a budget is for a pod.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| selects(s, pod.labels()))
}

#[async_trait]
impl Controller for Disruptions {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(budget) = self.caches.budgets.get(key) else {
            return Ok(Outcome::default());
        };
        let mut pods = self.caches.pods.list(&key.namespace);
        pods.retain(|p| covers(&budget, p));
        let expected = |pod: &Pod| self.expected(pod);
        Ok(plan(&budget, &pods, &expected, Timestamp::now()))
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

#[cfg(test)]
mod tests;
