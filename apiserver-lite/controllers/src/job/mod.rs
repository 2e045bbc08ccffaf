//! Job: pods that are to end well, as often as asked. Counts are exact over crashes of ours and deletions of pods:
//!
//! ```text
//! a pod ends -> its UID is noted in status.uncountedTerminatedPods -> its finalizer goes -> it is counted, its UID goes
//! ```
//!
//! Each arrow is one write that names the version it is based on (KEP-2307). Succeeded indexes need no note: counting
//! one twice changes nothing.

mod indexes;
mod plan;
mod pods;
mod policy;
mod status;
mod tally;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};

use crate::caches::Caches;
use crate::claim;
use crate::informer::Key;
use crate::owner::{controller, selects};
use crate::runner::{Controller, Outcome, Work};

pub use plan::plan;
pub(crate) use status::{COMPLETE, ended};

/// Holds a pod until it is counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";

/// The controller.
pub struct Jobs {
    caches: Arc<Caches>,
}

impl Jobs {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .jobs
            .subscribe(move |c| c.states().for_each(|j| queue.add(Key::of(j))));
        let (queue, jobs) = (work.clone(), caches.jobs.clone());
        caches.pods.subscribe(move |c| {
            claim::wake(c, &jobs, takes, &queue);
            let lost = c.new.filter(|p| is_held(p) && controller(*p).is_none());
            if let Some((pod, name)) = lost.and_then(|p| Some((p, p.labels().get(NAME_LABEL)?))) {
                queue.add(Key::new(pod.namespace().unwrap_or_default(), name));
            }
        });
        let caches = caches.clone();
        (Self { caches }, work)
    }
}

/// Whether a Job's selector names a pod.
fn takes(job: &Job, pod: &Pod) -> bool {
    let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| selects(s, pod.labels()))
}

/// Whether a pod waits to be counted.
fn is_held(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|f| f == FINALIZER)
}

#[async_trait]
impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let pods = self.caches.pods.list(&key.namespace);
        let job = self.caches.jobs.get(key);
        let mut outcome = match &job {
            Some(job) => plan(job, &pods, Timestamp::now()),
            None => Outcome::default(),
        };
        outcome
            .actions
            .extend(pods::abandoned(key, job.as_deref(), &pods));
        Ok(outcome)
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

#[cfg(test)]
mod tests;
