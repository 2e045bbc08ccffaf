//! The NetworkPolicy documentation, clause by clause (the concept page, and the fields' comments in
//! staging/src/k8s.io/api/networking/v1/types.go).

use serde_json::{Value, json};

use super::support::Cluster;
use crate::policy::decide::{Lack, Outcome, explain, why};
use crate::policy::model::{Direction, Host, Name, Packet, Verdict};

const PODS: &str = "x/a x/b y/a y/b z/a";
const ALLOW: Verdict = Verdict::Allow;
const IN: Verdict = Verdict::Deny(Direction::Ingress);
const OUT: Verdict = Verdict::Deny(Direction::Egress);

/// What is said, policies as `x/name` with their specs, and packets: from, to, by what, and what happens.
type Clause<'a> = (
    &'a str,
    Vec<(&'a str, Value)>,
    Vec<(&'a str, &'a str, &'a str, Verdict)>,
);

fn run(clauses: Vec<Clause<'_>>) {
    for (clause, policies, packets) in clauses {
        let mut cluster = Cluster::new(PODS);
        policies
            .iter()
            .for_each(|(name, spec)| cluster.policy(name, spec));
        for (from, to, transport, want) in packets {
            let v6 = from.contains(':') || to.contains(':');
            assert_eq!(
                cluster.verdict(from, to, transport, v6),
                want,
                "{clause}: {from} to {to} by {transport}"
            );
        }
    }
}

#[test]
fn who_is_isolated() {
    let a = json!({"matchLabels": {"pod": "a"}});
    run(vec![
        (
            "without policies everything passes",
            vec![],
            vec![
                ("x/a", "y/a", "tcp:80", ALLOW),
                ("1.1.1.1", "x/a", "udp:80", ALLOW),
                ("x/a", "1.1.1.1", "icmp", ALLOW),
            ],
        ),
        (
            "a policy applies to the pods it selects, of its own namespace",
            vec![("x/p", json!({"podSelector": a}))],
            vec![
                ("y/b", "x/a", "tcp:80", IN),
                ("y/b", "x/b", "tcp:80", ALLOW),
                ("y/b", "y/a", "tcp:80", ALLOW),
                ("x/a", "x/b", "tcp:80", ALLOW),
            ],
        ),
        (
            "an empty or missing pod selector selects all pods of the namespace",
            vec![("x/p", json!({})), ("y/p", json!({"podSelector": {}}))],
            vec![
                ("z/a", "x/a", "tcp:80", IN),
                ("z/a", "x/b", "tcp:80", IN),
                ("z/a", "y/b", "tcp:80", IN),
                ("x/a", "z/a", "tcp:80", ALLOW),
            ],
        ),
        (
            "egress rules without types isolate in both directions",
            vec![("x/p", json!({"podSelector": a, "egress": [{}]}))],
            vec![
                ("y/b", "x/a", "tcp:80", IN),
                ("x/a", "y/b", "tcp:80", ALLOW),
            ],
        ),
        (
            "ingress rules of a policy about egress mean nothing",
            vec![(
                "x/p",
                json!({"podSelector": a, "policyTypes": ["Egress"], "ingress": []}),
            )],
            vec![
                ("y/b", "x/a", "tcp:80", ALLOW),
                ("x/a", "y/b", "tcp:80", OUT),
            ],
        ),
        (
            "both ends must allow, the sender is asked first",
            vec![
                ("x/p", json!({"policyTypes": ["Egress"]})),
                ("y/p", json!({})),
            ],
            vec![
                ("x/a", "y/a", "tcp:80", OUT),
                ("x/a", "z/a", "tcp:80", OUT),
                ("z/a", "y/a", "tcp:80", IN),
                ("y/a", "z/a", "tcp:80", ALLOW),
            ],
        ),
        (
            "policies add up, in any order",
            vec![
                ("x/1", json!({"ingress": [{"ports": [{"port": 80}]}]})),
                ("x/2", json!({})),
                ("x/3", json!({"ingress": [{"from": [{"podSelector": {}}]}]})),
            ],
            vec![
                ("y/a", "x/a", "tcp:80", ALLOW),
                ("y/a", "x/a", "tcp:81", IN),
                ("x/b", "x/a", "tcp:81", ALLOW),
            ],
        ),
        (
            "a pod can't be kept from itself",
            vec![("x/p", json!({"policyTypes": ["Ingress", "Egress"]}))],
            vec![
                ("x/a", "x/a", "tcp:80", ALLOW),
                ("x/a", "x/b", "tcp:80", OUT),
            ],
        ),
        (
            "nor from its own node, nor its node from it",
            vec![("x/p", json!({"policyTypes": ["Ingress", "Egress"]}))],
            vec![
                ("node", "x/a", "tcp:80", ALLOW),
                ("x/a", "node", "tcp:10250", ALLOW),
                ("192.168.9.1", "x/a", "tcp:80", IN),
            ],
        ),
    ]);
}

#[test]
fn what_rules_allow() {
    let ingress = |rule: Value| vec![("x/p", json!({"ingress": [rule]}))];
    let egress = |rule: Value| vec![("x/p", json!({"policyTypes": ["Egress"], "egress": [rule]}))];
    run(vec![
        (
            "a rule without peers takes any, pod or not",
            ingress(json!({"from": [], "ports": [{"port": 80}]})),
            vec![
                ("y/a", "x/a", "tcp:80", ALLOW),
                ("1.1.1.1", "x/a", "tcp:80", ALLOW),
                ("2001:db8::1", "x/a", "tcp:80", ALLOW),
                ("y/a", "x/a", "tcp:81", IN),
                ("y/a", "x/a", "icmp", IN),
            ],
        ),
        (
            "a rule without ports takes any port and protocol",
            ingress(json!({"from": [{"podSelector": {}}], "ports": []})),
            vec![
                ("x/b", "x/a", "tcp:1", ALLOW),
                ("x/b", "x/a", "sctp:65535", ALLOW),
                ("x/b", "x/a", "icmp", ALLOW),
                ("y/a", "x/a", "tcp:1", IN),
            ],
        ),
        (
            "peer and port must match in one rule",
            vec![(
                "x/p",
                json!({"ingress": [
            {"from": [{"podSelector": {}}], "ports": [{"port": 80}]},
            {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "y"}}}], "ports": [{"port": 81}]}]}),
            )],
            vec![
                ("x/b", "x/a", "tcp:80", ALLOW),
                ("x/b", "x/a", "tcp:81", IN),
                ("y/a", "x/a", "tcp:81", ALLOW),
                ("y/a", "x/a", "tcp:80", IN),
            ],
        ),
        (
            "the protocol is TCP unless said otherwise",
            ingress(json!({"ports": [{"port": 80}]})),
            vec![
                ("y/a", "x/a", "tcp:80", ALLOW),
                ("y/a", "x/a", "udp:80", IN),
                ("y/a", "x/a", "sctp:80", IN),
            ],
        ),
        (
            "ports of an egress rule are the destination's",
            egress(json!({"ports": [{"port": 53, "protocol": "UDP"}]})),
            vec![
                ("x/a", "1.1.1.1", "udp:53", ALLOW),
                ("x/a", "1.1.1.1", "tcp:53", OUT),
                ("x/a", "y/a", "udp:54", OUT),
            ],
        ),
        (
            "a name is of the pod that is talked to",
            egress(json!({"ports": [{"port": "serve-80-tcp"}]})),
            vec![
                ("x/a", "y/a", "tcp:80", ALLOW),
                ("x/a", "y/a", "udp:80", OUT),
                ("x/a", "1.1.1.1", "tcp:80", OUT),
            ],
        ),
        (
            "the name has the rule's protocol",
            egress(json!({"ports": [{"port": "serve-80-udp"}]})),
            vec![("x/a", "y/a", "tcp:80", OUT), ("x/a", "y/a", "udp:80", OUT)],
        ),
        (
            "a name among an address block's pods",
            egress(json!({"to": [{"ipBlock": {"cidr": "10.0.121.0/24"}}],
            "ports": [{"port": "serve-80-tcp"}]})),
            vec![
                ("x/a", "y/a", "tcp:80", ALLOW),
                ("x/a", "10.0.121.1", "tcp:80", OUT),
                ("x/a", "z/a", "tcp:80", OUT),
            ],
        ),
        (
            "names and numbers side by side",
            ingress(json!({"from": [{"podSelector": {}}],
            "ports": [{"port": "serve-81-tcp"}, {"port": 90, "endPort": 99}]})),
            vec![
                ("x/b", "x/a", "tcp:81", ALLOW),
                ("x/b", "x/a", "tcp:95", ALLOW),
                ("x/b", "x/a", "tcp:80", IN),
                ("y/b", "x/a", "tcp:81", IN),
            ],
        ),
        (
            "an address block is of one family",
            ingress(json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]})),
            vec![
                ("1.1.1.1", "x/a", "tcp:80", ALLOW),
                ("y/a", "x/a", "tcp:80", ALLOW),
                ("2001:db8::1", "x/a", "tcp:80", IN),
            ],
        ),
        (
            "the documentation's example of exceptions",
            ingress(json!({"from": [{"ipBlock":
            {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}}], "ports": [{"port": 6379}]})),
            vec![
                ("172.17.0.255", "x/a", "tcp:6379", ALLOW),
                ("172.17.1.0", "x/a", "tcp:6379", IN),
                ("172.17.1.255", "x/a", "tcp:6379", IN),
                ("172.17.2.0", "x/a", "tcp:6379", ALLOW),
                ("172.18.0.0", "x/a", "tcp:6379", IN),
            ],
        ),
    ]);
}

