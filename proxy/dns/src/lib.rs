//! Cluster DNS on the node: answers for the cluster's zone from the Services and EndpointSlices it is told of, by the Kubernetes
//! DNS-Based Service Discovery specification 1.1.0, and asks other servers for everything else.
//!
//! ```text
//! changes -> Zone ----------\
//! UDP, TCP -> query -> zone? -> reply -> UDP, TCP
//!                       \-> remembered? -> upstream (one exchange a question) -> remember --/
//! ```
//!
//! hickory reads and writes the messages that are exchanged with other servers. What is asked of the cluster's zone is read and
//! written by a pass over the bytes of its own, since that is what a node does all day.

mod answer;
mod cache;
mod forward;
mod keeper;
mod metrics;
mod name;
mod query;
mod reply;
mod resolv;
mod server;
mod stored;
mod upstream;
mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use cache::Cache;
use forward::{Forwarder, Source};
pub use keeper::{Keeper, Sockets};
use metrics::{Metrics, Recorder};
use name::ZoneName;
use resolv::Servers;
use server::{Core, Listener, Pair, Room};
use zone::Zone;

/// How often files with name servers are read again, and memory is tidied.
const TIDY: Duration = Duration::from_secs(10);
/// How often it is tried to have an address that somebody else has.
const RETRY: Duration = Duration::from_secs(1);
/// Questions wait for the first lists of the cluster at most this long, as CoreDNS' do.
const PATIENCE: Duration = Duration::from_secs(5);

/// How it runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's zone.
    pub zone: String,
    /// Addresses to listen on, UDP and TCP. They need not be there yet. Not the unspecified ones: an answer has to come from the
    /// address that was asked.
    pub listen: Vec<SocketAddr>,
    /// File with the name servers for all that is not the cluster's.
    pub resolv_conf: PathBuf,
    /// systemd-resolved's own such file, read where the other names nothing but a stub on this machine.
    pub systemd_resolv_conf: PathBuf,
    /// Name servers instead of those of the files, when there are any.
    pub upstreams: Vec<SocketAddr>,
    /// Name servers of domains.
    pub stub_domains: BTreeMap<String, Vec<SocketAddr>>,
    /// Sockets for datagrams on each address, each served by one task.
    pub sockets: usize,
    /// Answers of other servers remembered at most.
    pub cache_entries: usize,
    /// Bytes that these may take.
    pub cache_bytes: usize,
    /// Connections at once, on all addresses together; one asker may have a quarter of them.
    pub connections: usize,
    /// Who holds the sockets while this process restarts, if somebody does.
    pub keeper: Option<Arc<dyn Keeper>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            zone: "cluster.local".into(),
            listen: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            systemd_resolv_conf: "/run/systemd/resolve/resolv.conf".into(),
            upstreams: Vec::new(),
            stub_domains: BTreeMap::new(),
            sockets: 1,
            cache_entries: 10_000,
            cache_bytes: 8 << 20,
            connections: 256,
            keeper: None,
        }
    }
}

