//! The cluster's names, answered on this node: the addresses that pods ask are this node's own.

use std::net::{IpAddr, SocketAddr};

use keelson_dns::{Config, Dns, Handle};
use keelson_proxy_kernel::loopback;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Takes the addresses and begins to answer. What changes goes in by the handle.
pub(crate) async fn start(
    config: Config,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Handle> {
    let ips: Vec<IpAddr> = config.listen.iter().map(SocketAddr::ip).collect();
    loopback::hold(&ips).await?;
    let dns = Dns::new(config)?;
    let handle = dns.handle();
    let bound = dns.bind()?;
    tracing::info!(addresses = ?bound.addresses(), "cluster names are answered");
    let shutdown = shutdown.clone();
    tasks.spawn(async move { Ok(bound.run(shutdown).await?) });
    Ok(handle)
}
