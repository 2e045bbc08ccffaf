//! Services and endpoints as the dataplane sees them: parsed once, at the edge.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// IP version: rules of one never see packets of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// From the API's `TCP`, `UDP` or `SCTP`; without one it is TCP.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        Some(match text {
            None | Some("TCP") => Self::Tcp,
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            Some(_) => return None,
        })
    }

    /// Its number (IANA's protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// As rules write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A Service's port, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Service.
    pub service: Arc<str>,
    /// Port; empty when the Service's only port has no name.
    pub port: Arc<str>,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)?;
        if self.port.is_empty() {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

/// Which endpoints traffic may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any.
    Cluster,
    /// Those of this node.
    Local,
}

/// A port of a Service that has cluster addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name.
    pub name: PortName,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the cluster, external and load balancer addresses.
    pub port: u16,
    /// Port on the node's addresses.
    pub node_port: Option<u16>,
    /// Cluster addresses, one a family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of load balancers that deliver packets unchanged (`ipMode` VIP).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer addresses; empty: everybody.
    pub source_ranges: Vec<IpNet>,
    /// Session affinity by client address, for so many seconds.
    pub affinity: Option<u32>,
    /// For traffic from outside of the cluster.
    pub external_policy: Policy,
    /// For traffic from inside of the cluster.
    pub internal_policy: Policy,
}

/// Whom a slice's hints mean an endpoint for (KEP-2433, KEP-4444), as seen from this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hint {
    /// There is none.
    #[default]
    None,
    /// Us, among others.
    Here,
    /// Others.
    Elsewhere,
}

/// An endpoint of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
    /// Takes new connections.
    pub ready: bool,
    /// Still answers, though perhaps terminating.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
    /// On this node.
    pub local: bool,
    /// Meant for this node's zone.
    pub zone: Hint,
    /// Meant for this node.
    pub node: Hint,
}

/// `address:port`, with brackets where IPv6 needs them.
pub fn socket(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

/// What a packet is sent to when it is meant for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Front {
    /// A service's address and port.
    Address(IpAddr, Protocol, u16),
    /// A port of each of the node's addresses.
    Node(Protocol, u16),
}

/// Why a front is there: what is done with a packet's source depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An address inside of the cluster.
    Cluster,
    /// One of `spec.externalIPs`.
    External,
    /// A load balancer's address.
    LoadBalancer,
    /// A node port.
    NodePort,
}

impl ServicePort {
    /// All fronts of both families, each once: the first kind counts.
    pub fn fronts(&self) -> Vec<(Front, Kind)> {
        let lists = [
            (&self.cluster_ips, Kind::Cluster),
            (&self.external_ips, Kind::External),
            (&self.load_balancer_ips, Kind::LoadBalancer),
        ];
        let mut fronts: Vec<(Front, Kind)> = Vec::new();
        for (ips, kind) in lists {
            for ip in ips {
                let front = Front::Address(*ip, self.protocol, self.port);
                if fronts.iter().all(|(f, _)| *f != front) {
                    fronts.push((front, kind));
                }
            }
        }
        let node = self.node_port.map(|p| Front::Node(self.protocol, p));
        fronts.extend(node.map(|f| (f, Kind::NodePort)));
        fronts
    }
}

/// A service port with its endpoints of one family, ordered and without doubles.
#[derive(Clone, Debug)]
pub struct Served<'a> {
    /// The service port.
    pub port: &'a ServicePort,
    /// Its endpoints, usable or not.
    pub endpoints: Vec<Endpoint>,
}

/// A service port as it is at one moment, with the fronts that are its own (no other Service claimed them before)
/// and the endpoints of both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The service port.
    pub port: Arc<ServicePort>,
    /// Where it is reached.
    pub fronts: Vec<(Front, Kind)>,
    /// Its endpoints, usable or not, ordered and without doubles.
    pub endpoints: Vec<Endpoint>,
}

impl Entry {
    /// Its endpoints of a family.
    pub fn of(&self, family: Family) -> impl Iterator<Item = &Endpoint> {
        let mine = move |e: &&Endpoint| Family::of(&e.ip) == family;
        self.endpoints.iter().filter(mine)
    }
}

/// A Service's ports before and after what happened to it; none where it isn't there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// As they were.
    pub before: Vec<Entry>,
    /// As they are.
    pub after: Vec<Entry>,
}
