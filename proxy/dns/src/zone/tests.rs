//! Questions and answers by the specification, section by section, and those of CoreDNS's tests of its kubernetes plugin; then that it
//! does not matter how the zone came to be what it is.

use std::collections::BTreeSet;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Zone;
use super::lookup::Asked;
use crate::answer::Outcome;
use crate::{query, reply};

pub(crate) fn service(name: &str, spec: Value) -> Service {
    let value = json!({"metadata": {"namespace": "testns", "name": name}, "spec": spec});
    serde_json::from_value(value).expect("service")
}

pub(crate) fn slice(
    name: &str,
    of: &str,
    family: &str,
    ports: Value,
    endpoints: Value,
) -> EndpointSlice {
    let labels = json!({"kubernetes.io/service-name": of});
    let value = json!({"metadata": {"namespace": "testns", "name": name, "labels": labels},
        "addressType": family, "ports": ports, "endpoints": endpoints});
    serde_json::from_value(value).expect("slice")
}

fn http() -> Value {
    json!([{"name": "http", "port": 80, "protocol": "TCP"}])
}

/// The objects of CoreDNS's tests, with slices as a cluster has them: one family each.
fn zone() -> Zone {
    let mut zone = Zone::new(
        "cluster.local",
        vec!["10.43.0.10".parse().expect("address")],
    )
    .expect("zone");
    let headless = || json!({"clusterIP": "None", "clusterIPs": ["None"]});
    let external =
        |name: &str| json!({"type": "ExternalName", "externalName": name, "ports": http()});
    let services = [
        (
            "svc1",
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": http()}),
        ),
        (
            "svc6",
            json!({"clusterIPs": ["1234:abcd::1"], "ports": http()}),
        ),
        (
            "svc-dual-stack",
            json!({"clusterIP": "10.0.0.3", "clusterIPs": ["10.0.0.3", "10::3"], "ports": http()}),
        ),
        (
            "two-ports",
            json!({"clusterIP": "10.0.0.4", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 54}]}),
        ),
        ("hdls1", headless()),
        ("hdlsprtls", headless()),
        ("empty", headless()),
        ("waiting", json!({"clusterIP": ""})),
        ("external", external("ext.interwebs.test")),
        ("external-dot", external("Ext.Interwebs.Test.")),
        (
            "external-to-service",
            external("svc1.testns.svc.cluster.local."),
        ),
        (
            "external-to-missing",
            external("nobody.testns.svc.cluster.local"),
        ),
        (
            "external-chain",
            external("external-to-service.testns.svc.cluster.local"),
        ),
        (
            "external-chain-out",
            external("external.testns.svc.cluster.local"),
        ),
        (
            "external-loop",
            external("external-loop.testns.svc.cluster.local"),
        ),
        ("external-ip", external("192.0.2.7")),
    ];
    for (name, spec) in services {
        zone.set_service(&service(name, spec));
    }
    let slices = [
        slice(
            "svc1-a",
            "svc1",
            "IPv4",
            http(),
            json!([{"addresses": ["172.0.0.1"], "hostname": "ep1a"}]),
        ),
        slice(
            "hdls1-4",
            "hdls1",
            "IPv4",
            http(),
            json!([
            {"addresses": ["172.0.0.2"]}, {"addresses": ["172.0.0.3"], "conditions": {"ready": true}},
            {"addresses": ["172.0.0.4"], "hostname": "dup-name"}, {"addresses": ["172.0.0.5"], "hostname": "dup-name"},
            {"addresses": ["172.0.0.6"], "hostname": "late", "conditions": {"ready": false, "serving": true}}]),
        ),
        slice(
            "hdls1-6",
            "hdls1",
            "IPv6",
            http(),
            json!([{"addresses": ["5678:abcd::1"]}, {"addresses": ["5678:abcd::2"]}]),
        ),
        slice(
            "hdlsprtls-4",
            "hdlsprtls",
            "IPv4",
            json!([]),
            json!([{"addresses": ["172.0.0.20"]}]),
        ),
        slice(
            "empty-4",
            "empty",
            "IPv4",
            http(),
            json!([{"addresses": ["172.0.0.30"], "conditions": {"ready": false}}]),
        ),
        slice(
            "names",
            "hdls1",
            "FQDN",
            http(),
            json!([{"addresses": ["a.example"]}]),
        ),
    ];
    for slice in slices {
        zone.set_slice(&slice);
    }
    zone
}

