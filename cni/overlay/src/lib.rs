//! The pod network between nodes: routes through nodes' own addresses, VXLAN or WireGuard ([`Mode`]), kept as the nodes
//! and this machine are; masquerade for pod traffic that leaves the cluster; and what lets pods' packets through.

mod firewall;
mod keep;
mod kernel;
mod key;
pub mod plan;
mod probe;
mod sysctl;

use tokio::sync::watch;

pub use keep::Moves;
pub use key::PublicKey;
pub use plan::{Mode, Node, Options};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A netlink socket could not be opened.
    #[error("open netlink socket: {0}")]
    Socket(#[source] std::io::Error),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] rtnetlink::Error),
    /// The kernel refused, by generic netlink.
    #[error(transparent)]
    Generic(#[from] genetlink::GenetlinkError),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(std::io::Error),
    /// A step could not be done.
    #[error("{step}: {source}")]
    Step {
        /// What was to be done.
        step: String,
        /// Why it was not.
        source: Box<Error>,
    },
    /// A link is not there.
    #[error("there is no such link")]
    NoLink,
    /// A WireGuard link has no key.
    #[error("the link has no key")]
    NoKey,
    /// The private WireGuard key could not be read or made.
    #[error("read or make the WireGuard key {path}: {source}")]
    KeyFile {
        /// Its file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Chains of others drop all that is forwarded, before any rule that could let pods' packets through.
    #[error(
        "pods' packets do not get through {0}: its only rule drops all that is forwarded; put rules that accept the cluster's pod addresses, as source and as destination, before it"
    )]
    Closed(String),
    /// A program for rules failed.
    #[error("{program}: {said}")]
    Program {
        /// Which, with its arguments.
        program: String,
        /// Its error, or its output.
        said: String,
    },
    /// The tables for masquerade and host ports could not be changed.
    #[error("change nftables tables of pods: {0}")]
    Masquerade(#[source] std::io::Error),
}

/// What others need to know of this node's pod network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Bytes of the largest packet of pods, for their links. Known once the nodes are.
    pub mtu: Option<u32>,
    /// This node's WireGuard key, to be shown to the other nodes.
    pub key: Option<PublicKey>,
}

/// Keeps the network as the nodes are; `None` as long as they are not known: nothing is touched then. What others
/// change of it is put back. Ends when the sender of `nodes` is gone; what is set stays, so that a restart interrupts
/// nothing.
pub async fn run(
    options: Options,
    nodes: watch::Receiver<Option<Vec<Node>>>,
    facts: watch::Sender<Facts>,
) -> Result<(), Error> {
    let own = watch::Sender::new(Vec::new());
    let ends = watch::Sender::new(probe::Ends::default());
    // The two at the side end with the first, which owns what they are told by.
    let rules = firewall::run(options.clone(), own.subscribe());
    let probing = probe::run(ends.subscribe());
    let keeping = keep::run(options, nodes, keep::Told { facts, own, ends });
    let (kept, (), ()) = tokio::join!(keeping, rules, probing);
    kept
}

/// Removes all routes, tunnels, rules, the bridge and the pods' links. Goes on after errors and gives them all.
pub async fn cleanup(bridge: &str) -> Vec<Error> {
    let mut errors = Vec::new();
    match kernel::Kernel::open() {
        Ok(mut kernel) => {
            errors.extend(keep::clear(&mut kernel).await);
            errors.extend(kernel.remove_links(bridge).await);
        }
        Err(e) => errors.push(e),
    }
    errors.extend(firewall::remove().await);
    errors
}
