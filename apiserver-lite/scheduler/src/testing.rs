//! Pods and clusters for tests, written as in manifests.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::model::{Labels, Node, Pod};
use crate::snapshot::{NodeState, Snapshot};

/// A pod `ns/name` (its UID is its name); `labels` as `a=b,c=d`.
pub(crate) fn pod(name: &str, labels: &str, mut spec: Value) -> Pod {
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": map(labels)}, "spec": spec});
    Pod::parse(&serde_json::from_value(pod).expect("a pod"))
}

/// A pod that asks for so many millicores.
pub(crate) fn with_cpu(name: &str, milli: i64) -> Pod {
    pod(
        name,
        "",
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{milli}m")}}}]}),
    )
}

/// A node with a core, 1 GiB and room for ten pods, and with its hostname label.
pub(crate) fn node(name: &str, labels: &str, spec: Value) -> Node {
    let mut labels = map(labels);
    labels.insert("kubernetes.io/hostname".into(), name.into());
    let node = json!({"metadata": {"name": name, "labels": labels}, "spec": spec,
        "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}});
    Node::parse(&serde_json::from_value(node).expect("a node"))
}

pub(crate) fn map(labels: &str) -> Labels {
    labels
        .split(',')
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (k.into(), v.into()))
        .collect()
}

/// Nodes with their pods; namespaces `ns` (team=a) and `other` (team=b).
pub(crate) fn cluster(nodes: Vec<(Node, Vec<Pod>)>) -> Snapshot {
    let state = |(node, pods): (Node, Vec<Pod>)| {
        let mut state = NodeState {
            node: Arc::new(node),
            exists: true,
            ..NodeState::default()
        };
        pods.into_iter().for_each(|pod| state.add(Arc::new(pod)));
        Arc::new(state)
    };
    let namespaces = BTreeMap::from([
        ("ns".into(), map("team=a")),
        ("other".into(), map("team=b")),
    ]);
    Snapshot {
        nodes: nodes.into_iter().map(state).collect(),
        namespaces: Arc::new(namespaces),
        ..Snapshot::default()
    }
}
