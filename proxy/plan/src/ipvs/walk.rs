//! What virtual servers and the rules beside them do with a packet.

use std::net::IpAddr;

use super::rules::Origin;
use super::server::ServerKey;
use super::wanted::{Options, Wanted};
use crate::options::Pods;
use crate::packet::{Outcome, Packet, Source};

/// What becomes of a connection's first packet.
pub fn walk(wanted: &Wanted, options: &Options, packet: &Packet) -> Outcome {
    let key = ServerKey {
        address: packet.destination,
        protocol: packet.protocol,
        port: packet.port,
    };
    let Some(treatment) = wanted.rules.keys.get(&key) else {
        return match wanted.rules.bound.contains(&packet.destination) {
            true => Outcome::Refused,
            false => Outcome::Pass,
        };
    };
    let origin = origin(options, packet);
    if !treatment.admits(&origin) {
        return Outcome::Dropped;
    }
    let inside = origin.pod || origin.node;
    let near = treatment.short_way.filter(|_| inside);
    let key = near.map_or(key, |to| ServerKey {
        address: to.ip(),
        port: to.port(),
        ..key
    });
    let Some(server) = wanted.servers.get(&key) else {
        return Outcome::Dropped;
    };
    if server.destinations.is_empty() {
        return Outcome::Refused;
    }
    let masked = treatment.masquerades(&origin);
    let sent = server.destinations.iter().map(|at| {
        let itself = at.ip() == packet.source;
        let itself = itself && wanted.rules.hairpin.contains(&(key.protocol, *at));
        let source = match masked || itself {
            true => Source::Masked,
            false => Source::Kept,
        };
        ((at.ip(), at.port()), source)
    });
    Outcome::Sent(sent.collect())
}

