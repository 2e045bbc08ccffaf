use super::*;
use crate::nft::transaction::Transaction;
use crate::options::Pods;
use crate::state::{Here, State};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

fn options() -> Options {
    Options {
        pods: Pods::Within(vec![
            "10.42.0.0/16".parse().expect("net"),
            "fd42::/48".parse().expect("net"),
        ]),
        ..Options::default()
    }
}

/// A NodePort service with endpoints on two nodes, changed as the case wants.
fn state(change: impl Fn(&mut Json), endpoints: Json) -> State {
    let mut service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"type": "NodePort", "clusterIP": "10.43.0.9",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}});
    change(&mut service);
    let slice = json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints});
    let mut state = State::default();
    state.set_service(&serde_json::from_value(service).expect("service"));
    let slice = serde_json::from_value(slice).expect("slice");
    state.set_slice(&slice, &Here::from("me"));
    state
}

fn whole(state: &State, family: Family, options: &Options) -> Table {
    let entries: Vec<Entry> = state.all().flatten().collect();
    table(entries.iter(), family, options)
}

fn two() -> Json {
    json!([{"addresses": ["10.42.0.2"], "nodeName": "me"}, {"addresses": ["10.42.1.2"], "nodeName": "other"}])
}

#[test]
fn a_node_port_service() {
    let state = state(|_| (), two());
    insta::assert_snapshot!(whole(&state, Family::V4, &options()));
}

#[test]
fn local_policy_affinity_and_source_ranges() {
    let state = state(
        |v| {
            v["spec"]["externalTrafficPolicy"] = json!("Local");
            v["spec"]["sessionAffinity"] = json!("ClientIP");
            v["spec"]["type"] = json!("LoadBalancer");
            v["spec"]["loadBalancerSourceRanges"] = json!(["203.0.113.0/24"]);
            v["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}]}});
        },
        two(),
    );
    let frame = whole(&State::default(), Family::V4, &options());
    let table = whole(&state, Family::V4, &options());
    let new = Transaction::between(Some(&frame), &table);
    insta::assert_snapshot!(new.render(&table));
}

/// One of a few services that share addresses, ports and endpoints.
fn a_service() -> impl Strategy<Value = Json> {
    let policy = || prop_oneof![Just("Cluster"), Just("Local")];
    let ranges = prop_oneof![
        Just(json!([])),
        Just(json!(["10.0.0.0/8"])),
        Just(json!(["192.0.2.0/24"]))
    ];
    (0..4u8, policy(), policy(), any::<bool>(), 0..3u8, ranges, 0..3u8).prop_map(
        |(id, external, internal, sticky, shared, ranges, balanced)| {
            let ingress: Vec<Json> = (0..balanced).map(|i| json!({"ip": format!("192.0.2.{i}")})).collect();
            json!({"metadata": {"namespace": "d", "name": format!("s{id}")},
                "spec": {"type": "LoadBalancer", "clusterIPs": [format!("10.43.0.{id}"), format!("fd43::{id}")],
                    "ports": [{"name": "http", "port": 80, "nodePort": 30_080 + u16::from(shared)}],
                    "externalTrafficPolicy": external, "internalTrafficPolicy": internal,
                    "sessionAffinity": if sticky { "ClientIP" } else { "None" },
                    "loadBalancerSourceRanges": ranges},
                "status": {"loadBalancer": {"ingress": ingress}}})
        },
    )
}

fn a_slice() -> impl Strategy<Value = Json> {
    let endpoint = (0..6u8, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(id, ready, local, going)| {
        json!({"addresses": [format!("10.42.0.{id}")], "nodeName": if local { "me" } else { "you" },
            "conditions": {"ready": ready && !going, "serving": ready, "terminating": going}})
    });
    (0..4u8, 0..2u8, proptest::collection::vec(endpoint, 0..5)).prop_map(|(id, n, endpoints)| {
        json!({"metadata": {"namespace": "d", "name": format!("s{id}-{n}"), "labels": {"kubernetes.io/service-name": format!("s{id}")}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints})
    })
}

#[derive(Clone, Debug)]
enum Step {
    Service(Json),
    Slice(Json),
    NoService(u8),
    NoSlice(u8, u8),
    /// What happened since is written.
    Sync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => a_service().prop_map(Step::Service),
        3 => a_slice().prop_map(Step::Slice),
        1 => (0..4u8).prop_map(Step::NoService),
        1 => (0..4u8, 0..2u8).prop_map(|(i, n)| Step::NoSlice(i, n)),
        2 => Just(Step::Sync),
    ];
    proptest::collection::vec(step, 1..30)
}

proptest! {
    #[test]
    fn changes_lead_to_what_a_fresh_start_makes(steps in steps()) {
        let options = options();
        let mut state = State::default();
        for family in [Family::V4, Family::V6] {
            let mut live = Live::new(family, options.clone());
            let mut table = whole(&State::default(), family, &options);
            state = State::default();
            for step in steps.iter().cloned().chain([Step::Sync]) {
                match step {
                    Step::Service(v) => drop(state.set_service(&serde_json::from_value(v).expect("service"))),
                    Step::Slice(v) => drop(state.set_slice(&serde_json::from_value(v).expect("slice"), &Here::from("me"))),
                    Step::NoService(i) => drop(state.remove_service("d", &format!("s{i}"))),
                    Step::NoSlice(i, n) => drop(state.remove_slice("d", &format!("s{i}-{n}"))),
                    Step::Sync => {
                        let transaction = live.update(&state.take_changes());
                        let next = transaction.apply(Some(table)).map_err(TestCaseError::fail)?;
                        table = next;
                        let want = whole(&state, family, &options);
                        prop_assert!(table == want, "{table}\n{want}");
                    }
                }
            }
        }
        // And from any table to any other.
        let (have, want) = (whole(&State::default(), Family::V4, &options), whole(&state, Family::V4, &options));
        for (a, b) in [(&have, &want), (&want, &have)] {
            let moved = Transaction::between(Some(a), b).apply(Some(a.clone())).map_err(TestCaseError::fail)?;
            prop_assert!(&moved == b, "{moved}\n{b}");
        }
        prop_assert!(Transaction::between(Some(&want), &want).is_empty());
    }
}
