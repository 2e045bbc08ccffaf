//! A description with all that was left out: what it says, and nothing wrong in it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{bail, ensure};
use ipnet::IpNet;

use super::addresses::{nth, overlap, usable};
use super::description::{Description, Nat, Network, Node, Role, Router};

/// The network beyond the cluster, which is always there, and the machine on it.
pub const OUTSIDE: &str = "outside";
/// A machine of no cluster, on the network outside.
pub const CLIENT: &str = "client";

/// How many nodes a bed may have.
const NODES: usize = 32;
/// The smallest packet that a network has to carry (RFC 8200, section 5), and the greatest that IP can say.
const MTU: std::ops::RangeInclusive<u32> = 1280..=65535;
/// Addresses of nodes begin here; those below are for routers and the client.
const FIRST_NODE: u32 = 11;

impl Description {
    /// Itself with every default in its place, every node's addresses too; so a node can come or go, and the others
    /// stay as they are.
    ///
    /// # Errors
    /// When something contradicts something; named are the field, the object and what is allowed.
    pub fn complete(&self) -> anyhow::Result<Self> {
        let mut full = self.clone();
        if full.name.is_empty() {
            "testbed".clone_into(&mut full.name);
        }
        full.complete_networks()?;
        full.complete_routers()?;
        full.complete_nodes()?;
        full.check_names()?;
        full.check_links()?;
        Ok(full)
    }

    fn complete_networks(&mut self) -> anyhow::Result<()> {
        if self.networks.is_empty() {
            self.networks.push(Network::named("nodes", &[]));
        }
        if self.network(OUTSIDE).is_err() {
            let ranges = ["10.99.0.0/24", "fd99::/64"];
            let outside = Network::named(OUTSIDE, &ranges.map(|r| r.parse().expect("a range")));
            self.networks.push(outside);
        }
        for (place, network) in self.networks.iter_mut().enumerate() {
            if network.cidrs.is_empty() {
                let ranges = [
                    format!("10.88.{place}.0/24"),
                    format!("fd88:0:0:{place}::/64"),
                ];
                network.cidrs = ranges.iter().map(|r| r.parse()).collect::<Result<_, _>>()?;
            }
            network.check()?;
        }
        for (place, network) in self.networks.iter().enumerate() {
            for other in &self.networks[..place] {
                let met = network
                    .cidrs
                    .iter()
                    .find(|c| other.cidrs.iter().any(|o| overlap(c, o)));
                if let Some(cidr) = met {
                    bail!(
                        "network {}: cidrs: {cidr} is part of network {} too",
                        network.name,
                        other.name
                    );
                }
            }
        }
        Ok(())
    }

    fn complete_routers(&mut self) -> anyhow::Result<()> {
        let open = || self.networks.iter().filter(|n| n.nat.is_none());
        let mut routers = self.routers.clone().unwrap_or_else(|| {
            let networks = open().map(|n| n.name.clone()).collect();
            vec![Router {
                name: "router".to_owned(),
                networks,
            }]
        });
        let leads_outside = routers
            .iter()
            .any(|r| r.networks.iter().any(|n| n == OUTSIDE));
        if let (false, Some(first)) = (leads_outside, routers.first_mut()) {
            first.networks.push(OUTSIDE.to_owned());
        }
        for router in &routers {
            let whose = format!("router {}: networks", router.name);
            distinct(&whose, &router.networks)?;
            for name in &router.networks {
                let network = self.network(name).map_err(|e| e.context(whose.clone()))?;
                ensure!(
                    network.nat.is_none(),
                    "{whose}: {name} is behind NAT, where no router leads"
                );
            }
        }
        self.routers = Some(routers);
        Ok(())
    }

    fn complete_nodes(&mut self) -> anyhow::Result<()> {
        let count = self.nodes.len();
        ensure!(
            (1..=NODES).contains(&count),
            "nodes: {count} of them, allowed are 1 to {NODES}"
        );
        let first = self.networks[0].name.clone();
        let told = self.nodes.iter().any(|n| n.role == Some(Role::Server));
        for (place, node) in self.nodes.iter_mut().enumerate() {
            let role = if place == 0 && !told {
                Role::Server
            } else {
                Role::Agent
            };
            node.role.get_or_insert(role);
            if node.networks.is_empty() {
                node.networks.push(first.clone());
            }
        }
        let servers = self
            .nodes
            .iter()
            .filter(|n| n.role == Some(Role::Server))
            .count();
        ensure!(
            servers == 1,
            "nodes: role: {servers} are server, exactly one must be"
        );
        let mut used = self.fixed_addresses()?;
        let mut nodes = std::mem::take(&mut self.nodes);
        for (place, node) in nodes.iter_mut().enumerate() {
            let number = FIRST_NODE + u32::try_from(place)?;
            for cidr in self.ranges_of(node)? {
                if !node.addresses.iter().any(|a| cidr.contains(a)) {
                    let free = (number..)
                        .map_while(|n| nth(&cidr, n))
                        .find(|a| used.insert(a.addr()));
                    let Some(free) = free else {
                        bail!("node {}: no address is free in {cidr}", node.name);
                    };
                    node.addresses.push(free.addr());
                }
            }
        }
        self.nodes = nodes;
        Ok(())
    }

