//! Random services, endpoints, options and packets, all of them from a seed.

use std::net::IpAddr;

use ipnet::IpNet;
use keelson_proxy_plan::model::{Family, Protocol};
use keelson_proxy_plan::options::{Options, Pods};
use keelson_proxy_plan::packet::{Node, Packet};
use keelson_proxy_plan::state::{Here, State};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Last bytes of this node's pods, and the interface that each is behind.
pub const PODS: [(u8, &str); 3] = [(2, "cni0"), (4, "cni0"), (6, "cni1")];
/// Last bytes of other nodes' pods: these, and clients from outside, are behind `eth0`.
pub const ELSEWHERE: [u8; 3] = [3, 5, 7];
/// Ports that packets of the sample go to where they are no endpoint's.
pub const PORTS: [u16; 7] = [80, 81, 82, 30_000, 30_001, 30_002, 30_003];
/// Ports of endpoints.
pub const ENDPOINT_PORTS: [u16; 2] = [8080, 8081];

/// Addresses of few services, pods and clients, so that they meet.
#[derive(Debug)]
pub struct World {
    rng: StdRng,
    family: Family,
}

/// An address of a network, in one of two families, by its last byte.
pub fn ip(family: Family, (v4, v6): (&str, &str), last: u8) -> String {
    match family {
        Family::V4 => format!("{v4}.{last}"),
        Family::V6 => format!("{v6}::{last:x}"),
    }
}

/// Networks of the sample: what an address begins with.
pub mod nets {
    /// Pods, of all nodes.
    pub const POD: (&str, &str) = ("10.42.0", "fd42");
    /// Cluster addresses.
    pub const CLUSTER: (&str, &str) = ("10.43.0", "fd43");
    /// External and load balancers' addresses.
    pub const EXTERNAL: (&str, &str) = ("192.0.2", "2001:db8:1");
    /// Clients from outside.
    pub const OUTSIDE: (&str, &str) = ("203.0.113", "2001:db8:2");
    /// The node's own.
    pub const NODE: (&str, &str) = ("192.168.1", "fd01");
    /// The node's own, on another link.
    pub const INNER: (&str, &str) = ("172.16.0", "fd02");
}
/// Last byte of the node's addresses.
const NODE: u8 = 10;