#[test]
fn what_means_nothing_allows_nothing() {
    let bad = json!({"matchExpressions": [{"key": "pod", "operator": "Is", "values": ["b"]}]});
    let rule = |rule: Value| vec![("x/p", json!({"ingress": [rule]}))];
    let nobody = |peer: Value| rule(json!({"from": [peer]}));
    let refused = || {
        vec![
            ("x/b", "x/a", "tcp:80", IN),
            ("y/b", "x/a", "tcp:80", IN),
            ("1.1.1.1", "x/a", "tcp:80", IN),
        ]
    };
    run(vec![
        ("pods", nobody(json!({"podSelector": bad})), refused()),
        (
            "namespaces",
            nobody(json!({"namespaceSelector": bad, "podSelector": {}})),
            refused(),
        ),
        ("an empty peer", nobody(json!({})), refused()),
        (
            "a block beside a selector",
            nobody(json!({"podSelector": {}, "ipBlock": {"cidr": "0.0.0.0/0"}})),
            refused(),
        ),
        (
            "a block",
            nobody(json!({"ipBlock": {"cidr": "everywhere"}})),
            refused(),
        ),
        (
            "an exception",
            nobody(json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["x"]}})),
            refused(),
        ),
        (
            "a port",
            rule(json!({"ports": [{"port": 80, "endPort": 79}, {"protocol": "IP"}]})),
            refused(),
        ),
        (
            "the policy's own selector: it applies to nobody",
            vec![("x/p", json!({"podSelector": bad}))],
            vec![("y/b", "x/a", "tcp:80", ALLOW)],
        ),
    ]);
    let mut cluster = Cluster::new(PODS);
    cluster.policy("x/p", &json!({"podSelector": bad}));
    assert_eq!(cluster.state.invalid().count(), 1);
    cluster.policy("x/p", &json!({}));
    assert_eq!(cluster.state.invalid().count(), 0);
}

