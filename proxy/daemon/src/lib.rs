//! The service proxy: watches Services and EndpointSlices, lets the plan decide, writes what differs. Beside it
//! [`policy`] does the same for NetworkPolicies.
//!
//! ```text
//! watch -> State -> (coalesce) -> what changed -> transaction -> kernel (nftables or iptables) -> conntrack
//! ```

mod backend;
mod feed;
pub mod policy;
mod tables;

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
pub use keelson_proxy_plan::options::{Options, Pods};
use keelson_proxy_plan::state::{Here, State};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use tables::Ruleset;

use backend::Backend;
use feed::{Feed, Watched};

/// What carries services' traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// nftables where the kernel has it, else iptables.
    #[default]
    Auto,
    /// Shared maps in tables of our own.
    Nftables,
    /// The shape that every operator knows from kube-proxy.
    Iptables,
}

/// How the proxy runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Node it runs on: whose endpoints are local.
    pub node_name: String,
    /// What carries the traffic.
    pub mode: Mode,
    /// What rules depend on beside the services.
    pub rules: Options,
    /// Least time between two writes: a change is written at once, a burst of them together.
    pub coalesce: Duration,
    /// How often it is looked whether others changed our rules, to mend them.
    pub resync: Duration,
    /// Who changed rules, ours or others: shared by all that write nftables in this process.
    pub ruleset: Ruleset,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            mode: Mode::Auto,
            rules: Options::default(),
            coalesce: Duration::from_millis(5),
            resync: Duration::from_secs(10),
            ruleset: Ruleset::default(),
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
    let mut proxy = Proxy::new(config)?;
    let mut resync = tokio::time::interval(proxy.config.resync);
    loop {
        let due = proxy.due;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            Some(event) = services.next() => proxy.service(event),
            Some(event) = slices.next() => proxy.slice(event),
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => proxy.sync().await,
            _ = resync.tick() => proxy.look_for_drift(),
        }
    }
}

/// Removes all chains and rules of ours. Goes on after errors and gives them all.
pub async fn cleanup() -> Vec<keelson_proxy_kernel::Error> {
    let mut errors = Backend::cleanup(&Config::default()).await;
    errors.extend(policy::cleanup());
    errors
}

struct Proxy {
    config: Config,
    state: State,
    services: Feed,
    slices: Feed,
    backend: Backend,
    here: Here,
    written: Option<Instant>,
    due: Option<Instant>,
}

impl Proxy {
    fn new(config: Config) -> anyhow::Result<Self> {
        let backend = Backend::new(&config)?;
        tracing::info!(
            mode = backend.name(),
            node = config.node_name,
            "proxy starts"
        );
        Ok(Self {
            here: Here::from(config.node_name.as_str()),
            config,
            state: State::default(),
            services: Feed::default(),
            slices: Feed::default(),
            backend,
            written: None,
            due: None,
        })
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
        let (state, here) = (&mut self.state, &self.here);
        let changed = self.slices.take(event, |change| match change {
            feed::Change::Set(slice) => state.set_slice(&slice, here),
            feed::Change::Removed(namespace, name) => state.remove_slice(&namespace, &name),
            feed::Change::Listed(all) => state.retain(None, Some(&all)),
        });
        self.dirty(changed);
    }

    /// Nothing is written before both lists are complete: half a picture would cut off the other half.
    fn dirty(&mut self, changed: bool) {
        let complete = self.services.complete && self.slices.complete;
        if complete && (changed || !self.backend.has_synced()) {
            let now = Instant::now();
            let next = self.written.map_or(now, |w| w + self.config.coalesce);
            self.due.get_or_insert(next.max(now));
        }
    }

    fn look_for_drift(&mut self) {
        if self.backend.has_synced() && self.backend.look_for_drift() {
            self.dirty(true);
        }
    }

    async fn sync(&mut self) {
        self.due = None;
        let done = self.backend.sync(&mut self.state).await;
        self.written = Some(Instant::now());
        if let Err(error) = done {
            tracing::warn!(node = self.config.node_name, %error, "service rules not written, trying again");
            self.backend.forget_applied();
            self.due = Some(Instant::now() + RETRY);
        }
    }
}
