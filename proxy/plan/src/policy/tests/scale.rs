//! Ten thousand pods and a thousand policies: what a change costs, measured by how many selectors are asked.

use std::time::Instant;

use serde_json::{Value, from_value, json};

use crate::policy::diff::Delta;
use crate::policy::selector::MATCHES;
use crate::policy::state::State;

const NAMESPACES: usize = 50;
const PODS: usize = 200;
const POLICIES: usize = 20;
/// Every hundredth pod is of this node.
const NODES: usize = 100;

fn pod(namespace: usize, n: usize, app: &str) -> Value {
    let node = (namespace * PODS + n) % NODES;
    let (a, b) = ((namespace * PODS + n) / 256, (namespace * PODS + n) % 256);
    json!({"metadata": {"namespace": format!("n{namespace}"), "name": format!("p{n}"), "labels": {"app": app, "tier": format!("t{}", n % 3)}},
        "spec": {"nodeName": format!("node-{node}"), "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.1.{a}.{b}")}, {"ip": format!("fd00::{a:x}:{b:x}")}]}})
}

/// Policies as people write them: a default, and for each app who may come and where it may go.
fn policy(namespace: usize, n: usize) -> Value {
    let app = |n: usize| json!({"matchLabels": {"app": format!("a{n}")}});
    let team = json!({"matchLabels": {"team": format!("t{}", namespace % 10)}});
    let spec = match n {
        0 => json!({"policyTypes": ["Ingress", "Egress"]}),
        1 => {
            json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}]})
        }
        _ => json!({"podSelector": app(n), "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": app(n + 1)}, {"namespaceSelector": team}], "ports": [{"port": "web"}]}],
            "egress": [{"to": [{"podSelector": app(n + 1)}, {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.7/32"]}}]}]}),
    };
    json!({"metadata": {"namespace": format!("n{namespace}"), "name": format!("q{n}")}, "spec": spec})
}

fn namespace(n: usize, team: usize) -> Value {
    json!({"metadata": {"name": format!("n{n}"), "labels": {"team": format!("t{team}")}}})
}

fn cluster() -> State {
    let mut state = State::new("node-7");
    for n in 0..NAMESPACES {
        state.set_namespace(&from_value(namespace(n, n % 10)).expect("namespace"));
        for p in 0..PODS {
            state
                .set_pod(&from_value(pod(n, p, &format!("a{}", p % (POLICIES - 1)))).expect("pod"));
        }
        for q in 0..POLICIES {
            state.set_policy(&from_value(policy(n, q)).expect("policy"));
        }
    }
    state
}

/// Does something; gives what changed and how many selectors were asked.
fn measure(state: &mut State, name: &str, change: impl FnOnce(&mut State)) -> (Delta, u64) {
    let (start, before) = (Instant::now(), MATCHES.get());
    change(state);
    let delta = state.sync();
    let asked = MATCHES.get() - before;
    println!("{name}: {:?}, {asked} selectors asked", start.elapsed());
    (delta, asked)
}

#[test]
fn a_change_costs_what_it_changes() {
    let start = Instant::now();
    let mut state = cluster();
    println!("told: {:?}", start.elapsed());
    let (delta, _) = measure(&mut state, "all at once", |_| ());
    assert_eq!(
        (delta.pods.len(), state.compiled().pods.len()),
        (200, 200),
        "a hundred pods of two addresses"
    );
    let elements: usize = state
        .compiled()
        .sets
        .values()
        .map(|s| s.elements.len())
        .sum();
    println!(
        "{} groups, {} sets with {elements} elements",
        state.compiled().groups.len(),
        state.compiled().sets.len()
    );

    let read = |v: Value| from_value(v).expect("pod");
    let other = read(pod(0, 8, "a9"));
    let (delta, asked) = measure(&mut state, "a pod elsewhere gets another label", |s| {
        assert!(s.set_pod(&other))
    });
    assert!(delta.pods.is_empty() && delta.groups_added.is_empty() && delta.sets_added.is_empty());
    assert!(asked < 100, "the sets of its namespace, twice: {asked}");

    let own = read(pod(0, 7, "a9"));
    let (delta, asked) = measure(&mut state, "a pod here gets another label", |s| {
        assert!(s.set_pod(&own))
    });
    assert_eq!(delta.pods.len(), 2);
    assert!(
        asked < 3_000,
        "its namespace's policies, and pods for sets that are new: {asked}"
    );

    let mut gone = pod(0, 7, "a9");
    gone["status"]["phase"] = json!("Succeeded");
    let gone = read(gone);
    let (delta, asked) = measure(&mut state, "a pod here ends", |s| assert!(s.set_pod(&gone)));
    assert!(delta.pods.values().all(Option::is_none) && delta.pods.len() == 2);
    assert!(asked < 100, "{asked}");

    let far = from_value(policy(3, 19)).expect("policy");
    let (delta, asked) = measure(&mut state, "a policy for no pod here comes", |s| {
        s.remove_policy("n3", "q19");
        assert!(s.set_policy(&far));
    });
    assert!(delta.is_empty());
    assert!(asked < 100, "the pods here of its namespace: {asked}");

    let mut near = policy(5, 7);
    near["spec"]["ingress"] = json!([{"from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}]);
    let near = from_value(near).expect("policy");
    let (delta, asked) = measure(&mut state, "a policy for a pod here changes", |s| {
        assert!(s.set_policy(&near))
    });
    assert_eq!((delta.pods.len(), delta.blocks_added.len()), (2, 1));
    assert!(asked < 1_000, "its namespace's policies and pods: {asked}");

    let moved = from_value(namespace(4, 9)).expect("namespace");
    let (delta, asked) = measure(&mut state, "a namespace changes teams", |s| {
        assert!(s.set_namespace(&moved))
    });
    let elements = |all: &std::collections::BTreeMap<_, std::collections::BTreeSet<_>>| {
        all.values().map(|e| e.len()).sum::<usize>()
    };
    assert!(
        elements(&delta.elements_added) + elements(&delta.elements_removed) > 0
            && delta.pods.is_empty()
    );
    assert!(asked < 3_000, "the sets that it enters and leaves: {asked}");
}

#[test]
fn a_thousand_policies_for_every_pod() {
    let mut state = State::new("node-7");
    state.set_namespace(&from_value(namespace(0, 0)).expect("namespace"));
    for n in 0..100 {
        let mut pod = pod(0, n, &format!("a{n}"));
        pod["spec"]["nodeName"] = json!("node-7");
        state.set_pod(&from_value(pod).expect("pod"));
    }
    for n in 0..1_000 {
        let from = json!([{"podSelector": {"matchLabels": {"app": format!("a{n}")}}}]);
        let policy = json!({"metadata": {"namespace": "n0", "name": format!("q{n}")}, "spec": {"ingress": [{"from": from}]}});
        state.set_policy(&from_value(policy).expect("policy"));
    }
    let (delta, asked) = measure(&mut state, "all at once", |_| ());
    let groups = delta.groups_added.values();
    assert_eq!(
        groups.map(|g| g.rules.len()).collect::<Vec<_>>(),
        [1_000],
        "one group for all"
    );
    assert!(
        asked <= 200_000,
        "each pod by each policy and each set, once: {asked}"
    );

    let new = json!({"metadata": {"namespace": "n0", "name": "new"}, "spec": {"ingress": [{"ports": [{"port": 80}]}]}});
    let new = from_value(new).expect("policy");
    let (delta, asked) = measure(&mut state, "one more", |s| assert!(s.set_policy(&new)));
    assert_eq!(
        (
            delta.pods.len(),
            delta.groups_added.len(),
            delta.groups_removed.len()
        ),
        (200, 1, 1)
    );
    assert!(asked <= 200, "each pod by this policy, twice: {asked}");

    let other = from_value(pod(0, 150, "a7")).expect("pod");
    let (delta, asked) = measure(&mut state, "a pod elsewhere", |s| {
        assert!(s.set_pod(&other))
    });
    assert_eq!(
        delta
            .elements_added
            .values()
            .map(|e| e.len())
            .collect::<Vec<_>>(),
        [2]
    );
    assert!(
        asked < 2_100,
        "the namespace's sets, before and after: {asked}"
    );
}
