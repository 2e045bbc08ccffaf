//! `keelson proxy`: the service proxy alone, against any Kubernetes API server, in kube-proxy's place.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use keelson_proxy::config::{DetectLocal, Flags, Loaded, NodePortAddress, Settings};
use keelson_proxy::{Config, IpvsConfig, Options, Pods, Ports, Timeouts};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::cluster;

/// `keelson proxy`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum Command {
    /// Says what must change for the rules of a keelson node to be what is wanted, and changes nothing: of services, by
    /// the mode that is live, and of network policies. What was compared and what can't be is told on standard error.
    ///
    /// Exit codes, as `kubectl diff` has them: 0: nothing differs; 1: something does; 2: it could not be compared.
    Diff(Of),
}

/// Of which node, and how the cluster is asked.
#[derive(clap::Args)]
pub(crate) struct Of {
    /// kubeconfig of somebody who may list Services, EndpointSlices, Pods, Namespaces and NetworkPolicies, and read Nodes.
    #[arg(
        long,
        env = "KUBECONFIG",
        default_value = "/etc/keelson/admin.kubeconfig"
    )]
    kubeconfig: PathBuf,
    /// This node's name [default: the host's name].
    #[arg(long)]
    node_name: Option<String>,
}

impl Of {
    /// The configuration that the node's own proxy has.
    pub(crate) async fn config(&self) -> anyhow::Result<(Config, Client)> {
        let client = Client::try_from(cluster::access(&self.kubeconfig).await?)?;
        let facts = cluster::read(&client).await?;
        let name = crate::node::name(self.node_name.as_deref())?;
        Ok((crate::node::proxy_config(&name, &facts), client))
    }
}

/// Runs until shutdown. Rules stay when it ends: traffic goes on.
pub(crate) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    if let Some(Command::Diff(of)) = args.command {
        std::process::exit(diff(&of).await);
    }
    let loaded = Loaded::read(&args.flags)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(path) = &args.flags.write_config_to {
        return loaded.write(path);
    }
    if args.flags.cleanup {
        let errors = keelson_proxy::cleanup().await;
        errors.iter().for_each(|e| tracing::error!("{e}"));
        anyhow::ensure!(errors.is_empty(), "not all rules were removed");
        return Ok(());
    }
    let client = client(&loaded.settings).await?;
    let config = config(&loaded, &client).await?;
    adjust_oom_score(loaded.settings.oom_score_adj);
    keelson_proxy::kernel_settings(&loaded.settings.conntrack);
    tokio::spawn(crate::memory::give_back());
    keelson_proxy::run(config, client, shutdown).await
}

/// Prints differences; gives the exit code.
async fn diff(of: &Of) -> i32 {
    const SAME: i32 = 0;
    const DIFFERS: i32 = 1;
    const FAILED: i32 = 2;
    let compared = async {
        let (config, client) = of.config().await?;
        keelson_proxy::explain::diff(&config, &client).await
    };
    match compared.await {
        Ok(found) => {
            found.remarks.iter().for_each(|r| eprintln!("{r}"));
            print!("{}", found.changes);
            if found.changes.is_empty() {
                SAME
            } else {
                DIFFERS
            }
        }
        Err(error) => {
            eprintln!("keelson: {error:#}");
            FAILED
        }
    }
}

async fn client(settings: &Settings) -> anyhow::Result<Client> {
    let mut config = match &settings.kubeconfig {
        Some(path) => cluster::access(path).await?,
        None => kube::Config::infer()
            .await
            .context("no --kubeconfig, and not in a pod")?,
    };
    if let Some(master) = &settings.master {
        config.cluster_url = master
            .parse()
            .with_context(|| format!("--master {master}"))?;
    }
    Ok(Client::try_from(config)?)
}

