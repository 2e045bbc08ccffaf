//! Ends UDP flows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use keelson_proxy_kernel::{Error, conntrack, node};
use keelson_proxy_plan::conntrack::Flow;
use keelson_proxy_plan::model::Front;

/// Looks through the connection table for flows to some fronts, or, without any, for all, and removes those that are
/// stale. That is told on which addresses node ports are reached, which are all of this node or those within networks.
pub(crate) async fn end(
    fronts: Vec<Front>,
    nets: &[IpNet],
    stale: impl Fn(&Flow, &dyn Fn(&IpAddr) -> bool) -> bool + Send + 'static,
) -> Result<(), Error> {
    let nets = nets.to_vec();
    let done = tokio::task::spawn_blocking(move || {
        let own = own(&nets)?;
        conntrack::clean(fronts.iter(), |flow| stale(flow, &|ip| own.contains(ip)))
    });
    // A panic there would be a bug; the next sync tries again.
    let removed = done.await.map_err(|e| Error::Netlink {
        action: "clean conntrack",
        source: e.into(),
    })??;
    if removed > 0 {
        tracing::info!(removed, "stale UDP flows removed");
    }
    Ok(())
}

fn own(nets: &[IpNet]) -> Result<BTreeSet<IpAddr>, Error> {
    let mut own = node::addresses()?;
    own.retain(|ip| nets.is_empty() || nets.iter().any(|net| net.contains(ip)));
    Ok(own)
}
