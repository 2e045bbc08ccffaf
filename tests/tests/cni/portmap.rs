//! Host ports with real packets: a node, pods, and a client outside.
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::bed::{Bed, CLIENT, NODE, with};
use crate::traffic::{ask, serve, tcp, udp_socket};

const BACKENDS: [&str; 2] = ["nftables", "iptables"];

fn conf(backend: &str, ports: Value) -> Value {
    json!({"cniVersion": "1.1.0", "name": "pods", "type": "portmap", "backend": backend,
        "runtimeConfig": {"portMappings": ports}})
}

fn after(result: &Value, conf: Value) -> Value {
    with(conf, json!({"prevResult": result}))
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("ip"), port)
}

/// All rules that there are in the node, without counters.
fn rules(bed: &Bed) -> String {
    bed.sh("nft -s list ruleset; iptables-save -t nat; ip6tables-save -t nat")
        .lines()
        .filter(|l| !l.starts_with('#') && !l.starts_with(':'))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Rules of mappings: what they are without them stays.
fn mapped(bed: &Bed) -> bool {
    let rules = rules(bed);
    rules.contains("10.99.0.") || rules.contains("fd99::")
}

#[test]
fn a_pods_port_is_reached_from_everywhere() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let (a, b) = (bed.pod("a"), bed.pod("b"));
        let (result, _) = (bed.on_bridge(&a), bed.on_bridge(&b));
        serve(&a, "a", 80);
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]);
        let conf = after(&result, conf(backend, ports));
        let passed = bed.call("portmap", "ADD", &a, &conf).expect("add");
        assert_eq!(passed, result, "passed on");
        bed.call("portmap", "CHECK", &a, &conf).expect("sound");
        for family in 0..2 {
            let (node, client) = (NODE[family], CLIENT[family]);
            let gateway = ["10.99.0.1", "fd99::1"][family];
            // Whoever's answer comes back through the node is seen as who they are.
            let rows = [
                ("outside", bed.client(), node, client),
                ("the node", bed.node.clone(), node, node),
                ("another pod", b.clone(), node, gateway),
                ("itself", a.clone(), node, gateway),
                ("loopback", bed.node.clone(), "127.0.0.1", "10.99.0.1"),
            ];
            for (who, from, to, seen) in &rows[..5 - family] {
                let to = at(to, 8080);
                let want = Some(format!("a {seen}"));
                // The node's address is that of the link towards the pod where it opens the connection itself.
                let own = Some(format!("a {gateway}"));
                let tell = || format!("{backend}: {who} to {to}\n{}", rules(&bed));
                let said = tcp(from, to);
                assert!(
                    said == want || (*who == "the node" && said == own),
                    "{said:?} {}",
                    tell()
                );
                let said = ask(&udp_socket(from, to));
                assert!(
                    said == want || (*who == "the node" && said == own),
                    "{said:?} {}",
                    tell()
                );
            }
        }
        assert_eq!(
            tcp(&bed.client(), at(NODE[0], 80)),
            None,
            "only the host's port"
        );
        for again in 0..2 {
            bed.call("portmap", "DEL", &a, &conf).expect("del");
            assert!(!mapped(&bed), "{backend} {again}\n{}", rules(&bed));
        }
        assert_eq!(tcp(&bed.client(), at(NODE[0], 8080)), None);
        let gone = bed.call("portmap", "CHECK", &a, &conf);
        assert_eq!(gone.expect_err("gone")["code"], 102, "{backend}");
    }
}

