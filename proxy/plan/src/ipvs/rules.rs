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
    /// Addresses on our link: those that are wanted, and those that stay for connections that live on, which the
    /// caller adds. They are the node's own to the kernel, so that a new connection to any port of them that is no
    /// service's would reach the node's own programs: refused (kubernetes/kubernetes#72236).
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
    /// Where pods and this node go instead, if they pass: the service's cluster address, whose virtual server has all
    /// endpoints. With policy Local an external address has this node's only, and only for those from outside.
    pub short_way: Option<SocketAddr>,
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::options::{Options, Pods};

    pub(crate) fn options() -> Options {
        Options {
            pods: Pods::Within(vec!["10.42.0.0/16".parse().expect("cidr")]),
            ..Options::default()
        }
    }

    /// One of each kind.
    pub(crate) fn example() -> Rules {
        use Dropped::{Everybody, Nobody, Outside};
        let ranges = Some(vec!["203.0.113.0/24".parse().expect("range")]);
        let mut rules = Rules::default();
        for (at, masquerade, dropped, sources) in [
            ("10.43.0.9:80", Masquerade::NotPods, Nobody, None),
            ("10.43.0.10:80", Masquerade::NotPods, Everybody, None),
            ("192.0.2.7:80", Masquerade::Node, Outside, ranges),
            ("192.168.9.1:30080", Masquerade::All, Nobody, None),
            ("[fd43::9]:80", Masquerade::NotPods, Nobody, None),
        ] {
            let at: SocketAddr = at.parse().expect("socket");
            let (address, protocol, port) = (at.ip(), Protocol::Tcp, at.port());
            let key = ServerKey {
                address,
                protocol,
                port,
            };
            let cluster = "10.43.0.9:80".parse().expect("socket");
            let treatment = Treatment {
                masquerade,
                dropped,
                sources,
                short_way: (dropped == Outside).then_some(cluster),
            };
            rules.keys.insert(key, treatment);
            // All but the node's own.
            rules.bound.extend((port == 80).then_some(address));
        }
        let endpoint = "10.42.0.2:8080".parse().expect("socket");
        rules.hairpin.insert((Protocol::Tcp, endpoint));
        rules
    }
}
