//! CronJob: makes a Job at each time of a schedule.

mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::CronJob;
use kube::api::{ApiResource, DynamicObject};

use crate::caches::Caches;
use crate::informer::Key;
use crate::owner::controller_key;
use crate::runner::{Controller, Outcome, Work};

pub use plan::plan;

/// The controller.
pub struct CronJobs {
    caches: Arc<Caches>,
}

impl CronJobs {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .cron_jobs
            .subscribe(move |c| c.states().for_each(|j| queue.add(Key::of(j))));
        let queue = work.clone();
        caches.jobs.subscribe(move |c| {
            let owners = c.states().filter_map(controller_key::<CronJob>);
            owners.for_each(|o| queue.add(o));
        });
        let caches = caches.clone();
        (Self { caches }, work)
    }
}

#[async_trait]
impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(cron) = self.caches.cron_jobs.get(key) else {
            return Ok(Outcome::default());
        };
        let jobs = self.caches.jobs.list(&key.namespace);
        Ok(plan(&cron, &jobs, Timestamp::now()))
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

#[cfg(test)]
mod tests;
