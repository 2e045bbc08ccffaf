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
    if let Err(error) = loopback::hold(&ips).await {
        tracing::warn!(%error, "the cluster's DNS addresses are not this node's");
    }
    let dns = Dns::new(config)?;
    let handle = dns.handle();
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        let bound = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            bound = dns.bind_when_free() => bound,
        };
        tracing::info!(addresses = ?bound.addresses(), "the cluster's names are answered");
        Ok(bound.run(shutdown).await?)
    });
    Ok(handle)
}
