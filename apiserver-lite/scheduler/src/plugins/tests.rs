//! What each plugin says, over small clusters.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::framework::{Cycle, Refusal};
use crate::model::{Group, Node, Pod, Selector};
use crate::plugins::*;
use crate::snapshot::{NodeState, Snapshot};
use crate::testing::{cluster, map, node, pod, with_cpu};

type Check = fn(&Cycle, &NodeState) -> Result<(), Refusal>;
type Scores = fn(&Cycle, &[&NodeState]) -> Vec<i64>;

/// Each node's reasons, joined; empty: the node will do.
fn reasons(check: Check, pod: &Pod, snapshot: &Snapshot) -> Vec<String> {
    let cycle = Cycle::new(pod, snapshot);
    let reasons = |state: &Arc<NodeState>| check(&cycle, state).err().map_or(vec![], |r| r.reasons);
    snapshot
        .nodes
        .iter()
        .map(|state| reasons(state).join(", "))
        .collect()
}

fn scores(score: Scores, pod: &Pod, snapshot: &Snapshot) -> Vec<i64> {
    let nodes: Vec<_> = snapshot.nodes.iter().map(AsRef::as_ref).collect();
    score(&Cycle::new(pod, snapshot), &nodes)
}

fn one(node: Node) -> Snapshot {
    cluster(vec![(node, vec![])])
}

#[test]
fn cordoned_nodes() {
    let snapshot = one(node("a", "", json!({"unschedulable": true})));
    let tolerant =
        json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]});
    assert_eq!(
        reasons(
            node_unschedulable::check,
            &pod("p", "", json!({})),
            &snapshot
        ),
        ["node(s) were unschedulable"]
    );
    assert_eq!(
        reasons(
            node_unschedulable::check,
            &pod("p", "", tolerant),
            &snapshot
        ),
        [""]
    );
}

#[test]
fn named_nodes() {
    let snapshot = cluster(vec![
        (node("a", "", json!({})), vec![]),
        (node("b", "", json!({})), vec![]),
    ]);
    let named = pod("p", "", json!({"nodeName": "b"}));
    let wrong = "node(s) didn't match the requested node name";
    assert_eq!(reasons(node_name::check, &named, &snapshot), [wrong, ""]);
}

#[test]
fn taints() {
    let taints = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
    let snapshot = one(node("a", "", taints));
    let refused = "node(s) had untolerated taint {k: v}";
    let cases = [
        (json!([]), refused),
        (
            json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]),
            "",
        ),
        (json!([{"key": "k", "operator": "Equal", "value": "v"}]), ""),
        (json!([{"key": "k", "value": "other"}]), refused),
        (json!([{"key": "k", "operator": "Exists"}]), ""),
        (
            json!([{"key": "k", "operator": "Exists", "effect": "NoExecute"}]),
            refused,
        ),
        (json!([{"key": "other", "operator": "Exists"}]), refused),
        (json!([{"operator": "Exists"}]), ""),
    ];
    for (tolerations, wanted) in cases {
        let pod = pod("p", "", json!({"tolerations": tolerations}));
        assert_eq!(
            reasons(taint_toleration::check, &pod, &snapshot),
            [wanted],
            "{tolerations}"
        );
    }
    let mild = |n| {
        let taints: Vec<Value> = (0..n)
            .map(|i| json!({"key": format!("k{i}"), "effect": "PreferNoSchedule"}))
            .collect();
        (
            node(&format!("n{n}"), "", json!({"taints": taints})),
            vec![],
        )
    };
    let snapshot = cluster(vec![mild(0), mild(1), mild(2)]);
    let any = pod("p", "", json!({}));
    assert_eq!(
        reasons(taint_toleration::check, &any, &snapshot),
        ["", "", ""]
    );
    assert_eq!(
        scores(taint_toleration::score, &any, &snapshot),
        [100, 50, 0]
    );
}

