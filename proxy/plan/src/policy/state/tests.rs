use super::*;
use crate::model::Protocol;
use crate::policy::compiled::Ports;
use serde_json::{Value, from_value, json};

fn pod(name: &str, change: impl Fn(&mut Value)) -> ApiPod {
    let mut v = json!({"metadata": {"namespace": "x", "name": name, "uid": "1", "labels": {"app": name}},
        "spec": {"nodeName": "me", "containers": []}, "status": {"phase": "Running", "podIP": "10.0.0.1"}});
    change(&mut v);
    from_value(v).expect("pod")
}

fn policy(name: &str, spec: Value) -> NetworkPolicy {
    from_value(json!({"metadata": {"namespace": "x", "name": name}, "spec": spec})).expect("policy")
}

fn isolated(state: &mut State) -> Vec<String> {
    state.sync();
    state
        .compiled()
        .pods
        .keys()
        .map(ToString::to_string)
        .collect()
}

fn elements(state: &mut State) -> Vec<String> {
    state.sync();
    let sets = state.compiled().sets.values();
    sets.flat_map(|s| s.elements.iter().map(ToString::to_string))
        .collect()
}

#[test]
fn addresses_count_from_when_they_are_given() {
    let mut state = State::new("me");
    state.set_policy(&policy(
        "p",
        json!({"ingress": [{"from": [{"podSelector": {}}]}]}),
    ));
    let own: IpAddr = "10.0.0.5".parse().expect("address");
    let mapped: IpAddr = "::ffff:10.0.0.5".parse().expect("address");
    assert!(
        !state.set_addresses("x", "a", "1", &[own]),
        "nobody knows the pod yet"
    );
    assert!(state.set_pod(&pod("a", |v| v["status"] = json!({"phase": "Pending"}))));
    assert_eq!(isolated(&mut state), ["10.0.0.5"], "before any status");
    assert_eq!(elements(&mut state), ["10.0.0.5"]);
    assert!(
        !state.set_addresses("x", "a", "1", &[mapped]),
        "the same in another form"
    );
    state.set_pod(&pod("a", |_| ()));
    assert_eq!(isolated(&mut state), ["10.0.0.1", "10.0.0.5"], "both count");
    assert!(
        !state.set_addresses("x", "a", "2", &[]),
        "another pod's are taken back"
    );
    assert_eq!(isolated(&mut state), ["10.0.0.1", "10.0.0.5"]);
    assert!(state.set_addresses("x", "a", "1", &[]));
    assert_eq!(isolated(&mut state), ["10.0.0.1"]);
    state.set_addresses("x", "a", "1", &[own]);
    state.set_pod(&pod("a", |v| v["metadata"]["uid"] = json!("2")));
    assert_eq!(
        isolated(&mut state),
        ["10.0.0.1"],
        "what the last of this name had is not its own"
    );
    state.set_pod(&pod("a", |v| v["spec"]["nodeName"] = json!("other")));
    assert_eq!(
        isolated(&mut state),
        Vec::<String>::new(),
        "of another node"
    );
}

#[test]
fn a_removed_pod_is_held_until_its_addresses_are_taken_back() {
    let own: IpAddr = "10.0.0.5".parse().expect("address");
    let start = || {
        let mut state = State::new("me");
        state.set_policy(&policy("p", json!({})));
        state.set_addresses("x", "a", "1", &[own]);
        state.set_pod(&pod("a", |v| v["status"] = json!({"phase": "Running"})));
        assert!(!state.remove_pod("x", "a"), "deleted by force");
        assert_eq!(
            isolated(&mut state),
            ["10.0.0.5"],
            "its processes may still run"
        );
        state
    };
    let none = Vec::<String>::new();
    let mut state = start();
    assert!(state.set_addresses("x", "a", "1", &[]));
    assert_eq!(isolated(&mut state), none);
    let mut state = start();
    state.set_addresses("x", "a", "2", &["10.0.0.6".parse().expect("address")]);
    assert_eq!(
        isolated(&mut state),
        none,
        "the next of its name has none of its addresses"
    );
    let mut state = start();
    state.set_pod(&pod("a", |v| v["status"] = json!({"phase": "Succeeded"})));
    assert_eq!(isolated(&mut state), none, "nothing of it runs");
    let mut state = start();
    state.set_pod(&pod("a", |v| v["status"] = json!({"phase": "Running"})));
    state.set_addresses("x", "a", "1", &[]);
    assert_eq!(
        (isolated(&mut state), state.pods().count()),
        (none, 1),
        "it was not removed after all"
    );
}