/// Asks in the form that the wire has, and reads the answer with hickory.
fn ask_at(
    zone: &Zone,
    name: &str,
    kind: RecordType,
    turn: usize,
    most: usize,
) -> Result<Message, String> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("name"), kind));
    let wire = message.to_vec().expect("wire");
    let query = query::read(&wire).expect("query");
    match zone.ask(
        &query.name,
        Asked {
            kind,
            turn,
            most: 100,
        },
    ) {
        Outcome::Elsewhere => Err("elsewhere".into()),
        Outcome::Alias(names) => Err(names
            .iter()
            .map(|n| crate::name::text(n))
            .collect::<Vec<_>>()
            .join(" ")),
        Outcome::Answer(answer) => {
            let mut out = Vec::new();
            reply::write(&query, &answer, zone, most, &mut out);
            assert!(out.len() <= most, "{name}: too long");
            Ok(Message::from_vec(&out).expect("an answer that hickory can read"))
        }
    }
}

fn lines(records: &[Record]) -> String {
    let line = |r: &Record| {
        let text = r.to_string();
        // The serial counts changes.
        if r.record_type() == RecordType::SOA {
            "SOA".to_owned()
        } else {
            text
        }
    };
    records.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// An answer as text: code, answers, `+` additionals, `-` authorities.
fn ask(zone: &Zone, name: &str, kind: RecordType) -> String {
    match ask_at(zone, name, kind, 0, 65_535) {
        Err(elsewhere) => elsewhere,
        Ok(message) => {
            assert_eq!(
                message.queries[0].name.to_ascii(),
                format!("{}.", name.trim_end_matches('.'))
            );
            assert!(message.metadata.authoritative && message.metadata.recursion_available);
            let mut text = vec![
                message.metadata.response_code.to_string(),
                lines(&message.answers),
            ];
            text.push(
                lines(&message.additionals)
                    .lines()
                    .map(|l| format!("+{l}"))
                    .collect::<Vec<_>>()
                    .join("\n"),
            );
            text.push(
                lines(&message.authorities)
                    .lines()
                    .map(|l| format!("-{l}"))
                    .collect::<Vec<_>>()
                    .join("\n"),
            );
            text.retain(|t| !t.is_empty());
            text.join("\n")
        }
    }
}

use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};

const NODATA: &str = "No Error\n-SOA";
const NXDOMAIN: &str = "Non-Existent Domain\n-SOA";

fn check(cases: &[(&str, RecordType, &str)]) {
    let zone = zone();
    for (name, kind, expected) in cases {
        let expected = match *expected {
            NODATA | NXDOMAIN => (*expected).to_owned(),
            "elsewhere" => "elsewhere".to_owned(),
            records => format!("No Error\n{records}"),
        };
        assert_eq!(ask(&zone, name, *kind), expected, "{name} {kind}");
    }
}

#[test]
fn schema_version_and_apex() {
    check(&[
        (
            "dns-version.cluster.local.",
            TXT,
            "dns-version.cluster.local. 28800 IN TXT 1.1.0",
        ),
        ("dns-version.cluster.local.", A, NODATA),
        ("a.dns-version.cluster.local.", TXT, NXDOMAIN),
        ("cluster.local.", A, NODATA),
        ("cluster.local.", SOA, "SOA"),
        (
            "cluster.local.",
            NS,
            "cluster.local. 5 IN NS ns.dns.cluster.local.\n+ns.dns.cluster.local. 5 IN A 10.43.0.10",
        ),
        (
            "ns.dns.cluster.local.",
            A,
            "ns.dns.cluster.local. 5 IN A 10.43.0.10",
        ),
        ("ns.dns.cluster.local.", AAAA, NODATA),
        ("dns.cluster.local.", A, NODATA),
        ("svc.cluster.local.", A, NODATA),
        ("svc.cluster.local.", NS, NODATA),
        ("pod.cluster.local.", A, NODATA),
        ("testns.svc.cluster.local.", A, NODATA),
        ("testns.svc.cluster.local.", NS, NODATA),
        ("foo.cluster.local.", NS, NXDOMAIN),
        ("foo.svc.cluster.local.", NS, NXDOMAIN),
        ("local.", A, "elsewhere"),
        ("example.org.", A, "elsewhere"),
        ("notcluster.local.", A, "elsewhere"),
    ]);
    let soa = ask_at(&zone(), "cluster.local.", SOA, 0, 512)
        .expect("answer")
        .answers[0]
        .to_string();
    let rest = soa
        .strip_prefix("cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. ")
        .expect("names");
    assert!(rest.ends_with(" 7200 1800 86400 5"), "{soa}");
}