#[test]
fn an_address_an_option_a_condition() {
    type Case = (
        &'static str,
        fn(&mut Value),
        Option<&'static str>,
        Option<&'static str>,
    );
    // What a client outside and another pod are told.
    let cases: &[Case] = &[
        (
            "the node's address",
            |v| v["runtimeConfig"]["portMappings"][0]["hostIP"] = json!(NODE[0]),
            Some("a 198.51.100.2"),
            Some("a 10.99.0.1"),
        ),
        (
            "another address",
            |v| v["runtimeConfig"]["portMappings"][0]["hostIP"] = json!("198.51.100.9"),
            None,
            None,
        ),
        (
            "any address",
            |v| v["runtimeConfig"]["portMappings"][0]["hostIP"] = json!("0.0.0.0"),
            Some("a 198.51.100.2"),
            Some("a 10.99.0.1"),
        ),
        (
            "masqAll",
            |v| v["masqAll"] = json!(true),
            Some("a 10.99.0.1"),
            Some("a 10.99.0.1"),
        ),
        (
            "markMasqBit",
            |v| v["markMasqBit"] = json!(5),
            Some("a 198.51.100.2"),
            Some("a 10.99.0.1"),
        ),
        (
            "condition",
            |v| v["conditionsV4"] = json!(["!", "-s", "198.51.100.2/32"]),
            None,
            Some("a 10.99.0.1"),
        ),
        (
            "externalSetMarkChain",
            |v| v["externalSetMarkChain"] = json!("SOMEBODYS"),
            Some("a 198.51.100.2"),
            Some("a 10.99.0.1"),
        ),
    ];
    for backend in BACKENDS {
        let bed = Bed::new();
        let (a, b) = (bed.pod("a"), bed.pod("b"));
        let (result, _) = (bed.on_bridge(&a), bed.on_bridge(&b));
        serve(&a, "a", 80);
        bed.sh("for p in iptables ip6tables; do $p -t nat -N SOMEBODYS; $p -t nat -A SOMEBODYS -j MARK --or-mark 0x800; \
            $p -t nat -A POSTROUTING -m mark --mark 0x800/0x800 -j MASQUERADE; done");
        for (name, change, outside, pod) in cases {
            let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
            let mut conf = after(&result, conf(backend, ports));
            change(&mut conf);
            let added = bed.call("portmap", "ADD", &a, &conf);
            if backend == "nftables" && ["condition", "externalSetMarkChain"].contains(name) {
                assert_eq!(added.expect_err("iptables' language")["code"], 7, "{name}");
                continue;
            }
            added.unwrap_or_else(|e| panic!("{backend} {name}: {e}"));
            bed.call("portmap", "CHECK", &a, &conf).expect("sound");
            let said = |from: &str| tcp(from, at(NODE[0], 8080));
            let tell = || format!("{backend} {name}\n{}", rules(&bed));
            assert_eq!(
                said(&bed.client()).as_deref(),
                *outside,
                "outside: {}",
                tell()
            );
            assert_eq!(said(&b).as_deref(), *pod, "pod: {}", tell());
            bed.call("portmap", "DEL", &a, &conf).expect("del");
            assert!(!mapped(&bed), "{}", tell());
        }
    }
}

#[test]
fn without_snat_nobody_is_masqueraded() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let a = bed.pod("a");
        let result = bed.on_bridge(&a);
        serve(&a, "a", 80);
        let ports = json!([{"hostPort": 8080, "containerPort": 80}]);
        let mut conf = after(&result, conf(backend, ports));
        conf["snat"] = json!(false);
        bed.call("portmap", "ADD", &a, &conf).expect("add");
        bed.call("portmap", "CHECK", &a, &conf).expect("sound");
        let told = tcp(&bed.client(), at(NODE[0], 8080));
        assert_eq!(told.as_deref(), Some("a 198.51.100.2"), "{backend}");
        assert!(
            !rules(&bed).to_lowercase().contains("127.0.0.1"),
            "{backend}"
        );
        let local = bed.sh("cat /proc/sys/net/ipv4/conf/keelson0/route_localnet");
        assert_eq!(local.trim(), "0", "{backend}: only where it is needed");
    }
}

#[test]
fn who_comes_last_has_the_port_and_keeps_it() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let (a, b) = (bed.pod("a"), bed.pod("b"));
        serve(&a, "a", 80);
        serve(&b, "b", 80);
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]);
        let (of_a, of_b) = (
            after(&bed.on_bridge(&a), conf(backend, ports.clone())),
            after(&bed.on_bridge(&b), conf(backend, ports)),
        );
        let client = udp_socket(&bed.client(), at(NODE[0], 8080));
        assert_eq!(ask(&client), None, "nobody is there");
        // The same flow, of which the kernel remembers where it went.
        let from = format!(" {}", CLIENT[0]);
        bed.call("portmap", "ADD", &a, &of_a).expect("add a");
        assert_eq!(
            ask(&client),
            Some(format!("a{from}")),
            "{backend}\n{}",
            rules(&bed)
        );
        bed.call("portmap", "ADD", &b, &of_b).expect("add b");
        assert_eq!(
            ask(&client),
            Some(format!("b{from}")),
            "{backend}\n{}",
            rules(&bed)
        );
        bed.call("portmap", "DEL", &a, &of_a).expect("del a");
        assert_eq!(
            ask(&client),
            Some(format!("b{from}")),
            "{backend}\n{}",
            rules(&bed)
        );
        bed.call("portmap", "CHECK", &b, &of_b).expect("b is sound");
        bed.call("portmap", "DEL", &b, &of_b).expect("del b");
        assert_eq!(ask(&client), None, "{backend}");
    }
}