#[test]
fn an_address_has_one_owner() {
    let mut state = State::new("me");
    state.set_policy(&policy(
        "p",
        json!({"podSelector": {"matchLabels": {"app": "a"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}]}),
    ));
    let created = |n: u8| {
        move |v: &mut Value| {
            v["metadata"]["creationTimestamp"] = json!(format!("1970-01-01T00:00:0{n}Z"))
        }
    };
    state.set_pod(&pod("a", created(1)));
    assert_eq!(
        (isolated(&mut state), elements(&mut state)),
        (vec!["10.0.0.1".into()], vec!["10.0.0.1".into()])
    );
    state.set_pod(&pod("b", created(2)));
    assert_eq!(
        (isolated(&mut state), elements(&mut state)),
        (vec![], vec![]),
        "the younger one's"
    );
    state.set_pod(&pod("b", |v| {
        created(2)(v);
        v["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:03Z");
    }));
    assert_eq!(
        (isolated(&mut state), elements(&mut state)),
        (vec!["10.0.0.1".into()], vec!["10.0.0.1".into()]),
        "who stays"
    );
    state.set_pod(&pod("b", created(2)));
    state.set_pod(&pod("b", |v| v["status"]["phase"] = json!("Failed")));
    assert_eq!(
        (isolated(&mut state), elements(&mut state)),
        (vec!["10.0.0.1".into()], vec!["10.0.0.1".into()]),
        "who lives"
    );
}

#[test]
fn the_same_selection_is_one_set() {
    let mut state = State::new("me");
    state.set_pod(&pod(
        "a",
        |v| {
            v["spec"]["containers"] =
                json!([{"name": "c", "ports": [{"name": "web", "containerPort": 80}]}])
        },
    ));
    let peers = json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "b"}}}]);
    let again = json!([{"namespaceSelector": {}, "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["b"]}]}}]);
    state.set_policy(&policy(
        "p",
        json!({"ingress": [{"from": peers, "ports": [{"port": 80}]}], "egress": [{"to": again}]}),
    ));
    state.set_policy(&policy(
        "q",
        json!({"ingress": [{"from": again, "ports": [{"port": 81}, {"port": "web"}]}]}),
    ));
    let delta = state.sync();
    let keys: Vec<_> = delta
        .sets_added
        .values()
        .map(|s| s.key.to_string())
        .collect();
    assert_eq!(
        keys,
        [
            "namespace x pods () port tcp web",
            "namespaces () pods (app=b)"
        ]
    );
    let set = delta.sets_added.keys().nth(1).expect("set");
    let named = delta.sets_added.keys().next().expect("set");
    let group = |m: Option<_>| {
        m.and_then(|id| state.compiled().groups.get(&id))
            .expect("group")
    };
    let membership = state.compiled().pods.values().next().expect("pod");
    assert_eq!(
        group(membership.ingress).to_string(),
        format!("ingress\npods {set} tcp:80-81\npods {set} ports {named}")
    );
    assert_eq!(
        group(membership.egress).to_string(),
        format!("egress\npods {set}")
    );
    let rule = &group(membership.ingress).rules[1];
    assert_eq!(rule.ports, Ports::Named(*named));
    let web = Some((Protocol::Tcp, 80));
    assert_eq!(
        state.compiled().sets[named]
            .elements
            .iter()
            .map(|e| e.port)
            .collect::<Vec<_>>(),
        [web]
    );
}

#[test]
fn names_say_what_is_inside() {
    let deny = json!({"policyTypes": ["Ingress"]});
    let ids = |name: &str, namespace: &str| {
        let mut state = State::new("me");
        let mut object = policy(name, deny.clone());
        object.metadata.namespace = Some(namespace.into());
        state.set_policy(&object);
        state.set_pod(&pod("a", |v| v["metadata"]["namespace"] = json!(namespace)));
        state.sync();
        state
            .compiled()
            .pods
            .values()
            .map(|m| m.ingress.expect("group").to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ids("p", "x"),
        ids("other", "y"),
        "the same rules have one name on every node"
    );
    // A kernel may hold rules of an older program: what a name means must not change unnoticed.
    assert_eq!(ids("p", "x"), ["141d0bdf02a79b44c957"]);
}

#[test]
fn who_may_be_judged_otherwise() {
    let mut state = State::new("me");
    state.set_policy(&policy("p", json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]})));
    state.set_pod(&pod("a", |_| ()));
    state.set_pod(&pod("c", |v| v["status"]["podIP"] = json!("10.0.0.3")));
    state.sync();
    state.set_pod(&pod("b", |v| v["status"]["podIP"] = json!("10.0.0.2")));
    let delta = state.sync();
    let touched: Vec<_> = delta
        .touched(state.compiled())
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(touched, ["10.0.0.1"], "a peer of its policy came");
    state.set_policy(&policy(
        "q",
        json!({"podSelector": {"matchLabels": {"app": "c"}}}),
    ));
    let delta = state.sync();
    let touched: Vec<_> = delta
        .touched(state.compiled())
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(touched, ["10.0.0.3"], "it is isolated now");
}
