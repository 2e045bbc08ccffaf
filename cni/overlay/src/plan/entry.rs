//! What the kernel is to hold, piece by piece, and what has to be done where it holds something else. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::key::PublicKey;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The IPv6 address that a link with this one gives itself (RFC 4291, appendix A).
    pub fn link_local(&self) -> IpAddr {
        let [a, b, c, d, e, f] = self.0;
        let [a, b, c, d, e, f] = [a ^ 2, b, c, d, e, f].map(u16::from);
        let groups = [
            0xfe80,
            0,
            0,
            0,
            a << 8 | b,
            c << 8 | 0xff,
            0xfe00 | d,
            e << 8 | f,
        ];
        groups.into()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// One piece of the kernel's state. Pieces stand on those before them, so they are set in this order and removed in
/// the opposite one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// A tunnel.
    Link(Link),
    /// This node's address on a tunnel.
    Address {
        /// The tunnel.
        link: String,
        /// The address, without a network: nothing is reached by it but the node.
        address: IpAddr,
    },
    /// Whom a WireGuard tunnel talks to.
    Peer {
        /// Who it is.
        key: PublicKey,
        /// Where it is.
        endpoint: SocketAddr,
        /// What it may send and is sent.
        allowed: Vec<IpNet>,
    },
    /// Where a VXLAN tunnel finds an Ethernet address.
    Forward {
        /// Of the other end.
        mac: Mac,
        /// The node.
        to: IpAddr,
    },
    /// The Ethernet address of the other end of a VXLAN tunnel.
    Neighbour {
        /// Its address on the tunnel.
        address: IpAddr,
        /// Its Ethernet address.
        mac: Mac,
    },
    /// A route to a node's pods.
    Route(Route),
}

/// A tunnel of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Bytes of the largest packet in it.
    pub mtu: u32,
    /// What it is made with.
    pub kind: LinkKind,
}

/// What a tunnel is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// VXLAN that learns nothing by itself.
    Vxlan {
        /// VXLAN network identifier.
        vni: u32,
        /// UDP port.
        port: u16,
        /// The node's address that it sends from.
        local: IpAddr,
        /// Its Ethernet address.
        mac: Mac,
    },
    /// WireGuard.
    WireGuard {
        /// UDP port.
        port: u16,
        /// The node's key.
        key: PublicKey,
    },
}

/// A route to a node's pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The pods.
    pub to: IpNet,
    /// The node, or its end of the tunnel; none where the tunnel itself knows whose the packet is.
    pub via: Option<IpAddr>,
    /// The tunnel; none: the link that leads to the node.
    pub link: Option<String>,
}

/// What a piece is known by: there is one of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// By name.
    Link(String),
    /// By tunnel and address.
    Address(String, IpAddr),
    /// By key.
    Peer(PublicKey),
    /// By Ethernet address.
    Forward(Mac),
    /// By address.
    Neighbour(IpAddr),
    /// By destination.
    Route(IpNet),
}

impl Entry {
    /// What it is known by.
    pub fn key(&self) -> Key {
        match self {
            Self::Link(link) => Key::Link(link.name.clone()),
            Self::Address { link, address } => Key::Address(link.clone(), *address),
            Self::Peer { key, .. } => Key::Peer(*key),
            Self::Forward { mac, .. } => Key::Forward(*mac),
            Self::Neighbour { address, .. } => Key::Neighbour(*address),
            Self::Route(route) => Key::Route(route.to),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => match &link.kind {
                LinkKind::Vxlan {
                    vni,
                    port,
                    local,
                    mac,
                } => write!(
                    f,
                    "link {} mtu {} vxlan {vni} port {port} local {local} address {mac}",
                    link.name, link.mtu
                ),
                LinkKind::WireGuard { port, key } => write!(
                    f,
                    "link {} mtu {} wireguard port {port} key {key}",
                    link.name, link.mtu
                ),
            },
            Self::Address { link, address } => write!(f, "address {address} on {link}"),
            Self::Peer {
                key,
                endpoint,
                allowed,
            } => {
                write!(f, "peer {key} at {endpoint} for")?;
                allowed.iter().try_for_each(|a| write!(f, " {a}"))
            }
            Self::Forward { mac, to } => write!(f, "forward {mac} to {to}"),
            Self::Neighbour { address, mac } => write!(f, "neighbour {address} is {mac}"),
            Self::Route(route) => {
                write!(f, "route {}", route.to)?;
                route
                    .via
                    .iter()
                    .try_for_each(|via| write!(f, " via {via}"))?;
                route.link.iter().try_for_each(|l| write!(f, " on {l}"))
            }
        }
    }
}

/// Pieces by what they are known by.
pub type Entries = BTreeMap<Key, Entry>;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Takes a piece away.
    Remove(Entry),
    /// Makes a piece, or makes it another than it is.
    Set {
        /// As it is to be.
        want: Entry,
        /// As it is.
        have: Option<Entry>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove(entry) => write!(f, "remove {entry}"),
            Self::Set { want, .. } => write!(f, "set {want}"),
        }
    }
}

/// What to do where `have` is to be `want`: as much as differs, in an order in which each step can be done.
pub fn diff(have: &Entries, want: &Entries) -> Vec<Step> {
    let gone = have.iter().filter(|(key, _)| !want.contains_key(key));
    let remove = gone.rev().map(|(_, entry)| Step::Remove(entry.clone()));
    let set = want.iter().filter_map(|(key, want)| {
        let have = have.get(key);
        (have != Some(want)).then(|| Step::Set {
            want: want.clone(),
            have: have.cloned(),
        })
    });
    remove.chain(set).collect()
}