#[test]
fn the_reasons_have_names() {
    let mut cluster = Cluster::new(PODS);
    cluster.policy("x/deny", &json!({"policyTypes": ["Ingress", "Egress"]}));
    cluster.policy("x/web", &json!({"podSelector": {"matchLabels": {"pod": "a"}}, "ingress": [{"ports": [{"port": 80}]}]}));
    let mut ask = |from: &str, to: &str, transport: &str, host| {
        cluster.verdict(from, to, transport, false);
        let mut packet = Packet {
            source: [10, 0, from.as_bytes()[0], from.as_bytes()[2]].into(),
            destination: [10, 0, to.as_bytes()[0], to.as_bytes()[2]].into(),
            transport: crate::policy::model::Transport::Port(crate::model::Protocol::Tcp, 80),
            host,
        };
        if transport == "tcp:81" {
            packet.transport =
                crate::policy::model::Transport::Port(crate::model::Protocol::Tcp, 81);
        }
        let d = explain(&cluster.state, &packet);
        (d.egress, d.ingress)
    };
    let named = |names: &[&str]| names.iter().map(|n| Name::new("x", n)).collect::<Vec<_>>();
    let neither = Host::Neither;
    assert_eq!(
        ask("y/a", "z/a", "tcp:80", neither),
        (Outcome::Open, Outcome::Open)
    );
    assert_eq!(
        ask("y/a", "x/a", "tcp:80", neither),
        (Outcome::Open, Outcome::Allowed(named(&["web"])))
    );
    assert_eq!(
        ask("y/a", "x/a", "tcp:81", neither),
        (Outcome::Open, Outcome::Denied(named(&["deny", "web"])))
    );
    assert_eq!(
        ask("x/b", "y/a", "tcp:80", neither),
        (Outcome::Denied(named(&["deny"])), Outcome::Open)
    );
    assert_eq!(
        ask("x/b", "x/b", "tcp:80", neither),
        (Outcome::Exempt, Outcome::Exempt)
    );
    assert_eq!(
        ask("y/a", "x/a", "tcp:81", Host::Source),
        (Outcome::NotHere, Outcome::Exempt)
    );
    assert_eq!(
        ask("x/a", "y/a", "tcp:81", Host::Destination),
        (Outcome::Exempt, Outcome::NotHere)
    );
    assert_eq!(
        ask("q/q", "x/b", "tcp:80", neither),
        (Outcome::NotHere, Outcome::Denied(named(&["deny"])))
    );
}