fn origin(options: &Options, packet: &Packet) -> Origin {
    let source = packet.source;
    let pod = match (&options.common.pods, &packet.interface) {
        (Pods::Unknown, _) | (_, None) => false,
        (Pods::Within(nets), _) => nets.iter().any(|n| n.contains(&source)),
        (Pods::Behind(name), Some(interface)) => match name.strip_suffix('*') {
            Some(prefix) => interface.starts_with(prefix),
            None => interface == name,
        },
    };
    let node = packet.interface.is_none();
    // What goes from here to an address of here has that as its source too.
    let address: IpAddr = if node { packet.destination } else { source };
    Origin { address, node, pod }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::decide;
    use crate::ipvs::{table, wanted};
    use crate::model::{Entry, Family, Policy, Protocol};
    use crate::nft::walk::balanced;
    use crate::options;
    use crate::packet::Node;
    use crate::state::State;
    use crate::walk::outcome;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NODE: &str = "192.168.9.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn choose(list: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
        proptest::sample::select(list)
    }

    /// A Service of an address and a port of a few, so that they get into each other's way.
    fn service() -> impl Strategy<Value = Value> {
        let ports = choose(&["TCP", "UDP"]);
        let policies = (choose(&["Local", "Cluster"]), choose(&["Local", "Cluster"]));
        let ranges = proptest::sample::subsequence(
            vec!["10.42.0.0/16", "192.168.9.0/24", "203.0.113.0/28"],
            0..3,
        );
        let externals = proptest::sample::subsequence(vec!["192.0.2.8", "192.0.2.9"], 0..2);
        (1..4u8, ports, policies, ranges, externals, any::<bool>()).prop_map(
            |(id, protocol, (internal, external), ranges, externals, exposed)| {
                let mut v = json!({"metadata": {"namespace": "d", "name": format!("s{id}")}, "spec": {"clusterIP": format!("10.43.0.{id}"),
                    "type": "LoadBalancer", "externalIPs": externals, "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
                    "loadBalancerSourceRanges": ranges, "ports": [{"name": "p", "port": 80, "protocol": protocol}]},
                    "status": {"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{}", 100 + id)}]}}});
                if exposed {
                    v["spec"]["ports"][0]["nodePort"] = json!(30000 + u16::from(id));
                }
                v
            },
        )
    }

    fn slice() -> impl Strategy<Value = Value> {
        let endpoint = (1..5u8, any::<bool>(), any::<bool>(), any::<bool>());
        let endpoints = proptest::collection::vec(endpoint, 0..4);
        (1..4u8, choose(&["TCP", "UDP"]), endpoints).prop_map(|(id, protocol, endpoints)| {
            // Where a pod is shows in its address.
            let list: Vec<Value> = endpoints.iter().map(|(e, here, ready, serving)| json!({
                "addresses": [format!("10.42.{}.{e}", u8::from(!here))], "nodeName": if *here { "me" } else { "other" },
                "conditions": {"ready": ready, "serving": serving, "terminating": !ready}})).collect();
            json!({"metadata": {"namespace": "d", "name": format!("s{id}-1"), "labels": {"kubernetes.io/service-name": format!("s{id}")}},
                "addressType": "IPv4", "ports": [{"name": "p", "port": 8080, "protocol": protocol}], "endpoints": list})
        })
    }

    fn packet() -> impl Strategy<Value = Packet> {
        let sources = choose(&[
            NODE,
            "10.42.0.1",
            "10.42.0.2",
            "10.42.0.77",
            "203.0.113.5",
            "198.51.100.5",
        ]);
        let to = choose(&[
            "10.43.0.1",
            "10.43.0.2",
            "10.43.0.3",
            "192.0.2.8",
            "192.0.2.101",
            "192.0.2.102",
            NODE,
        ]);
        let port = proptest::sample::select(vec![80, 30001, 30002, 30003]);
        (sources, to, port, any::<bool>()).prop_map(|(source, to, port, udp)| Packet {
            source: ip(source),
            destination: ip(to),
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            port,
            interface: (source != NODE).then(|| "eth0".to_owned()),
        })
    }

    fn options(known: bool) -> Options {
        let nets = Pods::Within(vec!["10.42.0.0/16".parse().expect("net")]);
        Options {
            common: options::Options {
                pods: if known { nets } else { Pods::Unknown },
                localhost_node_ports: false,
                ..options::Options::default()
            },
            own_addresses: [ip(NODE)].into(),
            ..Options::default()
        }
    }

    /// The same from the table, and from virtual servers as the kernel lists them.
    fn by_rules(found: &Wanted, options: &Options, packet: &Packet) -> Result<Outcome, String> {
        let table = table(&found.rules, Family::V4, &options.common);
        let mut addresses = vec![ip(NODE)];
        addresses.extend(&found.addresses);
        let node = Node { addresses };
        let mut packet = packet.clone();
        if packet.interface.is_none() {
            packet.source = packet.destination;
        }
        let protocol = packet.protocol;
        let balances = |address, port| {
            let key = ServerKey {
                address,
                protocol,
                port,
            };
            let server = found.servers.get(&key)?;
            let all = server.destinations.iter();
            Some(all.map(|d| (d.ip(), d.port())).collect())
        };
        outcome(&balanced(&table, &node, &packet, &balances))
    }

    /// What IPVS can't do as the model says, by its nature.
    fn is_known_to_differ(entries: &[Entry], options: &Options, packet: &Packet) -> bool {
        // Its own connections begin with a service's address, and must not leave with it.
        let own = packet.interface.is_none() && options.common.pods == Pods::Unknown;
        // Without a virtual server that has all endpoints there is no short way.
        let local = |e: &Entry| {
            let p = &e.port;
            let addresses = p.external_ips.iter().chain(&p.load_balancer_ips);
            let meant = p.node_port == Some(packet.port)
                || addresses.into_iter().any(|a| *a == packet.destination);
            meant && p.internal_policy == Policy::Local && p.external_policy == Policy::Local
        };
        own || entries.iter().any(local)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn packets_go_where_the_model_says(
            services in proptest::collection::vec(service(), 1..4),
            slices in proptest::collection::vec(slice(), 0..4),
            packets in proptest::collection::vec(packet(), 16),
            known in any::<bool>(),
        ) {
            let mut state = State::default();
            for v in services {
                state.set_service(&serde_json::from_value(v).expect("service"));
            }
            for v in slices {
                state.set_slice(&serde_json::from_value(v).expect("slice"), &"me".into());
            }
            let entries: Vec<Entry> = state.all().flatten().collect();
            let options = options(known);
            let found = wanted(&entries, &options);
            let node = Node { addresses: vec![ip(NODE)] };
            for packet in packets {
                if is_known_to_differ(&entries, &options, &packet) {
                    continue;
                }
                let want = decide(&entries, &options.common, &node, &packet);
                // All addresses of services are the node's own: no other port of theirs leads anywhere.
                let bound = found.addresses.contains(&packet.destination);
                let want = if bound && want == Outcome::Pass { Outcome::Refused } else { want };
                prop_assert_eq!(walk(&found, &options, &packet), want.clone(), "{}", packet);
                prop_assert_eq!(by_rules(&found, &options, &packet), Ok(want), "{}", packet);
            }
        }
    }
}
