//! The cases of upstream's end-to-end suite (test/e2e/network/netpol/network_policy.go), as tables: which pods, which
//! policies one after the other, and who reaches whom then.

use serde_json::{Value, json};

use super::support::Cluster;

enum Step {
    Policy(&'static str, Value),
    Delete(&'static str),
    Pod(&'static str, Value),
    Namespace(&'static str, Value),
    /// Protocol and port, and what is expected.
    Expect(&'static str, &'static str),
}
use Step::{Delete, Expect, Namespace, Pod, Policy};

fn run(cases: Vec<(&str, &str, Vec<Step>)>) {
    for (name, pods, steps) in cases {
        let mut cluster = Cluster::new(pods);
        for step in steps {
            match step {
                Policy(policy, spec) => cluster.policy(policy, &spec),
                Delete(policy) => {
                    let (namespace, policy) = policy.split_once('/').expect("policy");
                    assert!(cluster.state.remove_policy(namespace, policy), "{name}");
                }
                Pod(pod, labels) => cluster.label_pod(pod, labels),
                Namespace(namespace, labels) => cluster.label_namespace(namespace, labels),
                Expect(transport, rules) => cluster.expect(name, transport, rules),
            }
        }
        assert_eq!(cluster.state.invalid().count(), 0, "{name}");
    }
}

fn pod(name: &str) -> Value {
    json!({"matchLabels": {"pod": name}})
}

fn namespace(name: &str) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": name}})
}

fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
}

fn not_x() -> Value {
    expression("kubernetes.io/metadata.name", "NotIn", &["x"])
}

/// A policy for the pods of a selector, with one ingress rule.
fn from(pods: &Value, peers: Value) -> Value {
    json!({"podSelector": pods, "ingress": [{"from": peers}]})
}

/// A policy for the pods of a selector, with one egress rule.
fn to(pods: &Value, peers: Value) -> Value {
    json!({"podSelector": pods, "policyTypes": ["Egress"], "egress": [{"to": peers}]})
}

const TCP: &str = "tcp:80";

#[test]
fn isolation() {
    let all = json!({});
    let deny_all = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    run(vec![
        (
            "default deny ingress",
            "x/a x/b y/a y/b",
            vec![
                Policy("x/deny", json!({"podSelector": {}})),
                Expect(TCP, "-*>x/*"),
                Expect("udp:80", "-*>x/*"),
                Expect("sctp:80", "-*>x/*"),
            ],
        ),
        (
            "default deny all",
            "x/a x/b y/a",
            vec![
                Policy("x/deny", deny_all.clone()),
                Expect(TCP, "-*>x/* -x/*>*"),
            ],
        ),
        (
            "ingress allowed for one pod",
            "x/a x/b y/a",
            vec![
                Policy("x/deny", json!({"podSelector": {}})),
                Policy(
                    "x/allow",
                    from(
                        &pod("a"),
                        json!([{"podSelector": {}, "namespaceSelector": {}}]),
                    ),
                ),
                Expect(TCP, "-*>x/b"),
            ],
        ),
        (
            "allow all",
            "x/a x/b y/a",
            vec![
                Policy("x/allow", json!({"podSelector": {}, "ingress": [{}]})),
                Expect(TCP, ""),
                Expect("tcp:81", ""),
            ],
        ),
        (
            "an updated policy",
            "x/a y/a",
            vec![
                Policy("x/p", json!({"podSelector": {}, "ingress": [{}]})),
                Expect("tcp:81", ""),
                Policy("x/p", json!({"podSelector": {}, "ingress": []})),
                Expect("tcp:81", "-*>x/*"),
            ],
        ),
        (
            "a deleted policy",
            "x/a y/a",
            vec![
                Policy("x/deny", deny_all),
                Expect(TCP, "-*>x/* -x/*>*"),
                Delete("x/deny"),
                Expect(TCP, ""),
            ],
        ),
        (
            "egress of one pod denied",
            "x/a x/b y/a",
            vec![
                Policy(
                    "x/deny",
                    json!({"podSelector": pod("a"), "policyTypes": ["Egress"]}),
                ),
                Expect(TCP, "-x/a>*"),
            ],
        ),
        (
            "egress of a namespace denied",
            "x/a x/b y/a",
            vec![
                Policy(
                    "x/deny",
                    json!({"podSelector": {}, "policyTypes": ["Egress"]}),
                ),
                Expect(TCP, "-x/*>*"),
            ],
        ),
        (
            "directions controlled independently",
            "x/a x/b y/a",
            vec![
                Policy(
                    "x/egress",
                    json!({"podSelector": pod("a"), "policyTypes": ["Egress"], "egress": [{}]}),
                ),
                Expect(TCP, ""),
                Policy("x/ingress", json!({"podSelector": pod("a")})),
                Expect(TCP, "-*>x/a"),
            ],
        ),
        (
            "other namespaces kept out",
            "x/a x/b y/a z/a",
            vec![
                Policy("x/p", from(&all, json!([{"podSelector": {}}]))),
                Expect(TCP, "-y/*>x/* -z/*>x/*"),
            ],
        ),
    ]);
}

#[test]
fn selectors() {
    let a = pod("a");
    let both = json!({"namespaceSelector": namespace("y"), "podSelector": pod("a")});
    run(vec![
        (
            "by pods of the same namespace",
            "x/a x/b x/c y/a",
            vec![
                Policy("x/p", from(&a, json!([{"podSelector": pod("b")}]))),
                Expect(TCP, "-*>x/a +x/b>x/a"),
            ],
        ),
        (
            "from all namespaces",
            "x/a x/b y/a z/a",
            vec![
                Policy("x/p", from(&a, json!([{"namespaceSelector": {}}]))),
                Expect(TCP, ""),
            ],
        ),
        (
            "by another namespace only",
            "x/a x/b y/a z/a",
            vec![
                Policy(
                    "x/p",
                    from(&a, json!([{"namespaceSelector": namespace("y")}])),
                ),
                Expect(TCP, "-x/*>x/a -z/*>x/a"),
            ],
        ),
        (
            "pods by expressions",
            "x/a x/b y/a",
            vec![
                Policy(
                    "x/p",
                    from(
                        &a,
                        json!([{"podSelector": expression("pod", "In", &["b"])}]),
                    ),
                ),
                Expect(TCP, "-*>x/a +x/b>x/a"),
            ],
        ),
        (
            "namespaces by expressions",
            "x/a x/b y/a z/a",
            vec![
                Policy(
                    "x/p",
                    from(
                        &a,
                        json!([{"namespaceSelector": expression("kubernetes.io/metadata.name", "In", &["y"])}]),
                    ),
                ),
                Expect(TCP, "-x/*>x/a -z/*>x/a"),
            ],
        ),
        (
            "pods or namespaces",
            "x/a x/b x/c y/a",
            vec![
                Policy(
                    "x/p",
                    from(
                        &a,
                        json!([{"namespaceSelector": not_x()}, {"podSelector": pod("b")}]),
                    ),
                ),
                Expect(TCP, "-x/c>x/a"),
            ],
        ),
        (
            "pods and namespaces",
            "x/a x/b y/a y/b z/b",
            vec![
                Policy(
                    "x/p",
                    from(
                        &a,
                        json!([{"namespaceSelector": not_x(), "podSelector": pod("b")}]),
                    ),
                ),
                Expect(TCP, "-*>x/a +y/b>x/a +z/b>x/a"),
            ],
        ),
        (
            "several pods in several namespaces",
            "x/a x/b y/a y/b y/c",
            vec![
                Policy(
                    "x/p",
                    from(
                        &a,
                        json!([{"namespaceSelector": not_x(), "podSelector": expression("pod", "In", &["b", "c"])}]),
                    ),
                ),
                Expect(TCP, "-x/*>x/a -y/a>x/a"),
            ],
        ),
        (
            "any of several selectors",
            "x/a x/b x/c",
            vec![
                Policy(
                    "x/p",
                    from(
                        &a,
                        json!([{"podSelector": pod("b")}, {"podSelector": pod("c")}]),
                    ),
                ),
                Expect(TCP, ""),
            ],
        ),
        (
            "one pod of another namespace",
            "x/a x/b y/a y/b z/a",
            vec![
                Policy("x/p", from(&a, json!([both]))),
                Expect(TCP, "-*>x/a +y/a>x/a"),
                Expect("udp:80", "-*>x/a +y/a>x/a"),
                Expect("sctp:80", "-*>x/a +y/a>x/a"),
            ],
        ),
        (
            "egress to a pod of another namespace",
            "x/a y/a y/b",
            vec![
                Policy("x/p", to(&a, json!([both]))),
                Expect(TCP, "-x/a>* +x/a>y/a"),
            ],
        ),
        (
            "egress refused though the server allows",
            "x/a y/a y/b",
            vec![
                Policy("x/out", to(&a, json!([both]))),
                Policy(
                    "y/a",
                    from(
                        &a,
                        json!([{"namespaceSelector": namespace("x"), "podSelector": a}]),
                    ),
                ),
                Policy(
                    "y/b",
                    from(
                        &pod("b"),
                        json!([{"namespaceSelector": namespace("x"), "podSelector": a}]),
                    ),
                ),
                Expect(TCP, "-*>y/* +x/a>y/a"),
            ],
        ),
        (
            "the label that every namespace has",
            "x/a x/b y/a z/a",
            vec![
                Policy(
                    "x/p",
                    to(
                        &a,
                        json!([{"namespaceSelector": expression("kubernetes.io/metadata.name", "NotIn", &["y"])}]),
                    ),
                ),
                Expect(TCP, "-x/a>y/*"),
            ],
        ),
        (
            "a namespace's new label",
            "x/a y/a",
            vec![
                Policy(
                    "x/p",
                    from(
                        &a,
                        json!([{"namespaceSelector": {"matchLabels": {"ns2": "updated"}}}]),
                    ),
                ),
                Expect(TCP, "-*>x/a"),
                Namespace("y", json!({"ns2": "updated"})),
                Expect(TCP, ""),
                Namespace("y", json!({})),
                Expect(TCP, "-*>x/a"),
            ],
        ),
        (
            "a peer's new label",
            "x/a x/b",
            vec![
                Policy(
                    "x/p",
                    from(
                        &a,
                        json!([{"podSelector": {"matchLabels": {"pod": "b", "pod2": "updated"}}}]),
                    ),
                ),
                Expect(TCP, "-*>x/a"),
                Pod("x/b", json!({"pod2": "updated"})),
                Expect(TCP, ""),
            ],
        ),
        (
            "a selected pod's new label",
            "x/a y/a",
            vec![
                Policy(
                    "x/p",
                    json!({"podSelector": {"matchLabels": {"target": "isolated"}}}),
                ),
                Expect(TCP, ""),
                Pod("x/a", json!({"target": "isolated"})),
                Expect(TCP, "-*>x/a"),
            ],
        ),
    ]);
}

#[test]
fn ports() {
    let a = pod("a");
    let y = json!([{"namespaceSelector": namespace("y")}]);
    let ingress =
        |pods: &Value, ports: Value| json!({"podSelector": pods, "ingress": [{"ports": ports}]});
    let from_y =
        |port: Value| json!({"podSelector": pod("a"), "ingress": [{"from": y, "ports": [port]}]});
    let egress = |ports: Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": ports}]});
    run(vec![
        (
            "one port from one namespace",
            "x/a x/b y/a y/b z/a",
            vec![
                Policy("x/p", from_y(json!({"port": 81}))),
                Expect("tcp:81", "-x/*>x/a -z/*>x/a"),
                Expect("tcp:80", "-*>x/a"),
                Policy("x/p", from_y(json!({"port": 81, "protocol": "UDP"}))),
                Expect("udp:81", "-x/*>x/a -z/*>x/a"),
                Policy("x/p", from_y(json!({"port": 81, "protocol": "SCTP"}))),
                Expect("sctp:81", "-x/*>x/a -z/*>x/a"),
            ],
        ),
        (
            "stacked policies",
            "x/a x/b y/a y/b z/a",
            vec![
                Policy("x/p81", from_y(json!({"port": 81}))),
                Expect("tcp:81", "-x/*>x/a -z/*>x/a"),
                Expect("tcp:80", "-*>x/a"),
                Policy("x/p80", from_y(json!({"port": 80}))),
                Expect("tcp:80", "-x/*>x/a -z/*>x/a"),
                Expect("tcp:81", "-x/*>x/a -z/*>x/a"),
            ],
        ),
        (
            "ingress to a named port",
            "x/a x/b y/a",
            vec![
                Policy(
                    "x/p",
                    ingress(&json!({}), json!([{"port": "serve-81-tcp"}])),
                ),
                Expect("tcp:81", ""),
                Expect("tcp:80", "-*>x/*"),
            ],
        ),
        (
            "ingress to a named port from one namespace",
            "x/a x/b y/a z/a",
            vec![
                Policy("x/p", from_y(json!({"port": "serve-80-tcp"}))),
                Expect("tcp:80", "-x/*>x/a -z/*>x/a"),
                Expect("tcp:81", "-*>x/a"),
            ],
        ),
        (
            "egress to a named port",
            "x/a y/a",
            vec![
                Policy("x/p", egress(json!([{"port": "serve-80-tcp"}]))),
                Expect("tcp:80", ""),
                Expect("tcp:81", "-x/*>*"),
            ],
        ),
        (
            "both directions at once",
            "x/a x/b x/c y/a",
            vec![
                Policy(
                    "x/p",
                    json!({"podSelector": a, "policyTypes": ["Egress", "Ingress"],
                "ingress": [{"from": [{"podSelector": pod("b")}]}], "egress": [{"ports": [{"port": 80}]}]}),
                ),
                Expect("tcp:80", "-*>x/a +x/b>x/a"),
                Expect("tcp:81", "-*>x/a -x/a>* +x/b>x/a"),
            ],
        ),
        (
            "any port of a protocol",
            "x/a y/a",
            vec![
                Policy("x/p", ingress(&a, json!([{"protocol": "TCP"}]))),
                Expect("tcp:80", ""),
                Expect("udp:80", "-*>x/a"),
            ],
        ),
        (
            "ingress for all beside a narrower policy",
            "x/a y/a",
            vec![
                Policy("x/p", ingress(&json!({}), json!([{"port": 80}]))),
                Expect("tcp:81", "-*>x/*"),
                Policy("x/all", json!({"podSelector": {}, "ingress": [{}]})),
                Expect("tcp:81", ""),
            ],
        ),
        (
            "egress for all beside a narrower policy",
            "x/a y/a",
            vec![
                Policy("x/p", egress(json!([{"port": 80}]))),
                Expect("tcp:81", "-x/*>*"),
                Policy(
                    "x/all",
                    json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}),
                ),
                Expect("tcp:81", ""),
            ],
        ),
        (
            "SCTP is not TCP",
            "x/a y/a",
            vec![
                Policy("x/deny", json!({"podSelector": {}})),
                Policy(
                    "x/p",
                    ingress(&a, json!([{"port": 81, "protocol": "SCTP"}])),
                ),
                Expect("tcp:81", "-*>x/*"),
                Expect("sctp:81", ""),
            ],
        ),
        (
            "a policy about SCTP isolates",
            "x/a y/a",
            vec![
                Policy(
                    "x/p",
                    ingress(&a, json!([{"port": 80, "protocol": "SCTP"}])),
                ),
                Expect("tcp:81", "-*>x/a"),
            ],
        ),
        (
            "UDP is not TCP",
            "x/a y/a",
            vec![
                Policy("x/p", ingress(&a, json!([{"port": 81, "protocol": "UDP"}]))),
                Expect("tcp:81", "-*>x/a"),
            ],
        ),
        (
            "a range of ports",
            "x/a y/a",
            vec![
                Policy("x/p", ingress(&a, json!([{"port": 80, "endPort": 90}]))),
                Expect("tcp:79", "-*>x/a"),
                Expect("tcp:80", ""),
                Expect("tcp:90", ""),
                Expect("tcp:91", "-*>x/a"),
                Policy("x/p", egress(json!([{"port": 80, "endPort": 90}]))),
                Expect("tcp:79", "-x/*>*"),
                Expect("tcp:85", ""),
            ],
        ),
    ]);
}

