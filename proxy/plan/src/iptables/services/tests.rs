use super::part::probability;
use super::*;
use crate::iptables::ruleset::Table::Filter;
use crate::options::Pods;
use crate::state::State;
use serde_json::{Value, json};

fn options() -> Options {
    Options {
        pods: Pods::Within(vec!["10.42.0.0/16".parse().expect("cidr")]),
        ..Options::default()
    }
}

/// A NodePort service with endpoints on two nodes, changed as the case wants.
fn rules(change: impl Fn(&mut Value), endpoints: Value) -> Ruleset {
    let mut service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"type": "NodePort", "clusterIP": "10.43.0.9",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}});
    change(&mut service);
    let slice = json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints});
    let mut state = State::default();
    state.set_service(&serde_json::from_value(service).expect("service"));
    state.set_slice(&serde_json::from_value(slice).expect("slice"), &"me".into());
    let entries: Vec<Entry> = state.all().flatten().collect();
    ruleset(entries.iter(), Family::V4, &options())
}

fn two() -> Value {
    json!([{"addresses": ["10.42.0.2"], "nodeName": "me"}, {"addresses": ["10.42.1.2"], "nodeName": "other"}])
}

#[test]
fn a_node_port_service() {
    insta::assert_snapshot!(rules(|_| (), two()).render());
}

#[test]
fn local_policy_affinity_and_source_ranges() {
    let set = rules(
        |v| {
            v["spec"]["externalTrafficPolicy"] = json!("Local");
            v["spec"]["sessionAffinity"] = json!("ClientIP");
            v["spec"]["type"] = json!("LoadBalancer");
            v["spec"]["loadBalancerSourceRanges"] = json!(["203.0.113.0/24"]);
            v["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}]}});
        },
        two(),
    );
    insta::assert_snapshot!(set.render());
}

#[test]
fn without_endpoints_refused_and_without_local_ones_dropped() {
    type Change = fn(&mut Value);
    let local: Change = |v| v["spec"]["externalTrafficPolicy"] = json!("Local");
    let internal: Change = |v| v["spec"]["internalTrafficPolicy"] = json!("Local");
    let away = json!([{"addresses": ["10.42.1.2"], "nodeName": "other"}]);
    let cases: &[(&str, Change, Value, &str, &[&str])] = &[
        (
            "none",
            |_| (),
            json!([]),
            "KUBE-SERVICES",
            &["has no endpoints", "REJECT"],
        ),
        (
            "none, node port",
            |_| (),
            json!([]),
            "KUBE-EXTERNAL-SERVICES",
            &["has no endpoints", "--dport 30080", "REJECT"],
        ),
        (
            "external elsewhere",
            local,
            away.clone(),
            "KUBE-EXTERNAL-SERVICES",
            &["has no local endpoints", "DROP"],
        ),
        (
            "internal elsewhere",
            internal,
            away,
            "KUBE-SERVICES",
            &["has no local endpoints", "DROP"],
        ),
    ];
    for (name, change, endpoints, chain, words) in cases {
        let set = rules(change, endpoints.clone());
        let found = set.rules(Filter, chain).expect("chain").join("\n");
        assert!(words.iter().all(|w| found.contains(w)), "{name}: {found}");
    }
}

#[test]
fn the_kernel_rounds_to_31_bits() {
    let cases = [
        (2, "0.50000000000"),
        (3, "0.33333333349"),
        (7, "0.14285714272"),
    ];
    for (n, want) in cases {
        assert_eq!(probability(n), want);
    }
}

#[test]
fn every_jump_has_its_chain() {
    for endpoints in [two(), json!([]), json!([{"addresses": ["10.42.1.2"]}])] {
        for policy in ["Local", "Cluster"] {
            let text = rules(
                |v| v["spec"]["externalTrafficPolicy"] = json!(policy),
                endpoints.clone(),
            )
            .render();
            let tables = text.split("COMMIT");
            for table in tables {
                for target in table
                    .lines()
                    .filter(|l| l.starts_with('-'))
                    .filter_map(|l| l.split("-j KUBE-").nth(1))
                {
                    let name = target.split(' ').next().expect("name");
                    assert!(
                        table.contains(&format!(":KUBE-{name} ")),
                        "{name} in {table}"
                    );
                }
            }
        }
    }
}
