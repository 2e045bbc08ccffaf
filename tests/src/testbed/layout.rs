//! What a description comes to: every machine with its interfaces, addresses and routes.

use std::collections::BTreeMap;

use anyhow::Context;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::addresses::{nth, within};
use super::complete::{CLIENT, OUTSIDE};
use super::description::{Description, Nat, Network, Node, Role};
use super::quality::Quality;
use super::routes::{self, Route};

/// The greatest packet where nothing else is said, in bytes.
const MTU: u32 = 1500;
/// What `VirtualBox` gives a machine behind its NAT: the gateway's number in the network, and the machine's.
const EACH: (u32, u32) = (2, 15);

/// Machines and what they are on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layout {
    /// The bed's name.
    pub name: String,
    /// Pieces of Ethernet.
    pub segments: Vec<Segment>,
    /// Routers, gateways, the client, then nodes in their order.
    pub machines: Vec<Machine>,
}

/// A piece of Ethernet. A network is one, but where each machine is alone behind its NAT.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Segment {
    /// The network's name, or `NETWORK/MACHINE`.
    pub name: String,
    /// The greatest packet, in bytes.
    pub mtu: u32,
}

/// What a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Forwards between its networks.
    Router,
    /// Forwards from `eth0` to `eth1` (the network outside), with its own address as the source.
    Gateway,
    /// A machine of no cluster.
    Client,
    /// The node with the API server.
    Server,
    /// Another node.
    Agent,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its interfaces: `eth0` first.
    pub nics: Vec<Nic>,
    /// Where packets go that are not for its own networks.
    pub routes: Vec<Route>,
    /// What keelson is started with beside what all nodes need.
    pub flags: Vec<String>,
}

/// An interface, and the link that it ends.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Nic {
    /// `eth0`, `eth1`, ...
    pub device: String,
    /// The link's name: `MACHINE/NETWORK`.
    pub link: String,
    /// The network that it is on.
    pub network: String,
    /// The segment that it is on.
    pub segment: String,
    /// The greatest packet, in bytes.
    pub mtu: u32,
    /// Its addresses, each with its network's length.
    pub addresses: Vec<IpNet>,
    /// The gateway's addresses where this leads behind NAT.
    pub nat_gateway: Vec<IpNet>,
    /// How good the link is.
    pub quality: Quality,
}

impl Machine {
    /// Whether it is on this network.
    pub fn is_on(&self, network: &str) -> bool {
        self.nics.iter().any(|nic| nic.network == network)
    }

    /// Whether it is of the cluster.
    pub fn is_node(&self) -> bool {
        matches!(self.kind, Kind::Server | Kind::Agent)
    }

    /// The addresses by which others of the cluster find it: those of its first network that is not behind NAT, or of
    /// its only one.
    pub fn node_addresses(&self) -> &[IpNet] {
        let open = self.nics.iter().find(|nic| nic.nat_gateway.is_empty());
        let nic = open.or(self.nics.first());
        nic.map(|nic| nic.addresses.as_slice()).unwrap_or_default()
    }
}

impl Layout {
    /// Lays out a description.
    ///
    /// # Errors
    /// As [`Description::complete`].
    pub fn of(description: &Description) -> anyhow::Result<Self> {
        let full = description.complete()?;
        let mut layout = Self {
            name: full.name.clone(),
            segments: Vec::new(),
            machines: Vec::new(),
        };
        let open = full.networks.iter().filter(|n| n.nat != Some(Nat::Each));
        layout.segments.extend(open.map(|n| n.segment(&n.name)));
        let routers = full.routers.as_deref().unwrap_or_default();
        let mut count = Places::default();
        for router in routers {
            let on = router.networks.iter().map(|name| {
                let network = full.network(name)?;
                count.nic(&full, &router.name, network)
            });
            let nics = on.collect::<anyhow::Result<_>>()?;
            layout
                .machines
                .push(Machine::new(&router.name, Kind::Router, nics));
        }
        for network in full.networks.iter().filter(|n| n.nat.is_some()) {
            layout.add_gateways(&full, network, &mut count)?;
        }
        let outside = count.nic(&full, CLIENT, full.network(OUTSIDE)?)?;
        layout
            .machines
            .push(Machine::new(CLIENT, Kind::Client, vec![outside]));
        for node in &full.nodes {
            layout.machines.push(node.machine(&full)?);
        }
        for machine in &mut layout.machines {
            let nics = machine.nics.iter_mut().enumerate();
            nics.for_each(|(place, nic)| nic.device = format!("eth{place}"));
        }
        let networks = full
            .networks
            .iter()
            .map(|n| (n.name.clone(), n.cidrs.clone()));
        routes::set(&mut layout.machines, &networks.collect::<BTreeMap<_, _>>());
        Ok(layout)
    }