#[test]
fn services_with_addresses() {
    check(&[
        (
            "svc1.testns.svc.cluster.local.",
            A,
            "svc1.testns.svc.cluster.local. 5 IN A 10.0.0.1",
        ),
        ("svc1.testns.svc.cluster.local.", AAAA, NODATA),
        ("svc1.testns.svc.cluster.local.", TXT, NODATA),
        ("svc1.testns.svc.cluster.local.", SOA, NODATA),
        ("svc1.testns.svc.cluster.local.", CNAME, NODATA),
        (
            "SVC1.TestNS.svc.Cluster.Local.",
            A,
            "SVC1.TestNS.svc.Cluster.Local. 5 IN A 10.0.0.1",
        ),
        (
            "svc6.testns.svc.cluster.local.",
            AAAA,
            "svc6.testns.svc.cluster.local. 5 IN AAAA 1234:abcd::1",
        ),
        ("svc6.testns.svc.cluster.local.", A, NODATA),
        (
            "svc-dual-stack.testns.svc.cluster.local.",
            A,
            "svc-dual-stack.testns.svc.cluster.local. 5 IN A 10.0.0.3",
        ),
        (
            "svc-dual-stack.testns.svc.cluster.local.",
            AAAA,
            "svc-dual-stack.testns.svc.cluster.local. 5 IN AAAA 10::3",
        ),
        ("svc0.testns.svc.cluster.local.", A, NXDOMAIN),
        ("svc0.svc-nons.svc.cluster.local.", A, NXDOMAIN),
        ("bogus.svc0.testns.svc.cluster.local.", A, NXDOMAIN),
        ("waiting.testns.svc.cluster.local.", A, NXDOMAIN),
        (
            "svc1.testns.svc.cluster.local.svc.cluster.local.",
            A,
            NXDOMAIN,
        ),
        ("*.testns.svc.cluster.local.", A, NXDOMAIN),
        ("svc1.*.svc.cluster.local.", A, NXDOMAIN),
        ("any.testns.svc.cluster.local.", A, NXDOMAIN),
        // Pods that a service exposes have names below it, says Kubernetes of all services.
        (
            "ep1a.svc1.testns.svc.cluster.local.",
            A,
            "ep1a.svc1.testns.svc.cluster.local. 5 IN A 172.0.0.1",
        ),
        ("172-0-0-1.svc1.testns.svc.cluster.local.", A, NXDOMAIN),
    ]);
}