#[test]
fn each_policy_says_what_it_lacks() {
    let mut cluster = Cluster::new(PODS);
    let to_a =
        |rules: Value| json!({"podSelector": {"matchLabels": {"pod": "a"}}, "ingress": rules});
    let from_c = json!([{"podSelector": {"matchLabels": {"pod": "c"}}}]);
    let from_b = json!([{"podSelector": {"matchLabels": {"pod": "b"}}}]);
    cluster.policy("x/none", &json!({"policyTypes": ["Ingress"]}));
    cluster.policy(
        "x/peer",
        &to_a(json!([{"from": from_c, "ports": [{"port": 80}]}])),
    );
    cluster.policy("x/port", &to_a(json!([{"from": from_b, "ports": [{"port": 81}]}, {"from": from_c, "ports": [{"port": 80}]}])));
    cluster.policy(
        "x/both",
        &to_a(json!([{"from": from_c, "ports": [{"port": 81}]}])),
    );
    cluster.policy("x/web", &to_a(json!([{"from": from_b}])));
    let packet = Packet {
        source: [10, 0, b'x', b'b'].into(),
        destination: [10, 0, b'x', b'a'].into(),
        transport: crate::policy::model::Transport::Port(crate::model::Protocol::Tcp, 80),
        host: Host::Neither,
    };
    let lack = |name: &str| {
        let name = Name::new("x", name);
        why(&cluster.state, &packet, Direction::Ingress, &name)
    };
    for (name, want) in [
        ("none", Some(Lack::Rules)),
        ("peer", Some(Lack::Peer)),
        ("port", Some(Lack::Port)),
        ("both", Some(Lack::Both)),
        ("web", None),
        ("nobody", None),
    ] {
        assert_eq!(lack(name), want, "{name}");
    }
}
