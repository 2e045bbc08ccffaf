use serde_json::{Value, json};

use super::super::model::Direction;
use super::*;

fn read(spec: Value) -> (Policy, Vec<String>) {
    let object = json!({"metadata": {"namespace": "x", "name": "p"}, "spec": spec});
    let (policy, invalid) = policy(&serde_json::from_value(object).expect("policy"));
    (policy, invalid.iter().map(ToString::to_string).collect())
}

#[test]
fn directions() {
    let rule = json!([{}]);
    let cases = [
        ("nothing said", json!({}), true, false),
        ("ingress rules", json!({"ingress": rule}), true, false),
        ("egress rules", json!({"egress": rule}), true, true),
        (
            "an empty egress list is none",
            json!({"egress": []}),
            true,
            false,
        ),
        (
            "an empty list of types is none",
            json!({"policyTypes": [], "egress": rule}),
            true,
            true,
        ),
        (
            "both",
            json!({"policyTypes": ["Ingress", "Egress"]}),
            true,
            true,
        ),
        (
            "egress only",
            json!({"policyTypes": ["Egress"], "ingress": rule}),
            false,
            true,
        ),
        (
            "ingress only",
            json!({"policyTypes": ["Ingress"], "egress": rule}),
            true,
            false,
        ),
    ];
    for (name, spec, ingress, egress) in cases {
        let (policy, invalid) = read(spec);
        let has = |d| policy.rules(d).is_some();
        assert_eq!(
            (has(Direction::Ingress), has(Direction::Egress)),
            (ingress, egress),
            "{name}"
        );
        assert!(invalid.is_empty(), "{name}");
    }
}

#[test]
fn empty_lists_are_everything_and_invalid_ones_nothing() {
    let everything = PolicyRule {
        peers: None,
        ports: None,
    };
    for rule in [json!({}), json!({"from": [], "ports": []})] {
        assert_eq!(
            read(json!({"ingress": [rule]})).0.ingress.as_deref(),
            Some(&[everything.clone()][..])
        );
    }
    let (policy, invalid) = read(json!({"ingress": [{"from": [{}], "ports": [{"port": 0}]}]}));
    let nothing = PolicyRule {
        peers: Some(vec![]),
        ports: Some(vec![]),
    };
    assert_eq!(policy.ingress, Some(vec![nothing]));
    assert_eq!(
        invalid,
        [
            "network policy x/p: spec.ingress[0].from[0]: a peer is missing",
            "network policy x/p: spec.ingress[0].ports[0]: 0 is no port",
        ]
    );
}

#[test]
fn what_means_nothing_is_told_with_its_field() {
    let bad = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
    let peer = |p: Value| json!({"egress": [{}, {"to": [{"podSelector": {}}, p]}]});
    let cases = [
        (
            json!({"podSelector": bad}),
            "spec.podSelector: \"Is\" is no operator of a label selector",
        ),
        (
            json!({"policyTypes": ["Egress", "Forward"]}),
            "spec.policyTypes[1]: \"Forward\" is neither Ingress nor Egress",
        ),
        (
            peer(json!({"podSelector": bad})),
            "spec.egress[1].to[1].podSelector: \"Is\" is no operator of a label selector",
        ),
        (
            peer(json!({"namespaceSelector": bad, "podSelector": {}})),
            "spec.egress[1].to[1].namespaceSelector: \"Is\" is no operator of a label selector",
        ),
        (
            peer(json!({"ipBlock": {"cidr": "::/0"}, "podSelector": {}})),
            "spec.egress[1].to[1]: ipBlock stands beside another selector",
        ),
        (
            peer(json!({"ipBlock": {"cidr": "10.0.0.0"}})),
            "spec.egress[1].to[1].ipBlock: \"10.0.0.0\" is no CIDR",
        ),
        (
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/33"}})),
            "spec.egress[1].to[1].ipBlock: \"10.0.0.0/33\" is no CIDR",
        ),
        (
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}})),
            "spec.egress[1].to[1].ipBlock: \"x\" is no CIDR",
        ),
    ];
    for (spec, want) in cases {
        let (policy, invalid) = read(spec);
        assert_eq!(invalid, [format!("network policy x/p: {want}")]);
        let peers = policy
            .egress
            .as_ref()
            .and_then(|r| r.get(1))
            .map(|r| r.peers.as_ref().map(Vec::len));
        assert!(
            matches!(peers, None | Some(Some(1))),
            "{want}: the other peer stays alone"
        );
        assert_eq!(
            policy.pods.is_none(),
            want.starts_with("spec.podSelector"),
            "{want}"
        );
    }
}

