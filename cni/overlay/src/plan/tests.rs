//! Plans as text: what stands in the kernel for which nodes on which machine.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("ip")
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|t| t.parse().expect("network")).collect()
}

fn node(name: &str, pods: &[&str], addresses: &[&str]) -> Node {
    Node {
        name: name.into(),
        pod_cidrs: nets(pods),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        key: name.bytes().next().map(|b| PublicKey([b; 32])),
    }
}

/// A machine with a NAT link first, as Vagrant's boxes have it, and one on the nodes' segment, behind a router.
fn host() -> Host {
    let route = |to: &str, link, gateway, metric, mtu| HostRoute {
        to: to.parse().expect("network"),
        link,
        gateway,
        metric,
        mtu,
    };
    Host {
        links: vec![
            HostLink {
                index: 2,
                mtu: 9000,
            },
            HostLink {
                index: 3,
                mtu: 1500,
            },
        ],
        addresses: vec![
            (2, ip("10.0.2.15")),
            (3, ip("192.168.0.1")),
            (3, ip("fd00::1")),
        ],
        routes: vec![
            route("0.0.0.0/0", 2, true, 0, None),
            route("10.0.2.0/24", 2, false, 0, None),
            route("192.168.0.0/24", 3, false, 0, None),
            route("192.168.0.0/16", 3, true, 0, None),
            route("192.168.9.0/24", 3, true, 0, Some(1400)),
            route("fd00::/64", 3, false, 0, None),
            route("::/0", 3, true, 10, None),
        ],
    }
}

fn options(mode: Mode) -> Options {
    Options {
        mode,
        ..Options::new("me", nets(&["10.42.0.0/16", "fd42::/48"]))
    }
}

fn text(options: &Options, nodes: &[Node]) -> Vec<String> {
    let key = Some(PublicKey([b'm'; 32]));
    let plan = wanted(options, key, &host(), nodes);
    let mut lines: Vec<String> = plan.entries.values().map(Entry::to_string).collect();
    lines.extend(plan.unreached.iter().map(|u| format!("unreached {u}")));
    lines.push(format!("mtu {}", plan.mtu));
    lines
}

fn me() -> Node {
    node(
        "me",
        &["10.42.0.0/24", "fd42:0:0:1::/64"],
        &["192.168.0.1", "fd00::1"],
    )
}

#[test]
fn near_nodes_get_routes_and_far_ones_a_tunnel() {
    let near = node(
        "near",
        &["10.42.1.0/24", "fd42:0:0:2::/64"],
        &["192.168.0.2", "fd00::2"],
    );
    let far = node(
        "far",
        &["10.42.2.0/24", "fd42:0:0:3::/64"],
        &["192.168.1.2", "fd01::2"],
    );
    let nodes = [me(), near.clone(), far.clone()];
    let m = mac("far");
    let tunnel = format!(
        "link keelson-vxlan mtu 1450 vxlan 1 port 8472 local 192.168.0.1 address {}",
        mac("me")
    );
    assert_eq!(
        text(&options(Mode::Vxlan), &nodes),
        [
            tunnel.as_str(),
            "address 10.42.0.0 on keelson-vxlan",
            "address fd42:0:0:1:: on keelson-vxlan",
            &format!("forward {m} to 192.168.1.2"),
            &format!("neighbour 10.42.2.0 is {m}"),
            &format!("neighbour {} is {m}", m.link_local()),
            "route 10.42.1.0/24 via 192.168.0.2",
            "route 10.42.2.0/24 via 10.42.2.0 on keelson-vxlan",
            "route fd42:0:0:2::/64 via fd00::2",
            &format!(
                "route fd42:0:0:3::/64 via {} on keelson-vxlan",
                m.link_local()
            ),
            "mtu 1450",
        ]
    );
    let always = Options {
        always_encapsulate: true,
        ..options(Mode::Vxlan)
    };
    let all = text(&always, &nodes).join("\n");
    assert!(
        all.contains("route 10.42.1.0/24 via 10.42.1.0 on keelson-vxlan"),
        "{all}"
    );
    assert_eq!(
        text(&options(Mode::HostGw), &nodes),
        [
            "route 10.42.1.0/24 via 192.168.0.2",
            "route fd42:0:0:2::/64 via fd00::2",
            "unreached far: it has no address on this node's segment for 10.42.2.0/24",
            "unreached far: it has no address on this node's segment for fd42:0:0:3::/64",
            "mtu 1500",
        ]
    );
    assert_eq!(text(&options(Mode::None), &nodes), ["mtu 0"]);
}

