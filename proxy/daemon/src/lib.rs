//! The service proxy: watches Services and EndpointSlices, lets the plan decide, writes what differs. Beside it
//! [`policy`] does the same for NetworkPolicies.
//!
//! ```text
//! watch -> State -> (coalesce) -> what changed -> transaction -> kernel (nftables or iptables) -> conntrack
//! ```

mod backend;
mod bridges;
pub mod config;
mod dns;
pub mod explain;
mod feed;
mod flows;
pub mod health;
mod http;
pub mod metrics;
pub mod policy;
mod programs;
mod tables;
pub mod userspace;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_proxy_plan::model::Family;
pub use keelson_proxy_plan::model::Protocol;
pub use keelson_proxy_plan::options::{Options, Pods};
use keelson_proxy_plan::state::{Here, State};
use kube::runtime::watcher;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use tables::Ruleset;

use backend::Backend;
pub use backend::IpvsConfig;
use bridges::Bridges;
pub use config::Mode;
use feed::{Feed, Watched};
use health::{Health, ServiceHealth};
pub use keelson_dns::{Config as Dns, Keeper as DnsKeeper, Sockets as DnsSockets};
pub use keelson_proxy_plan::ipvs::Timeouts;
use metrics::{Metrics, trigger_time};

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
    /// How often it is looked whether others changed our rules, to mend them; `None`: as suits the mode.
    pub resync: Option<Duration>,
    /// Who changed rules, ours or others: shared by all that write nftables in this process.
    pub ruleset: Ruleset,
    /// What only the userspace mode needs.
    pub userspace: userspace::Config,
    /// What only the IPVS mode needs.
    pub ipvs: IpvsConfig,
    /// Addresses of the node on which load balancers ask after a Service's endpoints; none: all.
    pub health_check_addresses: Vec<IpAddr>,
    /// Without news for so long after a change the proxy is not healthy.
    pub health_timeout: Duration,
    /// Ports of the proxy's own.
    pub ports: Ports,
    /// The cluster's names are answered on this node.
    pub dns: Option<keelson_dns::Config>,
}

/// Where the proxy tells how it does: plain HTTP, read only, as kube-proxy has it.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    /// `/healthz` and `/livez`.
    pub healthz: Option<SocketAddr>,
    /// `/metrics`, `/proxyMode` and `/configz`.
    pub metrics: Option<SocketAddr>,
    /// It ends if one of them can't be had; else it tries again.
    pub hard_fail: bool,
    /// What `/configz` answers.
    pub configz: serde_json::Value,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            mode: Mode::Auto,
            rules: Options::default(),
            coalesce: Duration::from_millis(5),
            resync: None,
            ruleset: Ruleset::default(),
            userspace: userspace::Config::default(),
            ipvs: IpvsConfig::default(),
            health_check_addresses: Vec::new(),
            health_timeout: Duration::from_secs(60),
            ports: Ports::default(),
            dns: None,
        }
    }
}