#[test]
fn blocks() {
    let a = pod("a");
    // x/b is 10.0.120.98 and fd00::78:62.
    let b =
        json!([{"ipBlock": {"cidr": "10.0.120.98/32"}}, {"ipBlock": {"cidr": "fd00::78:62/128"}}]);
    let around = json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.120.98/32"]}},
        {"ipBlock": {"cidr": "fd00::/16", "except": ["fd00::78:62/128"]}}]);
    run(vec![
        (
            "egress to one address",
            "x/a x/b x/c y/a",
            vec![
                Policy("x/p", to(&a, b.clone())),
                Expect(TCP, "-x/a>* +x/a>x/b"),
            ],
        ),
        (
            "an exception",
            "x/a x/b x/c",
            vec![
                Policy("x/p", to(&a, around.clone())),
                Expect(TCP, "-x/a>x/b"),
            ],
        ),
        (
            "an exception that another policy allows",
            "x/a x/b x/c",
            vec![
                Policy("x/p", to(&a, around.clone())),
                Policy("x/q", to(&a, b.clone())),
                Expect(TCP, ""),
                Delete("x/q"),
                Expect(TCP, "-x/a>x/b"),
                Policy("x/p", to(&a, b.clone())),
                Expect(TCP, "-x/a>* +x/a>x/b"),
            ],
        ),
        (
            "ingress from one address",
            "x/a x/b y/a",
            vec![Policy("x/p", from(&a, b)), Expect(TCP, "-*>x/a +x/b>x/a")],
        ),
    ]);
}