#[test]
fn wireguard_has_a_peer_for_each_node_with_a_key_of_its_own() {
    let far = node(
        "far",
        &["10.42.2.0/24", "fd42:0:0:3::/64"],
        &["192.168.1.2"],
    );
    let mut mute = node("mute", &["10.42.3.0/24"], &["192.168.0.3"]);
    mute.key = None;
    let mut thief = node("thief", &["10.42.4.0/24"], &["192.168.0.4"]);
    thief.key = far.key;
    let key = |b: u8| PublicKey([b; 32]);
    assert_eq!(
        text(&options(Mode::WireGuard), &[me(), thief, mute, far]),
        [
            &format!(
                "link keelson-wg mtu 1420 wireguard port 51820 key {}",
                key(b'm')
            ),
            "address 10.42.0.0 on keelson-wg",
            "address fd42:0:0:1:: on keelson-wg",
            &format!(
                "peer {} at 192.168.1.2:51820 for 10.42.2.0/24 fd42:0:0:3::/64",
                key(b'f')
            ),
            "route 10.42.2.0/24 on keelson-wg",
            "route fd42:0:0:3::/64 on keelson-wg",
            "unreached mute: it has not published a WireGuard key of its own",
            "unreached thief: it has not published a WireGuard key of its own",
            "mtu 1420",
        ]
    );
}

#[test]
fn the_largest_packet_follows_from_the_paths() {
    let far = |address: &str| node("far", &["10.42.2.0/24"], &[address]);
    let v6 = |name: &str, a: &str, pods: &str| node(name, &[pods], &[a]);
    let rows: [(Mode, Option<u32>, Vec<Node>, &str); 6] = [
        (Mode::Vxlan, None, vec![me()], "mtu 1450"),
        (
            Mode::Vxlan,
            None,
            vec![me(), far("192.168.1.2")],
            "mtu 1450",
        ),
        (
            Mode::Vxlan,
            None,
            vec![me(), far("192.168.9.2")],
            "mtu 1350",
        ),
        (
            Mode::Vxlan,
            Some(1400),
            vec![me(), far("192.168.1.2")],
            "mtu 1350",
        ),
        (
            Mode::Vxlan,
            None,
            vec![
                v6("me", "fd00::1", "10.42.0.0/24"),
                v6("far", "fd01::2", "10.42.2.0/24"),
            ],
            "mtu 1430",
        ),
        (
            Mode::HostGw,
            None,
            vec![me(), far("192.168.0.2")],
            "mtu 1500",
        ),
    ];
    for (mode, mtu, nodes, want) in rows {
        let lines = text(
            &Options {
                mtu,
                ..options(mode)
            },
            &nodes,
        );
        assert_eq!(lines.last().map(String::as_str), Some(want), "{nodes:?}");
    }
}

#[test]
fn pods_belong_to_one_node_within_the_cluster() {
    let rows = [
        // The first by name has them, in any order.
        (
            vec![
                node("c", &["10.42.1.0/24"], &["192.168.0.3"]),
                node("b", &["10.42.1.0/24"], &["192.168.0.2"]),
            ],
            "route 10.42.1.0/24 via 192.168.0.2",
        ),
        // This node's own are nobody else's, nor a part of them, nor what holds them.
        (vec![node("b", &["10.42.0.0/24"], &["192.168.0.2"])], ""),
        (vec![node("b", &["10.42.0.128/25"], &["192.168.0.2"])], ""),
        (vec![node("b", &["10.42.0.0/16"], &["192.168.0.2"])], ""),
        // What is not the cluster's.
        (vec![node("b", &["0.0.0.0/0"], &["192.168.0.2"])], ""),
        (vec![node("b", &["192.168.7.0/24"], &["192.168.0.2"])], ""),
        // A node can't be its own next hop here.
        (
            vec![node("b", &["10.42.1.0/24"], &["192.168.0.1"])],
            "unreached b: it has no address on this node's segment for 10.42.1.0/24",
        ),
    ];
    for (mut nodes, want) in rows {
        nodes.push(me());
        let mut lines = text(&options(Mode::HostGw), &nodes);
        lines.pop();
        assert_eq!(lines.join("\n"), want, "{nodes:?}");
    }
}

#[test]
fn a_tunnel_has_the_family_that_all_nodes_have() {
    let far = node("far", &["10.42.2.0/24"], &["fd01::2"]);
    let lines = text(&options(Mode::Vxlan), &[me(), far]).join("\n");
    assert!(
        lines.contains("local fd00::1") && lines.contains("to fd01::2"),
        "{lines}"
    );
    let mut own = me();
    own.addresses = vec![ip("192.168.0.1")];
    let far = node("far", &["10.42.2.0/24"], &["fd01::2"]);
    let lines = text(&options(Mode::Vxlan), &[own, far]).join("\n");
    assert!(lines.contains("unreached far"), "{lines}");
}

