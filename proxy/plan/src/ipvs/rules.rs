//! What netfilter does beside IPVS, as plain values: who is masqueraded, who is turned away, which addresses are only
//! there for services.
//!
//! IPVS chooses by a packet's destination alone. All that depends on its source is here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::ServerKey;
use crate::model::Protocol;

/// Rules beside the virtual servers of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// For packets to a service's address and port. A service that turns everybody away is here and has no virtual
    /// server.
    pub keys: BTreeMap<ServerKey, Treatment>,
    /// Endpoints of this node. What they send to themselves by way of a service (after the translation source and
    /// destination address are the same) is masqueraded, or they would answer themselves directly.
    pub hairpin: BTreeSet<(Protocol, SocketAddr)>,
    /// Addresses on our link. They are the node's own to the kernel, so that a new connection to any port of them that
    /// is no service's would reach the node's own programs: refused (kubernetes/kubernetes#72236).
    pub bound: BTreeSet<IpAddr>,
}

/// What is done with packets to a service's address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Treatment {
    /// Whose source is replaced by the node's address.
    pub masquerade: Masquerade,
    /// Who gets no answer.
    pub dropped: Dropped,
    /// Who else gets one: `None` is everybody (`loadBalancerSourceRanges`). Where this node may, the service's own
    /// address is among them: it is the source of a connection from here to an address of here.
    pub sources: Option<Vec<IpNet>>,
}

/// Whose source is replaced: at least that of this node's own connections, whose source is the service's address,
/// which every node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// Everybody's: an endpoint on another node must answer by way of this one.
    All,
    /// Everybody's who is no pod.
    NotPods,
    /// Only this node's: the client's address is kept (policy Local).
    Node,
}

/// Whose packets are dropped: endpoints exist, but the traffic policy leaves none here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Nobody's.
    Nobody,
    /// Those of who is neither a pod nor this node (`externalTrafficPolicy: Local`).
    Outside,
    /// Everybody's (`internalTrafficPolicy: Local`).
    Everybody,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Source address.
    pub address: IpAddr,
    /// Sent by this node itself.
    pub node: bool,
    /// From the pods' addresses.
    pub pod: bool,
}

impl Treatment {
    /// Whether a packet goes on to the virtual server.
    pub fn admits(&self, origin: &Origin) -> bool {
        let kept = match self.dropped {
            Dropped::Nobody => true,
            Dropped::Outside => origin.pod || origin.node,
            Dropped::Everybody => false,
        };
        kept && self
            .sources
            .as_ref()
            .is_none_or(|s| s.iter().any(|r| r.contains(&origin.address)))
    }

    /// Whether its source is replaced.
    pub fn masquerades(&self, origin: &Origin) -> bool {
        match self.masquerade {
            Masquerade::All => true,
            Masquerade::NotPods => !origin.pod,
            Masquerade::Node => origin.node,
        }
    }
}