#[test]
fn node_selectors_and_affinity() {
    let snapshot = cluster(vec![
        (node("a", "zone=1,cores=4", json!({})), vec![]),
        (node("b", "zone=2,cores=8", json!({})), vec![]),
        (node("c", "", json!({})), vec![]),
    ]);
    let term = |key: &str, op: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]});
    let required = |terms: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": terms}}}})
    };
    let cases = [
        (json!({"nodeSelector": {"zone": "1"}}), "a"),
        (json!({"nodeSelector": {"zone": "1", "cores": "8"}}), ""),
        (required(json!([term("zone", "In", &["1", "2"])])), "ab"),
        (required(json!([term("zone", "NotIn", &["1"])])), "bc"),
        (required(json!([term("zone", "Exists", &[])])), "ab"),
        (required(json!([term("zone", "DoesNotExist", &[])])), "c"),
        (required(json!([term("cores", "Gt", &["4"])])), "b"),
        (required(json!([term("cores", "Lt", &["8"])])), "a"),
        (
            required(json!([
                term("zone", "In", &["1"]),
                term("zone", "In", &["2"])
            ])),
            "ab",
        ),
        (
            required(
                json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c"]}]}]),
            ),
            "c",
        ),
        (required(json!([{}])), ""),
    ];
    for (spec, wanted) in cases {
        let reasons = reasons(node_affinity::check, &pod("p", "", spec.clone()), &snapshot);
        let fit: String = ["a", "b", "c"]
            .iter()
            .zip(&reasons)
            .filter(|(_, r)| r.is_empty())
            .map(|(n, _)| *n)
            .collect();
        assert_eq!(fit, wanted, "{spec}");
    }
    let preferred = json!([
        {"weight": 10, "preference": term("zone", "Exists", &[])},
        {"weight": 30, "preference": term("cores", "In", &["8"])},
    ]);
    let spec = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}});
    assert_eq!(
        scores(node_affinity::score, &pod("p", "", spec), &snapshot),
        [25, 100, 0]
    );
}

#[test]
fn host_ports() {
    let with = |ip: &str, protocol: &str, port: i32| {
        let port =
            json!({"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol});
        pod(
            &format!("{ip}{protocol}"),
            "",
            json!({"containers": [{"name": "c", "ports": [port]}]}),
        )
    };
    let cases = [
        (with("", "TCP", 80), with("", "TCP", 80), false),
        (with("", "TCP", 80), with("", "UDP", 80), true),
        (with("", "TCP", 80), with("", "TCP", 81), true),
        (with("", "TCP", 80), with("10.0.0.1", "TCP", 80), false),
        (
            with("10.0.0.2", "TCP", 80),
            with("10.0.0.1", "TCP", 80),
            true,
        ),
        (
            with("10.0.0.1", "TCP", 80),
            with("0.0.0.0", "TCP", 80),
            false,
        ),
    ];
    for (has, wants, fits) in cases {
        let snapshot = cluster(vec![(node("a", "", json!({})), vec![has.clone()])]);
        let wants = Pod {
            uid: "new".into(),
            ..wants
        };
        let refused = reasons(node_ports::check, &wants, &snapshot).concat();
        assert_eq!(
            refused.is_empty(),
            fits,
            "{:?} beside {:?}: {refused}",
            wants.ports,
            has.ports
        );
    }
}

#[test]
fn room() {
    let big = |spec: Value| {
        pod(
            "p",
            "",
            json!({"containers": [{"name": "c", "resources": {"requests": spec}}]}),
        )
    };
    let snapshot = cluster(vec![(
        node("a", "", json!({})),
        vec![with_cpu("1", 300), with_cpu("2", 300)],
    )]);
    let cases = [
        (json!({"cpu": "400m", "memory": "1Gi"}), "", true),
        (json!({"cpu": "401m"}), "Insufficient cpu", true),
        (json!({"cpu": "1001m"}), "Insufficient cpu", false),
        (
            json!({"cpu": "500m", "memory": "2Gi"}),
            "Insufficient cpu, Insufficient memory",
            false,
        ),
        (json!({"x/gpu": "1"}), "Insufficient x/gpu", false),
        (json!({"x/gpu": "0"}), "", true),
    ];
    for (requests, wanted, is_resolvable) in cases {
        let pod = big(requests.clone());
        assert_eq!(
            reasons(node_resources_fit::check, &pod, &snapshot),
            [wanted],
            "{requests}"
        );
        let refusal = node_resources_fit::check(&Cycle::new(&pod, &snapshot), &snapshot.nodes[0]);
        assert!(
            refusal.is_ok() || refusal.is_err_and(|r| r.is_resolvable == is_resolvable),
            "{requests}"
        );
    }
    let many = (0..10)
        .map(|i| pod(&i.to_string(), "", json!({})))
        .collect();
    let full = cluster(vec![(node("a", "", json!({})), many)]);
    assert_eq!(
        reasons(node_resources_fit::check, &big(json!({})), &full),
        ["Too many pods"]
    );
}

#[test]
fn the_emptier_and_the_more_even_node_is_better() {
    let heavy = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "0"}}}]});
    let snapshot = cluster(vec![
        (node("empty", "", json!({})), vec![]),
        (node("half", "", json!({})), vec![pod("x", "", heavy)]),
    ]);
    let wants = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}}}]});
    let wants = pod("p", "", wants);
    assert_eq!(
        scores(node_resources_fit::score, &wants, &snapshot),
        [50, 25]
    );
    assert_eq!(
        scores(node_resources_balanced::score, &wants, &snapshot),
        [100, 75]
    );
    let rests = pod("p", "", json!({}));
    assert_eq!(
        scores(node_resources_balanced::score, &rests, &snapshot),
        [0, 0]
    );
}

