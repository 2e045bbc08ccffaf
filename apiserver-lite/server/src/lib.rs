//! The API server: one generic handler over the resource table, and the few real exceptions beside it.
//!
//! A request goes URL → row of the table → who asks → whether he may → decode, defaults, admission,
//! checks → store → answer. In one process the same router is a client's transport ([`ApiServer::client`]).

// A refusal (`Status`) is large, and the rare way out: boxing it would burden every signature.
#![allow(clippy::result_large_err)]

mod allocate;
mod authn;
mod authz;
mod bootstrap;
mod caches;
mod certificates;
mod connect;
mod decode;
mod discovery;
mod escalation;
mod figures;
mod handler;
mod limits;
mod metrics;
mod negotiate;
mod object;
mod paths;
mod protobuf;
mod query;
mod request_info;
mod respond;
mod reviews;
mod router;
mod state;
mod sub;
mod table;
mod turns;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use keelson_auth::User;
use keelson_auth::pki::Pki;
use keelson_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connect::Dialer;
use crate::router::Router;
use crate::state::Server;

/// How the server is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub bind: SocketAddr,
    /// The address clients and nodes reach it by.
    pub advertise: IpAddr,
    /// More names and addresses for the serving certificate.
    pub sans: Vec<String>,
    /// Ranges of cluster addresses: one, or one a family; the first is the default.
    pub service_cidrs: Vec<IpNet>,
    /// Node ports.
    pub node_ports: RangeInclusive<u16>,
    /// Where certificates and keys are.
    pub pki_dir: PathBuf,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Where nodes answer for the cluster's names; empty: they don't. Those within [`Self::service_cidrs`] are the
    /// Service `kube-dns`'.
    pub dns_addresses: Vec<IpAddr>,
    /// How long the server's own certificates are valid. They are made anew at every start, and before they end.
    pub certificates_last: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let services = Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16);
        Config {
            bind: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 6443)),
            advertise: IpAddr::V4(Ipv4Addr::LOCALHOST),
            sans: Vec::new(),
            service_cidrs: vec![IpNet::V4(services)],
            node_ports: 30000..=32767,
            pki_dir: PathBuf::from("/var/lib/keelson/server/pki"),
            cluster_domain: "cluster.local".to_owned(),
            dns_addresses: Vec::new(),
            certificates_last: Duration::from_secs(365 * 24 * 3600),
        }
    }
}

impl Config {
    fn pools(&self) -> allocate::Pools {
        allocate::Pools {
            cidrs: self.service_cidrs.clone(),
            ports: self.node_ports.clone(),
        }
    }

    fn advertised(&self) -> SocketAddr {
        SocketAddr::new(self.advertise, self.bind.port())
    }

    /// All names and addresses the serving certificate is for.
    fn names(&self) -> Vec<String> {
        let domain = &self.cluster_domain;
        let mut names: Vec<String> = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ]
        .map(str::to_owned)
        .to_vec();
        names.push(format!("kubernetes.default.svc.{domain}"));
        names.extend([
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
            self.advertise.to_string(),
        ]);
        names.extend(
            self.service_cidrs
                .iter()
                .map(|net| allocate::first(*net).to_string()),
        );
        names.extend(self.sans.iter().cloned());
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|n| seen.insert(n.clone()));
        names
    }
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A default object could not be made.
    #[error("make the cluster's default objects: {0}")]
    Bootstrap(String),
    /// The store or its contents are not usable.
    #[error("read the store: {0}")]
    Store(String),
    /// Certificates.
    #[error("issue the server's certificates")]
    Pki(#[from] keelson_auth::pki::Error),
    /// TLS and the listening socket.
    #[error("serve the API")]
    Serving(#[from] keelson_serving::Error),
    /// The accept loop failed.
    #[error("serve the API on {address}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A running API server.
#[derive(Clone)]
pub struct ApiServer {
    server: Arc<Server>,
}

impl ApiServer {
    /// Makes the default objects, repairs allocations and fills the caches. Nothing listens yet:
    /// [`ApiServer::client`] works, [`ApiServer::serve`] opens the port.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        pki: Arc<Pki>,
    ) -> Result<ApiServer, Error> {
        let fresh = certificates::issue(&config, &pki)?;
        let (certs, dialer) = (certificates::certs(&fresh)?, Dialer::new(&fresh.client));
        let server = Arc::new(Server::new(config, store, pki, certs, dialer));
        let stored = |e: keelson_api::Status| Error::Store(e.to_string());
        allocate::repair(&server).await.map_err(stored)?;
        bootstrap::run(
            &server,
            &Router::new(server.clone(), Some(bootstrap::user())),
        )
        .await?;
        caches::start(&server).await.map_err(stored)?;
        server.tasks.spawn(bootstrap::keep(server.clone()));
        server
            .tasks
            .spawn(certificates::keep(server.clone(), fresh.due));
        Ok(ApiServer { server })
    }

    /// A client in this process that acts as `user`.
    pub fn client(&self, user: User) -> kube::Client {
        kube::Client::new(Router::new(self.server.clone(), Some(user)), "default")
    }

    /// Ends watches and what runs in the background; [`ApiServer::serve`] does this at shutdown.
    pub async fn stop(&self) {
        self.server.stopping.cancel();
        self.server.tasks.close();
        self.server.tasks.wait().await;
    }

    /// Listens where the configuration says and serves until shutdown.
    pub async fn serve(&self, shutdown: CancellationToken) -> Result<(), Error> {
        let listener = keelson_serving::bind(self.server.config.bind).await?;
        self.serve_on(listener, shutdown).await
    }

    /// Serves on a socket that listens already.
    pub async fn serve_on(
        &self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let config = &self.server.config;
        let pki = &self.server.pki;
        let tls =
            keelson_serving::server_config_with(self.server.certs.clone(), Some(pki.ca_pem()))?;
        let stopping = self.server.stopping.clone();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            stop.cancelled().await;
            stopping.cancel();
        });
        let address = config.bind;
        let router = Router::new(self.server.clone(), None);
        keelson_serving::serve(listener, tls, router, shutdown)
            .await
            .map_err(|source| Error::Io { address, source })
    }
}
