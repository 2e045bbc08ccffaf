//! `keelson server`: control plane and, unless told otherwise, a node, in one process.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use keelson_apiserver::ApiServer;
use keelson_auth::User;
use keelson_auth::kubeconfig::{self, Credentials};
use keelson_auth::pki::{CsrUsage, Pki, write_private};
use keelson_auth::token::Ref;
use keelson_controllers::csr::Usage;
use keelson_store::embedded::{Embedded, Options};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, Cluster};
use crate::network::{self, Network};
use crate::node::{self, Node, Paths};
use crate::options::ServerOptions;
use crate::{join, memory, rotate};

/// Runs until shutdown.
pub(crate) async fn run(options: ServerOptions, shutdown: CancellationToken) -> anyhow::Result<()> {
    let paths = Paths::of(&options.node);
    let name = node::name(options.node.node_name.as_deref())?;
    network::check(&options.node)?;
    let mut options = options;
    // Where nodes and pods reach the API is where they reach this node, too, if the address is this machine's.
    let here = |ip: &IpAddr| std::net::UdpSocket::bind((*ip, 0)).is_ok();
    if let (None, Some(ip)) = (
        &options.node.node_ip,
        options.advertise_address.filter(here),
    ) {
        options.node.node_ip = Some(vec![ip]);
    }
    let cluster = facts(&options);
    let ips = node::addresses(&options.node, None, &cluster.cluster_cidrs)?;
    if options.no_agent != Some(true) {
        node::check(&options.node, &name)?;
    }
    let lasts = rotate::lasts(options.cluster_signing_duration.as_deref())?;
    let config = api_config(&options, &paths, &ips, (&cluster, lasts), &name)?;
    let pki =
        Pki::load_or_create(&config.pki_dir).context("read or make the cluster's certificates")?;
    let pki = Arc::new(pki);
    let store_path = paths.data.join("server/state.redb");
    let store = Embedded::open(&store_path, Options::default())
        .with_context(|| format!("open {}", store_path.display()))?;
    let bind = config.bind;
    let server = ApiServer::start(config, Arc::new(store), pki.clone()).await?;
    let admin = server.client(User::component("system:keelson", &["system:masters"]));
    cluster::publish(&admin, &cluster)
        .await
        .context("publish the cluster's configuration")?;

    // The API ends last: those that use it say good-bye through it.
    let (serving, parts) = (CancellationToken::new(), shutdown.child_token());
    let mut tasks = JoinSet::new();
    let api = tokio::spawn({
        let (server, serving) = (server.clone(), serving.clone());
        async move { server.serve(serving).await }
    });
    let admin = Admin {
        path: options
            .write_kubeconfig
            .clone()
            .unwrap_or_else(|| "/etc/keelson/admin.kubeconfig".into()),
        server: admin_server(bind, &ips),
        pki: pki.clone(),
        lasts,
    };
    tasks.spawn(admin.keep(&parts)?);
    spawn_control_plane(
        &mut tasks,
        &server,
        &pki,
        &cluster,
        (&options, lasts),
        &name,
        &parts,
    );
    if options.no_agent != Some(true) {
        let (_, pods) = watch::channel(cluster.cluster_cidrs.clone());
        let ips = rotate::addresses(&options.node, None, (&ips, pods), &parts);
        let (node, renewing) = local_node(
            &server,
            &pki,
            (&options, lasts),
            cluster,
            &name,
            ips,
            &parts,
        )?;
        tasks.spawn(renewing);
        node::spawn(&mut tasks, node, &parts)?;
    }
    tracing::info!(node = name, address = %bind, "keelson server is up");
    tokio::spawn(memory::give_back());
    let result = tokio::select! {
        ended = tasks.join_next() => match ended {
            Some(ended) => ended.context("a part panicked").and_then(|r| r),
            None => Ok(()),
        },
        () = shutdown.cancelled() => Ok(()),
    };
    parts.cancel();
    while tasks.join_next().await.is_some() {}
    serving.cancel();
    api.await.context("the API server panicked")??;
    result
}