#[test]
fn images_that_are_there() {
    let having = |name: &str, images: &[(&str, i64)]| {
        let images = images
            .iter()
            .map(|(image, size)| ((*image).into(), size << 20))
            .collect();
        (
            Node {
                images,
                ..node(name, "", json!({}))
            },
            vec![],
        )
    };
    let snapshot = cluster(vec![
        having("both", &[("r/a:latest", 2000), ("r/b:1", 1000)]),
        having("one", &[("r/b:1", 1000)]),
        having("none", &[]),
        having("small", &[("r/a:latest", 20)]),
    ]);
    let wants = pod(
        "p",
        "",
        json!({"containers": [{"name": "a", "image": "r/a"}, {"name": "b", "image": "r/b:1"}]}),
    );
    let [both, one, none, small] = scores(image_locality::score, &wants, &snapshot)[..] else {
        panic!()
    };
    assert!(
        both > one && one > none && none == 0 && small == 0,
        "{both} {one} {none} {small}"
    );
}

fn spreading(when: &str, skew: i32, more: Value) -> Pod {
    let mut constraint = json!({"topologyKey": "zone", "maxSkew": skew, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"app": "a"}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        constraint[key] = value.clone();
    }
    pod(
        "p",
        "app=a",
        json!({"nodeSelector": {}, "topologySpreadConstraints": [constraint]}),
    )
}

/// Pods in the zones: 2 in `1` (one on each of two nodes), 1 in `2`, and a node without zone.
fn zones() -> Snapshot {
    let app = |name: &str| pod(name, "app=a", json!({}));
    let stranger = Pod {
        namespace: "other".into(),
        ..app("x")
    };
    let leaving = Pod {
        is_terminating: true,
        ..app("y")
    };
    cluster(vec![
        (
            node("a", "zone=1,topology.kubernetes.io/zone=1", json!({})),
            vec![app("1"), stranger],
        ),
        (
            node("b", "zone=1,topology.kubernetes.io/zone=1", json!({})),
            vec![app("2")],
        ),
        (
            node("c", "zone=2,topology.kubernetes.io/zone=2", json!({})),
            vec![app("3"), leaving],
        ),
        (node("d", "", json!({})), vec![]),
    ])
}

#[test]
fn spreading_required() {
    const FULL: &str = "node(s) didn't match pod topology spread constraints";
    const MISSING: &str =
        "node(s) didn't match pod topology spread constraints (missing required label)";
    let cases = [
        (
            spreading("DoNotSchedule", 1, json!({})),
            [FULL, FULL, "", MISSING],
        ),
        (
            spreading("DoNotSchedule", 2, json!({})),
            ["", "", "", MISSING],
        ),
        // A third zone that does not exist counts as empty.
        (
            spreading("DoNotSchedule", 2, json!({"minDomains": 3})),
            [FULL, FULL, "", MISSING],
        ),
        (spreading("ScheduleAnyway", 1, json!({})), ["", "", "", ""]),
        // A pod that is not meant itself does not add to the skew.
        (
            Pod {
                labels: map("app=b"),
                ..spreading("DoNotSchedule", 1, json!({}))
            },
            ["", "", "", MISSING],
        ),
    ];
    for (pod, wanted) in cases {
        assert_eq!(
            reasons(pod_topology_spread::check, &pod, &zones()),
            wanted,
            "{:?}",
            pod.spread
        );
    }
    // Zone 2 is not open to this pod: it does not count as the emptiest.
    let narrow = Pod {
        node_selector: Selector::from_map(Some(&map("zone=1"))),
        ..spreading("DoNotSchedule", 1, json!({}))
    };
    assert_eq!(
        reasons(pod_topology_spread::check, &narrow, &zones())[..2],
        ["", ""]
    );
}