async fn config(loaded: &Loaded, client: &Client) -> anyhow::Result<Config> {
    let settings = &loaded.settings;
    let node_name = crate::node::name(settings.node_name.as_deref())?;
    // What is only known of the Node object.
    let node = async || node(client, &node_name).await;
    let mode = settings.mode;
    let masquerade = settings.masquerade(mode);
    let periods = settings.periods(mode);
    let nets = node_port_nets(&settings.node_port_addresses(mode), &node).await?;
    Ok(Config {
        mode,
        rules: Options {
            pods: match &settings.detect_local {
                DetectLocal::ClusterCidr(nets) if nets.is_empty() => Pods::Unknown,
                DetectLocal::ClusterCidr(nets) => Pods::Within(nets.clone()),
                DetectLocal::NodeCidr => Pods::Within(pod_cidrs(&node().await?)?),
                DetectLocal::BridgeInterface(name) => Pods::Behind(name.clone()),
                DetectLocal::InterfaceNamePrefix(prefix) => Pods::Behind(format!("{prefix}*")),
            },
            masquerade_all: masquerade.all,
            masquerade_mark: 1 << masquerade.bit,
            node_port_nets: nets.unwrap_or_default(),
            localhost_node_ports: settings.localhost_node_ports,
        },
        coalesce: periods.min,
        resync: Some(periods.resync),
        userspace: keelson_proxy::userspace::Config {
            ports: settings.ports.clone(),
            udp_idle: settings.udp_idle,
            ..keelson_proxy::userspace::Config::default()
        },
        ipvs: ipvs(&settings.ipvs)?,
        health_timeout: settings.health_timeout(mode),
        ports: Ports {
            healthz: settings.healthz,
            metrics: settings.metrics,
            hard_fail: settings.bind_hard_fail,
            configz: loaded.configz(),
        },
        node_name,
        ..Config::default()
    })
}

/// The Node object. Its agent may be about to make it: it is waited for, for half a minute.
async fn node(client: &Client, name: &str) -> anyhow::Result<Node> {
    let nodes = Api::<Node>::all(client.clone());
    for seconds in [1, 2, 4, 8, 16] {
        let node = nodes.get_opt(name).await;
        if let Some(node) = node.with_context(|| format!("read node {name}"))? {
            return Ok(node);
        }
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
    anyhow::bail!("there is no node {name}")
}

fn ipvs(settings: &keelson_proxy::config::Ipvs) -> anyhow::Result<IpvsConfig> {
    let seconds = |d: Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
    let scheduler = match settings.scheduler.as_str() {
        "" => "rr",
        name => name,
    };
    Ok(IpvsConfig {
        scheduler: scheduler
            .parse()
            .map_err(|e| anyhow::anyhow!("ipvs.scheduler: {e}"))?,
        strict_arp: settings.strict_arp,
        timeouts: Timeouts {
            tcp: seconds(settings.tcp_timeout),
            tcp_fin: seconds(settings.tcp_fin_timeout),
            udp: seconds(settings.udp_timeout),
        },
    })
}

/// The networks on whose addresses node ports are reached; `None`: all.
async fn node_port_nets(
    addresses: &[NodePortAddress],
    node: &impl AsyncFn() -> anyhow::Result<Node>,
) -> anyhow::Result<Option<Vec<IpNet>>> {
    let mut nets = Vec::new();
    for address in addresses {
        match address {
            NodePortAddress::All => return Ok(None),
            NodePortAddress::Range(net) => nets.push(*net),
            NodePortAddress::Localhost => {
                nets.extend(loopback());
            }
            NodePortAddress::Primary => nets.extend(match node().await {
                Ok(node) => primary(&node),
                // As kube-proxy does.
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "node ports answer on the loopback addresses only: nodePortAddresses is primary"
                    );
                    loopback()
                }
            }),
        }
    }
    Ok((!nets.is_empty()).then_some(nets))
}

fn loopback() -> Vec<IpNet> {
    let nets = ["127.0.0.0/8", "::1/128"];
    nets.iter().filter_map(|n| n.parse().ok()).collect()
}

/// The first internal address of each family.
fn primary(node: &Node) -> Vec<IpNet> {
    let status = node.status.as_ref();
    let all = status
        .and_then(|s| s.addresses.as_ref())
        .into_iter()
        .flatten();
    let internal = all.filter(|a| a.type_ == "InternalIP");
    let mut ips: Vec<std::net::IpAddr> = Vec::new();
    for ip in internal.filter_map(|a| a.address.parse::<std::net::IpAddr>().ok()) {
        if ips.iter().all(|i| i.is_ipv4() != ip.is_ipv4()) {
            ips.push(ip);
        }
    }
    ips.into_iter().map(IpNet::from).collect()
}

fn pod_cidrs(node: &Node) -> anyhow::Result<Vec<IpNet>> {
    let cidrs = node.spec.as_ref().and_then(|s| s.pod_cidrs.as_ref());
    let cidrs: Vec<IpNet> = cidrs
        .into_iter()
        .flatten()
        .filter_map(|c| c.parse().ok())
        .collect();
    anyhow::ensure!(
        !cidrs.is_empty(),
        "the node has no podCIDRs: detectLocalMode NodeCIDR needs them"
    );
    Ok(cidrs)
}

/// The kernel ends others first where memory runs out.
fn adjust_oom_score(score: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::warn!(score, %error, "oomScoreAdj is not set");
    }
}
