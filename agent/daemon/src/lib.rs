//! The node agent: joins the API, the pure plans and the machine.
//!
//! ```text
//! pods of this node (sync) -> one worker a pod: observe -> plan (keelson-agent-plan) -> apply
//!         containerd's exits, probe verdicts, steps that ended, timers -> wake the worker
//! worker -> status (in order, only changes) -> API        worker -> events (counted) -> API
//! node: registration, lease, status      nodes: CNI configuration, routes      endpoint: logs, exec, ...
//! ```
//!
//! Nothing is polled, and nothing that a crash would lose is kept: on start the state is read back from
//! containerd's labels, the pinned namespaces, the cgroups and the directories, all by pod UID.

mod apply;
mod attach;
mod cleanup;
mod config;
mod conflist;
mod container;
mod credentials;
mod csi;
mod devices;
mod doctor;
mod endpoint;
mod events;
mod files;
mod holder;
mod hooks;
mod image_volume;
mod images;
mod kill;
mod metrics;
mod network;
mod node;
mod objects;
mod observe;
mod once;
mod outcome;
mod pinning;
mod pressure;
mod probes;
mod pulled;
mod qos;
mod resize;
mod shared;
mod shutdown;
mod sources;
mod statics;
mod status;
mod sync;
mod usage;
mod volumes;
mod worker;

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

pub use cleanup::cleanup;
pub use config::{Config, Eviction, NetworkGuard, Pinning, Serving};
pub use doctor::Doctor;
pub use keelson_dbus::is_running as under_systemd;
pub use keelson_runtime::{Driver, Handler};
pub use keelson_serving::Certs;
pub use node::announce;

use shared::Shared;

/// Runs the agent until shutdown. Pods keep running after it ends. Errors are those of the start; later
/// ones are logged and retried.
pub async fn run(
    config: Config,
    client: kube::Client,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let runtime = tokio::select! {
        r = keelson_runtime::Runtime::connect(config.runtime()) => r.context("connect to containerd")?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let shared = Shared::new(config.clone(), client, runtime, shutdown.clone())?;
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(serving) = &config.serving {
        tasks.spawn(endpoint::serve(shared.clone(), serving.clone()).await?);
    }
    tasks.spawn(images::import_all(shared.clone()));
    tasks.spawn(node::run(shared.clone()));
    tasks.spawn(pressure::run(shared.clone()));
    tasks.spawn(network::run(shared.clone()));
    tasks.spawn(csi::run(shared.clone()));
    if shared.pinning.has_shared_cpus() {
        tasks.spawn(pinning::run(shared.clone()));
    }
    tasks.spawn(devices::plugins(shared.clone()));
    tasks.spawn(devices::lists(shared.clone()));
    tasks.spawn(shutdown::run(shared.clone()));
    tasks.spawn(sync::services(shared.clone()));
    tasks.spawn(sync::runtime_events(shared.clone()));
    tasks.spawn(sync::pods(shared.clone()));
    while let Some(ended) = tasks.join_next().await {
        ended.context("a task of the agent ended")?;
    }
    Ok(())
}