/// The label of a Node that says in which zone it is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Time to wait after a write failed.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until shutdown. Rules stay when it ends: traffic goes on. What the userspace mode carried goes on as the iptables
/// mode has it; connections through this process end with it.
pub async fn run(
    config: Config,
    client: kube::Client,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut services = feed::watch::<Service>(&client);
    let mut slices = feed::watch::<EndpointSlice>(&client);
    let mut node = feed::watch_one::<Node>(&client, &config.node_name);
    let mut tasks = JoinSet::new();
    let mut proxy = Proxy::new(config, &mut tasks, &shutdown).await?;
    let every = proxy.config.resync.unwrap_or(proxy.backend.resync());
    let mut resync = tokio::time::interval(every);
    loop {
        let due = proxy.due;
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(event) = services.next() => proxy.service(event),
            Some(event) = slices.next() => proxy.slice(event),
            Some(event) = node.next() => if proxy.node(event) {
                // Hints are read as seen from a zone: they are all read again.
                slices = feed::watch::<EndpointSlice>(&client);
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => proxy.sync().await,
            _ = resync.tick() => proxy.look_for_drift().await,
            Some(ended) = tasks.join_next() => ended??,
        }
    }
    proxy.leave().await;
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Removes all chains and rules of ours, and the addresses that were answered here. Goes on after errors and gives
/// them all.
pub async fn cleanup() -> Vec<keelson_proxy_kernel::Error> {
    let mut errors = Backend::cleanup().await;
    errors.extend(policy::cleanup());
    errors.extend(dns::cleanup());
    errors.extend(keelson_proxy_kernel::loopback::hold(&[]).await.err());
    errors
}

/// Sets what the connection table may hold and for how long, as kube-proxy does. What can't be set is told and left.
pub fn kernel_settings(conntrack: &config::Conntrack) {
    let cores =
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    for (name, value) in conntrack.sysctls(cores) {
        let set = keelson_proxy_kernel::sysctl::set(&format!("net.netfilter.{name}"), value);
        if let Err(error) = set {
            tracing::warn!(%error, "conntrack is left as it is");
        }
    }
}

struct Proxy {
    config: Config,
    state: State,
    services: Feed,
    slices: Feed,
    backend: Backend,
    bridges: Bridges,
    health: Health,
    service_health: ServiceHealth,
    metrics: Metrics,
    dns: Option<keelson_dns::Handle>,
    here: Here,
    written: Option<Instant>,
    due: Option<Instant>,
}

impl Proxy {
    async fn new(
        config: Config,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let backend = Backend::new(&config)?;
        let mode = backend.mode();
        tracing::info!(mode = mode.name(), node = config.node_name, "proxy starts");
        let health = Health::new(config.health_timeout);
        let metrics = Metrics::new(mode);
        let Ports {
            healthz,
            metrics: at,
            hard_fail,
            configz,
        } = config.ports.clone();
        if let Some(address) = healthz {
            let (health, metrics) = (health.clone(), metrics.clone());
            tasks.spawn(health.serve(metrics, address, hard_fail, shutdown.clone()));
        }
        if let Some(address) = at {
            tasks.spawn(
                metrics
                    .clone()
                    .serve(configz, address, hard_fail, shutdown.clone()),
            );
        }
        let mut state = State::default();
        let dns = match config.dns.clone() {
            None => None,
            Some(dns) => {
                state.answer_here(dns.listen.iter().map(SocketAddr::ip).collect());
                Some(dns::start(dns, &config.ruleset, tasks, shutdown).await?)
            }
        };
        Ok(Self {
            here: Here::from(config.node_name.as_str()),
            service_health: ServiceHealth::new(
                health.clone(),
                config.health_check_addresses.clone(),
            ),
            config,
            state,
            services: Feed::default(),
            slices: Feed::default(),
            backend,
            bridges: Bridges::default(),
            health,
            metrics,
            dns,
            written: None,
            due: None,
        })
    }

    fn service(&mut self, event: Watched<Service>) {
        let (state, dns) = (&mut self.state, self.dns.as_ref());
        let changed = self.services.take(event, |change| match change {
            feed::Change::Set(service) => {
                dns.map(|d| d.set_service(&service));
                state.set_service(&service)
            }
            feed::Change::Removed(namespace, name) => {
                dns.map(|d| d.remove_service(&namespace, &name));
                state.remove_service(&namespace, &name)
            }
            feed::Change::Listed(all) => {
                dns.map(|d| d.retain(Some(&all), None));
                state.retain(Some(&all), None)
            }
        });
        if changed {
            self.metrics.service_change();
        }
        self.dirty(changed);
    }

    /// Whether we are in another zone than we thought.
    fn node(&mut self, event: Watched<Node>) -> bool {
        if let Ok(watcher::Event::Delete(_)) = &event {
            self.health.set_node(None);
        }
        let (watcher::Event::Apply(node) | watcher::Event::InitApply(node)) = (match event {
            Ok(event) => event,
            Err(error) => {
                tracing::debug!(%error, "watch of the node interrupted");
                return false;
            }
        }) else {
            return false;
        };
        self.health.set_node(Some(&node));
        let zone = node.metadata.labels.and_then(|mut l| l.remove(ZONE));
        let moved = zone != self.here.zone;
        if moved {
            tracing::info!(zone, node = self.here.node, "zone of this node");
            self.here.zone = zone;
        }
        moved
    }

    fn slice(&mut self, event: Watched<EndpointSlice>) {
        let (state, here, dns) = (&mut self.state, &self.here, self.dns.as_ref());
        let mut told = None;
        let changed = self.slices.take(event, |change| match change {
            feed::Change::Set(slice) => {
                dns.map(|d| d.set_slice(&slice));
                told = family(&slice).map(|f| (f, trigger_time(&slice)));
                state.set_slice(&slice, here)
            }
            feed::Change::Removed(namespace, name) => {
                dns.map(|d| d.remove_slice(&namespace, &name));
                state.remove_slice(&namespace, &name)
            }
            feed::Change::Listed(all) => {
                dns.map(|d| d.retain(None, Some(&all)));
                state.retain(None, Some(&all))
            }
        });
        if let Some((family, trigger)) = told.filter(|_| changed) {
            self.metrics.endpoint_change(family, trigger);
        }
        self.dirty(changed);
    }

    /// Nothing is written before both lists are complete: half a picture would cut off the other half.
    fn dirty(&mut self, changed: bool) {
        if !(self.services.complete && self.slices.complete) {
            return;
        }
        if let Some(dns) = &self.dns {
            dns.set_complete();
        }
        if changed || !self.backend.has_synced() {
            let now = Instant::now();
            let next = self.written.map_or(now, |w| w + self.config.coalesce);
            if self.due.is_none() {
                for family in FAMILIES {
                    self.health.queued(family);
                    self.metrics.queued(family);
                }
            }
            self.due.get_or_insert(next.max(now));
        }
    }

    async fn look_for_drift(&mut self) {
        self.bridges.filter();
        if self.backend.has_synced() && self.backend.look_for_drift().await {
            self.dirty(true);
        }
    }

    /// Before the process ends.
    async fn leave(&mut self) {
        if let Err(error) = self.backend.leave(&self.state, &self.config.rules).await {
            let node = &self.config.node_name;
            tracing::warn!(node, %error, "services are refused until a proxy runs again");
        }
    }

    async fn sync(&mut self) {
        self.due = None;
        let (begin, full) = (Instant::now(), !self.backend.has_synced());
        let done = self.backend.sync(&mut self.state).await;
        self.written = Some(Instant::now());
        match done {
            Ok(()) => {
                let took = begin.elapsed();
                self.metrics.synced(&FAMILIES.map(|f| (f, took)), full);
                FAMILIES.iter().for_each(|f| self.health.updated(*f));
            }
            Err(error) => {
                let node = &self.config.node_name;
                tracing::warn!(node, %error, "service rules not written, trying again");
                FAMILIES.iter().for_each(|f| self.metrics.sync_failed(*f));
                self.backend.forget_applied();
                self.due = Some(Instant::now() + RETRY);
            }
        }
        self.backend.replace_others().await;
        let checks = self.state.health_checks();
        for ((namespace, service), error) in self.service_health.sync(&checks).await {
            tracing::warn!(%namespace, %service, %error, "no port to tell load balancers of endpoints");
        }
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn family(slice: &EndpointSlice) -> Option<Family> {
    match slice.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    }
}
