//! Policies, pods, namespaces and packets by chance: what is compiled does what the specification says, and what came
//! about step by step is what would be made at once, the node's tables included.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use serde_json::{Value, from_value, json};

use crate::model::Protocol;
use crate::nft::policies::tests::Rendered;
use crate::policy::compiled::{Compiled, Peers, Ports};
use crate::policy::decide::{Outcome, explain};
use crate::policy::diff::diff;
use crate::policy::model::{Direction, Host, NamedPort, Packet, Transport};
use crate::policy::parse;
use crate::policy::state::State;
use crate::policy::walk::walk;

/// Choices, one byte each; without any left, always the first.
struct Dice {
    bytes: Vec<u8>,
    at: usize,
}

impl Dice {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes from a seed (splitmix64).
    fn seeded(seed: u64, bytes: usize) -> Self {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self::new(
            (0..bytes.div_ceil(8))
                .flat_map(|_| next().to_le_bytes())
                .collect(),
        )
    }

    fn is_over(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn below(&mut self, n: usize) -> usize {
        let byte = self.bytes.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        usize::from(byte) % n
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn some<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    /// Once in `n`.
    fn seldom(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 5] = ["a", "b", "c", "d", "e"];
const POLICIES: [&str; 4] = ["p", "q", "r", "s"];
const PROTOCOLS: [&str; 4] = ["TCP", "TCP", "UDP", "SCTP"];
const PORT_NAMES: [&str; 3] = ["web", "web", "dns"];
const PORTS: [u16; 4] = [80, 81, 8080, 65535];

/// Few, so that pods meet in them.
fn address(dice: &mut Dice) -> IpAddr {
    match dice.below(16) {
        n @ 0..=10 => [10, 0, 0, n as u8].into(),
        n => [0xfd00, 0, 0, 0, 0, 0, 0, n as u16].into(),
    }
}

fn labels(dice: &mut Dice) -> Value {
    let mut all = json!({});
    for key in ["app", "team"] {
        if dice.below(3) > 0 {
            all[key] = dice.one(&["1", "2"]).into();
        }
    }
    all
}

fn selector(dice: &mut Dice) -> Value {
    match dice.below(8) {
        0 | 1 => json!({}),
        2..=4 => json!({"matchLabels": {dice.one(&["app", "team"]): dice.one(&["1", "2"])}}),
        5 | 6 => {
            let operator = dice.one(&["In", "NotIn", "Exists", "DoesNotExist"]);
            let values: Vec<_> = match operator {
                "In" | "NotIn" => [dice.one(&["1", "2"])]
                    .into_iter()
                    .chain(dice.some(1, |d| d.one(&["1", "3"])))
                    .collect(),
                _ => vec![],
            };
            json!({"matchExpressions": [{"key": dice.one(&["app", "team"]), "operator": operator, "values": values}]})
        }
        _ if dice.seldom(4) => json!({"matchExpressions": [{"key": "app", "operator": "Is"}]}),
        _ => json!({"matchLabels": {"app": dice.one(&["1", "2"]), "team": dice.one(&["1", "2"])}}),
    }
}

fn net(dice: &mut Dice) -> String {
    let address = address(dice);
    let bits = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{}", bits - dice.one(&[0, 1, 2, 4, bits]))
}

fn peer(dice: &mut Dice) -> Value {
    match dice.below(8) {
        0 | 1 => json!({"podSelector": selector(dice)}),
        2 | 3 => json!({"namespaceSelector": selector(dice)}),
        4 => json!({"namespaceSelector": selector(dice), "podSelector": selector(dice)}),
        5 | 6 => json!({"ipBlock": {"cidr": net(dice), "except": dice.some(2, net)}}),
        _ if dice.seldom(4) => json!({}),
        _ => json!({"ipBlock": {"cidr": net(dice)}}),
    }
}

fn port(dice: &mut Dice) -> Value {
    let protocol = dice.one(&PROTOCOLS);
    match dice.below(8) {
        0 => json!({"protocol": protocol}),
        1 | 2 => json!({"protocol": protocol, "port": dice.one(&PORTS)}),
        3 => {
            let first = dice.one(&PORTS);
            json!({"protocol": protocol, "port": first, "endPort": u32::from(first) + dice.below(40) as u32})
        }
        _ => json!({"protocol": protocol, "port": dice.one(&PORT_NAMES)}),
    }
}

fn policy(dice: &mut Dice) -> Value {
    let mut spec = json!({"podSelector": selector(dice)});
    let types: &[&[&str]] = &[&[], &["Ingress"], &["Egress"], &["Ingress", "Egress"]];
    spec["policyTypes"] = json!(dice.one(types));
    let rule = |d: &mut Dice, side: &str| json!({side: d.some(3, peer), "ports": d.some(3, port)});
    let rules = |dice: &mut Dice, side: &str| dice.some(3, |d| rule(d, side));
    spec["ingress"] = json!(rules(dice, "from"));
    spec["egress"] = json!(rules(dice, "to"));
    spec
}

fn pod(dice: &mut Dice) -> Value {
    let container_port = |d: &mut Dice| json!({"name": d.one(&PORT_NAMES), "containerPort": d.one(&PORTS[..2]), "protocol": d.one(&PROTOCOLS)});
    let phase = if dice.seldom(12) {
        "Succeeded"
    } else {
        "Running"
    };
    let ips: Vec<_> = [address(dice)]
        .into_iter()
        .chain(dice.some(1, address))
        .map(|ip| json!({"ip": ip}))
        .collect();
    let mut pod = json!({"metadata": {"uid": dice.one(&["1", "2"]), "labels": labels(dice),
            "creationTimestamp": format!("1970-01-01T00:00:0{}Z", dice.below(3))},
        "spec": {"nodeName": dice.one(&["me", "me", "other"]), "hostNetwork": dice.seldom(12),
            "containers": [{"name": "c", "ports": dice.some(3, container_port)}]},
        "status": {"phase": phase, "podIPs": ips}});
    if dice.seldom(8) {
        pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:01:00Z");
    }
    pod
}

/// Mostly between pods, and now and then to a port with a name.
fn packet(state: &State, dice: &mut Dice) -> Packet {
    let pods: Vec<(IpAddr, &[NamedPort])> = state
        .pods()
        .flat_map(|(_, pod, addresses)| addresses.iter().map(|a| (*a, &*pod.ports)))
        .collect();
    let end = |dice: &mut Dice| {
        if pods.is_empty() || dice.seldom(4) {
            (address(dice), &[][..])
        } else {
            dice.one(&pods)
        }
    };
    let ((source, _), (destination, named)) = (end(dice), end(dice));
    let protocol = Protocol::parse(Some(dice.one(&PROTOCOLS))).expect("protocol");
    let near = dice.one(&[0, 0, 0, 0, 0, 0, 1, 39]);
    let transport = match named.get(dice.below(6)) {
        Some(port) => Transport::Port(port.name.protocol, port.port),
        None if dice.seldom(16) => Transport::Other,
        None => Transport::Port(protocol, dice.one(&PORTS).saturating_add(near)),
    };
    let host = match dice.below(16) {
        0 => Host::Source,
        1 => Host::Destination,
        _ => Host::Neither,
    };
    Packet {
        source,
        destination,
        transport,
        host,
    }
}

type Key = (String, String);

/// A state and, beside it, the objects that it was told.
struct World {
    state: State,
    /// What the node's tables become.
    rendered: Rendered,
    policies: BTreeMap<Key, NetworkPolicy>,
    pods: BTreeMap<Key, Pod>,
    namespaces: BTreeMap<Key, Namespace>,
    given: BTreeMap<Key, (&'static str, Vec<IpAddr>)>,
    /// Removed, but with addresses that the network plugin did not take back.
    gone: BTreeMap<Key, Pod>,
}

fn object<T: k8s_openapi::serde::de::DeserializeOwned>(key: &Key, mut value: Value) -> T {
    value["metadata"]["namespace"] = json!(key.0);
    value["metadata"]["name"] = json!(key.1);
    from_value(value).expect("object")
}

impl World {
    fn new() -> Self {
        Self {
            state: State::new("me"),
            rendered: Rendered::new(),
            policies: BTreeMap::new(),
            pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            given: BTreeMap::new(),
            gone: BTreeMap::new(),
        }
    }

    /// Whether a pod is kept when it is removed.
    fn is_kept(&self, key: &Key, pod: &Pod) -> bool {
        let given = self.given.get(key).map(|(uid, _)| *uid);
        parse::pod(pod, "me").is_some_and(|p| p.local && given == Some(&*p.uid))
    }

    /// One change.
    fn change(&mut self, dice: &mut Dice) {
        let namespace = dice.one(&NAMESPACES).to_owned();
        match dice.below(16) {
            0 => self.namespace(("".into(), namespace), dice),
            n @ 1..=4 => self.policy((namespace, dice.one(&POLICIES).into()), n == 1, dice),
            5 => self.give((namespace, dice.one(&PODS).into()), dice),
            6 if dice.seldom(4) => self.retain(dice),
            n => self.pod((namespace, dice.one(&PODS).into()), n == 7, dice),
        }
    }

    fn namespace(&mut self, key: Key, dice: &mut Dice) {
        if dice.seldom(4) {
            assert_eq!(
                self.state.remove_namespace(&key.1),
                self.namespaces.remove(&key).is_some()
            );
        } else {
            let namespace = object(&key, json!({"metadata": {"labels": labels(dice)}}));
            self.state.set_namespace(&namespace);
            self.namespaces.insert(key, namespace);
        }
    }

    fn policy(&mut self, key: Key, goes: bool, dice: &mut Dice) {
        if goes {
            assert_eq!(
                self.state.remove_policy(&key.0, &key.1),
                self.policies.remove(&key).is_some()
            );
        } else {
            let policy = object(&key, json!({"spec": policy(dice)}));
            self.state.set_policy(&policy);
            assert!(!self.state.set_policy(&policy), "nothing changed");
            self.policies.insert(key, policy);
        }
    }

    fn pod(&mut self, key: Key, goes: bool, dice: &mut Dice) {
        if goes {
            self.state.remove_pod(&key.0, &key.1);
            self.forget(key);
        } else {
            let pod = object(&key, pod(dice));
            self.state.set_pod(&pod);
            assert!(!self.state.set_pod(&pod), "nothing changed");
            self.gone.remove(&key);
            self.pods.insert(key, pod);
        }
    }

    fn forget(&mut self, key: Key) {
        if let Some(pod) = self.pods.remove(&key)
            && self.is_kept(&key, &pod)
        {
            self.gone.insert(key, pod);
        }
    }

    fn give(&mut self, key: Key, dice: &mut Dice) {
        let uid = dice.one(&["1", "2"]);
        let addresses = dice.some(2, address);
        self.state.set_addresses(&key.0, &key.1, uid, &addresses);
        if !addresses.is_empty() {
            self.given.insert(key, (uid, addresses));
        } else if self.given.get(&key).is_some_and(|(u, _)| *u == uid) {
            self.given.remove(&key);
        }
        let gone = std::mem::take(&mut self.gone);
        let kept = gone.into_iter().filter(|(key, pod)| self.is_kept(key, pod));
        self.gone = kept.collect();
    }

    fn retain(&mut self, dice: &mut Dice) {
        fn kept<T>(all: &BTreeMap<Key, T>, dice: &mut Dice) -> BTreeSet<Key> {
            all.keys().filter(|_| !dice.seldom(3)).cloned().collect()
        }
        let policies = kept(&self.policies, dice);
        let pods = kept(&self.pods, dice);
        let namespaces = kept(&self.namespaces, dice);
        self.state
            .retain(Some(&policies), Some(&pods), Some(&namespaces));
        self.policies.retain(|key, _| policies.contains(key));
        self.namespaces.retain(|key, _| namespaces.contains(key));
        let removed: Vec<Key> = self
            .pods
            .keys()
            .filter(|key| !pods.contains(*key))
            .cloned()
            .collect();
        removed.into_iter().for_each(|key| self.forget(key));
    }

    /// A state that is told everything at once, the last first.
    fn fresh(&self) -> State {
        let mut state = State::new("me");
        for (key, (uid, addresses)) in &self.given {
            state.set_addresses(&key.0, &key.1, uid, addresses);
        }
        for policy in self.policies.values().rev() {
            state.set_policy(policy);
        }
        for pod in self.pods.values().rev() {
            state.set_pod(pod);
        }
        for (key, pod) in &self.gone {
            state.set_pod(pod);
            state.remove_pod(&key.0, &key.1);
        }
        for namespace in self.namespaces.values().rev() {
            state.set_namespace(namespace);
        }
        state.sync();
        state
    }

    /// Brings the state up to date and compares it in every way there is.
    fn check(&mut self) {
        let mut before = self.state.compiled().clone();
        let delta = self.state.sync();
        let after = self.state.compiled();
        assert_eq!(delta, diff(&before, after), "what was told is what changed");
        before.apply(&delta);
        assert_eq!(before, *after, "doing it leads there");
        self.rendered.update(&delta, after);
        assert!(self.state.sync().is_empty(), "twice is nothing");
        let fresh = self.fresh();
        assert_eq!(
            self.state.compiled(),
            fresh.compiled(),
            "all at once is the same"
        );
        assert_eq!(
            self.state.invalid().collect::<Vec<_>>(),
            fresh.invalid().collect::<Vec<_>>()
        );
    }
}

/// How often packets met what.
#[derive(Default, Debug)]
struct Met {
    /// Of those that the node's tables were asked for too.
    packets: usize,
    /// What the specification said of an end, by its name.
    outcomes: BTreeMap<&'static str, usize>,
    /// What allowed a packet, in the compiled rules.
    rules: BTreeMap<&'static str, usize>,
}

impl Met {
    fn ask(&mut self, world: &World, packet: &Packet) {
        let state = &world.state;
        let decision = explain(state, packet);
        assert_eq!(
            walk(state.compiled(), packet),
            decision.verdict(),
            "{packet:?}: {decision:?}"
        );
        let met = world.rendered.ask(packet, decision.verdict());
        self.packets += usize::from(met);
        for (outcome, direction) in [
            (&decision.egress, Direction::Egress),
            (&decision.ingress, Direction::Ingress),
        ] {
            let name = match outcome {
                Outcome::Denied(_) => "denied",
                Outcome::Allowed(_) => "allowed",
                Outcome::Exempt => "exempt",
                Outcome::Open => "open",
                Outcome::NotHere => "not here",
            };
            *self.outcomes.entry(name).or_default() += 1;
            if name == "allowed" {
                self.matched(state.compiled(), packet, direction);
            }
        }
    }

    fn matched(&mut self, compiled: &Compiled, packet: &Packet, direction: Direction) {
        let (pod, peer) = match direction {
            Direction::Egress => (packet.source, packet.destination),
            Direction::Ingress => (packet.destination, packet.source),
        };
        let group = compiled
            .pods
            .get(&pod)
            .and_then(|m| m.group(direction))
            .expect("group");
        for rule in &compiled.groups[&group].rules {
            if rule.peer_matches(compiled, peer)
                && rule.port_matches(compiled, packet.destination, packet.transport)
            {
                let name = match (rule.peers, &rule.ports, direction) {
                    (_, Ports::Named(_), Direction::Ingress) => "named, in",
                    (_, Ports::Named(_), Direction::Egress) => "named, out",
                    (Peers::Any, ..) => "any",
                    (Peers::Addresses(_), ..) => "pods",
                    (Peers::Blocks(_), ..) => "blocks",
                };
                *self.rules.entry(name).or_default() += 1;
            }
        }
    }

    /// Plays until there are no more choices.
    fn play(&mut self, dice: &mut Dice, packets: usize) {
        let mut world = World::new();
        (0..12).for_each(|_| world.change(dice));
        while !dice.is_over() {
            for _ in 0..=dice.below(6) {
                world.change(dice);
            }
            world.check();
            for _ in 0..packets {
                self.ask(&world, &packet(&world.state, dice));
            }
        }
        let none = BTreeSet::new();
        world.state.retain(Some(&none), Some(&none), Some(&none));
        for ((namespace, pod), (uid, _)) in &world.given {
            world.state.set_addresses(namespace, pod, uid, &[]);
        }
        let delta = world.state.sync();
        world.rendered.update(&delta, world.state.compiled());
        assert!(world.state.is_bare(), "all is forgotten");
    }
}

#[test]
fn a_hundred_thousand_packets() {
    let mut met = Met::default();
    let mut seed = 0;
    while met.packets < 100_000 {
        met.play(&mut Dice::seeded(seed, 4_000), 50);
        seed += 1;
    }
    // A test of packets that nothing is said about would say nothing.
    assert_eq!((met.outcomes.len(), met.rules.len()), (5, 5), "{met:?}");
    let least = met.outcomes.values().chain(met.rules.values()).min();
    assert!(least > Some(&300), "{met:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The same, with choices that can be made fewer when something is wrong.
    #[test]
    fn compiled_rules_do_what_the_specification_says(bytes in prop::collection::vec(any::<u8>(), 0..1_500)) {
        Met::default().play(&mut Dice::new(bytes), 10);
    }
}