    /// The gateway of a network behind NAT, or those of its machines.
    fn add_gateways(
        &mut self,
        full: &Description,
        network: &Network,
        count: &mut Places,
    ) -> anyhow::Result<()> {
        let outside = full.network(OUTSIDE)?;
        let mut add = |name: String, inner: Nic| {
            let outer = count.nic(full, &name, outside)?;
            self.machines
                .push(Machine::new(&name, Kind::Gateway, vec![inner, outer]));
            anyhow::Ok(())
        };
        if network.nat == Some(Nat::Shared) {
            let inner = network.nic(full, &network.name, &network.name, 1)?;
            return add(network.name.clone(), inner);
        }
        for node in full
            .nodes
            .iter()
            .filter(|n| n.networks.contains(&network.name))
        {
            let segment = format!("{}/{}", network.name, node.name);
            let name = format!("{}-{}", network.name, node.name);
            add(name.clone(), network.nic(full, &name, &segment, EACH.0)?)?;
            self.segments.push(network.segment(&segment));
        }
        Ok(())
    }

    /// The machine of this name.
    ///
    /// # Errors
    /// When there is none; those that are there are named.
    pub fn machine(&self, name: &str) -> anyhow::Result<&Machine> {
        let found = self.machines.iter().find(|m| m.name == name);
        found.with_context(|| {
            let names: Vec<&str> = self.machines.iter().map(|m| m.name.as_str()).collect();
            format!("no machine {name:?}: there are {}", names.join(", "))
        })
    }

    /// The nodes, in the description's order.
    pub fn nodes(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|m| m.is_node())
    }
}

/// How many routers have a place on a network already.
#[derive(Default)]
struct Places(BTreeMap<String, u32>);

impl Places {
    /// An interface with the next of the network's low addresses.
    fn nic(&mut self, full: &Description, machine: &str, network: &Network) -> anyhow::Result<Nic> {
        let place = self.0.entry(network.name.clone()).or_default();
        *place += 1;
        network.nic(full, machine, &network.name, *place)
    }
}

impl Machine {
    fn new(name: &str, kind: Kind, nics: Vec<Nic>) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            nics,
            routes: Vec::new(),
            flags: Vec::new(),
        }
    }
}

impl Network {
    fn segment(&self, name: &str) -> Segment {
        Segment {
            name: name.to_owned(),
            mtu: self.mtu.unwrap_or(MTU),
        }
    }

    /// An interface on it without addresses.
    fn bare_nic(&self, full: &Description, machine: &str, segment: &str) -> Nic {
        let link = format!("{machine}/{}", self.name);
        Nic {
            device: String::new(),
            quality: full.links.get(&link).copied().unwrap_or_default(),
            link,
            network: self.name.clone(),
            segment: segment.to_owned(),
            mtu: self.mtu.unwrap_or(MTU),
            addresses: Vec::new(),
            nat_gateway: Vec::new(),
        }
    }

    /// An interface on it with the addresses of this number.
    fn nic(
        &self,
        full: &Description,
        machine: &str,
        segment: &str,
        number: u32,
    ) -> anyhow::Result<Nic> {
        let mut nic = self.bare_nic(full, machine, segment);
        nic.addresses = self.numbered(number)?;
        Ok(nic)
    }

    /// The addresses of this number, one of each range.
    fn numbered(&self, number: u32) -> anyhow::Result<Vec<IpNet>> {
        let each = self.cidrs.iter().map(|cidr| {
            nth(cidr, number)
                .with_context(|| format!("network {}: {cidr} has no address {number}", self.name))
        });
        each.collect()
    }
}

impl Node {
    fn machine(&self, full: &Description) -> anyhow::Result<Machine> {
        let mut nics = Vec::new();
        for name in &self.networks {
            nics.push(self.nic(full, full.network(name)?)?);
        }
        let kind = match self.role {
            Some(Role::Server) => Kind::Server,
            Some(Role::Agent) | None => Kind::Agent,
        };
        let mut machine = Machine::new(&self.name, kind, nics);
        machine.flags.clone_from(&self.flags);
        Ok(machine)
    }

