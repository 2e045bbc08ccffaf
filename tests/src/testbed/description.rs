//! What a person writes: a cluster's machines, networks and links.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::quality::Quality;

/// A cluster. All that is left out has a default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Description {
    /// What the bed is called [the file's name].
    pub name: String,
    /// Segments: who is on the same one reaches each other without a router. [One, `nodes`]
    pub networks: Vec<Network>,
    /// Routers between segments. [One, `router`, on all but those behind NAT]
    pub routers: Option<Vec<Router>>,
    /// The cluster's machines. The first is the server where none says so.
    pub nodes: Vec<Node>,
    /// Links that are not perfect, by their name: `MACHINE/NETWORK`.
    pub links: BTreeMap<String, Quality>,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its ranges, one of a family at most. [10.88.K.0/24 and fd88:0:0:K::/64, K being its place in the list]
    #[serde(default)]
    pub cidrs: Vec<IpNet>,
    /// The greatest packet on it, in bytes. [1500]
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Machines are behind NAT here: they reach the outside, nobody reaches them.
    #[serde(default)]
    pub nat: Option<Nat>,
}

/// How virtual machines' first interfaces are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nat {
    /// All machines on one segment with one gateway, as Vagrant has it with libvirt.
    Shared,
    /// Every machine alone with a gateway of its own, all with the same address, as Vagrant has it with VirtualBox.
    Each,
}

/// A router: it forwards between its networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// Its name.
    pub name: String,
    /// Names of its networks.
    pub networks: Vec<String>,
}

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `keelson server`; a node as well.
    Server,
    /// `keelson agent`.
    Agent,
}

/// A machine of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name, in the cluster too.
    pub name: String,
    /// [`server` for the first node where no other is, else `agent`]
    #[serde(default)]
    pub role: Option<Role>,
    /// Names of its networks: `eth0` is on the first. [The first network]
    #[serde(default)]
    pub networks: Vec<String>,
    /// Addresses it must have, each of one of its networks. [The network's address 11 for the first node, 12 for the
    /// second]
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// What keelson is started with beside what all nodes need.
    #[serde(default)]
    pub flags: Vec<String>,
}

impl Description {
    /// Reads a file; the bed has the file's name where it gives none.
    ///
    /// # Errors
    /// When it can't be read, or says something that is not known (field and what is allowed are named).
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut read = Self::parse(&text).with_context(|| path.display().to_string())?;
        if read.name.is_empty() {
            let stem = path.file_stem().unwrap_or_default();
            read.name = stem.to_string_lossy().into_owned();
        }
        Ok(read)
    }

    /// Reads YAML. What it says is only checked when it is laid out.
    ///
    /// # Errors
    /// When it is no YAML, or says something that is not known (field and what is allowed are named).
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(serde_yaml_ng::from_str(text)?)
    }

    /// The short form: this many nodes, `n1` the server, on one segment.
    pub fn of_nodes(name: &str, nodes: usize) -> Self {
        Self {
            name: name.to_owned(),
            nodes: (1..=nodes).map(|n| Node::named(&format!("n{n}"))).collect(),
            ..Self::default()
        }
    }
}

impl Node {
    /// A node of which all else is the default.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            role: None,
            networks: Vec::new(),
            addresses: Vec::new(),
            flags: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest() {
        let read = Description::parse("nodes: [{name: n1}, {name: n2}]").unwrap();
        assert_eq!(read, Description::of_nodes("", 2));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            (
                "nodes: [{nam: a}]",
                "nodes[0]: unknown field `nam`, expected one of `name`",
            ),
            (
                "nodes: [{name: a, role: master}]",
                "unknown variant `master`, expected `server` or `agent`",
            ),
            (
                "networks: [{name: a, cidrs: [10.0.0.0]}]",
                "networks[0].cidrs[0]",
            ),
            ("networks: [{name: a, nat: yes}]", "expected"),
            ("links: {a/b: {delay: 20}}", "links.a/b: delay"),
            ("links: {a/b: {los: 20}}", "unknown field `los`"),
            (
                "clusters: 1",
                "unknown field `clusters`, expected one of `name`, `networks`",
            ),
        ];
        for (text, wanted) in table {
            let error = Description::parse(text).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
