//! `keelson doctor`: what of ours stands on this machine and is not needed any more, and why.

use std::path::PathBuf;

use anyhow::bail;
use kube::Client;

use crate::options::NodeOptions;
use crate::{cluster, join, node};

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Takes away what is found.
    #[arg(long)]
    fix: bool,
    /// kubeconfig of an administrator; on a node that joined, --server is enough.
    #[arg(
        long,
        env = "KUBECONFIG",
        default_value = "/etc/keelson/admin.kubeconfig"
    )]
    kubeconfig: PathBuf,
    /// The server that this node joined, as https://HOST:6443: it is asked with the node's own certificate.
    #[arg(long, env = "KEELSON_SERVER")]
    server: Option<String>,
    #[command(flatten)]
    node: NodeOptions,
}

/// Prints a line for each thing, and with `--fix` what became of it.
///
/// # Errors
/// When something is found and stays: a script can go by it.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let name = node::name(args.node.node_name.as_deref())?;
    let client = client(&args, &name).await?;
    let mut config = node::places(&args.node, &name, Vec::new());
    // One that `scripts/up` started, where no other ran.
    let own = config.run_dir.join("containerd/containerd.sock");
    if args.node.containerd.is_none() && own.exists() {
        config.containerd_socket = own;
    }
    let doctor = keelson_agent::Doctor::new(config).await?;
    let findings = doctor.examine(&client).await?;
    let mut left = findings.len();
    for finding in &findings {
        let found = &finding.found;
        print!("{:<10} {}  {}", found.kind, found.name, finding.why);
        if args.fix {
            match doctor.remove(found).await {
                Ok(()) => {
                    left -= 1;
                    print!(": removed");
                }
                Err(error) => print!(": {error:#}"),
            }
        }
        println!();
    }
    match (left, args.fix) {
        (0, _) => println!("nothing is left over on node {name}"),
        (_, false) => bail!("{left} things are not needed any more; --fix takes them away"),
        (_, true) => bail!("{left} things could not be taken away"),
    }
    Ok(())
}

async fn client(args: &Args, name: &str) -> anyhow::Result<Client> {
    if let Some(server) = &args.server {
        let pki = node::Paths::of(&args.node).data.join("agent/pki");
        return Ok(join::join(server, None, name, &pki).await?.client);
    }
    Ok(Client::try_from(cluster::access(&args.kubeconfig).await?)?)
}