#[test]
fn ports_of_services() {
    let port = "SRV 0 100 80 svc1.testns.svc.cluster.local.\n+svc1.testns.svc.cluster.local. 5 IN A 10.0.0.1";
    check(&[
        (
            "svc1.testns.svc.cluster.local.",
            SRV,
            &format!("svc1.testns.svc.cluster.local. 5 IN {port}"),
        ),
        (
            "_http._tcp.svc1.testns.svc.cluster.local.",
            SRV,
            &format!("_http._tcp.svc1.testns.svc.cluster.local. 5 IN {port}"),
        ),
        (
            "_HTTP._tcp.svc1.testns.svc.cluster.local.",
            SRV,
            &format!("_HTTP._tcp.svc1.testns.svc.cluster.local. 5 IN {port}"),
        ),
        ("_http._tcp.svc1.testns.svc.cluster.local.", A, NODATA),
        ("_tcp.svc1.testns.svc.cluster.local.", SRV, NODATA),
        ("_udp.svc1.testns.svc.cluster.local.", SRV, NXDOMAIN),
        ("_http._udp.svc1.testns.svc.cluster.local.", SRV, NXDOMAIN),
        ("_https._tcp.svc1.testns.svc.cluster.local.", SRV, NXDOMAIN),
        ("_._tcp.two-ports.testns.svc.cluster.local.", SRV, NXDOMAIN),
        ("a._http._tcp.svc1.testns.svc.cluster.local.", SRV, NXDOMAIN),
        (
            "_http._tcp.svc6.testns.svc.cluster.local.",
            SRV,
            "_http._tcp.svc6.testns.svc.cluster.local. 5 IN SRV 0 100 80 svc6.testns.svc.cluster.local.\n\
            +svc6.testns.svc.cluster.local. 5 IN AAAA 1234:abcd::1",
        ),
        (
            "svc-dual-stack.testns.svc.cluster.local.",
            SRV,
            "svc-dual-stack.testns.svc.cluster.local. 5 IN SRV 0 50 80 svc-dual-stack.testns.svc.cluster.local.\n\
            +svc-dual-stack.testns.svc.cluster.local. 5 IN A 10.0.0.3\n\
            +svc-dual-stack.testns.svc.cluster.local. 5 IN AAAA 10::3",
        ),
        (
            "_dns._udp.two-ports.testns.svc.cluster.local.",
            SRV,
            "_dns._udp.two-ports.testns.svc.cluster.local. 5 IN SRV 0 100 53 two-ports.testns.svc.cluster.local.\n\
            +two-ports.testns.svc.cluster.local. 5 IN A 10.0.0.4",
        ),
    ]);
}

#[test]
fn headless_services() {
    check(&[
        (
            "hdls1.testns.svc.cluster.local.",
            A,
            "hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.2\nhdls1.testns.svc.cluster.local. 5 IN A 172.0.0.3\n\
            hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.4\nhdls1.testns.svc.cluster.local. 5 IN A 172.0.0.5",
        ),
        (
            "hdls1.testns.svc.cluster.local.",
            AAAA,
            "hdls1.testns.svc.cluster.local. 5 IN AAAA 5678:abcd::1\nhdls1.testns.svc.cluster.local. 5 IN AAAA 5678:abcd::2",
        ),
        ("hdls1.testns.svc.cluster.local.", MX, NODATA),
        (
            "hdlsprtls.testns.svc.cluster.local.",
            A,
            "hdlsprtls.testns.svc.cluster.local. 5 IN A 172.0.0.20",
        ),
        ("hdlsprtls.testns.svc.cluster.local.", AAAA, NODATA),
        ("hdlsprtls.testns.svc.cluster.local.", SRV, NODATA),
        (
            "_http._tcp.hdlsprtls.testns.svc.cluster.local.",
            SRV,
            NXDOMAIN,
        ),
        (
            "172-0-0-20.hdlsprtls.testns.svc.cluster.local.",
            A,
            "172-0-0-20.hdlsprtls.testns.svc.cluster.local. 5 IN A 172.0.0.20",
        ),
        (
            "172-0-0-2.hdls1.testns.svc.cluster.local.",
            A,
            "172-0-0-2.hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.2",
        ),
        ("172-0-0-2.hdls1.testns.svc.cluster.local.", AAAA, NODATA),
        ("172-0-0-02.hdls1.testns.svc.cluster.local.", A, NXDOMAIN),
        ("172-0-0-4.hdls1.testns.svc.cluster.local.", A, NXDOMAIN),
        ("172-0-0-6.hdls1.testns.svc.cluster.local.", A, NXDOMAIN),
        ("late.hdls1.testns.svc.cluster.local.", A, NXDOMAIN),
        ("bogusendpoint.hdls1.testns.svc.cluster.local.", A, NXDOMAIN),
        (
            "Dup-Name.hdls1.testns.svc.cluster.local.",
            A,
            "Dup-Name.hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.4\nDup-Name.hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.5",
        ),
        (
            "5678-abcd--2.hdls1.testns.svc.cluster.local.",
            AAAA,
            "5678-abcd--2.hdls1.testns.svc.cluster.local. 5 IN AAAA 5678:abcd::2",
        ),
        ("5678-abcd--2.hdls1.testns.svc.cluster.local.", A, NODATA),
        ("empty.testns.svc.cluster.local.", A, NXDOMAIN),
        ("_tcp.hdls1.testns.svc.cluster.local.", A, NODATA),
        ("_tcp.empty.testns.svc.cluster.local.", A, NXDOMAIN),
    ]);
}