    /// The ranges of which a node has addresses of its own.
    fn ranges_of(&self, node: &Node) -> anyhow::Result<Vec<IpNet>> {
        let whose = format!("node {}: networks", node.name);
        distinct(&whose, &node.networks)?;
        let mut ranges = Vec::new();
        for name in &node.networks {
            let network = self.network(name).map_err(|e| e.context(whose.clone()))?;
            if network.nat != Some(Nat::Each) {
                ranges.extend(&network.cidrs);
            }
        }
        Ok(ranges)
    }

    /// The addresses that the description names.
    fn fixed_addresses(&self) -> anyhow::Result<BTreeSet<IpAddr>> {
        let mut used = BTreeSet::new();
        for node in &self.nodes {
            let ranges = self.ranges_of(node)?;
            let mut taken = BTreeSet::new();
            for address in &node.addresses {
                let whose = format!("node {}: addresses: {address}", node.name);
                let Some(range) = ranges.iter().find(|r| usable(r, *address)) else {
                    let allowed: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                    bail!(
                        "{whose} is no machine's in its networks {}",
                        allowed.join(", ")
                    );
                };
                ensure!(taken.insert(range), "{whose}: it has another of {range}");
                let reserved =
                    (0..FIRST_NODE).any(|n| nth(range, n).is_some_and(|a| a.addr() == *address));
                ensure!(
                    !reserved,
                    "{whose}: the first {} of {range} are for routers",
                    FIRST_NODE - 1
                );
                ensure!(used.insert(*address), "{whose}: another node has it");
            }
        }
        Ok(used)
    }

    /// The network of this name.
    ///
    /// # Errors
    /// When there is none; those that are there are named.
    pub fn network(&self, name: &str) -> anyhow::Result<&Network> {
        let found = self.networks.iter().find(|n| n.name == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.networks.iter().map(|n| n.name.as_str()).collect();
            anyhow::anyhow!("no network {name:?}: there are {}", names.join(", "))
        })
    }

    fn routers(&self) -> &[Router] {
        self.routers.as_deref().unwrap_or_default()
    }

    fn check_names(&self) -> anyhow::Result<()> {
        let networks: Vec<String> = self.networks.iter().map(|n| n.name.clone()).collect();
        distinct("networks", &networks)?;
        let routers = self.routers().iter().map(|r| r.name.clone());
        let gateways = self
            .networks
            .iter()
            .filter(|n| n.nat.is_some())
            .map(|n| n.name.clone());
        let mut machines: Vec<String> =
            routers.chain(gateways).chain([CLIENT.to_owned()]).collect();
        machines.extend(self.nodes.iter().map(|n| n.name.clone()));
        distinct(
            "names of machines (nodes, routers, networks behind NAT, client)",
            &machines,
        )?;
        for name in networks.iter().chain(&machines).chain([&self.name]) {
            let letters = name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            let ends = name.starts_with('-') || name.ends_with('-');
            ensure!(
                letters && !ends && (1..=40).contains(&name.len()),
                "name {name:?}: allowed are 1 to 40 of a-z, 0-9 and - within"
            );
        }
        Ok(())
    }

    fn check_links(&self) -> anyhow::Result<()> {
        let links = self.nodes.iter().map(|n| (&n.name, &n.networks));
        let links = links.chain(self.routers().iter().map(|r| (&r.name, &r.networks)));
        let names: Vec<String> = links
            .flat_map(|(machine, networks)| networks.iter().map(move |n| format!("{machine}/{n}")))
            .collect();
        for link in self.links.keys() {
            ensure!(
                names.contains(link),
                "links: no link {link:?}: there are {}",
                names.join(", ")
            );
        }
        Ok(())
    }
}

