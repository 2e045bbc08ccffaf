//! Which routes there are to be. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// A node as its Node object tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Its pods' addresses.
    pub pod_cidrs: Vec<IpNet>,
    /// Its own addresses, the preferred ones first (InternalIP).
    pub addresses: Vec<IpAddr>,
}

/// A route to a node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The pods.
    pub to: IpNet,
    /// The node.
    pub via: IpAddr,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} via {}", self.to, self.via)
    }
}

/// Routes by destination: to each other node's pods through its first address of the same family.
/// Of two nodes that claim the same CIDR the first by name has it.
pub fn wanted(own: &str, nodes: &[Node]) -> BTreeMap<IpNet, Route> {
    let mut others: Vec<&Node> = nodes.iter().filter(|n| n.name != own).collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));
    let taken: Vec<IpNet> = nodes
        .iter()
        .filter(|n| n.name == own)
        .flat_map(|n| n.pod_cidrs.clone())
        .collect();
    let mut routes = BTreeMap::new();
    for node in others {
        for cidr in node
            .pod_cidrs
            .iter()
            .map(IpNet::trunc)
            .filter(|c| !taken.contains(c))
        {
            let via = node
                .addresses
                .iter()
                .find(|a| a.is_ipv4() == cidr.addr().is_ipv4());
            if let Some(via) = via {
                routes.entry(cidr).or_insert(Route {
                    to: cidr,
                    via: *via,
                });
            }
        }
    }
    routes
}

/// What to change: routes to set (new, or through another node now) and routes to remove.
pub(crate) fn diff(
    have: &BTreeMap<IpNet, Route>,
    want: &BTreeMap<IpNet, Route>,
) -> (Vec<Route>, Vec<Route>) {
    let set = want
        .values()
        .filter(|r| have.get(&r.to) != Some(r))
        .copied()
        .collect();
    let remove = have
        .values()
        .filter(|r| !want.contains_key(&r.to))
        .copied()
        .collect();
    (set, remove)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidrs: &[&str], addresses: &[&str]) -> Node {
        Node {
            name: name.into(),
            pod_cidrs: cidrs.iter().map(|c| c.parse().expect("cidr")).collect(),
            addresses: addresses.iter().map(|a| a.parse().expect("ip")).collect(),
        }
    }

    fn text(nodes: &[Node]) -> Vec<String> {
        wanted("me", nodes).values().map(Route::to_string).collect()
    }

    #[test]
    fn a_route_for_each_other_node_and_family() {
        let me = node("me", &["10.42.0.0/24"], &["192.168.0.1"]);
        let b = node(
            "b",
            &["10.42.1.0/24", "fd42:1::/64"],
            &["192.168.0.2", "fd00::2"],
        );
        assert_eq!(
            text(&[me.clone(), b.clone()]),
            ["10.42.1.0/24 via 192.168.0.2", "fd42:1::/64 via fd00::2"]
        );
        let no_v6 = node("b", &["10.42.1.0/24", "fd42:1::/64"], &["192.168.0.2"]);
        assert_eq!(text(&[me.clone(), no_v6]), ["10.42.1.0/24 via 192.168.0.2"]);
        let thief = node("c", &["10.42.1.0/24", "10.42.0.0/24"], &["192.168.0.3"]);
        assert_eq!(text(&[me, thief, b])[0], "10.42.1.0/24 via 192.168.0.2");
    }

    #[test]
    fn only_what_differs_is_changed() {
        let have = wanted(
            "me",
            &[
                node("b", &["10.0.1.0/24"], &["192.168.0.2"]),
                node("c", &["10.0.2.0/24"], &["192.168.0.3"]),
            ],
        );
        let want = wanted(
            "me",
            &[
                node("b", &["10.0.1.0/24"], &["192.168.0.9"]),
                node("d", &["10.0.3.0/24"], &["192.168.0.4"]),
            ],
        );
        let (set, remove) = diff(&have, &want);
        assert_eq!(
            set.iter().map(Route::to_string).collect::<Vec<_>>(),
            ["10.0.1.0/24 via 192.168.0.9", "10.0.3.0/24 via 192.168.0.4"]
        );
        assert_eq!(
            remove.iter().map(Route::to_string).collect::<Vec<_>>(),
            ["10.0.2.0/24 via 192.168.0.3"]
        );
        assert_eq!(diff(&want, &want), (vec![], vec![]));
    }
}
