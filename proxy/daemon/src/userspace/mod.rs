//! The userspace backend: the oldest mode, for kernels and lessons where nothing else works. For each service port
//! the proxy listens on a port of the node, rules redirect traffic there, and it connects to the endpoints itself.
//!
//! ```text
//! services -> listeners and their endpoints -> open what is missing -> rules -> close what nobody needs
//! ```
//!
//! Connections are tasks of their own: they outlive a change of endpoints, the end of their listener and of the
//! backend, and end with the process. Endpoints see the node's address instead of the client's.

mod relay;
mod rules;
mod sockets;
mod tcp;
mod udp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use keelson_proxy_plan::conntrack::Flow;
use keelson_proxy_plan::iptables::Ruleset;
use keelson_proxy_plan::model::{Family, PortName, Protocol, Served};
use keelson_proxy_plan::state::State;
use keelson_proxy_plan::userspace::{
    Balancer, Behind, Listener, Options, Redirected, listeners, ruleset,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::flows;
use crate::programs::Used;
use rules::Side;

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Rules or flows could not be read or written.
    #[error(transparent)]
    Kernel(#[from] keelson_proxy_kernel::Error),
    /// No port could be had for a listener.
    #[error("listen for {name}: {source}")]
    Listen {
        /// The service port.
        name: PortName,
        /// Why.
        source: std::io::Error,
    },
}

/// How the backend runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// All pods' addresses.
    pub cluster_cidrs: Vec<IpNet>,
    /// Addresses of this node that have node ports; empty: all.
    pub node_port_addresses: Vec<IpNet>,
    /// Node ports answer on loopback too.
    pub localhost_node_ports: bool,
    /// Ports to listen on; `None`: any that the kernel gives.
    pub ports: Option<RangeInclusive<u16>>,
    /// A UDP client's port to the endpoint ends when nothing came by for so long (upstream's `udpIdleTimeout`).
    pub udp_idle: Duration,
    /// Connections and UDP clients at one time; `None`: as many as the process may have open files for. Beyond, TCP
    /// clients wait and UDP clients' first packets are lost.
    pub connections: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidrs: Vec::new(),
            node_port_addresses: Vec::new(),
            localhost_node_ports: true,
            ports: None,
            udp_idle: Duration::from_millis(250),
            connections: None,
        }
    }
}

impl From<&keelson_proxy_plan::options::Options> for Config {
    /// What all modes are told. Nothing is masqueraded here, as connections are the node's own; pods that are known by
    /// their link are not told from others, so that with policy Local they have the endpoints of this node only.
    fn from(options: &keelson_proxy_plan::options::Options) -> Self {
        let nets = [Family::V4, Family::V6].map(|family| options.pod_nets(family));
        Self {
            cluster_cidrs: nets.concat(),
            node_port_addresses: options.node_port_nets.clone(),
            localhost_node_ports: options.localhost_node_ports,
            ..Self::default()
        }
    }
}

/// What a family's rules depend on beside the services, by what all modes are told.
pub(crate) fn options(common: &keelson_proxy_plan::options::Options, family: Family) -> Options {
    Config::from(common).of(family)
}

impl Config {
    fn of(&self, family: Family) -> Options {
        Options {
            family,
            cluster_cidrs: self.cluster_cidrs.clone(),
            node_port_addresses: self.node_port_addresses.clone(),
            localhost_node_ports: self.localhost_node_ports,
        }
    }
}

/// The backend. Dropped, it stops listening; connections live on.
pub struct Userspace {
    programs: Used,
    sides: Vec<Side>,
    ports: Option<RangeInclusive<u16>>,
    open: BTreeMap<Listener, Open>,
    shared: Arc<Shared>,
    flows: Option<Redirected>,
    /// Service ports that were told to be SCTP.
    sctp: BTreeSet<PortName>,
}

/// What all listeners share.
struct Shared {
    began: Instant,
    limit: Arc<Semaphore>,
    udp_idle: Duration,
}

/// An open listener.
struct Open {
    port: u16,
    behind: Arc<Port>,
    serving: Serving,
}

enum Serving {
    Tcp(tcp::Accepting),
    Udp(udp::Receiving),
}

/// What a listener's tasks need.
struct Port {
    name: PortName,
    balancer: Mutex<Balancer>,
    shared: Arc<Shared>,
}

impl Open {
    async fn end(self) {
        match self.serving {
            Serving::Tcp(accepting) => accepting.end().await,
            Serving::Udp(receiving) => receiving.end().await,
        }
    }
}

impl Port {
    fn balancer(&self) -> MutexGuard<'_, Balancer> {
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next endpoint for a client.
    fn next(&self, client: std::net::IpAddr, failed: bool) -> Option<std::net::SocketAddr> {
        let now = self.shared.began.elapsed();
        self.balancer().next(client, now, failed)
    }
}

impl Userspace {
    /// A backend that listens nowhere yet. Lets the process have as many open files as it may.
    pub fn new(config: Config) -> Self {
        let side = |family| Side::new(config.of(family));
        let files = sockets::raise_file_limit();
        let limit = config.connections.unwrap_or(files);
        Self {
            programs: Used::default(),
            sides: vec![side(Family::V4), side(Family::V6)],
            ports: config.ports,
            open: BTreeMap::new(),
            shared: Arc::new(Shared {
                began: Instant::now(),
                limit: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
                udp_idle: config.udp_idle,
            }),
            flows: None,
            sctp: BTreeSet::new(),
        }
    }

    /// Whether all was written once.
    pub fn has_synced(&self) -> bool {
        self.flows.is_some()
    }

    /// The programs that are used.
    pub(crate) fn programs(&self) -> &Used {
        &self.programs
    }