#[test]
fn ports_of_endpoints() {
    let all = ["172-0-0-2", "172-0-0-3", "dup-name", "5678-abcd--1", "5678-abcd--2"]
        .map(|host| format!("_http._tcp.hdls1.testns.svc.cluster.local. 5 IN SRV 0 16 80 {host}.hdls1.testns.svc.cluster.local."));
    let addresses = [
        ("172-0-0-2", "A 172.0.0.2"),
        ("172-0-0-3", "A 172.0.0.3"),
        ("dup-name", "A 172.0.0.4"),
        ("dup-name", "A 172.0.0.5"),
        ("5678-abcd--1", "AAAA 5678:abcd::1"),
        ("5678-abcd--2", "AAAA 5678:abcd::2"),
    ]
    .map(|(host, data)| format!("+{host}.hdls1.testns.svc.cluster.local. 5 IN {data}"));
    let expected = [all.join("\n"), addresses.join("\n")].join("\n");
    check(&[
        ("_http._tcp.hdls1.testns.svc.cluster.local.", SRV, &expected),
        (
            "hdls1.testns.svc.cluster.local.",
            SRV,
            &expected.replace("_http._tcp.hdls1", "hdls1"),
        ),
        ("_http._tcp.hdls1.testns.svc.cluster.local.", A, NODATA),
        (
            "_nothing._tcp.hdls1.testns.svc.cluster.local.",
            SRV,
            NXDOMAIN,
        ),
        (
            "172-0-0-3.hdls1.testns.svc.cluster.local.",
            SRV,
            "172-0-0-3.hdls1.testns.svc.cluster.local. 5 IN SRV 0 100 80 172-0-0-3.hdls1.testns.svc.cluster.local.\n\
            +172-0-0-3.hdls1.testns.svc.cluster.local. 5 IN A 172.0.0.3",
        ),
    ]);
}

#[test]
fn external_names() {
    let to_service = "external-to-service.testns.svc.cluster.local. 5 IN CNAME svc1.testns.svc.cluster.local.\n\
        svc1.testns.svc.cluster.local. 5 IN A 10.0.0.1";
    check(&[
        (
            "external.testns.svc.cluster.local.",
            CNAME,
            "external.testns.svc.cluster.local. 5 IN CNAME ext.interwebs.test.",
        ),
        (
            "external-to-service.testns.svc.cluster.local.",
            A,
            to_service,
        ),
        (
            "external-chain.testns.svc.cluster.local.",
            A,
            &format!(
                "external-chain.testns.svc.cluster.local. 5 IN CNAME external-to-service.testns.svc.cluster.local.\n{to_service}"
            ),
        ),
        (
            "external-to-service.testns.svc.cluster.local.",
            AAAA,
            "external-to-service.testns.svc.cluster.local. 5 IN CNAME svc1.testns.svc.cluster.local.\n-SOA",
        ),
        (
            "endpoint.external.testns.svc.cluster.local.",
            CNAME,
            NXDOMAIN,
        ),
        ("external-ip.testns.svc.cluster.local.", A, NXDOMAIN),
    ]);
    let zone = zone();
    assert_eq!(
        ask(&zone, "external.testns.svc.cluster.local.", A),
        "ext.interwebs.test."
    );
    assert_eq!(
        ask(&zone, "external-dot.testns.svc.cluster.local.", TXT),
        "ext.interwebs.test."
    );
    let out = ask(&zone, "external-chain-out.testns.svc.cluster.local.", A);
    assert_eq!(
        out,
        "external.testns.svc.cluster.local. ext.interwebs.test."
    );
    let looped = ask(&zone, "external-loop.testns.svc.cluster.local.", A);
    assert_eq!(looped, "Server Failure");
    let missing = ask(&zone, "external-to-missing.testns.svc.cluster.local.", A);
    assert_eq!(
        missing,
        "Non-Existent Domain\nexternal-to-missing.testns.svc.cluster.local. 5 IN CNAME nobody.testns.svc.cluster.local.\n-SOA"
    );
}