impl World {
    /// Of a family that depends on the seed too.
    pub fn new(seed: u64) -> Self {
        let family = if seed.is_multiple_of(2) {
            Family::V4
        } else {
            Family::V6
        };
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, family }
    }

    /// All its addresses are of this one.
    pub fn family(&self) -> Family {
        self.family
    }

    fn ip(&self, net: (&str, &str), last: u8) -> String {
        ip(self.family, net, last)
    }

    fn any(&mut self, net: (&str, &str), last: std::ops::Range<u8>) -> String {
        let last = self.rng.random_range(last);
        self.ip(net, last)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.rng).expect("some").clone()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn service(&mut self, id: u8) -> Value {
        let protocol = protocol(id);
        let kind = self.pick(&["ClusterIP", "NodePort", "LoadBalancer"]);
        let mut spec = json!({"type": kind, "clusterIPs": [self.ip(nets::CLUSTER, id)],
            "ports": [{"name": "a", "port": 80, "protocol": protocol}, {"name": "b", "port": 81}]});
        if kind != "ClusterIP" {
            spec["ports"][0]["nodePort"] = json!(30_000 + u16::from(self.rng.random_range(0..4u8)));
        }
        for policy in ["externalTrafficPolicy", "internalTrafficPolicy"] {
            spec[policy] = json!(self.pick(&["Cluster", "Local"]));
        }
        if self.chance(20) {
            spec["externalIPs"] = json!([self.any(nets::EXTERNAL, 1..4)]);
        }
        if self.chance(20) {
            spec["sessionAffinity"] = json!("ClientIP");
        }
        let mut service =
            json!({"metadata": {"namespace": "d", "name": format!("s{id}")}, "spec": spec});
        if kind == "LoadBalancer" {
            let ip = self.any(nets::EXTERNAL, 1..6);
            service["status"] = json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
            if self.chance(40) {
                let ranges = match self.family {
                    Family::V4 => ["10.42.0.0/16", "203.0.113.0/25", "192.168.1.10/32"],
                    Family::V6 => ["fd42::/16", "2001:db8:2::/64", "fd01::a/128"],
                };
                service["spec"]["loadBalancerSourceRanges"] = json!([self.pick(&ranges)]);
            }
        }
        service
    }

    fn slice(&mut self, id: u8) -> Value {
        let count = self.pick(&[0, 1, 2, 3, 5, 8]);
        let endpoints: Vec<Value> = (0..count).map(|_| self.endpoint()).collect();
        let kind = if self.family == Family::V4 {
            "IPv4"
        } else {
            "IPv6"
        };
        json!({"metadata": {"namespace": "d", "name": format!("s{id}-1"), "labels": {"kubernetes.io/service-name": format!("s{id}")}},
            "addressType": kind, "endpoints": endpoints,
            "ports": [{"name": "a", "port": 8080, "protocol": protocol(id)}, {"name": "b", "port": 8081}]})
    }

    fn endpoint(&mut self) -> Value {
        let (ready, serving, going) = (self.chance(70), self.chance(80), self.chance(30));
        let here = self.chance(50);
        let node = if here { "me" } else { "you" };
        let mut endpoint = json!({"addresses": [self.pod(here)], "nodeName": node,
            "conditions": {"ready": ready && !going, "serving": serving, "terminating": going}});
        if self.chance(30) {
            endpoint["hints"] = json!({"forZones": [{"name": self.pick(&["here", "there"])}]});
        }
        endpoint
    }

    /// A pod of this node, or of another.
    fn pod(&mut self, here: bool) -> String {
        let last = match here {
            true => self.pick(&PODS).0,
            false => self.pick(&ELSEWHERE),
        };
        self.ip(nets::POD, last)
    }

    /// Six Services with their endpoints.
    pub fn state(&mut self) -> State {
        let mut state = State::default();
        for id in 1..=6 {
            self.set_service(&mut state, id);
            self.set_slice(&mut state, id);
        }
        state
    }

    fn set_service(&mut self, state: &mut State, id: u8) {
        state.set_service(&serde_json::from_value(self.service(id)).expect("service"));
    }

    fn set_slice(&mut self, state: &mut State, id: u8) {
        let here = Here {
            node: "me".into(),
            zone: Some("here".into()),
        };
        let slice = serde_json::from_value(self.slice(id)).expect("slice");
        state.set_slice(&slice, &here);
    }

    /// A few Services and slices are made, changed or removed.
    pub fn change(&mut self, state: &mut State) {
        for _ in 0..self.rng.random_range(1..4) {
            self.change_one(state);
        }
    }

    fn change_one(&mut self, state: &mut State) {
        let id = self.rng.random_range(1..=6);
        match self.rng.random_range(0..10) {
            0..4 => self.set_slice(state, id),
            4..7 => self.set_service(state, id),
            7..9 => drop(state.remove_service("d", &format!("s{id}"))),
            _ => drop(state.remove_slice("d", &format!("s{id}-1"))),
        }
    }

    /// How pods are known, what is masked, where node ports are.
    pub fn options(&mut self) -> Options {
        let nets =
            |all: &[&str]| -> Vec<IpNet> { all.iter().map(|n| n.parse().expect("net")).collect() };
        Options {
            pods: self.pick(&[
                Pods::Within(nets(&["10.42.0.0/16", "fd42::/16"])),
                Pods::Within(nets(&[
                    "10.42.0.0/30",
                    "10.42.0.4/30",
                    "fd42::/126",
                    "fd42::4/126",
                ])),
                Pods::Behind("cni*".into()),
                Pods::Behind("cni0".into()),
                Pods::Unknown,
            ]),
            masquerade_all: self.chance(20),
            node_port_nets: self.pick(&[
                vec![],
                nets(&["192.168.1.0/24", "fd01::/64"]),
                nets(&["127.0.0.0/8", "::1/128", "192.168.1.0/24"]),
            ]),
            localhost_node_ports: self.chance(50),
            ..Options::default()
        }
    }

    /// From anybody to anything.
    pub fn packet(&mut self) -> Packet {
        let interface = self.pick(&[None, Some("cni0"), Some("cni1"), Some("eth0")]);
        let of_pod = self.chance(30);
        let source = match interface {
            None => self.ip(nets::NODE, NODE),
            Some("eth0") if of_pod => self.pod(false),
            Some("eth0") => self.any(nets::OUTSIDE, 1..255),
            Some(interface) => {
                let behind: Vec<_> = PODS.into_iter().filter(|p| p.1 == interface).collect();
                let (last, _) = self.pick(&behind);
                self.ip(nets::POD, last)
            }
        };
        // What another node's pod sends to a cluster address is translated there.
        let from = if interface == Some("eth0") && of_pod {
            5
        } else {
            0
        };
        let destination = match self.rng.random_range(from..10) {
            0..5 => self.any(nets::CLUSTER, 1..8),
            5..7 => self.any(nets::EXTERNAL, 1..6),
            7..9 => self.pick(&[self.ip(nets::NODE, NODE), self.ip(nets::INNER, NODE)]),
            _ => match self.family {
                Family::V4 => "127.0.0.1".into(),
                Family::V6 => "::1".into(),
            },
        };
        let port = match destination.starts_with("10.43") || destination.starts_with("fd43") {
            true => self.pick(&[80, 80, 80, 81, 81, 82, 30_000]),
            false => self.pick(&[80, 80, 81, 30_000, 30_001, 30_002, 30_003]),
        };
        Packet {
            source: source.parse().expect("ip"),
            destination: destination.parse().expect("ip"),
            protocol: self.pick(&[
                Protocol::Tcp,
                Protocol::Tcp,
                Protocol::Tcp,
                Protocol::Udp,
                Protocol::Sctp,
            ]),
            port,
            interface: interface.map(str::to_owned),
        }
    }

    /// The node of the sample.
    pub fn node(&self) -> Node {
        let own = [self.ip(nets::NODE, NODE), self.ip(nets::INNER, NODE)];
        let addresses: Vec<IpAddr> = own.iter().map(|a| a.parse().expect("ip")).collect();
        Node { addresses }
    }
}

fn protocol(service: u8) -> &'static str {
    match service {
        2 => "UDP",
        3 => "SCTP",
        _ => "TCP",
    }
}
