//! Deployment: one ReplicaSet a revision of the template, and pods moved from the old ones to the new one.

mod plan;
mod rollout;
mod status;
mod template;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};

use crate::informer::{Informer, Key};
use crate::owner::{controller, controller_key, controls, selects};
use crate::runner::{Controller, Outcome, Work};

pub use plan::plan;
pub(crate) use template::hash as template_hash;

/// The controller.
pub struct Deployments {
    deployments: Arc<Informer<Deployment>>,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
}

impl Deployments {
    /// Wires the controller to the caches.
    pub fn new(
        deployments: Arc<Informer<Deployment>>,
        sets: Arc<Informer<ReplicaSet>>,
        pods: Arc<Informer<Pod>>,
    ) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        deployments.subscribe(move |c| c.states().for_each(|d| queue.add(Key::of(d))));
        let (queue, all) = (work.clone(), deployments.clone());
        sets.subscribe(move |c| {
            for set in c.states() {
                match controller_key::<Deployment>(set) {
                    Some(owner) => queue.add(owner),
                    None if controller(set).is_none() => {
                        let takers = all.list(&set.namespace().unwrap_or_default());
                        takers
                            .iter()
                            .filter(|d| matches(d, set))
                            .for_each(|d| queue.add(Key::of(d.as_ref())));
                    }
                    None => {}
                }
            }
        });
        // Strategy Recreate waits for the last old pod to be gone.
        let (queue, all) = (work.clone(), sets.clone());
        pods.subscribe(move |c| {
            let gone = c
                .old
                .filter(|_| c.new.is_none())
                .and_then(controller_key::<ReplicaSet>);
            let owner = gone
                .and_then(|set| all.get(&set))
                .and_then(|s| controller_key::<Deployment>(s.as_ref()));
            owner.into_iter().for_each(|d| queue.add(d));
        });
        (
            Self {
                deployments,
                sets,
                pods,
            },
            work,
        )
    }
}

fn matches(deployment: &Deployment, set: &ReplicaSet) -> bool {
    deployment
        .spec
        .as_ref()
        .is_some_and(|s| selects(&s.selector, set.labels()))
}

#[async_trait]
impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(deployment) = self.deployments.get(key) else {
            return Ok(Outcome::default());
        };
        let sets: Vec<Arc<ReplicaSet>> = self.sets.list(&key.namespace);
        let own: Vec<&ReplicaSet> = sets
            .iter()
            .map(Arc::as_ref)
            .filter(|s| controls(deployment.as_ref(), *s))
            .collect();
        let pods = self.pods.list(&key.namespace);
        let running = pods
            .iter()
            .filter(|p| !crate::pod::failed_now(p))
            .filter(|p| own.iter().any(|s| controls(*s, p.as_ref())));
        Ok(plan(&deployment, &sets, running.count(), Timestamp::now()))
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        match resource.kind.as_str() {
            "Deployment" => drop(object.try_parse().map(|o| self.deployments.wrote(o))),
            "ReplicaSet" => drop(object.try_parse().map(|o| self.sets.wrote(o))),
            _ => {}
        }
    }
}
