//! The table as a whole, and every function in it on hostile input.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use jiff::Timestamp;
use keelson_api::{Resource, Scope, validate};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

#[test]
fn rows_are_told_apart() {
    let table = keelson_api::builtin();
    let mut short = BTreeSet::new();
    for row in table.rows() {
        assert_eq!(row.list_kind, format!("{}List", row.kind));
        assert_eq!(row.singular, row.kind.to_lowercase());
        if matches!(row.version.as_ref(), "v1")
            && row.group != "events.k8s.io"
            && row.group != "autoscaling"
        {
            for s in &row.short_names {
                assert!(short.insert(s.to_string()), "{s} stands twice");
            }
        }
    }
    let pods = table.get("", "v1", "pods").unwrap();
    assert_eq!(
        (
            pods.api_version().as_str(),
            pods.scope,
            pods.subresources.len()
        ),
        ("v1", Scope::Namespaced, 10)
    );
    assert!(
        !table
            .get("", "v1", "namespaces")
            .unwrap()
            .allows("deletecollection")
    );
    let [a, b] = [("", "events"), ("events.k8s.io", "events")]
        .map(|(g, p)| table.get(g, "v1", p).unwrap().storage.clone());
    assert_eq!(a, b);
}

fn exercise(row: &Resource, v: &Value, old: &Value) {
    let now = Timestamp::UNIX_EPOCH;
    keelson_api::print::row(row, v, now);
    let s = &row.strategy;
    for f in [
        s.default,
        s.prepare_create,
        row.convert.map(|c| c.from_stored),
        row.convert.map(|c| c.to_stored),
    ]
    .into_iter()
    .flatten()
    {
        let mut v = v.clone();
        f(&mut v);
        validate::create(row, &v);
        keelson_api::print::row(row, &v, now);
    }
    let mut new = v.clone();
    if let Some(f) = s.prepare_status {
        for sub in ["status", "approval"] {
            f(&mut v.clone(), old, sub, now);
        }
    }
    if let Some(f) = s.prepare_update {
        f(&mut new, old);
    }
    validate::update(row, &new, old);
    s.selectable.iter().for_each(|(_, f)| drop(f(v)));
    if let Some(f) = s.grace {
        f(v, None);
    }
}

/// Names that the functions look for, so that random objects reach deep into them.
const KEYS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "template",
    "containers",
    "initContainers",
    "volumes",
    "ports",
    "port",
    "env",
    "valueFrom",
    "resources",
    "limits",
    "requests",
    "cpu",
    "selector",
    "matchLabels",
    "matchExpressions",
    "rules",
    "conditions",
    "type",
    "strategy",
    "rollingUpdate",
    "subsets",
    "endpoints",
    "addresses",
    "data",
    "stringData",
    "metrics",
    "behavior",
    "tolerations",
    "affinity",
    "livenessProbe",
    "httpGet",
    "projected",
    "sources",
    "items",
    "schedule",
    "subjects",
    "roleRef",
    "taints",
    "volumeClaimTemplates",
    "jobTemplate",
    "clusterIPs",
    "ingress",
    "from",
    "ipBlock",
    "http",
    "paths",
    "backend",
    "service",
    "state",
    "containerStatuses",
    "initContainerStatuses",
    "terminated",
    "series",
    "regarding",
    "currentMetrics",
    "hard",
    "nodeAffinity",
    "fieldRef",
    "fieldPath",
];

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zA-Z0-9/.:%*\\['\\]é-]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(7, 60, 6, |inner| {
        let object = prop::collection::vec((prop::sample::select(KEYS), inner.clone()), 0..6);
        let object = object.prop_map(|fields| {
            Value::Object(
                fields
                    .into_iter()
                    .map(|(k, v)| (k.to_owned(), v))
                    .collect::<Map<_, _>>(),
            )
        });
        prop_oneof![1 => prop::collection::vec(inner, 0..4).prop_map(Value::from), 4 => object]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_function_panics(meta in anything(), spec in anything(), status in anything(), old in anything()) {
        let v = json!({"metadata": meta, "spec": spec, "status": status});
        for row in keelson_api::builtin().rows() {
            exercise(row, &v, &old);
            exercise(row, &spec, &v);
        }
    }
}

/// Each place of a rich object, replaced by values of other forms.
#[test]
fn no_function_panics_on_one_wrong_place() {
    let rich = json!({"metadata": {"name": "a", "labels": {"a": "b"}, "finalizers": ["x"], "ownerReferences": [{"controller": true}]},
        "spec": {"containers": [{"name": "a", "image": "é", "ports": [{"containerPort": 1}], "env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['é']"}}}],
            "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": "a"}}, "volumeMounts": [{"name": "v"}]}],
            "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {}}]}}], "tolerations": [{}], "ports": [{"port": 1}],
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {}}, "spec": {"containers": [{}]}}, "metrics": [{"resource": {}}]},
        "status": {"containerStatuses": [{"state": {"terminated": {}}}], "conditions": [{"type": "Ready"}], "podIPs": [{}]}});
    let mut places = Vec::new();
    collect(&rich, String::new(), &mut places);
    let table = keelson_api::builtin();
    for place in places {
        for wrong in [
            json!(null),
            json!(-1),
            json!("x"),
            json!([[]]),
            json!({"a": null}),
        ] {
            let mut v = rich.clone();
            *v.pointer_mut(&place).unwrap() = wrong;
            for row in table.rows() {
                exercise(row, &v, &rich);
            }
        }
    }
}

fn collect(v: &Value, at: String, out: &mut Vec<String>) {
    match v {
        Value::Object(o) => o
            .iter()
            .for_each(|(k, v)| collect(v, format!("{at}/{k}"), out)),
        Value::Array(a) => a
            .iter()
            .enumerate()
            .for_each(|(i, v)| collect(v, format!("{at}/{i}"), out)),
        _ => {}
    }
    out.push(at);
}