#[test]
fn ethernet_addresses_are_locally_administered_and_differ() {
    let all: BTreeSet<Mac> = (0..1000).map(|n| mac(&format!("node-{n}"))).collect();
    assert_eq!(all.len(), 1000);
    assert!(all.iter().all(|m| m.0[0] & 3 == 2));
    let mac = Mac([0x66, 0x6b, 0x8b, 0xb8, 0x4c, 0xe7]);
    assert_eq!(mac.to_string(), "66:6b:8b:b8:4c:e7");
    assert_eq!(mac.link_local(), ip("fe80::646b:8bff:feb8:4ce7"));
}

/// Nodes of a cluster, some near, some far, some with nothing.
fn cluster() -> impl Strategy<Value = Vec<Node>> {
    let one = (0u8..12, 0u8..12, 0u8..4, any::<bool>());
    let node = one.prop_map(|(name, pods, segment, keyed)| {
        let mut node = node(
            &format!("{}", char::from(b'a' + name)),
            &[
                &format!("10.42.{pods}.0/24"),
                &format!("fd42:0:0:{pods:x}::/64"),
            ],
            &[
                &format!("192.168.{segment}.{}", name + 2),
                &format!("fd0{segment}::{}", name + 2),
            ],
        );
        node.key = node.key.filter(|_| keyed);
        node
    });
    prop::collection::vec(node, 0..12).prop_map(|mut nodes| {
        nodes.push(me());
        // Names are unique in the API.
        let mut seen = BTreeSet::new();
        nodes.retain(|n| seen.insert(n.name.clone()));
        nodes
    })
}

proptest! {
    #[test]
    fn what_is_planned_stands_on_what_is_planned(
        nodes in cluster(),
        mode in prop::sample::select(vec![Mode::HostGw, Mode::Vxlan, Mode::WireGuard]),
        always in any::<bool>(),
    ) {
        let options = Options { always_encapsulate: always, ..options(mode) };
        let key = Some(PublicKey([1; 32]));
        let plan = wanted(&options, key, &host(), &nodes);
        let has = |want: &dyn Fn(&Entry) -> bool| plan.entries.values().any(want);
        for entry in plan.entries.values() {
            let Entry::Route(route) = entry else { continue };
            prop_assert!(!me().pod_cidrs.contains(&route.to));
            match (&route.link, route.via) {
                (None, via) => prop_assert!(via.is_some_and(|v| host().is_near(v))),
                (Some(link), via) => {
                    prop_assert!(has(&|e| matches!(e, Entry::Link(l) if l.name == *link)));
                    let next = |via| has(&|e| matches!(e, Entry::Neighbour { address, .. } if *address == via));
                    let peer = |e: &Entry| matches!(e, Entry::Peer { allowed, .. } if allowed.contains(&route.to));
                    let known = via.map_or_else(|| has(&peer), next);
                    prop_assert!(known, "{entry}");
                }
            }
        }
        // In whatever order nodes come, and from whatever is there.
        let mut turned = nodes.clone();
        turned.reverse();
        let again = wanted(&options, key, &host(), &turned);
        prop_assert_eq!(&again.entries, &plan.entries);
        prop_assert!(diff(&plan.entries, &again.entries).is_empty());
    }

    #[test]
    fn a_difference_leads_from_one_to_the_other(
        before in cluster(),
        after in cluster(),
        mode in prop::sample::select(vec![Mode::HostGw, Mode::Vxlan, Mode::WireGuard]),
    ) {
        let plan = |nodes: &[Node]| wanted(&options(mode), None, &host(), nodes).entries;
        let (mut have, want) = (plan(&before), plan(&after));
        for step in diff(&have, &want) {
            match step {
                Step::Remove(entry) => prop_assert!(have.remove(&entry.key()).is_some()),
                Step::Set { want, have: old } => {
                    prop_assert_eq!(have.insert(want.key(), want), old);
                }
            }
        }
        prop_assert_eq!(have, want);
    }
}

#[test]
fn a_change_of_one_node_in_two_hundred_is_a_handful_of_steps() {
    let far = |n: u32, address: u32| {
        node(
            &format!("n{n}"),
            &[&format!("10.42.{n}.0/24")],
            &[&format!("192.168.1.{address}")],
        )
    };
    let mut nodes: Vec<Node> = (1..=200).map(|n| far(n, n)).collect();
    nodes.push(node("me", &["10.42.0.0/24"], &["192.168.0.1"]));
    let plan = |nodes: &[Node]| wanted(&options(Mode::Vxlan), None, &host(), nodes).entries;
    let before = plan(&nodes);
    assert_eq!(before.len(), 2 + 3 * 200);
    nodes[7] = far(8, 250);
    let steps: Vec<String> = diff(&before, &plan(&nodes))
        .iter()
        .map(Step::to_string)
        .collect();
    assert_eq!(
        steps,
        [format!("set forward {} to 192.168.1.250", mac("n8"))]
    );
    nodes.remove(7);
    assert_eq!(diff(&before, &plan(&nodes)).len(), 3);
}
