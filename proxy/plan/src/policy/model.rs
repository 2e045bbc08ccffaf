//! NetworkPolicies, pods and packets as enforcement sees them: parsed once, at the edge ([`super::parse`]).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::selector::{Labels, Selector};
use crate::model::Protocol;

/// Namespace and name of a policy or a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Name {
    /// Of an object.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Into the selected pods, or out of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Connections to the selected pods.
    Ingress,
    /// Connections from the selected pods.
    Egress,
}

impl Direction {
    /// Both, in the order in which a packet that stays on a node meets them.
    pub const BOTH: [Self; 2] = [Self::Egress, Self::Ingress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Name.
    pub name: Name,
    /// The pods of its namespace to which it applies; `None`: the selector is invalid, it applies to none.
    pub pods: Option<Selector>,
    /// What may come in; `None`: the policy says nothing about this direction.
    pub ingress: Option<Vec<PolicyRule>>,
    /// What may go out; `None`: the policy says nothing about this direction.
    pub egress: Option<Vec<PolicyRule>>,
}

impl Policy {
    /// Its rules for a direction; `None`: it does not isolate in that direction.
    pub fn rules(&self, direction: Direction) -> Option<&[PolicyRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Whether it applies to a pod of its namespace with these labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.pods.as_ref().is_some_and(|s| s.matches(labels))
    }
}

/// An entry of `ingress` or `egress`: what matches a peer and a port is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// `from` or `to`; `None`: any peer. Invalid peers are left out, so an empty list is nobody.
    pub peers: Option<Vec<Peer>>,
    /// `None`: any port and protocol. Invalid ones are left out, so an empty list is none.
    pub ports: Option<Vec<Port>>,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods by their labels, in these namespaces.
    Pods(Scope, Selector),
    /// Addresses.
    Block(IpBlock),
}

/// The namespaces in which a peer's pods are looked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The policy's own.
    One(Arc<str>),
    /// Those whose labels match.
    Matching(Selector),
}

/// A range of addresses without some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpBlock {
    /// The range.
    pub cidr: IpNet,
    /// What is taken out of it.
    pub except: Vec<IpNet>,
}

/// An entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// From the first to the last, inclusive.
    Numbers(PortRange),
    /// By the name that the destination pod gives it.
    Named(PortName),
}

/// Ports of a protocol, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// Protocol.
    pub protocol: Protocol,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// Whether a packet's port is one of them.
    pub fn contains(&self, transport: Transport) -> bool {
        let in_range = |port| (self.first..=self.last).contains(&port);
        matches!(transport, Transport::Port(protocol, port) if protocol == self.protocol && in_range(port))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.name();
        match (self.first, self.last) {
            (0, u16::MAX) => write!(f, "{protocol}"),
            (first, last) if first == last => write!(f, "{protocol}:{first}"),
            (first, last) => write!(f, "{protocol}:{first}-{last}"),
        }
    }
}

/// A port by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// Protocol.
    pub protocol: Protocol,
    /// The name of a container's port.
    pub name: Arc<str>,
}

/// A port that a pod's container gives a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    /// Name and protocol.
    pub name: PortName,
    /// Number.
    pub port: u16,
}

/// A pod that has addresses of its own and runs, or is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// UID.
    pub uid: Box<str>,
    /// Labels, shared between pods that have the same.
    pub labels: Arc<Labels>,
    /// Addresses of its status.
    pub addresses: Vec<IpAddr>,
    /// Ports with names, ordered, without doubles.
    pub ports: Vec<NamedPort>,
    /// It runs on this node.
    pub local: bool,
    /// It is being deleted.
    pub ending: bool,
    /// When it was created, seconds since 1970.
    pub created: i64,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// A protocol that policies know, and its destination port.
    Port(Protocol, u16),
    /// Any other (ICMP): policies with ports never match it, rules without ports do. The specification leaves this open.
    Other,
}

/// Whether one end of a packet is the node itself, with whatever address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Host {
    /// Neither.
    #[default]
    Neither,
    /// The sender is this node.
    Source,
    /// The receiver is this node.
    Destination,
}

/// The first packet of a connection, as the pods' node sees it: after translation of the destination, before that of
/// the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Sender.
    pub source: IpAddr,
    /// Receiver: for service traffic the endpoint.
    pub destination: IpAddr,
    /// Protocol and destination port.
    pub transport: Transport,
    /// Whether an end is this node.
    pub host: Host,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is dropped, by policies of this direction.
    Deny(Direction),
}

/// A part of a policy that means nothing. It selects nobody and allows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The policy.
    pub policy: Name,
    /// The field, as `spec.ingress[0].from[1].podSelector`.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "network policy {}: {}: {}",
            self.policy, self.field, self.why
        )
    }
}

impl std::error::Error for Invalid {}
