//! From the cluster's nodes and this machine to what the kernel is to hold. Pure.

mod entry;
mod host;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

pub use entry::{Entries, Entry, Key, Link, LinkKind, Mac, Route, Step, diff};
pub use host::{Host, HostLink, HostRoute};

use crate::key::PublicKey;

/// The VXLAN tunnel's name.
pub const VXLAN: &str = "keelson-vxlan";
/// The WireGuard tunnel's name.
pub const WIREGUARD: &str = "keelson-wg";

/// How pods reach those on other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Routes through the nodes' own addresses; nodes must share a segment.
    HostGw,
    /// Such routes between nodes that share a segment, VXLAN between the others.
    #[default]
    Vxlan,
    /// WireGuard between all nodes.
    WireGuard,
    /// Nothing: somebody else does it.
    None,
}

impl Mode {
    /// All, by the names that users give them.
    pub const ALL: [(&'static str, Self); 4] = [
        ("host-gw", Self::HostGw),
        ("vxlan", Self::Vxlan),
        ("wireguard", Self::WireGuard),
        ("none", Self::None),
    ];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(_, mode)| mode == self);
        f.write_str(named.map_or("none", |(name, _)| name))
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.iter().find(|(name, _)| *name == text);
        let unknown = || format!("{text:?} is none of host-gw, vxlan, wireguard, none");
        named.map(|(_, mode)| *mode).ok_or_else(unknown)
    }
}

/// What the overlay needs to know of the node it runs on.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's name.
    pub node: String,
    /// All pods' addresses: traffic between them is never masqueraded, and no route leads elsewhere. Empty: not known.
    pub cluster_cidrs: Vec<IpNet>,
    /// How pods reach others.
    pub mode: Mode,
    /// VXLAN between all nodes, also between those on one segment: where the network drops what comes from an address
    /// that it has not given out, as clouds do.
    pub always_encapsulate: bool,
    /// VXLAN network identifier.
    pub vni: u32,
    /// VXLAN's UDP port.
    pub vxlan_port: u16,
    /// WireGuard's UDP port.
    pub wireguard_port: u16,
    /// Bytes of the largest packet between nodes, where that is less than their links say.
    pub mtu: Option<u32>,
    /// Where the private WireGuard key is kept.
    pub key_file: PathBuf,
    /// Rules by iptables also where the kernel has nftables.
    pub iptables: bool,
}

impl Options {
    /// The usual ones, with flannel's VNI and port, which firewalls are open for.
    pub fn new(node: impl Into<String>, cluster_cidrs: Vec<IpNet>) -> Self {
        Self {
            node: node.into(),
            cluster_cidrs,
            mode: Mode::default(),
            always_encapsulate: false,
            vni: 1,
            vxlan_port: 8472,
            wireguard_port: 51820,
            mtu: None,
            key_file: "/var/lib/keelson/agent/wireguard.key".into(),
            iptables: false,
        }
    }
}

/// A node as its Node object tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Its pods' addresses.
    pub pod_cidrs: Vec<IpNet>,
    /// Its own addresses, the preferred ones first (InternalIP).
    pub addresses: Vec<IpAddr>,
    /// Its WireGuard key.
    pub key: Option<PublicKey>,
}

impl Node {
    fn address(&self, v4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| a.is_ipv4() == v4)
    }

    /// Its ends of tunnels: the first addresses of its pods' networks, which no pod gets.
    fn ends(&self) -> impl Iterator<Item = IpAddr> {
        self.pod_cidrs.iter().map(IpNet::network)
    }
}

/// What is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the kernel.
    pub entries: Entries,
    /// Bytes of the largest packet of pods.
    pub mtu: u32,
    /// Nodes whose pods, or some of them, are not reached, and why.
    pub unreached: Vec<String>,
    /// Other ends of a VXLAN tunnel.
    pub ends: Vec<IpAddr>,
}

/// The Ethernet address of a node's end of a VXLAN tunnel. It follows from the name, so that nobody has to be told, and
/// a node that is set up anew has the same.
pub fn mac(node: &str) -> Mac {
    let hash = Sha256::digest(node);
    let mut bytes = [0; 6];
    bytes.iter_mut().zip(hash).for_each(|(b, h)| *b = h);
    // Locally administered, and not a group's.
    bytes[0] = bytes[0] & 0xfc | 0x02;
    Mac(bytes)
}

