//! `keelson proxy`: the service proxy alone, against any Kubernetes API server.

use std::path::PathBuf;

use clap::ValueEnum;
use ipnet::IpNet;
use keelson_proxy::{Config, Options, Pods};
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::cluster;

/// What carries services' traffic.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Mode {
    /// nftables where the kernel has it, else iptables.
    #[default]
    Auto,
    /// Shared maps in tables of our own.
    Nftables,
    /// The shape that kube-proxy's iptables mode has.
    Iptables,
}

/// `keelson proxy`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How the API is reached, and as whom.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// What carries services' traffic.
    #[arg(long, alias = "proxy-mode", value_enum, default_value_t)]
    mode: Mode,
    /// This node's name [default: the host's name].
    #[arg(long, alias = "hostname-override")]
    node_name: Option<String>,
    /// All pods' addresses: what comes from elsewhere to a cluster address is masqueraded.
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
}

/// Runs until shutdown. Rules stay when it ends: traffic goes on.
pub(crate) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = Client::try_from(cluster::access(&args.kubeconfig).await?)?;
    let pods = match args.cluster_cidr.as_slice() {
        [] => Pods::Unknown,
        _ => Pods::Within(args.cluster_cidr),
    };
    let config = Config {
        node_name: crate::node::name(args.node_name.as_deref())?,
        mode: match args.mode {
            Mode::Auto => keelson_proxy::Mode::Auto,
            Mode::Nftables => keelson_proxy::Mode::Nftables,
            Mode::Iptables => keelson_proxy::Mode::Iptables,
        },
        rules: Options {
            pods,
            ..Options::default()
        },
        ..Config::default()
    };
    keelson_proxy::run(config, client, shutdown).await
}
