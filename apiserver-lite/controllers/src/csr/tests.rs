use super::*;
use serde_json::{Value, from_value};

const CLIENT_USAGES: &[&str] = &["digital signature", "client auth"];
const SERVING_USAGES: &[&str] = &["digital signature", "server auth"];

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().expect("time")
}

struct Ask {
    signer: &'static str,
    common_name: &'static str,
    organization: &'static str,
    sans: &'static [&'static str],
    usages: &'static [&'static str],
    user: &'static str,
    group: &'static str,
}

const BASE: Ask = Ask {
    signer: NODE_CLIENT,
    common_name: "system:node:n",
    organization: "system:nodes",
    sans: &[],
    usages: CLIENT_USAGES,
    user: "system:node:n",
    group: "system:nodes",
};

fn request(ask: &Ask, status: Value) -> CertificateSigningRequest {
    let sans: Vec<String> = ask.sans.iter().map(|s| (*s).to_owned()).collect();
    let (_, pem) = csr::new(ask.common_name, &[ask.organization], &sans).expect("request");
    from_value(json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T23:00:00Z"},
        "spec": {"signerName": ask.signer, "request": ByteString(pem.into_bytes()), "usages": ask.usages,
            "username": ask.user, "groups": [ask.group, "system:authenticated"]}, "status": status}))
    .expect("request")
}

fn run(request: &CertificateSigningRequest, node: Option<&Node>) -> String {
    let sign = |pem: &str, usage: Usage, lasts: Option<Duration>| {
        anyhow::ensure!(pem.starts_with("-----BEGIN"), "not PEM");
        let lasts = lasts.map(|l| format!(" for {l:?}")).unwrap_or_default();
        Ok(format!("{usage:?}{lasts}"))
    };
    let outcome = plan(request, node, &sign, now()).expect("plan");
    let say = |a: &Action| match a {
        Action::Patch {
            patch, subresource, ..
        } => {
            let status = &patch["status"];
            match status.get("certificate") {
                Some(c) => {
                    let text: ByteString = from_value(c.clone()).expect("certificate");
                    format!("signed {}", String::from_utf8_lossy(&text.0))
                }
                None => {
                    let last = status["conditions"]
                        .as_array()
                        .and_then(|c| c.last())
                        .expect("condition");
                    format!(
                        "{} {}",
                        subresource.unwrap_or_default(),
                        last["type"].as_str().expect("type")
                    )
                }
            }
        }
        other => panic!("{other:?}"),
    };
    let mut all: Vec<String> = outcome.actions.iter().map(say).collect();
    all.extend(outcome.again.map(|_| "waits".to_owned()));
    all.join(",")
}

#[test]
fn validity_that_is_asked_for() {
    for (seconds, want) in [(3600, "3600s"), (10, "600s")] {
        let mut request = request(
            &BASE,
            json!({"conditions": [{"type": "Approved", "status": "True"}]}),
        );
        request.spec.expiration_seconds = Some(seconds);
        assert_eq!(run(&request, None), format!("signed Client for {want}"));
    }
}

#[test]
fn what_is_approved_and_signed() {
    let node: Node = from_value(json!({"metadata": {"name": "n"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}))
    .expect("node");
    let pending = || json!({});
    let approved = || json!({"conditions": [{"type": "Approved", "status": "True"}]});
    let denied = || json!({"conditions": [{"type": "Denied", "status": "True"}]});
    let joins = Ask {
        user: "system:bootstrap:abcdef",
        group: BOOTSTRAPPERS,
        ..BASE
    };
    let serves = Ask {
        signer: NODE_SERVING,
        sans: &["n", "192.0.2.1"],
        usages: SERVING_USAGES,
        ..BASE
    };
    let person = Ask {
        signer: CLIENT,
        common_name: "jane",
        organization: "dev",
        user: "jane",
        group: "dev",
        ..BASE
    };
    let rows: Vec<(&str, Ask, Value, bool, &str)> = vec![
        ("a node renews", BASE, pending(), true, "approval Approved"),
        ("a node joins", joins, pending(), false, "approval Approved"),
        (
            "somebody asks for a node",
            Ask {
                user: "jane",
                group: "dev",
                ..BASE
            },
            pending(),
            true,
            "",
        ),
        (
            "a node asks for another",
            Ask {
                common_name: "system:node:m",
                ..BASE
            },
            pending(),
            true,
            "",
        ),
        (
            "a user who calls himself a node",
            Ask {
                group: "dev",
                ..BASE
            },
            pending(),
            true,
            "",
        ),
        (
            "other usages",
            Ask {
                usages: SERVING_USAGES,
                ..BASE
            },
            pending(),
            true,
            "",
        ),
        ("approved", BASE, approved(), true, "signed Client"),
        ("denied", BASE, denied(), true, ""),
        (
            "approved by hand, but no node's",
            Ask {
                common_name: "jane",
                ..BASE
            },
            approved(),
            true,
            "status Failed",
        ),
        (
            "a serving certificate",
            Ask { ..serves },
            pending(),
            true,
            "approval Approved",
        ),
        (
            "of a node without addresses yet",
            Ask { ..serves },
            pending(),
            false,
            "waits",
        ),
        (
            "for a foreign address",
            Ask {
                sans: &["192.0.2.9"],
                ..serves
            },
            pending(),
            true,
            "waits",
        ),
        (
            "for a foreign name",
            Ask {
                sans: &["kubernetes"],
                ..serves
            },
            pending(),
            true,
            "waits",
        ),
        (
            "serving, approved",
            Ask { ..serves },
            approved(),
            false,
            "signed Serving",
        ),
        (
            "a person waits for a person",
            Ask { ..person },
            pending(),
            true,
            "",
        ),
        (
            "a person, approved",
            Ask { ..person },
            approved(),
            true,
            "signed Client",
        ),
        (
            "a person as server",
            Ask {
                usages: SERVING_USAGES,
                ..person
            },
            approved(),
            true,
            "status Failed",
        ),
        (
            "another signer",
            Ask {
                signer: "example.com/x",
                ..person
            },
            approved(),
            true,
            "",
        ),
    ];
    for (name, ask, status, has_node, want) in rows {
        let seen = run(&request(&ask, status), Some(&node).filter(|_| has_node));
        assert_eq!(seen, want, "{name}");
    }
}

#[test]
fn old_requests_go() {
    let at = |t: &str, type_: &str| json!({"type": type_, "status": "True", "lastUpdateTime": t});
    let (long, short) = ("2026-01-01T22:59:00Z", "2026-01-01T23:30:00Z");
    let rows = [
        ("pending for an hour", json!({}), false),
        (
            "approved, waits for its signer",
            json!({"conditions": [at(long, "Approved")]}),
            false,
        ),
        (
            "denied long ago",
            json!({"conditions": [at(long, "Denied")]}),
            true,
        ),
        (
            "denied of late",
            json!({"conditions": [at(short, "Denied")]}),
            false,
        ),
        (
            "signed long ago",
            json!({"conditions": [at(long, "Approved")], "certificate": "eA=="}),
            true,
        ),
        (
            "signed of late",
            json!({"conditions": [at(short, "Approved")], "certificate": "eA=="}),
            false,
        ),
    ];
    for (name, status, over) in rows {
        let seen = clean::plan(&request(&BASE, status), now());
        assert_eq!(seen == clean::Age::Over, over, "{name}: {seen:?}");
    }
    let mut old = request(&BASE, json!({}));
    old.metadata.creation_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().expect("time")));
    assert_eq!(
        clean::plan(&old, now()),
        clean::Age::Over,
        "pending for a day"
    );
}