/// What the kernel is to hold for these nodes. `key` is this node's for WireGuard. Of two nodes that claim the same
/// pods the first by name has them; this node's own are nobody else's.
pub fn wanted(options: &Options, key: Option<PublicKey>, host: &Host, nodes: &[Node]) -> Plan {
    let own = nodes.iter().find(|n| n.name == options.node);
    let own = own.cloned().unwrap_or_default();
    let others = others(options, &own, nodes);
    let mut planning = Planning {
        options,
        host,
        own,
        key,
        plan: Plan::default(),
    };
    match options.mode {
        Mode::None => {}
        Mode::HostGw => planning.host_gw(&others),
        Mode::Vxlan => planning.vxlan(&others),
        Mode::WireGuard => planning.wireguard(&others),
    }
    planning.plan
}

/// The other nodes by name, each with the pods that it may have.
fn others(options: &Options, own: &Node, nodes: &[Node]) -> Vec<Node> {
    let mut others: Vec<Node> = nodes
        .iter()
        .filter(|n| n.name != own.name)
        .cloned()
        .collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));
    let mut taken: Vec<IpNet> = own.pod_cidrs.iter().map(IpNet::trunc).collect();
    let cluster = &options.cluster_cidrs;
    for node in &mut others {
        node.pod_cidrs = node.pod_cidrs.iter().map(IpNet::trunc).collect();
        node.pod_cidrs.retain(|cidr| {
            let free = !taken.iter().any(|t| t.contains(cidr) || cidr.contains(t));
            let ours = cluster.is_empty() || cluster.iter().any(|c| c.contains(cidr));
            if free && ours {
                taken.push(*cidr);
            }
            free && ours
        });
    }
    others
}

struct Planning<'a> {
    options: &'a Options,
    host: &'a Host,
    own: Node,
    key: Option<PublicKey>,
    plan: Plan,
}