/// Why it can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration names what is no domain.
    #[error("{0:?} is no domain name")]
    Domain(String),
    /// The configuration names an address that can't be listened on.
    #[error("listen on {0}: an answer has to come from the address asked, so name each one")]
    Unspecified(SocketAddr),
    /// An address can't be listened on.
    #[error("listen on {0}: {1}")]
    Bind(SocketAddr, #[source] io::Error),
    /// A socket failed.
    #[error("serve on {0}: {1}")]
    Serve(SocketAddr, #[source] io::Error),
}

/// The server, not yet running.
#[derive(Debug)]
pub struct Dns {
    config: Config,
    stub_domains: Vec<(ZoneName, Vec<SocketAddr>)>,
    core: Arc<Core>,
    /// Answers under way.
    tasks: TaskTracker,
}

/// Takes changes to the cluster.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Core>);

/// The server with its sockets.
#[derive(Debug)]
pub struct Bound {
    dns: Dns,
    pairs: Vec<Pair>,
}

impl Dns {
    /// Checks the configuration. Nothing is opened yet.
    pub fn new(config: Config) -> Result<Self, Error> {
        if let Some(address) = config.listen.iter().find(|a| a.ip().is_unspecified()) {
            return Err(Error::Unspecified(*address));
        }
        let domain =
            |text: &String| ZoneName::parse(text).ok_or_else(|| Error::Domain(text.clone()));
        let stub_domains = config
            .stub_domains
            .iter()
            .map(|(name, servers)| Ok((domain(name)?, servers.clone())));
        let stub_domains = stub_domains.collect::<Result<_, Error>>()?;
        let servers = config.listen.iter().map(SocketAddr::ip).collect();
        let zone =
            Zone::new(&config.zone, servers).ok_or_else(|| Error::Domain(config.zone.clone()))?;
        let (metrics, tasks) = (Arc::new(Metrics::default()), TaskTracker::new());
        let cache = Cache::new(config.cache_entries, config.cache_bytes);
        let forwarder = Arc::new(Forwarder::new(cache, metrics.clone()));
        let core = Arc::new(Core::new(zone, forwarder, metrics, tasks.clone()));
        Ok(Self {
            config,
            stub_domains,
            core,
            tasks,
        })
    }

    /// For those who know what changes in the cluster.
    pub fn handle(&self) -> Handle {
        Handle(self.core.clone())
    }

    /// Shows its figures in a registry, under CoreDNS's names.
    pub fn register(&self, registry: &mut Registry) {
        self.core.metrics.register(registry);
    }

    /// Opens the sockets.
    pub fn bind(self) -> Result<Bound, Error> {
        let mut kept = self.kept();
        let pairs = self.open(&mut kept)?;
        Ok(Bound { dns: self, pairs })
    }

    fn kept(&self) -> Sockets {
        let keeper = self.config.keeper.as_ref();
        keeper.map(|k| k.take()).unwrap_or_default()
    }

    /// Opens the sockets as soon as they can be had: somebody else may listen on all addresses. Tells of it once.
    pub async fn bind_when_free(self) -> Bound {
        let mut told = false;
        let mut kept = self.kept();
        loop {
            match self.open(&mut kept) {
                Ok(pairs) => return Bound { dns: self, pairs },
                Err(error) if told => tracing::debug!(%error, "still no names"),
                Err(error) => {
                    tracing::warn!(%error, "the cluster's names are not answered on this node, trying again and again");
                    told = true;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn open(&self, kept: &mut Sockets) -> Result<Vec<Pair>, Error> {
        let count = self.config.sockets.max(1);
        let mut are_kept = true;
        let mut open = |address: &SocketAddr| match kept.of(*address, count) {
            Some(pair) => Ok(pair),
            None => {
                are_kept = false;
                server::bind(*address, count).map_err(|error| Error::Bind(*address, error))
            }
        };
        let pairs: Vec<Pair> = self
            .config
            .listen
            .iter()
            .map(&mut open)
            .collect::<Result<_, _>>()?;
        let are_as_left = are_kept && kept.is_empty();
        if let (Some(holder), false) = (&self.config.keeper, are_as_left) {
            holder.keep(&keeper::all(&pairs));
        }
        Ok(pairs)
    }

    /// Opens the sockets and answers until shutdown.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        self.bind()?.run(shutdown).await
    }
}

impl Handle {
    /// Adds or replaces a Service. `false`: nothing that matters changed.
    pub fn set_service(&self, service: &Service) -> bool {
        self.write(|zone| zone.set_service(service))
    }

    /// Removes a Service.
    pub fn remove_service(&self, namespace: &str, name: &str) -> bool {
        self.write(|zone| zone.remove_service(namespace, name))
    }

    /// Adds or replaces an EndpointSlice. `false`: nothing that matters changed.
    pub fn set_slice(&self, slice: &EndpointSlice) -> bool {
        self.write(|zone| zone.set_slice(slice))
    }

    /// Removes an EndpointSlice.
    pub fn remove_slice(&self, namespace: &str, name: &str) -> bool {
        self.write(|zone| zone.remove_slice(namespace, name))
    }

    /// Forgets Services and slices that a new list did not bring: their namespaces and names.
    pub fn retain(
        &self,
        services: Option<&BTreeSet<(String, String)>>,
        slices: Option<&BTreeSet<(String, String)>>,
    ) -> bool {
        self.write(|zone| zone.retain(services, slices))
    }

    /// Says that the first lists of both are complete. Until then questions wait for a while; after that, names of the zone
    /// get `SERVFAIL`, so that askers try again.
    pub fn set_complete(&self) {
        if !self.0.synced.swap(true, Ordering::AcqRel) {
            self.0.complete.notify_waiters();
        }
    }

    fn write<T>(&self, change: impl FnOnce(&mut Zone) -> T) -> T {
        change(&mut self.0.zone.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Bound {
    /// Addresses listened on, with the ports that the kernel chose where the configuration says 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.pairs.iter().map(|p| p.address).collect()
    }

    /// Answers until shutdown, or until a socket fails.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let own: Vec<_> = self.addresses();
        let Dns {
            config,
            stub_domains,
            core,
            tasks,
        } = self.dns;
        let (file, systemd) = (config.resolv_conf, config.systemd_resolv_conf);
        let source = Source {
            file,
            systemd,
            fixed: config.upstreams,
            own,
        };
        let known = source.read();
        core.forwarder.set_routes(&stub_domains, known.clone());
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = tokio::time::timeout(PATIENCE, core.completed()) => {}
        }
        let (room, stop) = (
            Arc::new(Room::new(config.connections)),
            shutdown.child_token(),
        );
        let mut sockets = JoinSet::new();
        for pair in self.pairs {
            let address = pair.address;
            let recorder = Arc::new(Recorder::new(&core.metrics, address, "tcp"));
            let listener = Listener {
                core: core.clone(),
                recorder,
                room: room.clone(),
                shutdown: stop.clone(),
            };
            sockets.spawn(async move { (address, listener.serve(pair.tcp).await) });
            let recorder = Arc::new(Recorder::new(&core.metrics, address, "udp"));
            for socket in pair.udp {
                let serve = server::serve_udp(socket, core.clone(), recorder.clone(), stop.clone());
                sockets.spawn(async move { (address, serve.await) });
            }
        }
        let ended = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            () = maintain(&core, &source, &stub_domains, known) => Ok(()),
            Some(joined) = sockets.join_next() => match joined {
                Ok((address, ended)) => ended.map_err(|error| Error::Serve(address, error)),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is going away.
                    Err(_) => Ok(()),
                },
            },
        };
        stop.cancel();
        while sockets.join_next().await.is_some() {}
        tasks.close();
        tasks.wait().await;
        ended
    }
}

/// Reads the files with name servers when they may have changed; forgets what is of no use.
async fn maintain(
    core: &Core,
    source: &Source,
    stub_domains: &[(ZoneName, Vec<SocketAddr>)],
    mut known: Servers,
) {
    tracing::info!(servers = ?known.addresses, "name servers for names outside the cluster");
    loop {
        core.forwarder.tidy(Instant::now());
        tokio::time::sleep(TIDY).await;
        let servers = source.read();
        if known != servers {
            tracing::info!(servers = ?servers.addresses, "other name servers for names outside the cluster");
            core.forwarder.set_routes(stub_domains, servers.clone());
            known = servers;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_cannot_work_is_refused() {
        type Change = fn(&mut Config);
        let cases: &[(&str, Change, &str)] = &[
            (
                "no zone",
                |c| c.zone = ".".into(),
                "\".\" is no domain name",
            ),
            (
                "a bad zone",
                |c| c.zone = "a..b".into(),
                "\"a..b\" is no domain name",
            ),
            (
                "a bad stub domain",
                |c| _ = c.stub_domains.insert("a..b".into(), vec![]),
                "\"a..b\" is no domain name",
            ),
            (
                "any address",
                |c| c.listen = vec![([0, 0, 0, 0], 53).into()],
                "listen on 0.0.0.0:53: an answer has",
            ),
        ];
        for (case, change, message) in cases {
            let mut config = Config::default();
            change(&mut config);
            let error = Dns::new(config).expect_err(case).to_string();
            assert!(error.starts_with(message), "{case}: {error}");
        }
    }
}
