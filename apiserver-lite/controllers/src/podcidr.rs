//! Pod CIDRs: each node gets its own piece of each of the cluster's networks.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::Key;
use crate::runner::{Controller, Outcome, Work};

/// The cluster's pod networks and how they are cut.
#[derive(Clone, Debug)]
pub struct Networks {
    /// At most one a family.
    pub cluster: Vec<IpNet>,
    /// Prefix length of a node's IPv4 network.
    pub v4: u8,
    /// Prefix length of a node's IPv6 network.
    pub v6: u8,
}

/// The controller. It works with one worker only: what it gave stands in the cache before it gives again.
pub struct PodCidrs {
    caches: Arc<Caches>,
    networks: Networks,
}

impl PodCidrs {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>, networks: Networks) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        let lacks = |n: &&Node| given(n).is_empty();
        caches.nodes.subscribe(move |c| {
            c.new
                .filter(lacks)
                .into_iter()
                .for_each(|n| queue.add(Key::of(n)));
        });
        let caches = caches.clone();
        (Self { caches, networks }, work)
    }
}

#[async_trait]
impl Controller for PodCidrs {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(node) = self.caches.nodes.get(key) else {
            return Ok(Outcome::default());
        };
        let actions = plan(&node, &self.caches.nodes.list(""), &self.networks);
        let full = actions.iter().any(|a| matches!(a, Action::Event { .. }));
        Ok(Outcome {
            actions,
            // Room comes back only when another node goes.
            again: full.then_some(std::time::Duration::from_secs(10)),
        })
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// The networks a node has.
fn given(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    all.filter_map(|c| c.parse().ok()).collect()
}

/// Decides for a node among all nodes.
pub fn plan(node: &Node, all: &[Arc<Node>], networks: &Networks) -> Vec<Action> {
    if !given(node).is_empty() || node.meta().deletion_timestamp.is_some() {
        return Vec::new();
    }
    let taken: Vec<IpNet> = all.iter().flat_map(|n| given(n)).collect();
    let pieces: Option<Vec<IpNet>> = networks
        .cluster
        .iter()
        .map(|c| {
            free(
                c,
                if c.addr().is_ipv4() {
                    networks.v4
                } else {
                    networks.v6
                },
                &taken,
            )
        })
        .collect();
    match pieces.as_deref() {
        Some([]) => Vec::new(),
        Some(pieces @ [first, ..]) => {
            let patch = json!({"spec": {"podCIDR": first, "podCIDRs": pieces}});
            vec![Action::patch(Target::of(node).unchanged(node), patch)]
        }
        None => vec![Action::Event {
            about: Target::of(node),
            kind: "Warning",
            reason: "CIDRNotAvailable",
            message: format!("Node {} status is now: CIDRNotAvailable", node.name_any()),
        }],
    }
}

/// The first piece of a network that overlaps with none taken.
fn free(cluster: &IpNet, prefix: u8, taken: &[IpNet]) -> Option<IpNet> {
    let overlaps = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    let taken: Vec<&IpNet> = taken.iter().filter(|t| overlaps(t, cluster)).collect();
    let same: HashSet<IpAddr> = taken
        .iter()
        .filter(|t| t.prefix_len() == prefix)
        .map(|t| t.network())
        .collect();
    let others: Vec<_> = taken.iter().filter(|t| t.prefix_len() != prefix).collect();
    let mut pieces = cluster.subnets(prefix).ok()?;
    pieces.find(|p| !same.contains(&p.network()) && !others.iter().any(|t| overlaps(t, p)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, from_value};

    fn node(name: &str, cidrs: &[&str]) -> Arc<Node> {
        let spec = json!({"podCIDR": cidrs.first(), "podCIDRs": cidrs});
        Arc::new(from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("node"))
    }

    fn networks(cluster: &[&str], v4: u8) -> Networks {
        let cluster = cluster
            .iter()
            .map(|c| c.parse().expect("network"))
            .collect();
        Networks {
            cluster,
            v4,
            v6: 64,
        }
    }

    #[test]
    fn each_node_gets_the_first_free_piece() {
        let dual = networks(&["10.42.0.0/16", "fd42::/56"], 24);
        let small = networks(&["10.42.0.0/23"], 24);
        let none = networks(&[], 24);
        let cases: &[(&str, &Networks, &[&str], &[&[&str]], Value)] = &[
            (
                "the first",
                &dual,
                &[],
                &[],
                json!(["10.42.0.0/24", "fd42::/64"]),
            ),
            (
                "the next",
                &dual,
                &[],
                &[&["10.42.0.0/24", "fd42::/64"]],
                json!(["10.42.1.0/24", "fd42:0:0:1::/64"]),
            ),
            (
                "a gap is filled",
                &dual,
                &[],
                &[&["10.42.1.0/24"], &["10.42.2.0/24"]],
                json!(["10.42.0.0/24", "fd42::/64"]),
            ),
            (
                "not within a larger one",
                &dual,
                &[],
                &[&["10.42.0.0/22"]],
                json!(["10.42.4.0/24", "fd42::/64"]),
            ),
            (
                "not around a smaller one",
                &dual,
                &[],
                &[&["10.42.0.128/25"]],
                json!(["10.42.1.0/24", "fd42::/64"]),
            ),
            (
                "a foreign one does not matter",
                &dual,
                &[],
                &[&["10.9.0.0/24"]],
                json!(["10.42.0.0/24", "fd42::/64"]),
            ),
            ("has one", &dual, &["10.42.7.0/24"], &[], Value::Null),
            (
                "full",
                &small,
                &[],
                &[&["10.42.0.0/24"], &["10.42.1.0/24"]],
                json!("CIDRNotAvailable"),
            ),
            ("not asked for", &none, &[], &[], Value::Null),
        ];
        for (name, networks, own, others, want) in cases {
            let me = node("me", own);
            let mut all: Vec<_> = others.iter().map(|c| node("o", c)).collect();
            all.push(me.clone());
            let seen = match plan(&me, &all, networks).as_slice() {
                [] => Value::Null,
                [Action::Patch { patch, .. }] => patch["spec"]["podCIDRs"].clone(),
                [Action::Event { reason, .. }] => json!(reason),
                other => panic!("{other:?}"),
            };
            assert_eq!(seen, *want, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_two_nodes_share_an_address(gone in proptest::collection::vec(0usize..20, 0..20)) {
            let networks = networks(&["10.42.0.0/16"], 24);
            let mut nodes: Vec<Arc<Node>> = Vec::new();
            for (i, gone) in gone.iter().enumerate() {
                let new = node(&format!("n{i}"), &[]);
                let actions = plan(&new, &nodes, &networks);
                let [Action::Patch { patch, .. }] = actions.as_slice() else { panic!("{actions:?}") };
                let cidr = patch["spec"]["podCIDR"].as_str().expect("cidr").to_owned();
                prop_assert!(!nodes.iter().any(|n| given(n).contains(&cidr.parse().expect("cidr"))));
                nodes.push(node(&format!("n{i}"), &[&cidr]));
                if *gone < nodes.len() { nodes.remove(*gone); }
            }
        }
    }
}