impl Planning<'_> {
    fn add(&mut self, entry: Entry) {
        self.plan.entries.insert(entry.key(), entry);
    }

    fn route(&mut self, to: IpNet, via: Option<IpAddr>, link: Option<&str>) {
        let link = link.map(str::to_owned);
        self.add(Entry::Route(Route { to, via, link }));
    }

    fn unreached(&mut self, node: &Node, why: &str) {
        self.plan.unreached.push(format!("{}: {why}", node.name));
    }

    /// The next hop to a node's pods, if its address is on a segment that this machine is on.
    fn near(&self, node: &Node, cidr: &IpNet) -> Option<IpAddr> {
        let address = node.address(cidr.addr().is_ipv4());
        address.filter(|a| self.host.is_near(*a))
    }

    /// The largest packet on the ways from our own addresses (of a family, or all) and to others, less what a tunnel
    /// adds to it.
    fn mtu(&self, v4: Option<bool>, others: &[IpAddr], overhead: impl Fn(IpAddr) -> u32) -> u32 {
        let own = self.own.addresses.iter();
        let own = own.filter(|a| v4.is_none_or(|v4| a.is_ipv4() == v4));
        let of = |a: &IpAddr| {
            let found = self.host.mtu(*a);
            let told = self.options.mtu.unwrap_or(found);
            told.min(found).saturating_sub(overhead(*a))
        };
        let smallest = own.chain(others).map(of).min();
        smallest.unwrap_or_else(|| of(&[0, 0, 0, 0].into()))
    }

    fn host_gw(&mut self, others: &[Node]) {
        let mut used = Vec::new();
        for node in others {
            for cidr in &node.pod_cidrs {
                match self.near(node, cidr) {
                    Some(via) => {
                        used.push(via);
                        self.route(*cidr, Some(via), None);
                    }
                    None => self.unreached(
                        node,
                        &format!("it has no address on this node's segment for {cidr}"),
                    ),
                }
            }
        }
        self.plan.mtu = self.mtu(None, &used, |_| 0);
    }

    /// The family of a VXLAN tunnel's outside, the same at both ends: the first that all nodes have.
    fn outside(&self, others: &[Node]) -> bool {
        let all = |v4| {
            others
                .iter()
                .chain([&self.own])
                .all(|n| n.address(v4).is_some())
        };
        all(true) || !all(false)
    }

    fn vxlan(&mut self, others: &[Node]) {
        let v4 = self.outside(others);
        let mut remotes = Vec::new();
        let local = self.own.address(v4).filter(|a| self.host.has(*a));
        for node in others {
            let mut far = Vec::new();
            for cidr in &node.pod_cidrs {
                let near = self.near(node, cidr);
                match near.filter(|_| !self.options.always_encapsulate) {
                    Some(via) => self.route(*cidr, Some(via), None),
                    None => far.push(*cidr),
                }
            }
            match (far.is_empty(), node.address(v4), local) {
                (true, ..) => {}
                (_, Some(remote), Some(_)) => {
                    remotes.push(remote);
                    self.far(node, &far, remote);
                }
                (_, None, _) => {
                    self.unreached(node, "it has no address of the family that the tunnel has")
                }
                (_, _, None) => self.unreached(
                    node,
                    "the tunnel has no address of this machine to send from",
                ),
            }
        }
        let mtu = self.mtu(Some(v4), &remotes, |a| vxlan_overhead(a.is_ipv4()));
        self.plan.mtu = mtu;
        let Some(local) = local else { return };
        let kind = LinkKind::Vxlan {
            vni: self.options.vni,
            port: self.options.vxlan_port,
            local,
            mac: mac(&self.own.name),
        };
        self.tunnel(VXLAN, mtu, kind);
    }

    /// A node's pods behind the VXLAN tunnel.
    fn far(&mut self, node: &Node, cidrs: &[IpNet], to: IpAddr) {
        let mac = mac(&node.name);
        self.add(Entry::Forward { mac, to });
        for cidr in cidrs {
            let end = cidr.network();
            // Linux refuses a global next hop of IPv6 that another route leads to by another link.
            let address = if end.is_ipv4() { end } else { mac.link_local() };
            self.add(Entry::Neighbour { address, mac });
            self.route(*cidr, Some(address), Some(VXLAN));
            self.plan.ends.push(end);
        }
    }

    fn wireguard(&mut self, others: &[Node]) {
        let mut endpoints = Vec::new();
        let mut seen: Vec<PublicKey> = self.key.into_iter().collect();
        for node in others.iter().filter(|n| !n.pod_cidrs.is_empty()) {
            let family = |a: &&IpAddr| self.own.address(a.is_ipv4()).is_some();
            let address = node.addresses.iter().find(family).copied();
            let key = node.key.filter(|key| !seen.contains(key));
            let (Some(key), Some(address)) = (key, address) else {
                let why = if address.is_none() {
                    "it has no address of a family that this node has"
                } else {
                    "it has not published a WireGuard key of its own"
                };
                self.unreached(node, why);
                continue;
            };
            seen.push(key);
            endpoints.push(address);
            self.add(Entry::Peer {
                key,
                endpoint: SocketAddr::new(address, self.options.wireguard_port),
                allowed: node.pod_cidrs.clone(),
            });
            for cidr in &node.pod_cidrs {
                self.route(*cidr, None, Some(WIREGUARD));
            }
        }
        let mtu = self.mtu(None, &endpoints, |a| wireguard_overhead(a.is_ipv4()));
        self.plan.mtu = mtu;
        let port = self.options.wireguard_port;
        if let Some(key) = self.key {
            self.tunnel(WIREGUARD, mtu, LinkKind::WireGuard { port, key });
        }
    }

    /// A tunnel, with addresses that the machine's own packets to pods come from.
    fn tunnel(&mut self, name: &str, mtu: u32, kind: LinkKind) {
        let name = name.to_owned();
        for address in self.own.ends().collect::<Vec<_>>() {
            let link = name.clone();
            self.add(Entry::Address { link, address });
        }
        self.add(Entry::Link(Link { name, mtu, kind }));
    }
}

/// Outer IP and UDP header, VXLAN header and the inner Ethernet header (RFC 7348, section 5).
const fn vxlan_overhead(v4: bool) -> u32 {
    let ip = if v4 { 20 } else { 40 };
    ip + 8 + 8 + 14
}

/// Outer IP and UDP header, WireGuard's header (16) and authentication (16). What it adds to fill up to 16 bytes stays
/// within the link's MTU.
const fn wireguard_overhead(v4: bool) -> u32 {
    let ip = if v4 { 20 } else { 40 };
    ip + 8 + 32
}
