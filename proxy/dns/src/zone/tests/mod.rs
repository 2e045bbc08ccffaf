//! A zone to ask, and how it is asked: [`answers`] by the specification, [`changes`] on the way to the zone.

mod answers;
mod changes;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
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