#[test]
fn aliases_are_followed_so_far() {
    let mut zone = zone();
    for i in 0..9 {
        let next = if i == 0 {
            "svc1".to_owned()
        } else {
            format!("chain{}", i - 1)
        };
        let target = format!("{next}.testns.svc.cluster.local");
        zone.set_service(&service(
            &format!("chain{i}"),
            json!({"type": "ExternalName", "externalName": target}),
        ));
    }
    let records = |name: &str| {
        let message = ask_at(
            &zone,
            &format!("{name}.testns.svc.cluster.local."),
            A,
            0,
            65_535,
        )
        .expect("answer");
        message.answers.len()
    };
    assert_eq!(
        (records("chain7"), records("chain8")),
        (9, 0),
        "eight and the address, and no further"
    );
}

#[test]
fn pods() {
    check(&[
        (
            "10-240-0-1.podns.pod.cluster.local.",
            A,
            "10-240-0-1.podns.pod.cluster.local. 5 IN A 10.240.0.1",
        ),
        ("10-240-0-1.podns.pod.cluster.local.", AAAA, NODATA),
        (
            "1234-abcd--1.podns.pod.cluster.local.",
            AAAA,
            "1234-abcd--1.podns.pod.cluster.local. 5 IN AAAA 1234:abcd::1",
        ),
        ("blah.podns.pod.cluster.local.", A, NXDOMAIN),
        ("10-240-0-256.podns.pod.cluster.local.", A, NXDOMAIN),
        ("a.10-240-0-1.podns.pod.cluster.local.", A, NXDOMAIN),
        ("podns.pod.cluster.local.", A, NODATA),
    ]);
}

#[test]
fn addresses_have_names() {
    check(&[
        (
            "1.0.0.10.in-addr.arpa.",
            PTR,
            "1.0.0.10.in-addr.arpa. 5 IN PTR svc1.testns.svc.cluster.local.",
        ),
        (
            "1.0.0.10.IN-ADDR.ARPA.",
            PTR,
            "1.0.0.10.IN-ADDR.ARPA. 5 IN PTR svc1.testns.svc.cluster.local.",
        ),
        (
            "1.0.0.172.in-addr.arpa.",
            PTR,
            "1.0.0.172.in-addr.arpa. 5 IN PTR ep1a.svc1.testns.svc.cluster.local.",
        ),
        (
            "2.0.0.172.in-addr.arpa.",
            PTR,
            "2.0.0.172.in-addr.arpa. 5 IN PTR 172-0-0-2.hdls1.testns.svc.cluster.local.",
        ),
        (
            "4.0.0.172.in-addr.arpa.",
            PTR,
            "4.0.0.172.in-addr.arpa. 5 IN PTR dup-name.hdls1.testns.svc.cluster.local.",
        ),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa.",
            PTR,
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa. 5 IN PTR svc6.testns.svc.cluster.local.",
        ),
        (
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.8.7.6.5.ip6.arpa.",
            PTR,
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.8.7.6.5.ip6.arpa. 5 IN PTR \
            5678-abcd--2.hdls1.testns.svc.cluster.local.",
        ),
        ("6.0.0.172.in-addr.arpa.", PTR, "elsewhere"),
        ("101.0.0.10.in-addr.arpa.", PTR, "elsewhere"),
        ("01.0.0.10.in-addr.arpa.", PTR, "elsewhere"),
        ("1.1.0.0.10.in-addr.arpa.", PTR, "elsewhere"),
        ("0.0.10.in-addr.arpa.", PTR, "elsewhere"),
    ]);
    assert_eq!(
        ask(&zone(), "1.0.0.10.in-addr.arpa.", A),
        "No Error",
        "our name, and not our authority"
    );
}

