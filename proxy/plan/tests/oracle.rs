//! The differential oracle: random services, endpoints and packets. What the model says of a packet is what it meets
//! in each backend's rules.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use keelson_proxy_plan::decide::decide;
use keelson_proxy_plan::iptables::{self, Live, Ruleset, Table, ruleset};
use keelson_proxy_plan::model::{Entry, Family, Protocol};
use keelson_proxy_plan::nft;
use keelson_proxy_plan::nft::services::table;
use keelson_proxy_plan::options::{Options, Pods};
use keelson_proxy_plan::packet::{Node, Outcome, Packet};
use keelson_proxy_plan::state::{Here, State};
use keelson_proxy_plan::walk::{self, Way};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const WORLDS: u64 = 1_000;
const PACKETS: usize = 100;

/// Addresses of few services, pods and clients, so that they meet.
struct World {
    rng: StdRng,
    family: Family,
}

impl World {
    fn new(seed: u64) -> Self {
        let family = if seed.is_multiple_of(2) {
            Family::V4
        } else {
            Family::V6
        };
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, family }
    }

    fn ip(&self, v4: &str, v6: &str, last: u8) -> String {
        match self.family {
            Family::V4 => format!("{v4}.{last}"),
            Family::V6 => format!("{v6}::{last:x}"),
        }
    }

    fn any(&mut self, v4: &str, v6: &str, last: std::ops::Range<u8>) -> String {
        let last = self.rng.random_range(last);
        self.ip(v4, v6, last)
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
        let mut spec = json!({"type": kind, "clusterIPs": [self.ip("10.43.0", "fd43", id)],
            "ports": [{"name": "a", "port": 80, "protocol": protocol}, {"name": "b", "port": 81}]});
        if kind != "ClusterIP" {
            spec["ports"][0]["nodePort"] = json!(30_000 + u16::from(self.rng.random_range(0..4u8)));
        }
        for policy in ["externalTrafficPolicy", "internalTrafficPolicy"] {
            spec[policy] = json!(self.pick(&["Cluster", "Local"]));
        }
        if self.chance(20) {
            spec["externalIPs"] = json!([self.any("192.0.2", "2001:db8:1", 1..4)]);
        }
        if self.chance(20) {
            spec["sessionAffinity"] = json!("ClientIP");
        }
        let mut service =
            json!({"metadata": {"namespace": "d", "name": format!("s{id}")}, "spec": spec});
        if kind == "LoadBalancer" {
            let ip = self.any("192.0.2", "2001:db8:1", 1..6);
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
        let last = 2 * self.rng.random_range(1..4) + u8::from(!here);
        self.ip("10.42.0", "fd42", last)
    }

    fn state(&mut self) -> State {
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

    fn change(&mut self, state: &mut State) {
        let id = self.rng.random_range(1..=6);
        match self.rng.random_range(0..10) {
            0..4 => self.set_slice(state, id),
            4..7 => self.set_service(state, id),
            7..9 => drop(state.remove_service("d", &format!("s{id}"))),
            _ => drop(state.remove_slice("d", &format!("s{id}-1"))),
        }
    }

    fn options(&mut self) -> Options {
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

    fn packet(&mut self) -> Packet {
        let interface = self.pick(&[None, Some("cni0"), Some("cni1"), Some("eth0")]);
        let of_pod = self.chance(30);
        let source = match interface {
            None => self.ip("192.168.1", "fd01", 10),
            Some("eth0") if of_pod => self.pod(false),
            Some("eth0") => self.any("203.0.113", "2001:db8:2", 1..255),
            Some(_) => self.pod(true),
        };
        // What another node's pod sends to a cluster address is translated there.
        let from = if interface == Some("eth0") && of_pod {
            5
        } else {
            0
        };
        let destination = match self.rng.random_range(from..10) {
            0..5 => self.any("10.43.0", "fd43", 1..8),
            5..7 => self.any("192.0.2", "2001:db8:1", 1..6),
            7..9 => self.pick(&[
                self.ip("192.168.1", "fd01", 10),
                self.ip("172.16.0", "fd02", 10),
            ]),
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

    fn node(&self) -> Node {
        let own = [
            self.ip("192.168.1", "fd01", 10),
            self.ip("172.16.0", "fd02", 10),
        ];
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

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Refused => "refused",
        Outcome::Dropped => "dropped",
        Outcome::Sent(_) => "sent",
    }
}

#[test]
fn rules_do_what_the_model_says() {
    let mut met = BTreeMap::<_, usize>::new();
    for seed in 0..WORLDS {
        let mut world = World::new(seed);
        let family = world.family;
        let (state, options, node) = (world.state(), world.options(), world.node());
        let entries: Vec<Entry> = state.all().flatten().collect();
        let nft = table(entries.iter(), family, &options);
        let set = ruleset(entries.iter(), family, &options);
        let iptables = iptables::walk::Rules::new(&set).expect("rules that are understood");
        for _ in 0..PACKETS {
            let packet = world.packet();
            let want = decide(&entries, &options, &node, &packet);
            let case = || format!("seed {seed}, {packet}\n{options:?}");
            check(&want, &nft::walk::ways(&nft, &node, &packet), || {
                format!("{}\n{nft}", case())
            });
            let ways = iptables.ways(&node, &packet).expect("ways");
            check(&want, &ways, || format!("{}\n{}", case(), set.render()));
            *met.entry(kind(&want)).or_default() += 1;
        }
    }
    // A test of nothing would pass as well.
    assert!(
        met.len() == 4 && met.values().all(|n| *n > 2_000),
        "{met:?}"
    );
}

/// The ways end as the model says, and each is as likely as the others.
fn check(want: &Outcome, ways: &[Way], rules: impl Fn() -> String) {
    let got = walk::outcome(ways);
    let even = ways.iter().all(|w| usize::try_from(w.of) == Ok(ways.len()));
    if got.as_ref() != Ok(want) || !even {
        let lines: Vec<String> = ways.iter().flat_map(Way::lines).collect();
        panic!(
            "want {want:?}\ngot {got:?}\n{}\n{}",
            lines.join("\n"),
            rules()
        );
    }
}

/// What `iptables-restore --noflush` makes of rules.
fn restored(mut set: Ruleset, text: &str) -> Ruleset {
    for (table, chain, rules) in Ruleset::parse(text).all() {
        set.replace(table, chain.to_owned(), rules.to_vec());
    }
    let mut table = Table::Filter;
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("-X", chain)) => assert!(set.remove(table, chain).is_some(), "{chain} was there"),
            _ if line == "*nat" => table = Table::Nat,
            _ => {}
        }
    }
    set
}

#[test]
fn iptables_rules_changed_bit_by_bit_are_those_made_at_once() {
    let mut written = 0;
    for seed in 0..200 {
        let mut world = World::new(seed);
        let (mut state, options, family) = (world.state(), world.options(), world.family);
        let mut live = Live::new(family, options.clone());
        live.reset(state.all().flatten().collect::<Vec<_>>().iter());
        state.forget_changes();
        let mut kernel = live.ruleset().clone();
        for step in 0..20 {
            for _ in 0..world.rng.random_range(1..4) {
                world.change(&mut state);
            }
            let text = live.update(&state.take_changes());
            let entries: Vec<Entry> = state.all().flatten().collect();
            let fresh = ruleset(entries.iter(), family, &options);
            assert!(*live.ruleset() == fresh, "seed {seed}, step {step}");
            assert_eq!(
                text.is_none(),
                kernel == fresh,
                "seed {seed}, step {step}: written if other"
            );
            if let Some(text) = text {
                kernel = restored(kernel, &text);
                written += 1;
            }
            assert!(kernel == fresh, "seed {seed}, step {step}: restored");
        }
    }
    assert!(written > 2_000, "{written}");
}