impl Network {
    /// One of which all else is the default.
    pub fn named(name: &str, cidrs: &[IpNet]) -> Self {
        Self {
            name: name.to_owned(),
            cidrs: cidrs.to_vec(),
            mtu: None,
            nat: None,
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        let whose = format!("network {}", self.name);
        if let Some(mtu) = self.mtu {
            ensure!(
                MTU.contains(&mtu),
                "{whose}: mtu: {mtu} is not between {} and {}",
                MTU.start(),
                MTU.end()
            );
        }
        let families: BTreeSet<bool> = self.cidrs.iter().map(|c| c.addr().is_ipv4()).collect();
        ensure!(
            families.len() == self.cidrs.len(),
            "{whose}: cidrs: more than one of a family"
        );
        ensure!(families.contains(&true), "{whose}: cidrs: none of IPv4");
        for cidr in &self.cidrs {
            ensure!(
                nth(cidr, FIRST_NODE).is_some(),
                "{whose}: cidrs: {cidr} has not the {FIRST_NODE} addresses that are needed"
            );
        }
        ensure!(
            self.nat.is_none() || self.name != OUTSIDE,
            "{whose}: nat: this is what NAT leads to"
        );
        Ok(())
    }
}

/// An error when something is there twice.
fn distinct(what: &str, names: &[String]) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    let twice = names.iter().find(|name| !seen.insert(*name));
    twice.map_or(Ok(()), |name| bail!("{what}: {name:?} is there twice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("{}", "nodes: 0 of them, allowed are 1 to 32"),
            (
                "nodes: [{name: A}]",
                "name \"A\": allowed are 1 to 40 of a-z, 0-9 and - within",
            ),
            ("nodes: [{name: client}]", "\"client\" is there twice"),
            ("nodes: [{name: a}, {name: a}]", "\"a\" is there twice"),
            (
                "nodes: [{name: a, role: agent}]",
                "0 are server, exactly one must be",
            ),
            (
                "nodes: [{name: a, networks: [b]}]",
                "node a: networks: no network \"b\": there are nodes, outside",
            ),
            (
                "nodes: [{name: a, networks: [nodes, nodes]}]",
                "node a: networks: \"nodes\" is there twice",
            ),
            (
                "nodes: [{name: a, addresses: [10.9.9.9]}]",
                "10.9.9.9 is no machine's in its networks 10.88.0.0/24, fd88::/64",
            ),
            (
                "nodes: [{name: a, addresses: [10.88.0.255]}]",
                "10.88.0.255 is no machine's",
            ),
            (
                "nodes: [{name: a, addresses: [10.88.0.3]}]",
                "the first 10 of 10.88.0.0/24 are for routers",
            ),
            (
                "nodes: [{name: a, addresses: [10.88.0.30, 10.88.0.31]}]",
                "10.88.0.31: it has another of 10.88.0.0/24",
            ),
            (
                "nodes: [{name: a, addresses: [10.88.0.30]}, {name: b, addresses: [10.88.0.30]}]",
                "another node has it",
            ),
            (
                "networks: [{name: a, mtu: 500}]\nnodes: [{name: a}]",
                "network a: mtu: 500 is not between 1280 and 65535",
            ),
            (
                "networks: [{name: a, cidrs: [10.0.0.0/30]}]\nnodes: [{name: a}]",
                "10.0.0.0/30 has not the 11 addresses",
            ),
            (
                "networks: [{name: a, cidrs: ['fd00::/64']}]\nnodes: [{name: a}]",
                "network a: cidrs: none of IPv4",
            ),
            (
                "networks: [{name: a, cidrs: [10.0.0.0/24, 10.0.1.0/24]}]\nnodes: [{name: a}]",
                "more than one of a family",
            ),
            (
                "networks: [{name: a, cidrs: [10.0.0.0/24]}, {name: b, cidrs: [10.0.0.0/16]}]\nnodes: [{name: a}]",
                "network b: cidrs: 10.0.0.0/16 is part of network a too",
            ),
            (
                "networks: [{name: a, nat: each}]\nrouters: [{name: r, networks: [a]}]\nnodes: [{name: a}]",
                "router r: networks: a is behind NAT",
            ),
            (
                "links: {a/b: {loss: 1}}\nnodes: [{name: a}]",
                "no link \"a/b\": there are a/nodes, router/nodes, router/outside",
            ),
        ];
        for (text, wanted) in table {
            let error = Description::parse(text).unwrap().complete().unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn who_stays_keeps_its_address() {
        let mut full = Description::of_nodes("x", 3).complete().unwrap();
        let third = full.nodes.remove(2);
        full.nodes.remove(1);
        full.nodes.extend([third.clone(), Node::named("new")]);
        let again = full.complete().unwrap();
        assert_eq!(again.nodes[1], third);
        let new: Vec<String> = again.nodes[2]
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(new, ["10.88.0.14", "fd88::e"]);
        assert_eq!(again.complete().unwrap(), again);
    }
}
