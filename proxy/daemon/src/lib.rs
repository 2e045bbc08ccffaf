//! The service proxy: watches Services and EndpointSlices, lets the plan decide, writes what differs.
//!
//! ```text
//! watch -> State -> (coalesce) -> wanted ruleset -> diff with what was applied -> iptables-restore -> conntrack
//! ```

mod backend;
pub mod config;
mod feed;
pub mod health;
mod http;
pub mod metrics;
pub mod userspace;

use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_proxy_plan::state::State;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use backend::Backend;
use feed::{Feed, Watched};

/// How the proxy runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Node it runs on: whose endpoints are local.
    pub node_name: String,
    /// All pods' addresses.
    pub cluster_cidrs: Vec<IpNet>,
    /// Node ports answer on 127.0.0.1 too.
    pub localhost_node_ports: bool,
    /// How long changes are gathered before they are written.
    pub coalesce: Duration,
    /// How often the kernel is read back, to mend what others changed.
    pub resync: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            cluster_cidrs: Vec::new(),
            localhost_node_ports: true,
            coalesce: Duration::from_millis(5),
            resync: Duration::from_secs(30),
        }
    }
}

/// Time to wait after a write failed.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until shutdown. Rules stay when it ends: traffic goes on.
pub async fn run(
    config: Config,
    client: kube::Client,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut services = feed::watch::<Service>(&client);
    let mut slices = feed::watch::<EndpointSlice>(&client);
    let mut proxy = Proxy::new(config);
    let mut resync = tokio::time::interval(proxy.config.resync);
    loop {
        let due = proxy.due;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(event) = services.next() => proxy.service(event),
            Some(event) = slices.next() => proxy.slice(event),
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => proxy.sync().await,
            _ = resync.tick() => proxy.forget_applied(),
        }
    }
}

/// Removes all chains and rules of ours. Goes on after errors and gives them all.
pub async fn cleanup() -> Vec<keelson_proxy_kernel::Error> {
    Backend::new(&Config::default()).cleanup().await
}

struct Proxy {
    config: Config,
    state: State,
    services: Feed,
    slices: Feed,
    backend: Backend,
    due: Option<Instant>,
}

impl Proxy {
    fn new(config: Config) -> Self {
        let backend = Backend::new(&config);
        Self {
            config,
            state: State::default(),
            services: Feed::default(),
            slices: Feed::default(),
            backend,
            due: None,
        }
    }

    fn service(&mut self, event: Watched<Service>) {
        let state = &mut self.state;
        let changed = self.services.take(event, |change| match change {
            feed::Change::Set(service) => state.set_service(&service),
            feed::Change::Removed(namespace, name) => state.remove_service(&namespace, &name),
            feed::Change::Listed(all) => state.retain(Some(&all), None),
        });
        self.dirty(changed);
    }

    fn slice(&mut self, event: Watched<EndpointSlice>) {
        let (state, node) = (&mut self.state, &self.config.node_name);
        let changed = self.slices.take(event, |change| match change {
            feed::Change::Set(slice) => state.set_slice(&slice, node),
            feed::Change::Removed(namespace, name) => state.remove_slice(&namespace, &name),
            feed::Change::Listed(all) => state.retain(None, Some(&all)),
        });
        self.dirty(changed);
    }

    /// Nothing is written before both lists are complete: half a picture would cut off the other half.
    fn dirty(&mut self, changed: bool) {
        let complete = self.services.complete && self.slices.complete;
        if complete && (changed || !self.backend.has_synced()) {
            self.due
                .get_or_insert_with(|| Instant::now() + self.config.coalesce);
        }
    }

    fn forget_applied(&mut self) {
        self.backend.forget_applied();
        self.dirty(true);
    }

    async fn sync(&mut self) {
        self.due = None;
        if let Err(error) = self.backend.sync(&self.state).await {
            tracing::warn!(node = self.config.node_name, %error, "service rules not written, trying again");
            self.backend.forget_applied();
            self.due = Some(Instant::now() + RETRY);
        }
    }
}