fn facts(options: &ServerOptions) -> Cluster {
    let default = |cidr: &str| cidr.parse().into_iter().collect();
    let service_cidrs = options
        .service_cidr
        .clone()
        .unwrap_or_else(|| default("10.43.0.0/16"));
    let node_dns = options.no_dns != Some(true);
    // Without it names are not answered at all unless somebody says where.
    let usual = || {
        if node_dns {
            dns_addresses(&service_cidrs)
        } else {
            Vec::new()
        }
    };
    Cluster {
        cluster_cidrs: options
            .cluster_cidr
            .clone()
            .unwrap_or_else(|| default("10.42.0.0/16")),
        cluster_dns: options.cluster_dns.clone().unwrap_or_else(usual),
        node_dns,
        service_cidrs,
        cluster_domain: options
            .cluster_domain
            .clone()
            .unwrap_or_else(|| "cluster.local".into()),
        network: Network::default().with(&options.node),
    }
}

/// The tenth address of each range, as every cluster has it.
fn dns_addresses(service_cidrs: &[IpNet]) -> Vec<IpAddr> {
    const PLACE: usize = 10;
    let tenth = |net: &IpNet| match net {
        IpNet::V4(net) => net.hosts().nth(PLACE - 1).map(IpAddr::from),
        IpNet::V6(net) => {
            let ip = u128::from(net.network()).checked_add(PLACE as u128)?;
            let ip = std::net::Ipv6Addr::from(ip);
            net.contains(&ip).then_some(ip.into())
        }
    };
    service_cidrs.iter().filter_map(tenth).collect()
}

fn api_config(
    options: &ServerOptions,
    paths: &Paths,
    ips: &[IpAddr],
    (cluster, lasts): (&Cluster, Duration),
    name: &str,
) -> anyhow::Result<keelson_apiserver::Config> {
    let first = ips.first().copied().context("this node has no address")?;
    let ports = options
        .service_node_port_range
        .as_deref()
        .unwrap_or("30000-32767");
    let range = ports
        .split_once('-')
        .and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    let Some((from, to)) = range.filter(|(from, to): &(u16, u16)| *from > 0 && from <= to) else {
        bail!("service-node-port-range is {ports:?}, needed is FIRST-LAST");
    };
    let own = ips.iter().map(IpAddr::to_string).chain([name.to_owned()]);
    Ok(keelson_apiserver::Config {
        bind: options
            .bind
            .unwrap_or_else(|| SocketAddr::new(any_address(), 6443)),
        advertise: options.advertise_address.unwrap_or(first),
        sans: own
            .chain(options.tls_san.clone().unwrap_or_default())
            .collect(),
        service_cidrs: cluster.service_cidrs.clone(),
        node_ports: from..=to,
        pki_dir: paths.data.join("server/pki"),
        cluster_domain: cluster.cluster_domain.clone(),
        dns_addresses: match cluster.node_dns {
            true => cluster.cluster_dns.clone(),
            false => Vec::new(),
        },
        certificates_last: lasts,
    })
}

/// All addresses of both families; those of IPv4 where the kernel has no IPv6.
pub(crate) fn any_address() -> IpAddr {
    if Path::new("/proc/net/if_inet6").exists() {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    }
}

/// Where the administrator reaches the API: bound to all addresses it is by loopback, whatever the network does.
fn admin_server(bind: SocketAddr, ips: &[IpAddr]) -> String {
    let host = match bind.ip() {
        ip if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        ip => ips.iter().copied().find(|i| *i == ip).unwrap_or(ip),
    };
    format!("https://{}", SocketAddr::new(host, bind.port()))
}

/// The administrator's kubeconfig: written anew at every start, and before its certificate ends.
struct Admin {
    path: PathBuf,
    server: String,
    pki: Arc<Pki>,
    lasts: Duration,
}

impl Admin {
    /// Writes it; what keeps it written is returned.
    fn keep(
        self,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
        let first = self.write()?;
        let (never, shutdown) = (watch::channel(Vec::new()).1, shutdown.clone());
        let again = move || self.write();
        Ok(rotate::keep(
            "admin kubeconfig",
            first,
            never,
            again,
            shutdown,
        ))
    }

