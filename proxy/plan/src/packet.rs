//! A packet that begins a connection, and what becomes of it: the words in which the model ([`crate::decide`]) and
//! those who walk a backend's rules answer, so that their answers can be compared.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::model::{Protocol, socket};

/// The first packet of a connection, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub source: IpAddr,
    /// What it is sent to.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// Interface that it comes in by; none: a process of this node sends it.
    pub interface: Option<String>,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (to, name) = (socket(self.destination, self.port), self.protocol.name());
        write!(f, "{name} from {} to {to}", self.source)?;
        match &self.interface {
            Some(interface) => write!(f, ", in by {interface}"),
            None => f.write_str(", from this node"),
        }
    }
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No service has to do with it: it goes where it is sent.
    Pass,
    /// The sender learns that there is nobody.
    Refused,
    /// It is gone without a word.
    Dropped,
    /// It goes to one of these endpoints; with this node's address as its source, or with its own.
    Sent(BTreeMap<(IpAddr, u16), Source>),
}

/// Whom an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Who sent it.
    Kept,
    /// This node.
    Masked,
}

/// What is to be known of a node to say what it does with a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its own addresses, those of its loopback interface included.
    pub addresses: Vec<IpAddr>,
}

impl Node {
    /// Whether an address is the node's own.
    pub fn has(&self, ip: &IpAddr) -> bool {
        ip.is_loopback() || self.addresses.contains(ip)
    }
}
