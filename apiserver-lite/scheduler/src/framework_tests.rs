use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cache::Cache;
use crate::model::Node;
use crate::testing::{cluster, node, pod, with_cpu};

#[test]
fn the_message_is_upstreams() {
    let tainted = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
    let snapshot = cluster(vec![
        (node("a", "", tainted), vec![]),
        (node("b", "", json!({})), vec![with_cpu("1", 900)]),
        (node("c", "", json!({})), vec![with_cpu("2", 950)]),
    ]);
    let wants = with_cpu("p", 500);
    let Outcome::Nowhere(diagnosis) = schedule(&wants, &snapshot, None, 0) else {
        panic!("it fits nowhere")
    };
    assert_eq!(
        diagnosis.message(),
        "0/3 nodes are available: 1 node(s) had untolerated taint {k: v}, 2 Insufficient cpu."
    );
    assert!(
        diagnosis.helps.intersects(Change::NODE_TAINTS)
            && diagnosis.helps.intersects(Change::POD_GONE)
    );
    assert!(!diagnosis.helps.intersects(Change::NODE_LABELS));
    let Outcome::Nowhere(diagnosis) = schedule(&wants, &cluster(vec![]), None, 0) else {
        panic!("no nodes")
    };
    assert_eq!(diagnosis.message(), "no nodes available to schedule pods");
    assert!(diagnosis.helps.intersects(Change::NODE_ADDED));
}

#[test]
fn the_best_node_wins_and_equals_share() {
    let snapshot = cluster(vec![
        (node("a", "", json!({})), vec![with_cpu("1", 500)]),
        (node("b", "", json!({})), vec![]),
        (node("c", "", json!({})), vec![]),
    ]);
    let wants = with_cpu("p", 100);
    let chosen: HashSet<_> = (0..4)
        .map(|pick| match schedule(&wants, &snapshot, None, pick) {
            Outcome::Node(node) => node,
            Outcome::Nowhere(diagnosis) => panic!("{}", diagnosis.message()),
        })
        .collect();
    assert_eq!(chosen, HashSet::from(["b".into(), "c".into()]));
    // Room that was made for it comes before a better score.
    let nominated = Pod {
        nominated: Some("a".into()),
        ..wants.clone()
    };
    assert_eq!(
        schedule(&nominated, &snapshot, None, 0),
        Outcome::Node("a".into())
    );
    // Room that was made for others is taken.
    let others = cluster(vec![
        (node("a", "", json!({})), vec![with_cpu("1", 500)]),
        (node("b", "", json!({})), vec![with_cpu("2", 1000)]),
        (node("c", "", json!({})), vec![with_cpu("3", 1000)]),
    ]);
    assert_eq!(
        schedule(&wants, &snapshot, Some(&others), 0),
        Outcome::Node("a".into())
    );
}

/// A pod of many kinds, by small numbers.
fn any_pod() -> impl Strategy<Value = (i64, i64, u8, u8)> {
    (0..700_i64, 0..600_i64, 0..4_u8, 0..6_u8)
}

fn build(index: usize, (cpu, memory, port, kind): (i64, i64, u8, u8)) -> Pod {
    let mut container = json!({"name": "c", "resources": {"requests": {"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")}}});
    if port == 0 {
        container["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
    }
    let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "1"}}});
    let mut spec = match kind {
        0 => json!({"nodeSelector": {"zone": "1"}}),
        1 => {
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
        }
        2 => {
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
        }
        3 => json!({"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "3"}}}]}),
        4 => json!({"tolerations": [{"operator": "Exists"}]}),
        _ => json!({}),
    };
    spec["containers"] = json!([container]);
    pod(&format!("p{index}"), &format!("app={kind}"), spec)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Pods come and go; whatever happens, no node takes more than it has, no host port is given twice, and every
    /// pod that was placed passes every filter when it is judged with itself taken off again.
    #[test]
    fn a_node_never_takes_what_it_has_not(
        pods in proptest::collection::vec((any_pod(), any::<usize>(), proptest::option::weighted(0.2, 0..30_usize)), 1..40),
    ) {
        let tainted = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let mut cache = Cache::default();
        for node in [node("a", "zone=1", json!({})), node("b", "zone=1", tainted), node("c", "zone=2", json!({}))] {
            cache.set_node(node);
        }
        for (index, (kind, pick, leaves)) in pods.into_iter().enumerate() {
            let pod = build(index, kind);
            if let Outcome::Node(name) = schedule(&pod, &cache.snapshot(), None, pick) {
                let before = cache.snapshot();
                let state = before.nodes.iter().find(|s| s.node.name == name).expect("a node of the cluster");
                prop_assert!(Cycle::new(&pod, &before).check(state).is_ok());
                cache.assume(Arc::new(pod), &name);
            }
            if let Some(leaves) = leaves {
                cache.remove_pod(&format!("p{leaves}"));
            }
            for state in &cache.snapshot().nodes {
                let node: &Node = &state.node;
                let sum = state.pods.values().fold(crate::model::Resources::default(), |mut sum, pod| {
                    sum.add(&pod.requests);
                    sum
                });
                prop_assert_eq!(&sum, &state.requested);
                for (name, used) in sum.iter() {
                    prop_assert!(used <= node.allocatable.get(name), "{} of {}", name, node.name);
                }
                let ports = state.pods.values().filter(|pod| !pod.ports.is_empty()).count();
                prop_assert!(ports <= 1);
            }
        }
    }
}