    fn write(&self) -> anyhow::Result<String> {
        let issued = self
            .pki
            .issue_client("system:admin", &["system:masters"], self.lasts)?;
        let credentials = Credentials::Certificate {
            cert_pem: &issued.cert_pem,
            key_pem: &issued.key_pem,
        };
        let text = kubeconfig::render("keelson", &self.server, self.pki.ca_pem(), credentials);
        let path = &self.path;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        write_private(path, text.as_bytes())
            .with_context(|| format!("write {}", path.display()))?;
        Ok(issued.cert_pem)
    }
}

fn spawn_control_plane(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    server: &ApiServer,
    pki: &Arc<Pki>,
    cluster: &Cluster,
    (options, lasts): (&ServerOptions, Duration),
    name: &str,
    shutdown: &CancellationToken,
) {
    let component = |who: &str| server.client(User::component(who, &["system:masters"]));
    // The node's name: a server that starts again goes on with its own leases at once.
    let scheduler = keelson_scheduler::Config::default().elected(name);
    tasks.spawn(keelson_scheduler::run(
        component("system:kube-scheduler"),
        scheduler,
        shutdown.clone(),
    ));
    let controllers = keelson_controllers::Config {
        cluster_cidrs: cluster.cluster_cidrs.clone(),
        account_token_secrets: options.legacy_token_secrets.unwrap_or(false),
        identity: name.to_owned(),
        ..keelson_controllers::Config::new(
            pki.ca_pem().to_owned(),
            token_maker(pki.clone()),
            signer(pki.clone(), lasts),
        )
    };
    let (client, shutdown) = (
        component("system:kube-controller-manager"),
        shutdown.clone(),
    );
    tasks.spawn(async move {
        while !shutdown.is_cancelled() {
            if let Err(error) =
                keelson_controllers::run(client.clone(), controllers.clone(), shutdown.clone())
                    .await
            {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "controllers stopped, standing for election again"
                );
            }
        }
        Ok(())
    });
}

/// Makes tokens for token Secrets.
fn token_maker(pki: Arc<Pki>) -> keelson_controllers::serviceaccount::MakeToken {
    Arc::new(move |account, secret| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (account, secret) = (&account.metadata, &secret.metadata);
        let owner = Ref::new(&text(&account.name), &text(&account.uid));
        Ok(pki
            .token_keys()
            .sign_legacy(&text(&account.namespace), &owner, &text(&secret.name))?)
    })
}

/// Signs certificates that the controllers approved, or somebody did.
fn signer(pki: Arc<Pki>, longest: Duration) -> keelson_controllers::csr::Sign {
    Arc::new(move |request, usage, asked| {
        let usage = match usage {
            Usage::Client => CsrUsage::Client,
            Usage::Serving => CsrUsage::Serving,
        };
        let lasts = asked.map_or(longest, |asked| asked.min(longest));
        Ok(pki.sign_csr(request, usage, lasts)?)
    })
}

/// This machine as a node, and what keeps its certificate.
fn local_node(
    server: &ApiServer,
    pki: &Arc<Pki>,
    (options, lasts): (&ServerOptions, Duration),
    cluster: Cluster,
    name: &str,
    ips: watch::Receiver<Vec<IpAddr>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<(
    Node,
    impl Future<Output = anyhow::Result<()>> + Send + use<>,
)> {
    let user = format!("system:node:{name}");
    let issue = {
        let (pki, ips) = (pki.clone(), ips.clone());
        let (user, name) = (user.clone(), name.to_owned());
        move || pki.issue_server(&user, &join::sans(&name, &ips.borrow()), lasts)
    };
    let serving = issue()?;
    let certs = node::certs(&serving)?;
    let again = {
        let certs = certs.clone();
        move || {
            let issued = issue()?;
            certs.set(&issued.cert_pem, &issued.key_pem)?;
            Ok(issued.cert_pem)
        }
    };
    let (changed, shutdown) = (ips.clone(), shutdown.clone());
    let renewing = rotate::keep("serving", serving.cert_pem, changed, again, shutdown);
    let node = Node {
        client: server.client(User::component(&user, &["system:nodes"])),
        proxy_client: server.client(User::component(
            "system:kube-proxy",
            &["system:node-proxier"],
        )),
        certs,
        ca_pem: pki.ca_pem().to_owned(),
        options: options.node.clone(),
        cluster,
        name: name.to_owned(),
        ips,
    };
    Ok((node, renewing))
}
