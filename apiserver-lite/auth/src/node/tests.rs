#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::{Graph, authorize, node_name};
use crate::{Attributes, Decision, User};

fn pod(name: &str, node: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["nodeName"] = json!(node);
    json!({ "kind": "Pod", "metadata": { "namespace": "ns", "name": name }, "spec": spec })
}

fn full_pod(node: &str) -> Value {
    let spec = json!({
        "serviceAccountName": "app",
        "imagePullSecrets": [{ "name": "pull" }],
        "containers": [{
            "env": [{ "valueFrom": { "secretKeyRef": { "name": "env-secret" } } },
                    { "valueFrom": { "configMapKeyRef": { "name": "env-map" } } }],
            "envFrom": [{ "secretRef": { "name": "from-secret" } }],
        }],
        "initContainers": [{ "envFrom": [{ "configMapRef": { "name": "init-map" } }] }],
        "volumes": [
            { "name": "a", "secret": { "secretName": "vol-secret" } },
            { "name": "b", "projected": { "sources": [{ "configMap": { "name": "kube-root-ca.crt" } }, { "secret": { "name": "proj-secret" } }] } },
            { "name": "c", "persistentVolumeClaim": { "claimName": "data" } },
            { "name": "scratch", "ephemeral": {} },
        ],
    });
    pod("web", node, spec)
}

fn graph() -> Graph {
    let mut graph = Graph::default();
    graph.apply(&full_pod("a"));
    graph.apply(&pod(
        "other",
        "b",
        json!({ "serviceAccountName": "app", "imagePullSecrets": [{ "name": "pull-b" }] }),
    ));
    graph.apply(&json!({
        "kind": "PersistentVolume", "metadata": { "name": "pv" },
        "spec": { "claimRef": { "namespace": "ns", "name": "data" }, "csi": { "nodeStageSecretRef": { "namespace": "store", "name": "key" } } },
    }));
    graph.apply(&json!({ "kind": "VolumeAttachment", "metadata": { "name": "att" }, "spec": { "nodeName": "a" } }));
    graph
}

fn node(name: &str) -> User {
    User::component(&format!("system:node:{name}"), &["system:nodes"])
}

fn ask(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes {
        verb: verb.into(),
        group: group.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    }
}

#[test]
fn nodes_read_what_their_pods_refer_to_and_write_their_own() {
    let graph = graph();
    let cases = [
        ("get", "", "secrets", "ns", "pull", true),
        ("watch", "", "secrets", "ns", "env-secret", true),
        ("list", "", "secrets", "ns", "from-secret", true),
        ("get", "", "secrets", "ns", "vol-secret", true),
        ("get", "", "secrets", "ns", "proj-secret", true),
        ("get", "", "secrets", "store", "key", true),
        ("get", "", "secrets", "ns", "pull-b", false),
        ("get", "", "secrets", "other", "pull", false),
        ("list", "", "secrets", "ns", "", false),
        ("update", "", "secrets", "ns", "pull", false),
        ("get", "", "configmaps", "ns", "env-map", true),
        ("get", "", "configmaps", "ns", "init-map", true),
        ("get", "", "configmaps", "ns", "kube-root-ca.crt", true),
        ("get", "", "configmaps", "ns", "x", false),
        ("get", "", "persistentvolumeclaims", "ns", "data", true),
        (
            "get",
            "",
            "persistentvolumeclaims",
            "ns",
            "web-scratch",
            true,
        ),
        ("list", "", "persistentvolumeclaims", "ns", "data", false),
        (
            "patch",
            "",
            "persistentvolumeclaims/status",
            "ns",
            "data",
            true,
        ),
        ("get", "", "persistentvolumes", "", "pv", true),
        ("get", "", "persistentvolumes", "", "x", false),
        (
            "get",
            "storage.k8s.io",
            "volumeattachments",
            "",
            "att",
            true,
        ),
        ("create", "", "serviceaccounts/token", "ns", "app", true),
        ("create", "", "serviceaccounts/token", "ns", "x", false),
        ("delete", "", "serviceaccounts", "ns", "app", false),
        (
            "update",
            "coordination.k8s.io",
            "leases",
            "kube-node-lease",
            "a",
            true,
        ),
        (
            "update",
            "coordination.k8s.io",
            "leases",
            "kube-node-lease",
            "b",
            false,
        ),
        (
            "update",
            "coordination.k8s.io",
            "leases",
            "kube-system",
            "a",
            false,
        ),
        (
            "list",
            "coordination.k8s.io",
            "leases",
            "kube-node-lease",
            "",
            false,
        ),
        ("patch", "storage.k8s.io", "csinodes", "", "a", true),
        ("patch", "storage.k8s.io", "csinodes", "", "b", false),
        ("watch", "", "pods", "", "", false),
        ("get", "", "pods", "ns", "web", true),
        ("watch", "", "pods", "ns", "web", true),
        ("get", "", "pods", "ns", "other", false),
        ("delete", "", "pods", "ns", "web", true),
        ("update", "", "pods", "ns", "web", false),
        ("patch", "", "nodes/status", "", "a", true),
        ("delete", "", "nodes", "", "a", false),
        (
            "create",
            "authentication.k8s.io",
            "tokenreviews",
            "",
            "",
            true,
        ),
        ("list", "apps", "deployments", "", "", false),
    ];
    for (verb, group, resource, namespace, name, expected) in cases {
        let asked = ask(verb, group, resource, namespace, name);
        let decision = authorize(&graph, &node("a"), &asked);
        assert_eq!(
            matches!(decision, Decision::Allow(_)),
            expected,
            "{verb} {resource} {namespace}/{name}: {decision:?}"
        );
    }
}