#[test]
fn addresses_take_turns_and_answers_are_cut_where_they_must() {
    let zone = zone();
    let name = "hdls1.testns.svc.cluster.local.";
    let order = |turn| {
        let message = ask_at(&zone, name, A, turn, 512).expect("answer");
        message
            .answers
            .iter()
            .map(|r| r.data.to_string())
            .collect::<Vec<_>>()
    };
    let firsts: BTreeSet<_> = (0..4).map(|turn| order(turn)[0].clone()).collect();
    assert_eq!(firsts.len(), 4, "each stands first once");
    assert_eq!(
        order(1),
        ["172.0.0.3", "172.0.0.4", "172.0.0.5", "172.0.0.2"]
    );
    let cut = ask_at(&zone, name, A, 0, 100).expect("answer");
    assert!(cut.metadata.truncation && cut.answers.len() == 3, "{cut}");
    let whole = ask_at(&zone, name, SRV, 0, 512).expect("answer");
    assert!(
        !whole.metadata.truncation && whole.answers.len() == 5,
        "additional records are left out in silence: {whole}"
    );
    assert!(whole.additionals.len() < 6, "{whole}");
}

#[test]
fn a_pod_in_two_slices_is_told_once() {
    let mut zone = zone();
    zone.set_slice(&slice(
        "hdls1-5",
        "hdls1",
        "IPv4",
        http(),
        json!([{"addresses": ["172.0.0.3"]}, {"addresses": ["172.0.0.9"]}]),
    ));
    let message = ask_at(&zone, "hdls1.testns.svc.cluster.local.", A, 0, 512).expect("answer");
    assert_eq!(message.answers.len(), 5, "{message}");
    let reverse = "3.0.0.172.in-addr.arpa.";
    assert!(zone.remove_slice("testns", "hdls1-4"));
    assert!(
        ask(&zone, reverse, PTR).contains("172-0-0-3.hdls1"),
        "the other slice has it still"
    );
    assert!(zone.remove_slice("testns", "hdls1-5"));
    assert_eq!(ask(&zone, reverse, PTR), "elsewhere");
}

#[test]
fn a_slice_can_change_its_service() {
    let mut zone = zone();
    let moved = slice(
        "hdls1-4",
        "hdlsprtls",
        "IPv4",
        http(),
        json!([{"addresses": ["172.0.0.2"]}]),
    );
    assert!(zone.set_slice(&moved) && !zone.set_slice(&moved));
    assert_eq!(ask(&zone, "hdls1.testns.svc.cluster.local.", A), NODATA);
    assert!(ask(&zone, "2.0.0.172.in-addr.arpa.", PTR).contains("hdlsprtls"));
}

/// Last byte of its address; it is ready; it has a host name.
type Pod = (u8, bool, bool);

/// A change to the cluster.
#[derive(Clone, Debug)]
enum Change {
    Service(u8, Option<u8>),
    /// Of which service, and its endpoints.
    Slice(u8, Option<(u8, Vec<Pod>)>),
    Relist,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let endpoints = prop::collection::vec((0..6_u8, any::<bool>(), any::<bool>()), 0..5);
    let change = prop_oneof![
        (0..4_u8, prop::option::of(0..6_u8)).prop_map(|(name, kind)| Change::Service(name, kind)),
        (0..4_u8, prop::option::of((0..4_u8, endpoints)))
            .prop_map(|(name, slice)| Change::Slice(name, slice)),
        Just(Change::Relist),
    ];
    prop::collection::vec(change, 1..40)
}

/// What the cluster is after changes: one object at most under a name.
type Cluster<T> = std::collections::BTreeMap<u8, T>;

fn service_object(name: u8, kind: u8) -> Service {
    let ip = format!("10.0.0.{name}");
    let spec = match kind {
        0 => json!({"clusterIP": "None", "ports": http()}),
        1 => json!({"type": "ExternalName", "externalName": "a.example"}),
        2 => json!({"clusterIPs": [ip, format!("fd00::{name}")], "ports": http()}),
        3 => json!({"clusterIP": ""}),
        4 => json!({"clusterIP": "10.0.0.9", "ports": http()}),
        _ => json!({"clusterIP": ip}),
    };
    service(&format!("s{name}"), spec)
}

