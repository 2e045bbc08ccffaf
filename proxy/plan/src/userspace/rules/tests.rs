use std::net::IpAddr;

use super::*;
use crate::conntrack::Flow;
use crate::state::State;
use crate::userspace::{Redirected, listeners};
use serde_json::{Value, json};

fn options() -> Options {
    Options {
        family: Family::V4,
        cluster_cidrs: vec!["10.42.0.0/16".parse().expect("cidr")],
        node_port_addresses: Vec::new(),
        localhost_node_ports: true,
    }
}

/// A service with endpoints on two nodes, changed as the case wants.
fn state(change: impl Fn(&mut Value), endpoints: Value) -> State {
    let mut service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"type": "NodePort", "clusterIP": "10.43.0.9",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"},
                  {"name": "sig", "port": 99, "protocol": "SCTP"}]}});
    change(&mut service);
    let slice = json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "sig", "port": 99, "protocol": "SCTP"}]});
    let mut state = State::default();
    state.set_service(&serde_json::from_value(service).expect("service"));
    state.set_slice(&serde_json::from_value(slice).expect("slice"), &"me".into());
    state
}

fn two() -> Value {
    json!([{"addresses": ["10.42.0.2"], "nodeName": "me"}, {"addresses": ["10.42.1.2"], "nodeName": "other"}])
}

/// Ports as the proxy would get them: 40000 and on, in order.
fn open(state: &State, options: &Options) -> BTreeMap<Listener, u16> {
    let all = listeners(&state.served(options.family), options);
    all.into_keys().zip(40_000..).collect()
}

fn rules(state: &State, options: &Options) -> Ruleset {
    ruleset(
        &state.served(options.family),
        options,
        &open(state, options),
    )
}

#[test]
fn addresses_and_node_ports() {
    insta::assert_snapshot!(rules(&state(|_| (), two()), &options()).render());
}

#[test]
fn local_policy_and_source_ranges() {
    let state = state(
        |v| {
            v["spec"]["externalTrafficPolicy"] = json!("Local");
            v["spec"]["type"] = json!("LoadBalancer");
            v["spec"]["ports"] = json!([{"name": "http", "port": 80, "nodePort": 30080}]);
            v["spec"]["loadBalancerSourceRanges"] = json!(["203.0.113.0/24", "10.0.0.0/8"]);
            v["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
        },
        two(),
    );
    let options = Options {
        node_port_addresses: vec!["192.168.0.0/16".parse().expect("cidr")],
        localhost_node_ports: false,
        ..options()
    };
    insta::assert_snapshot!(rules(&state, &options).render());
}

#[test]
fn what_has_nowhere_to_go_is_refused_or_dropped() {
    type Change = fn(&mut Value);
    let local: Change = |v| v["spec"]["externalTrafficPolicy"] = json!("Local");
    let internal: Change = |v| v["spec"]["internalTrafficPolicy"] = json!("Local");
    let away = json!([{"addresses": ["10.42.1.2"], "nodeName": "other"}]);
    let cases: &[(&str, Change, &Value, &str, &str)] = &[
        (
            "no endpoint",
            |_| (),
            &json!([]),
            "-d 10.43.0.9/32 -p tcp",
            "REJECT",
        ),
        (
            "no endpoint, node port",
            |_| (),
            &json!([]),
            "--dport 30080",
            "REJECT",
        ),
        ("external elsewhere", local, &away, "--dport 30080", "DROP"),
        (
            "internal elsewhere",
            internal,
            &away,
            "-d 10.43.0.9/32 -p tcp",
            "DROP",
        ),
        (
            "SCTP, whoever is there",
            |_| (),
            &two(),
            "-p sctp",
            "REJECT",
        ),
    ];
    for (name, change, endpoints, matching, verdict) in cases {
        let set = rules(&state(change, (*endpoints).clone()), &options());
        let refused = set.rules(Filter, REFUSED).expect("chain");
        let rule = refused.iter().find(|r| r.contains(matching));
        let rule = rule.unwrap_or_else(|| panic!("{name}: {refused:?}"));
        assert!(rule.contains(&format!("-j {verdict}")), "{name}: {rule}");
    }
}

#[test]
fn pods_and_the_node_take_the_short_way_though_the_policy_is_local() {
    let away = json!([{"addresses": ["10.42.1.2"], "nodeName": "other"}]);
    let state = state(
        |v| v["spec"]["externalTrafficPolicy"] = json!("Local"),
        away,
    );
    let set = rules(&state, &options());
    let chain = |name: &str| set.rules(Nat, name).expect("chain").to_vec();
    let (container, host) = (chain(NODE_PORT_CONTAINER), chain(NODE_PORT_HOST));
    assert!(
        container.len() == 1 && container[0].starts_with("-s 10.42.0.0/16 "),
        "{container:?}"
    );
    assert!(
        host.len() == 1 && host[0].starts_with("-p tcp "),
        "{host:?}"
    );
}

#[test]
fn one_listener_a_policy_and_its_endpoints() {
    let count = |state: &State| {
        let all = listeners(&state.served(Family::V4), &options());
        let all = all.iter().map(|(l, b)| {
            let port = format!("{} {}", l.name.port, l.protocol.name());
            (port, l.local_only, b.endpoints.len())
        });
        all.collect::<Vec<_>>()
    };
    let (dns, http) = ("dns udp".to_owned(), "http tcp".to_owned());
    assert_eq!(
        count(&state(|_| (), two())),
        [(dns.clone(), false, 2), (http.clone(), false, 2)]
    );
    let local = state(
        |v| v["spec"]["externalTrafficPolicy"] = json!("Local"),
        two(),
    );
    assert_eq!(
        count(&local),
        [(dns, false, 2), (http.clone(), false, 2), (http, true, 1)]
    );
}

#[test]
fn flows_to_other_ports_are_stale() {
    let change = |v: &mut Value| {
        v["spec"]["ports"] =
            json!([{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}])
    };
    let state = state(change, two());
    let mut redirected = Redirected::default();
    let open = open(&state, &options());
    redirected.add(&state.served(Family::V4), &options(), &open);
    let end = |ip: &str, port: u16| (ip.parse::<IpAddr>().expect("ip"), port);
    let cases = [
        (
            "our port",
            end("10.43.0.9", 53),
            end("10.42.0.1", 40_000),
            false,
        ),
        (
            "an older port",
            end("10.43.0.9", 53),
            end("10.42.0.1", 39_999),
            true,
        ),
        (
            "never translated",
            end("10.43.0.9", 53),
            end("10.43.0.9", 53),
            true,
        ),
        (
            "node port",
            end("192.168.9.1", 30_053),
            end("192.168.9.1", 40_000),
            false,
        ),
        (
            "node port, older",
            end("192.168.9.1", 30_053),
            end("192.168.9.1", 39_999),
            true,
        ),
        (
            "node port's number elsewhere",
            end("8.8.8.8", 30_053),
            end("8.8.8.8", 30_053),
            false,
        ),
        (
            "not a service",
            end("8.8.8.8", 53),
            end("8.8.8.8", 53),
            false,
        ),
    ];
    for (name, destination, answerer, stale) in cases {
        let flow = Flow {
            destination,
            answerer,
        };
        assert_eq!(
            redirected.is_stale(&flow, |ip| *ip == IpAddr::from([192, 168, 9, 1])),
            stale,
            "{name}"
        );
    }
}