#[test]
fn gc_takes_what_belongs_to_nobody() {
    for backend in BACKENDS {
        let bed = Bed::new();
        let pods = [bed.pod("a"), bed.pod("b")];
        for (pod, port) in pods.iter().zip([8080, 8081]) {
            let ports = json!([{"hostPort": port, "containerPort": 80}]);
            let conf = after(&bed.on_bridge(pod), conf(backend, ports));
            bed.call("portmap", "ADD", pod, &conf).expect("add");
        }
        let mut gc = conf(backend, json!([]));
        gc["cni.dev/valid-attachments"] = json!([{"containerID": pods[1], "ifname": "eth0"}]);
        let mut other = gc.clone();
        other["name"] = json!("others");
        bed.call("portmap", "GC", "x", &other)
            .expect("gc of another network");
        assert!(rules(&bed).contains("8080"), "{backend}");
        bed.call("portmap", "GC", "x", &gc).expect("gc");
        let left = rules(&bed);
        assert!(
            !left.contains("8080") && left.contains("8081"),
            "{backend}\n{left}"
        );
        assert_eq!(bed.call("portmap", "STATUS", "x", &gc), Ok(Value::Null));
        gc.as_object_mut()
            .expect("object")
            .remove("cni.dev/valid-attachments");
        assert_eq!(
            bed.call("portmap", "GC", "x", &gc).expect_err("no list")["code"],
            7
        );
    }
}

#[test]
fn the_bridge_does_them_itself() {
    let bed = Bed::new();
    let a = bed.pod("a");
    serve(&a, "a", 80);
    let mut conf = bed.bridge();
    conf["runtimeConfig"] =
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let result = bed.call("bridge", "ADD", &a, &conf).expect("add");
    let told = tcp(&bed.client(), at(NODE[0], 8080));
    assert_eq!(told.as_deref(), Some("a 198.51.100.2"));
    let conf = after(&result, conf);
    bed.call("bridge", "CHECK", &a, &conf).expect("sound");
    bed.sh("nft flush table ip keelson-hostports");
    let broken = bed.call("bridge", "CHECK", &a, &conf);
    assert_eq!(broken.expect_err("rules are gone")["code"], 102);
    for _ in 0..2 {
        bed.call("bridge", "DEL", &a, &conf).expect("del");
        assert!(!mapped(&bed), "{}", rules(&bed));
    }
    // A port that can't be: nothing is left of the rest.
    let mut wrong = bed.bridge();
    wrong["runtimeConfig"] = json!({"portMappings": [{"hostPort": 0, "containerPort": 80}]});
    assert_eq!(
        bed.call("bridge", "ADD", &a, &wrong).expect_err("port 0")["code"],
        7
    );
    assert_eq!(bed.ports(), 0);
}

#[test]
fn debians_portmap_beside_it_keeps_its_own() {
    let bed = Bed::new();
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    serve(&a, "a", 80);
    serve(&b, "b", 80);
    let (of_a, of_b) = (bed.on_bridge(&a), bed.on_bridge(&b));
    let conf = |port: u16, result: &Value| {
        let ports = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
        // Debian's knows no 1.1.0.
        let conf = with(conf("nftables", ports), json!({"cniVersion": "1.0.0"}));
        after(&with(result.clone(), json!({"cniVersion": "1.0.0"})), conf)
    };
    let (own, theirs) = (conf(8080, &of_a), conf(8081, &of_b));
    let told = || [8080, 8081].map(|port| tcp(&bed.client(), at(NODE[0], port)));
    let says = |name: &str| Some(format!("{name} {}", CLIENT[0]));
    bed.call("debian:portmap", "ADD", &b, &theirs)
        .expect("Debian's: install containernetworking-plugins");
    bed.call("portmap", "ADD", &a, &own).expect("ours");
    assert_eq!(told(), [says("a"), says("b")]);
    bed.call("portmap", "DEL", &a, &own).expect("ours");
    assert_eq!(told(), [None, says("b")]);
    bed.call("portmap", "ADD", &a, &own).expect("ours");
    bed.call("debian:portmap", "DEL", &b, &theirs)
        .expect("Debian's");
    assert_eq!(told(), [says("a"), None]);
}