fn slice_object(name: u8, of: u8, endpoints: &[(u8, bool, bool)]) -> EndpointSlice {
    let endpoint = |(ip, ready, named): &(u8, bool, bool)| {
        json!({"addresses": [format!("172.0.0.{ip}")], "conditions": {"ready": ready},
            "hostname": named.then(|| format!("h{}", ip % 3))})
    };
    let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    slice(
        &format!("e{name}"),
        &format!("s{of}"),
        "IPv4",
        http(),
        json!(endpoints),
    )
}

fn everything(zone: &Zone) -> Vec<String> {
    let mut names = vec![
        "testns.svc.cluster.local.".to_owned(),
        "9.0.0.10.in-addr.arpa.".to_owned(),
    ];
    for i in 0..6 {
        names.extend([
            format!("{i}.0.0.10.in-addr.arpa."),
            format!("{i}.0.0.172.in-addr.arpa."),
        ]);
        for prefix in [
            "",
            "_http._tcp.",
            "_tcp.",
            "h0.",
            "h1.",
            "h2.",
            "172-0-0-0.",
            "172-0-0-3.",
            "172-0-0-5.",
        ] {
            names.push(format!("{prefix}s{i}.testns.svc.cluster.local."));
        }
    }
    let kinds = [A, AAAA, SRV, PTR];
    names
        .iter()
        .flat_map(|name| kinds.map(|kind| format!("{name} {kind} {}", ask(zone, name, kind))))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_way_does_not_matter(changes in changes()) {
        let new = || Zone::new("cluster.local", Vec::new()).expect("zone");
        let mut zone = new();
        let (mut services, mut slices) = (Cluster::new(), Cluster::new());
        for change in changes {
            match change {
                Change::Service(name, Some(kind)) => {
                    zone.set_service(&service_object(name, kind));
                    services.insert(name, kind);
                }
                Change::Service(name, None) => {
                    zone.remove_service("testns", &format!("s{name}"));
                    services.remove(&name);
                }
                Change::Slice(name, Some((of, endpoints))) => {
                    zone.set_slice(&slice_object(name, of, &endpoints));
                    slices.insert(name, (of, endpoints));
                }
                Change::Slice(name, None) => {
                    zone.remove_slice("testns", &format!("e{name}"));
                    slices.remove(&name);
                }
                Change::Relist => {
                    // A list that lacks what has an even number: the rest is what stays.
                    services.retain(|name, _| name % 2 == 1);
                    slices.retain(|name, _| name % 2 == 1);
                    let names = |prefix: &str, all: Vec<u8>| all.iter().map(|n| ("testns".to_owned(), format!("{prefix}{n}"))).collect();
                    let (a, b) = (names("s", services.keys().copied().collect()), names("e", slices.keys().copied().collect()));
                    zone.retain(Some(&a), Some(&b));
                }
            }
        }
        let mut fresh = new();
        for (name, (of, endpoints)) in slices.iter().rev() {
            fresh.set_slice(&slice_object(*name, *of, endpoints));
        }
        for (name, kind) in &services {
            fresh.set_service(&service_object(*name, *kind));
        }
        prop_assert_eq!(everything(&zone), everything(&fresh));
        prop_assert_eq!(zone.names.len(), fresh.names.len());
        prop_assert_eq!(zone.reverse_v4.len(), fresh.reverse_v4.len());
        prop_assert_eq!(zone.reverse_v6.len(), fresh.reverse_v6.len());
        prop_assert_eq!((&zone.namespaces, zone.owners.len()), (&fresh.namespaces, fresh.owners.len()));
        zone.retain(Some(&BTreeSet::new()), Some(&BTreeSet::new()));
        prop_assert!(zone.names.is_empty() && zone.owners.is_empty() && zone.namespaces.is_empty());
        prop_assert!(zone.reverse_v4.is_empty() && zone.reverse_v6.is_empty() && zone.free.len() == zone.entries.len());
    }
}