    /// The kernel is read back at the next sync.
    pub fn forget_applied(&mut self) {
        self.sides.iter_mut().for_each(|s| s.applied = None);
    }

    /// The rules in the kernel as the backend knows them, for a family; `None`: not written yet.
    pub fn applied(&self, family: Family) -> Option<&Ruleset> {
        let side = self.sides.iter().find(|s| s.options.family == family)?;
        side.applied.as_ref()
    }

    /// Opens, writes and closes what differs. Rules never point to a port that nobody listens on. A listener that
    /// gets no port doesn't keep the others from being served; it is the error when all else is done.
    pub async fn sync(&mut self, state: &State) -> Result<(), Error> {
        let programs = self.programs.get().await;
        for side in &mut self.sides {
            side.read(&programs).await?;
        }
        let mut wanted = BTreeMap::new();
        let mut families = Vec::new();
        for side in self.sides.iter().filter(|s| !s.absent) {
            let served = state.served(side.options.family);
            wanted.extend(listeners(&served, &side.options));
            families.push((side.options.family, served));
        }
        self.tell_sctp(&families);
        let failed = self.listen(&wanted);
        let ports = self.open.iter().map(|(l, o)| (l.clone(), o.port));
        let ports: BTreeMap<Listener, u16> =
            ports.filter(|(l, _)| wanted.contains_key(l)).collect();
        let mut flows = Redirected::default();
        for side in &mut self.sides {
            let family = side.options.family;
            if let Some((_, served)) = families.iter().find(|(f, _)| *f == family) {
                let rules = ruleset(served, &side.options, &ports);
                side.write(&programs, rules).await?;
                flows.add(served, &side.options, &ports);
            }
        }
        if self.flows.as_ref() != Some(&flows) {
            if !flows.is_empty() {
                let wanted = flows.clone();
                let stale =
                    move |flow: &Flow, own: &dyn Fn(&IpAddr) -> bool| wanted.is_stale(flow, own);
                let nets = self
                    .sides
                    .first()
                    .map(|s| s.options.node_port_addresses.clone());
                flows::end(Vec::new(), &nets.unwrap_or_default(), stale).await?;
            }
            self.flows = Some(flows);
        }
        let over = self.open.extract_if(.., |l, _| !wanted.contains_key(l));
        for (_, open) in over.collect::<Vec<_>>() {
            open.end().await;
        }
        failed
    }

    /// Removes all rules of ours, which are those of the iptables mode too (all `KUBE-` chains), and stops listening.
    /// Goes on after errors and gives them all. When the mode changes to iptables, its first sync replaces the rules in
    /// one transaction, and this backend is to be dropped only.
    pub async fn cleanup(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        let programs = self.programs.get().await;
        for side in &mut self.sides {
            errors.extend(side.read(&programs).await.err().map(Error::from));
            if !side.absent {
                let written = side.write(&programs, Ruleset::default()).await;
                errors.extend(written.err().map(Error::from));
            }
        }
        for (_, open) in std::mem::take(&mut self.open) {
            open.end().await;
        }
        errors
    }

    /// Opens listeners that have their first endpoint, and tells all who stands behind them. One that is open stays
    /// so without endpoints: its port, and with it the rules, stay the same when they come back.
    fn listen(&mut self, wanted: &BTreeMap<Listener, Behind>) -> Result<(), Error> {
        let mut failed = Ok(());
        for (listener, behind) in wanted {
            if !self.open.contains_key(listener) {
                if behind.endpoints.is_empty() {
                    continue;
                }
                match self.start(listener) {
                    Ok(open) => _ = self.open.insert(listener.clone(), open),
                    Err(source) => {
                        let name = listener.name.clone();
                        failed = Err(Error::Listen { name, source });
                        continue;
                    }
                }
            }
            if let Some(open) = self.open.get(listener) {
                let endpoints = behind.endpoints.clone();
                let changed = open.behind.balancer().set(endpoints, behind.affinity);
                if let (true, Serving::Udp(receiving)) = (changed, &open.serving) {
                    receiving.end_sessions_elsewhere();
                }
            }
        }
        failed
    }

    fn start(&self, listener: &Listener) -> std::io::Result<Open> {
        // Nodes begin with different endpoints: what a port's number is here is chance enough.
        let behind = |port: u16| {
            Arc::new(Port {
                name: listener.name.clone(),
                balancer: Mutex::new(Balancer::new(port.into())),
                shared: self.shared.clone(),
            })
        };
        let family = listener.family;
        let (port, behind, serving) = if listener.protocol == Protocol::Udp {
            let socket = sockets::udp(family, self.ports.clone())?;
            let port = socket.local_addr()?.port();
            let behind = behind(port);
            let receiving = udp::Receiving::start(socket, behind.clone());
            (port, behind, Serving::Udp(receiving))
        } else {
            let socket = sockets::tcp(family, self.ports.clone())?;
            let port = socket.local_addr()?.port();
            let behind = behind(port);
            let accepting = tcp::Accepting::start(socket, behind.clone());
            (port, behind, Serving::Tcp(accepting))
        };
        tracing::debug!(service = %listener.name, ?family, port, "listening");
        Ok(Open {
            port,
            behind,
            serving,
        })
    }

    fn tell_sctp(&mut self, families: &[(Family, Vec<Served<'_>>)]) {
        let all = families.iter().flat_map(|(_, served)| served);
        let sctp = all.filter(|s| s.port.protocol == Protocol::Sctp);
        let sctp: BTreeSet<PortName> = sctp.map(|s| s.port.name.clone()).collect();
        for name in sctp.difference(&self.sctp) {
            tracing::warn!(service = %name, "SCTP is refused: the userspace mode has TCP and UDP only");
        }
        self.sctp = sctp;
    }
}