#[test]
fn spreading_preferred_and_by_default() {
    let scores_of =
        |pod: &Pod, snapshot: &Snapshot| scores(pod_topology_spread::score, pod, snapshot);
    let [a, b, c, d] = scores_of(&spreading("ScheduleAnyway", 1, json!({})), &zones())[..] else {
        panic!()
    };
    assert!(a == b && a < c && d == 0, "{a} {b} {c} {d}");
    let plain = pod("p", "app=a", json!({}));
    assert_eq!(scores_of(&plain, &zones()), [0; 4]);
    let group = Group {
        namespace: "ns".into(),
        selector: Selector::from_map(Some(&map("app=a"))),
    };
    let mut snapshot = zones();
    Arc::make_mut(&mut snapshot.groups).insert("Service/ns/s".into(), group);
    let [a, _, c, d] = scores_of(&plain, &snapshot)[..] else {
        panic!()
    };
    assert!(a < c && c < d, "{a} {c} {d}");
    assert_eq!(scores_of(&pod("p", "app=b", json!({})), &snapshot), [0; 4]);
}

fn term(labels: Value, key: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": labels}})
}

fn affine(name: &str, labels: &str, kind: &str, term: Value) -> Pod {
    pod(
        name,
        labels,
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
    )
}

#[test]
fn pods_near_and_far() {
    const NEAR: &str = "node(s) didn't match pod affinity rules";
    const FAR: &str = "node(s) didn't match pod anti-affinity rules";
    const REPELLED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
    let (a, z) = (json!({"app": "a"}), json!({"app": "z"}));
    let mut elsewhere = term(a.clone(), "zone");
    elsewhere["namespaceSelector"] = json!({"matchLabels": {"team": "b"}});
    let cases = [
        (
            "near its like",
            affine("p", "", "podAffinity", term(a.clone(), "zone")),
            ["", "", "", NEAR],
        ),
        (
            "near nobody",
            affine("p", "", "podAffinity", term(z.clone(), "zone")),
            [NEAR, NEAR, NEAR, NEAR],
        ),
        (
            "the first of its like",
            affine("p", "app=z", "podAffinity", term(z, "zone")),
            ["", "", "", NEAR],
        ),
        (
            "far from its like",
            affine("p", "", "podAntiAffinity", term(a.clone(), "zone")),
            [FAR, FAR, FAR, ""],
        ),
        (
            "by node",
            affine(
                "p",
                "",
                "podAntiAffinity",
                term(a, "kubernetes.io/hostname"),
            ),
            [FAR, FAR, FAR, ""],
        ),
        (
            "in namespaces by label",
            affine("p", "", "podAffinity", elsewhere),
            ["", "", NEAR, NEAR],
        ),
    ];
    for (name, pod, wanted) in cases {
        assert_eq!(
            reasons(interpod_affinity::check, &pod, &zones()),
            wanted,
            "{name}"
        );
    }
    let shy = affine(
        "shy",
        "",
        "podAntiAffinity",
        term(json!({"app": "b"}), "zone"),
    );
    let snapshot = cluster(vec![
        (node("a", "zone=1", json!({})), vec![shy]),
        (node("b", "zone=1", json!({})), vec![]),
        (node("c", "zone=2", json!({})), vec![]),
    ]);
    assert_eq!(
        reasons(
            interpod_affinity::check,
            &pod("p", "app=b", json!({})),
            &snapshot
        ),
        [REPELLED, REPELLED, ""]
    );
    assert_eq!(
        reasons(
            interpod_affinity::check,
            &pod("p", "app=c", json!({})),
            &snapshot
        ),
        ["", "", ""]
    );
}

#[test]
fn pods_rather_near_and_far() {
    let weighted = |weight: i32, app: &str| json!({"weight": weight, "podAffinityTerm": term(json!({"app": app}), "zone")});
    let snapshot = cluster(vec![
        (
            node("a", "zone=1", json!({})),
            vec![pod("1", "app=friend", json!({}))],
        ),
        (
            node("b", "zone=2", json!({})),
            vec![pod("2", "app=foe", json!({}))],
        ),
        (node("c", "zone=3", json!({})), vec![]),
    ]);
    let wants = pod(
        "p",
        "",
        json!({"affinity": {
            "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [weighted(10, "friend")]},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [weighted(30, "foe")]},
        }}),
    );
    assert_eq!(
        scores(interpod_affinity::score, &wants, &snapshot),
        [100, 0, 75]
    );
    // The wish may also be the other's.
    let host = pod(
        "h",
        "",
        json!({"affinity": {"podAffinity":
        {"preferredDuringSchedulingIgnoredDuringExecution": [weighted(5, "guest")]}}}),
    );
    let snapshot = cluster(vec![
        (node("a", "zone=1", json!({})), vec![host]),
        (node("b", "zone=2", json!({})), vec![]),
    ]);
    assert_eq!(
        scores(
            interpod_affinity::score,
            &pod("p", "app=guest", json!({})),
            &snapshot
        ),
        [100, 0]
    );
}
