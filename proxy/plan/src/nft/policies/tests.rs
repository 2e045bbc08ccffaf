use std::net::IpAddr;

use super::*;
use crate::model::Protocol;
use crate::nft::table::state;
use crate::nft::transaction::Transaction;
use crate::nft::walk::{self, Forwarded};
use crate::packet::Outcome;
use crate::policy::diff::Delta;
use crate::policy::model::{Host, Packet, Transport, Verdict};
use crate::policy::state::State;
use serde_json::json;

/// ICMP's protocol number; policies with ports never match it.
const ICMP: u8 = 1;

/// Both families' tables as they came about by changes: what policies' own tests by chance take along.
pub(crate) struct Rendered {
    sides: [(Live, Table); 2],
}

impl Rendered {
    pub(crate) fn new() -> Self {
        let side = |family| (Live::new(family), table(&Compiled::default(), family));
        Self {
            sides: [Family::V4, Family::V6].map(side),
        }
    }

    /// Carries a change out; what comes of it is what would be made at once, and what a start that reads it back makes.
    pub(crate) fn update(&mut self, delta: &Delta, compiled: &Compiled) {
        for (live, have) in &mut self.sides {
            let family = live.family();
            let transaction = live.update(delta);
            assert!(
                !delta.is_empty() || transaction.is_empty(),
                "nothing changed"
            );
            let want = table(compiled, family);
            let whole = Transaction::between(Some(have), &want);
            assert!(!whole.anew);
            assert_eq!(whole.apply(Some(have.clone())).as_ref(), Ok(&want));
            let forms = forms(delta, family);
            let form = |set| forms.sets.get(set).or(transaction.add_sets.get(set));
            let touched = transaction.add_elements.keys();
            for set in touched.chain(transaction.delete_elements.keys()) {
                assert!(
                    form(set).is_some_and(|f| f.same_form(&want.sets[set])),
                    "{set}"
                );
            }
            let now = transaction.apply(Some(have.clone())).expect("applies");
            assert!(now == want, "{now}\n{want}");
            assert!(Transaction::between(Some(&now), &want).is_empty());
            *have = now;
        }
    }

    /// A packet meets in the tables what policies say of it; false if it never comes there.
    pub(crate) fn ask(&self, packet: &Packet, want: Verdict) -> bool {
        let between_families = packet.source.is_ipv4() != packet.destination.is_ipv4();
        if packet.host != Host::Neither || between_families {
            return false;
        }
        let (protocol, port) = match packet.transport {
            Transport::Port(protocol, port) => (protocol.number(), port),
            // What stands there is an echo's identity: it may be like a port.
            Transport::Other => (ICMP, 80),
        };
        let family = Family::of(&packet.source);
        let table = self.sides.iter().find(|(live, _)| live.family() == family);
        let (_, table) = table.expect("family");
        let forwarded = Forwarded {
            source: packet.source,
            destination: packet.destination,
            protocol,
            port,
            tracked: true,
        };
        let way = walk::forwarded(table, &forwarded);
        let passes = way.outcome == Outcome::Pass;
        let lines = || way.lines().join("\n");
        assert_eq!(
            passes,
            want == Verdict::Allow,
            "{packet:?}\n{}\n{table}",
            lines()
        );
        true
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("ip")
}

/// Two pods of one node, one of them with a policy of everything there is.
fn compiled() -> Compiled {
    let mut state = State::new("me");
    for (name, last) in [("web", 2), ("client", 3)] {
        let pod = json!({"metadata": {"namespace": "d", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": "me", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.42.0.{last}")}, {"ip": format!("fd42::{last}")}]}});
        state.set_pod(&serde_json::from_value(pod).expect("pod"));
    }
    let policy = json!({"metadata": {"namespace": "d", "name": "p"}, "spec": {
        "podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": "http"}]},
            {"from": [{"ipBlock": {"cidr": "192.168.0.0/16", "except": ["192.168.9.0/24"]}}],
             "ports": [{"port": 80}, {"port": 8000, "endPort": 8099}, {"protocol": "UDP"}]}],
        "egress": [{"to": [{"ipBlock": {"cidr": "::/0", "except": ["fd42::/64"]}}]}]}});
    state.set_policy(&serde_json::from_value(policy).expect("policy"));
    state.sync();
    state.compiled().clone()
}

#[test]
fn a_policy_of_everything() {
    let compiled = compiled();
    let tables = [Family::V4, Family::V6].map(|f| table(&compiled, f).to_string());
    insta::assert_snapshot!(tables.concat());
}

#[test]
fn what_ipvs_hands_on_is_judged_and_what_the_node_sends_is_not() {
    let mut table = table(&compiled(), Family::V4);
    judge_ipvs(&mut table);
    let text = table.to_string();
    let (_, output) = text.split_once("chain output { ").expect("a chain");
    let lines: Vec<&str> = output.lines().map(str::trim).take(6).collect();
    assert_eq!(
        lines,
        [
            "type filter hook output priority 0; policy accept;",
            "fib saddr type local return",
            "ct state related return",
            "ct state invalid,untracked goto untracked",
            "ct original ip saddr vmap @egress",
            "ct reply ip saddr vmap @ingress",
        ]
    );
}

#[test]
fn what_is_of_no_connection() {
    let table = table(&compiled(), Family::V6);
    let packet = |source: &str, destination: &str, protocol, port| Forwarded {
        source: ip(source),
        destination: ip(destination),
        protocol,
        port,
        tracked: false,
    };
    // The type stands where ports begin.
    let cases = [
        ("neighbour solicitation", 58, 135 << 8, Outcome::Pass),
        ("neighbour advertisement", 58, 136 << 8, Outcome::Pass),
        ("an echo", 58, 128 << 8, Outcome::Dropped),
        ("a port like such a type", 6, 135 << 8, Outcome::Dropped),
        (
            "even to an allowed port",
            Protocol::Tcp.number(),
            8080,
            Outcome::Dropped,
        ),
    ];
    for (name, protocol, port, want) in cases {
        for (from, to) in [("fd42::3", "fd42::2"), ("fd42::2", "fd42::3")] {
            let way = walk::forwarded(&table, &packet(from, to, protocol, port));
            assert_eq!(way.outcome, want, "{name}: {:?}", way.steps);
        }
        let open = packet("fd42::3", "fd42::9", protocol, port);
        assert_eq!(
            walk::forwarded(&table, &open).outcome,
            Outcome::Pass,
            "{name}"
        );
    }
    assert_eq!(state::UNTRACKED, 1 << 6);
}