    fn nic(&self, full: &Description, network: &Network) -> anyhow::Result<Nic> {
        if network.nat == Some(Nat::Each) {
            let segment = format!("{}/{}", network.name, self.name);
            let mut nic = network.nic(full, &self.name, &segment, EACH.1)?;
            nic.nat_gateway = network.numbered(EACH.0)?;
            return Ok(nic);
        }
        let mut nic = network.bare_nic(full, &self.name, &network.name);
        let own = |cidr: &IpNet| {
            let address = self.addresses.iter().find(|a| cidr.contains(*a));
            address.map(|a| within(cidr, *a))
        };
        nic.addresses = network.cidrs.iter().filter_map(own).collect();
        if network.nat == Some(Nat::Shared) {
            nic.nat_gateway = network.numbered(1)?;
        }
        Ok(nic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line a machine: name, kind, interfaces, routes.
    fn lines(description: &Description) -> Vec<String> {
        let layout = Layout::of(description).unwrap();
        let nic = |nic: &Nic| {
            let addresses: Vec<String> = nic.addresses.iter().map(ToString::to_string).collect();
            format!("{}@{}={}", nic.device, nic.segment, addresses.join(","))
        };
        let line = |m: &Machine| {
            let nics: Vec<String> = m.nics.iter().map(nic).collect();
            let routes: Vec<String> = m
                .routes
                .iter()
                .map(|r| format!("{}>{}", r.to, r.via))
                .collect();
            format!(
                "{} {:?}: {} | {}",
                m.name,
                m.kind,
                nics.join(" "),
                routes.join(" ")
            )
        };
        layout.machines.iter().map(line).collect()
    }

    #[test]
    fn one_segment() {
        let wanted = [
            "router Router: eth0@nodes=10.88.0.1/24,fd88::1/64 eth1@outside=10.99.0.1/24,fd99::1/64 | ",
            "client Client: eth0@outside=10.99.0.2/24,fd99::2/64 | 0.0.0.0/0>10.99.0.1 ::/0>fd99::1",
            "n1 Server: eth0@nodes=10.88.0.11/24,fd88::b/64 | 0.0.0.0/0>10.88.0.1 ::/0>fd88::1",
            "n2 Agent: eth0@nodes=10.88.0.12/24,fd88::c/64 | 0.0.0.0/0>10.88.0.1 ::/0>fd88::1",
        ];
        assert_eq!(lines(&Description::of_nodes("x", 2)), wanted);
    }

    #[test]
    fn three_segments_in_a_row() {
        let text = "
networks: [{name: a, cidrs: [10.1.0.0/24]}, {name: b, cidrs: [10.2.0.0/24]}, {name: c, cidrs: [10.3.0.0/24]}, {name: outside, cidrs: [10.9.0.0/24]}]
routers: [{name: ab, networks: [a, b]}, {name: bc, networks: [b, c]}]
nodes: [{name: m, networks: [a]}, {name: n, networks: [b]}]";
        let wanted = [
            "ab Router: eth0@a=10.1.0.1/24 eth1@b=10.2.0.1/24 eth2@outside=10.9.0.1/24 | 10.3.0.0/24>10.2.0.2",
            "bc Router: eth0@b=10.2.0.2/24 eth1@c=10.3.0.1/24 | 10.1.0.0/24>10.2.0.1 10.9.0.0/24>10.2.0.1",
            "client Client: eth0@outside=10.9.0.2/24 | 0.0.0.0/0>10.9.0.1",
            "m Server: eth0@a=10.1.0.11/24 | 0.0.0.0/0>10.1.0.1",
            "n Agent: eth0@b=10.2.0.12/24 | 0.0.0.0/0>10.2.0.1 10.3.0.0/24>10.2.0.2",
        ];
        assert_eq!(lines(&Description::parse(text).unwrap()), wanted);
    }

    #[test]
    fn behind_nat() {
        let text = |nat| {
            format!(
                "
networks: [{{name: nat, cidrs: [10.0.2.0/24], nat: {nat}}}, {{name: a, cidrs: [10.1.0.0/24]}}, {{name: b, cidrs: [10.2.0.0/24]}}, {{name: outside, cidrs: [10.9.0.0/24]}}]
nodes: [{{name: m, networks: [nat, a]}}, {{name: n, networks: [nat, a]}}]"
            )
        };
        let both = |nat| lines(&Description::parse(&text(nat)).unwrap());
        let each = [
            "router Router: eth0@a=10.1.0.1/24 eth1@b=10.2.0.1/24 eth2@outside=10.9.0.1/24 | ",
            "nat-m Gateway: eth0@nat/m=10.0.2.2/24 eth1@outside=10.9.0.2/24 | 0.0.0.0/0>10.9.0.1",
            "nat-n Gateway: eth0@nat/n=10.0.2.2/24 eth1@outside=10.9.0.3/24 | 0.0.0.0/0>10.9.0.1",
            "client Client: eth0@outside=10.9.0.4/24 | 0.0.0.0/0>10.9.0.1",
            "m Server: eth0@nat/m=10.0.2.15/24 eth1@a=10.1.0.11/24 | 0.0.0.0/0>10.0.2.2 10.2.0.0/24>10.1.0.1 10.9.0.0/24>10.1.0.1",
            "n Agent: eth0@nat/n=10.0.2.15/24 eth1@a=10.1.0.12/24 | 0.0.0.0/0>10.0.2.2 10.2.0.0/24>10.1.0.1 10.9.0.0/24>10.1.0.1",
        ];
        assert_eq!(both("each"), each);
        let shared = both("shared");
        assert_eq!(
            shared[1],
            "nat Gateway: eth0@nat=10.0.2.1/24 eth1@outside=10.9.0.2/24 | 0.0.0.0/0>10.9.0.1"
        );
        assert!(
            shared[4].starts_with(
                "n Agent: eth0@nat=10.0.2.12/24 eth1@a=10.1.0.12/24 | 0.0.0.0/0>10.0.2.1"
            ),
            "{shared:?}"
        );
    }

    #[test]
    fn the_examples() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/testbed.d");
        let mut names = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "yaml") {
                names.push(Layout::of(&Description::read(&path).unwrap()).unwrap().name);
            }
        }
        names.sort();
        assert_eq!(names, ["two-segments", "vagrant"]);
    }
}
