//! The pod network between nodes: a route to every other node's pods through that node's address
//! (`host-gw`, for nodes on one segment), and masquerade for pod traffic that leaves the cluster.

mod masquerade;
mod plan;
mod routes;

use tokio::sync::watch;

pub use plan::{Node, Route, wanted};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A netlink socket could not be opened.
    #[error("open netlink socket: {0}")]
    Socket(std::io::Error),
    /// Routes could not be read.
    #[error("read routes: {0}")]
    Read(rtnetlink::Error),
    /// A route could not be set or removed.
    #[error("{action} route to {route}: {source}")]
    Route {
        /// `set` or `remove`.
        action: &'static str,
        /// The route.
        route: Route,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// A link could not be removed.
    #[error("remove link {name}: {source}")]
    Link {
        /// The link.
        name: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The masquerade table could not be changed.
    #[error("change nftables table keelson-pods: {0}")]
    Masquerade(std::io::Error),
}

/// What the overlay needs to know of the node it runs on.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's name.
    pub node: String,
    /// All pods' addresses: traffic between them is never masqueraded.
    pub cluster_cidrs: Vec<ipnet::IpNet>,
}

/// Keeps routes and masquerade as the nodes are; `None` as long as they are not known: nothing is touched then. Ends
/// when the sender of `nodes` is gone; what is set stays, so that a restart interrupts nothing.
pub async fn run(
    options: Options,
    mut nodes: watch::Receiver<Option<Vec<Node>>>,
) -> Result<(), Error> {
    let kernel = routes::Kernel::open()?;
    let mut masqueraded = None;
    loop {
        let known = nodes.wait_for(Option::is_some).await;
        let Some(now) = known.ok().and_then(|n| n.clone()) else {
            return Ok(());
        };
        nodes.mark_unchanged();
        for error in kernel.sync(&wanted(&options.node, &now)).await? {
            tracing::warn!(node = options.node, error = %error, "route not set");
        }
        let own = now
            .iter()
            .find(|n| n.name == options.node)
            .map(|n| n.pod_cidrs.clone());
        if let Some(own) = own.filter(|own| !own.is_empty() && masqueraded.as_ref() != Some(own)) {
            masquerade::apply(&own, &options.cluster_cidrs).map_err(Error::Masquerade)?;
            masqueraded = Some(own);
        }
        if nodes.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Removes all routes, the table, the bridge and the pods' links. Goes on after errors and gives them all.
pub async fn cleanup(bridge: &str) -> Vec<Error> {
    let mut errors = Vec::new();
    match routes::Kernel::open() {
        Ok(kernel) => {
            errors.extend(
                kernel
                    .sync(&Default::default())
                    .await
                    .unwrap_or_else(|e| vec![e]),
            );
            errors.extend(kernel.remove_links(bridge).await);
        }
        Err(e) => errors.push(e),
    }
    errors.extend(masquerade::remove().map_err(Error::Masquerade).err());
    errors
}