#[test]
fn nodes_list_their_own_pods() {
    let graph = graph();
    for (field, value, expected) in [
        ("spec.nodeName", "a", true),
        ("spec.nodeName", "b", false),
        ("status.phase", "a", false),
    ] {
        for verb in ["list", "watch"] {
            let asked = Attributes {
                demands: vec![(field.into(), value.into())],
                ..ask(verb, "", "pods", "", "")
            };
            let decision = authorize(&graph, &node("a"), &asked);
            assert_eq!(
                matches!(decision, Decision::Allow(_)),
                expected,
                "{verb} {field}={value}: {decision:?}"
            );
        }
    }
}

#[test]
fn refusals_say_why_and_others_are_not_ours() {
    let asked = ask("get", "", "secrets", "ns", "x");
    let decision = authorize(&graph(), &node("a"), &asked);
    assert_eq!(
        decision,
        Decision::NoOpinion("no relationship found between node 'a' and this object".into())
    );
    let impostor = User::component("system:node:a", &["team"]);
    assert_eq!(node_name(&impostor), None);
    assert_eq!(
        node_name(&User::component("system:node:", &["system:nodes"])),
        None
    );
    let asked = ask("get", "", "secrets", "ns", "pull");
    assert_eq!(
        authorize(&graph(), &impostor, &asked),
        Decision::NoOpinion(String::new())
    );
}

#[test]
fn the_graph_forgets_with_the_last_pod() {
    let mut graph = graph();
    let mut twin = full_pod("a");
    twin["metadata"]["name"] = json!("twin");
    graph.apply(&twin);
    graph.apply(&twin);
    let reads = |graph: &Graph, node: &str| graph.refers(node, "secrets", "ns", "pull");
    graph.remove("Pod", "ns", "twin");
    assert!(reads(&graph, "a"), "one is left");
    graph.apply(&full_pod("b"));
    assert!(
        !reads(&graph, "a") && reads(&graph, "b"),
        "the pod is elsewhere now"
    );
    graph.remove("Pod", "ns", "web");
    graph.remove("Pod", "ns", "web");
    assert!(!reads(&graph, "b"));
    assert!(!graph.refers("b", "persistentvolumes", "", "pv"));
}

#[test]
fn mirror_pods_open_nothing() {
    let mut graph = Graph::default();
    let mut mirror = full_pod("a");
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    graph.apply(&mirror);
    assert!(!graph.refers("a", "secrets", "ns", "pull"));
    assert!(graph.refers("a", "pods", "ns", "web"));
}
