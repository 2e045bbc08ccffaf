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
}

/// `address:port`, with brackets where IPv6 needs them.
pub fn socket(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

/// A service port with its endpoints of one family, ordered and without doubles.
#[derive(Clone, Debug)]
pub struct Served<'a> {
    /// The service port.
    pub port: &'a ServicePort,
    /// Its endpoints, usable or not.
    pub endpoints: Vec<Endpoint>,
}
