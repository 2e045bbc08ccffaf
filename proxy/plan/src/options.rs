//! What rules depend on beside the services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::model::Family;

/// How a packet is known to come from a pod (`detectLocalMode`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// It isn't: no source is masked for coming from elsewhere.
    Unknown,
    /// By its source address.
    Within(Vec<IpNet>),
    /// By the interface that it comes by: this one, or, where it ends in `*`, all whose names begin so.
    Behind(String),
}

/// What rules depend on beside the services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What comes from elsewhere to a cluster address is masqueraded.
    pub pods: Pods,
    /// All that goes to a cluster address is masqueraded.
    pub masquerade_all: bool,
    /// Bit of the mark of packets that are to be masqueraded.
    pub masquerade_mark: u32,
    /// Node ports are reached on the node's addresses within these; empty: on all of them.
    pub node_port_nets: Vec<IpNet>,
    /// Node ports answer on 127.0.0.1 too, if it is one of the addresses that they are reached on (IPv4; needs
    /// `route_localnet`).
    pub localhost_node_ports: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pods: Pods::Unknown,
            masquerade_all: false,
            masquerade_mark: 1 << 14,
            node_port_nets: Vec::new(),
            localhost_node_ports: true,
        }
    }
}

impl Options {
    /// The pods' networks of a family, if they are known by their addresses.
    pub fn pod_nets(&self, family: Family) -> Vec<IpNet> {
        match &self.pods {
            Pods::Within(nets) => of(nets, family),
            _ => Vec::new(),
        }
    }

    /// The networks of a family on whose addresses node ports are reached; empty: all.
    pub fn node_port_nets(&self, family: Family) -> Vec<IpNet> {
        of(&self.node_port_nets, family)
    }

    /// Whether node ports answer on the loopback address of a family: where they are reached on all addresses, or on
    /// this one among others. The kernel sends no packet from `::1` anywhere.
    pub fn node_ports_on_loopback(&self, family: Family) -> bool {
        let nets = &self.node_port_nets;
        let reached = nets.is_empty() || nets.iter().any(|n| n.contains(&loopback(family)));
        family == Family::V4 && self.localhost_node_ports && reached
    }
}

fn of(nets: &[IpNet], family: Family) -> Vec<IpNet> {
    let mine = |n: &&IpNet| Family::of(&n.addr()) == family;
    nets.iter().filter(mine).map(IpNet::trunc).collect()
}

/// The loopback network of a family.
pub fn loopback(family: Family) -> IpNet {
    let (ip, length): (IpAddr, u8) = match family {
        Family::V4 => (Ipv4Addr::LOCALHOST.into(), 8),
        Family::V6 => (Ipv6Addr::LOCALHOST.into(), 128),
    };
    IpNet::new(ip, length).map_or_else(|_| ip.into(), |n| n.trunc())
}
