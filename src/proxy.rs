//! `keelson proxy`: the service proxy alone, against any Kubernetes API server.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
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
#[command(subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How the API is reached, and as whom.
    #[arg(long, global = true, default_value = "/etc/keelson/admin.kubeconfig")]
    kubeconfig: PathBuf,
    /// What carries services' traffic.
    #[arg(long, alias = "proxy-mode", value_enum, default_value_t)]
    mode: Mode,
    #[command(flatten)]
    rules: Rules,
}

/// What rules depend on.
#[derive(clap::Args)]
pub(crate) struct Rules {
    /// This node's name [default: the host's name].
    #[arg(long, global = true, alias = "hostname-override")]
    node_name: Option<String>,
    /// All pods' addresses: what comes from elsewhere to a cluster address is masqueraded.
    #[arg(long, global = true, value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
}

#[derive(Subcommand)]
enum Command {
    /// Says what must change for the kernel's rules to be what is wanted, and changes nothing. Prints nothing where
    /// they are.
    Diff,
}

impl Rules {
    /// The proxy's configuration.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let pods = match self.cluster_cidr.as_slice() {
            [] => Pods::Unknown,
            nets => Pods::Within(nets.to_vec()),
        };
        Ok(Config {
            node_name: crate::node::name(self.node_name.as_deref())?,
            rules: Options {
                pods,
                ..Options::default()
            },
            ..Config::default()
        })
    }
}

/// Runs until shutdown. Rules stay when it ends: traffic goes on.
pub(crate) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = Client::try_from(cluster::access(&args.kubeconfig).await?)?;
    let mut config = args.rules.config()?;
    config.mode = match args.mode {
        Mode::Auto => keelson_proxy::Mode::Auto,
        Mode::Nftables => keelson_proxy::Mode::Nftables,
        Mode::Iptables => keelson_proxy::Mode::Iptables,
    };
    if let Some(Command::Diff) = args.command {
        print!("{}", keelson_proxy::explain::diff(&config, &client).await?);
        return Ok(());
    }
    keelson_proxy::run(config, client, shutdown).await
}
