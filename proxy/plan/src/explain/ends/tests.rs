use super::*;
use serde_json::json;

fn known() -> Known {
    let pod = |name: &str, node: &str, host: bool, ips: &[&str]| {
        let ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        serde_json::from_value(
            json!({"metadata": {"namespace": "d", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "hostNetwork": host, "containers": []},
            "status": {"phase": "Pending", "podIPs": ips}}),
        )
        .expect("pod")
    };
    let service = |name: &str, spec: serde_json::Value| {
        let meta = json!({"namespace": "d", "name": name});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("service")
    };
    Known {
        node: "me".into(),
        services: vec![
            service(
                "web",
                json!({"clusterIPs": ["10.43.0.9", "fd43::9"], "ports": [{"name": "http", "port": 80}]}),
            ),
            service(
                "dns",
                json!({"clusterIP": "10.43.0.10", "ports": [{"name": "a", "port": 53, "protocol": "UDP"},
                {"name": "b", "port": 53, "protocol": "TCP"}, {"name": "m", "port": 9153}]}),
            ),
            service(
                "out",
                json!({"type": "ExternalName", "externalName": "x.example"}),
            ),
            service(
                "each",
                json!({"clusterIP": "None", "selector": {"app": "b"}, "ports": [{"port": 80}]}),
            ),
            service(
                "a",
                json!({"clusterIP": "10.43.0.11", "ports": [{"port": 80}]}),
            ),
        ],
        pods: vec![
            pod("a", "me", false, &["10.42.0.2", "fd42::2"]),
            pod("b", "other", false, &["10.42.1.2"]),
            pod("six", "me", false, &["fd42::6"]),
            pod("host", "me", true, &["192.168.9.1"]),
            pod("far", "other", true, &["192.168.9.2"]),
            pod("new", "me", false, &[]),
        ],
    }
}

fn ask(from: &str, to: &str, port: Option<u16>, protocol: Protocol) -> Result<Ends, String> {
    let (from, to) = (from.into(), to.into());
    let question = Question {
        from,
        to,
        port,
        protocol,
    };
    ends(&question, &known())
}

#[test]
fn both_ends_are_of_one_family() {
    let tcp = Protocol::Tcp;
    type Case<'a> = (
        &'a str,
        &'a str,
        Option<u16>,
        Option<&'a str>,
        &'a str,
        usize,
    );
    let cases: &[Case] = &[
        ("d/a", "d/web", None, Some("10.42.0.2"), "10.43.0.9:80", 0),
        ("d/six", "d/web", None, Some("fd42::6"), "[fd43::9]:80", 0),
        ("d/six", "d/a", Some(80), Some("fd42::6"), "[fd43::9]:80", 9),
        ("node", "d/web", None, None, "10.43.0.9:80", 0),
        ("d/host", "d/web", Some(80), None, "10.43.0.9:80", 1),
        (
            "d/far",
            "d/web",
            Some(80),
            Some("192.168.9.2"),
            "10.43.0.9:80",
            2,
        ),
        (
            "d/b",
            "d/dns",
            Some(9153),
            Some("10.42.1.2"),
            "10.43.0.10:9153",
            1,
        ),
        (
            "10.1.1.1",
            "d/b",
            Some(8080),
            Some("10.1.1.1"),
            "10.42.1.2:8080",
            0,
        ),
        ("d/a", "d/a", None, Some("10.42.0.2"), "10.43.0.11:80", 1),
        ("fd42::7", "[::]", Some(1), None, "", 9),
    ];
    for (from, to, port, source, destination, notes) in cases {
        let found = ask(from, to, *port, tcp);
        if *notes == 9 {
            found.expect_err(to);
            continue;
        }
        let found = found.expect(to);
        let at = crate::model::socket(found.destination, found.port);
        let source = source.map(|s| s.parse().expect("source"));
        assert_eq!(
            (found.source, at.as_str()),
            (source, *destination),
            "{from} {to}"
        );
        assert_eq!(found.notes.len(), *notes, "{from} {to} {:?}", found.notes);
    }
}

#[test]
fn errors_say_what_may_stand_there() {
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let cases = [
        (
            "me",
            "d/web",
            None,
            tcp,
            "FROM me: it is an address, NAMESPACE/POD, or \"node\"",
        ),
        (
            "d/none",
            "d/web",
            None,
            tcp,
            "FROM d/none: there is no such pod",
        ),
        (
            "d/new",
            "d/web",
            None,
            tcp,
            "has no address (its phase is Pending)",
        ),
        (
            "node",
            "web",
            None,
            tcp,
            "TO web: it is ADDRESS:PORT, NAMESPACE/SERVICE[:PORT] or",
        ),
        (
            "node",
            "d/none",
            None,
            tcp,
            "TO d/none: there is no such service and no such pod",
        ),
        ("node", "d/b", None, tcp, "which port? Say d/b:PORT"),
        (
            "node",
            "10.43.0.9",
            None,
            tcp,
            "which port? Say 10.43.0.9:PORT",
        ),
        (
            "node",
            "d/web",
            Some(81),
            tcp,
            "no tcp port 81; it has http 80/TCP",
        ),
        (
            "node",
            "d/web",
            Some(80),
            udp,
            "no udp port 80; it has http 80/TCP; --protocol",
        ),
        (
            "node",
            "d/web",
            None,
            udp,
            "no udp port; it has http 80/TCP (--protocol)",
        ),
        (
            "node",
            "d/dns",
            None,
            tcp,
            "which port? Say d/dns:PORT; it has a 53/UDP, b 53/TCP, m 9153/TCP",
        ),
        (
            "node",
            "d/out",
            Some(80),
            tcp,
            "another name of x.example in DNS",
        ),
        (
            "node",
            "d/each",
            Some(80),
            tcp,
            "headless service has no address: DNS gives its endpoints' (10.42.1.2)",
        ),
        (
            "d/b",
            "fd43::9",
            Some(80),
            tcp,
            "FROM d/b has 10.42.1.2: none of the same family",
        ),
    ];
    for (from, to, port, protocol, want) in cases {
        let error = ask(from, to, port, protocol).expect_err(want);
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(ask("node", "d/dns", None, udp).map(|e| e.port), Ok(53));
}