#[test]
fn ports() {
    let cases = [
        (json!({}), Ok("tcp")),
        (json!({"protocol": "SCTP"}), Ok("sctp")),
        (json!({"port": 80}), Ok("tcp:80")),
        (json!({"port": 53, "protocol": "UDP"}), Ok("udp:53")),
        (json!({"port": 80, "endPort": 80}), Ok("tcp:80")),
        (json!({"port": 1, "endPort": 65535}), Ok("tcp:1-65535")),
        (json!({"port": "web", "protocol": "UDP"}), Ok("udp web")),
        (json!({"protocol": "ICMP"}), Err("\"ICMP\" is no protocol")),
        (json!({"port": 65536}), Err("65536 is no port")),
        (json!({"port": -1}), Err("-1 is no port")),
        (
            json!({"port": 80, "endPort": 65536}),
            Err("65536 is no port"),
        ),
        (
            json!({"port": 80, "endPort": 79}),
            Err("endPort 79 is below port 80"),
        ),
        (json!({"endPort": 80}), Err("endPort without port")),
        (
            json!({"port": "web", "endPort": 80}),
            Err("endPort beside the name of a port"),
        ),
        (json!({"port": "80"}), Err("\"80\" is no name of a port")),
        (json!({"port": ""}), Err("\"\" is no name of a port")),
        (json!({"port": "Web"}), Err("\"Web\" is no name of a port")),
        (
            json!({"port": "a--b"}),
            Err("\"a--b\" is no name of a port"),
        ),
        (
            json!({"port": "sixteen-letters-"}),
            Err("\"sixteen-letters-\" is no name of a port"),
        ),
    ];
    for (value, want) in cases {
        let got = port(&serde_json::from_value(value.clone()).expect("port")).map(|p| match p {
            Port::Numbers(range) => range.to_string(),
            Port::Named(port) => format!("{} {}", port.protocol.name(), port.name),
        });
        assert_eq!(got.as_deref().map_err(String::as_str), want, "{value}");
    }
}

#[test]
fn cidrs() {
    let cases = [
        ("10.0.0.0/8", Some("10.0.0.0/8")),
        ("10.1.2.3/8", Some("10.0.0.0/8")),
        ("010.001.000.000/16", Some("10.1.0.0/16")),
        ("0.0.0.0/0", Some("0.0.0.0/0")),
        ("2001:db8::1/64", Some("2001:db8::/64")),
        ("::/0", Some("::/0")),
        ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
        ("::ffff:0:0/95", Some("::fffe:0:0/95")),
        ("10.0.0.0", None),
        ("10.0.0/8", None),
        ("10.0.0.256/8", None),
        ("10.0.0.0/-1", None),
        ("", None),
    ];
    for (text, want) in cases {
        assert_eq!(cidr(text).map(|n| n.to_string()).as_deref(), want, "{text}");
    }
}

#[test]
fn pods() {
    let base = json!({"metadata": {"namespace": "x", "name": "a", "uid": "u", "labels": {"pod": "a"},
            "creationTimestamp": "1970-01-01T00:01:00Z"},
        "spec": {"nodeName": "me", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80},
            {"containerPort": 81}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
            "initContainers": [{"name": "i", "ports": [{"name": "init", "containerPort": 82}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 83},
                    {"name": "web", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}});
    let read = |change: &dyn Fn(&mut Value)| {
        let mut v = base.clone();
        change(&mut v);
        pod(&serde_json::from_value(v).expect("pod"), "me")
    };
    let a = read(&|_| ()).expect("pod");
    let ports: Vec<_> = a
        .ports
        .iter()
        .map(|p| format!("{} {} {}", p.name.name, p.name.protocol.name(), p.port))
        .collect();
    assert_eq!(ports, ["side tcp 83", "web tcp 80", "dns udp 53"]);
    assert_eq!(
        (a.local, a.ending, a.created, &*a.uid),
        (true, false, 60, "u")
    );
    assert_eq!(a.labels.get("pod"), Some("a"));
    let addresses = |change: &dyn Fn(&mut Value)| {
        read(change).map(|p| {
            p.addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        })
    };
    let one = |text: &str| Some(text.to_owned());
    assert_eq!(addresses(&|_| ()), one("10.0.0.1 fd00::1"));
    assert_eq!(
        addresses(&|v| v["status"]["podIPs"] = json!(null)),
        one("10.0.0.1")
    );
    assert_eq!(addresses(&|v| v["status"] = json!({})), one(""));
    assert_eq!(
        addresses(&|v| v["status"]["podIPs"] = json!([{"ip": "::ffff:10.0.0.9"}, {"ip": "x"}])),
        one("10.0.0.9")
    );
    assert_eq!(
        addresses(&|v| v["status"]["phase"] = json!("Succeeded")),
        None
    );
    assert_eq!(addresses(&|v| v["status"]["phase"] = json!("Failed")), None);
    assert_eq!(addresses(&|v| v["spec"]["hostNetwork"] = json!(true)), None);
    assert_eq!(
        read(&|v| v["spec"]["nodeName"] = json!("other")).map(|p| p.local),
        Some(false)
    );
    assert_eq!(
        read(&|v| v["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:02:00Z"))
            .map(|p| p.ending),
        Some(true)
    );
}
