//! The scheduler: gives each pending pod a node.
//!
//! Watches fill a [`cache`] of the nodes and a [`queue`] of the pending pods. One loop (`driver`) takes the next pod,
//! asks the pure [`framework`] for a node on a [`snapshot`], assumes the pod there and binds it through the API
//! beside the loop, so that the next pod need not wait for the answer.

mod api;
pub mod cache;
mod driver;
mod events;
pub mod framework;
pub mod model;
pub mod plugins;
pub mod preemption;
pub mod queue;
pub mod snapshot;
pub mod storage;
#[cfg(test)]
mod testing;
mod watch;

use kube::Client;
use tokio_util::sync::CancellationToken;

/// How the scheduler runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `spec.schedulerName` are ours.
    pub scheduler_name: String,
    /// So many bindings may be under way at once.
    pub parallel_binds: usize,
    /// Whose lease to work under; `None`: there is no other scheduler, work at once.
    pub election: Option<keelson_election::Options>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".into(),
            parallel_binds: 32,
            election: None,
        }
    }
}

impl Config {
    /// Works under the Lease `kube-system/kube-scheduler`, as `identity`.
    #[must_use]
    pub fn elected(self, identity: &str) -> Self {
        let options = keelson_election::Options::new("kube-system", "kube-scheduler", identity);
        Self {
            election: Some(options),
            ..self
        }
    }
}

/// Schedules until `shutdown`. A lost lease stops the work, and we stand for election again.
///
/// # Errors
/// The work ended by itself, which it does not unless it panicked.
pub async fn run(
    client: Client,
    config: Config,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Some(election) = config.election.clone() else {
        driver::run(client, config, shutdown).await;
        return Ok(());
    };
    loop {
        let (api, config) = (client.clone(), config.clone());
        let work = async move |stop| driver::run(api, config, stop).await;
        let led =
            keelson_election::run_leading(client.clone(), election.clone(), shutdown.clone(), work);
        match led.await {
            Ok(()) => return Ok(()),
            Err(keelson_election::Error::Lost { .. }) => tracing::warn!("no longer the leader"),
            Err(error) => return Err(error.into()),
        }
    }
}
