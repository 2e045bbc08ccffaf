//! Shared by the table tests.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::sync::Arc;

use keelson_api::Resource;
use serde_json::{Value, json};

/// The row of a plural in any group, but those of what is measured; of several versions the last.
pub fn row(plural: &str) -> Arc<Resource> {
    let (group, name) = plural
        .split_once('/')
        .map_or((None, plural), |(g, n)| (Some(g), n));
    let table = keelson_api::builtin();
    table
        .rows()
        .filter(|r| r.plural == name)
        .filter(|r| group.map_or(r.group != "metrics.k8s.io", |g| r.group == g))
        .last()
        .unwrap()
        .clone()
}

/// An object after defaults.
pub fn defaulted(plural: &str, mut v: Value) -> Value {
    if let Some(f) = row(plural).strategy.default {
        f(&mut v);
    }
    v
}

/// A valid pod with fields of its `spec` set over it.
pub fn pod(spec: Value) -> Value {
    let mut v = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    over(&mut v["spec"], spec);
    defaulted("pods", v)
}

/// A valid pod with fields of its one container set over it.
pub fn container(fields: Value) -> Value {
    let mut c = json!({"name": "c", "image": "i:1"});
    over(&mut c, fields);
    pod(json!({"containers": [c], "volumes": [{"name": "v"}]}))
}

fn over(v: &mut Value, fields: Value) {
    for (k, f) in fields.as_object().unwrap() {
        v[k] = f.clone();
    }
}

/// What is wrong with a new object: field and message of each.
pub fn wrong(plural: &str, v: &Value) -> Vec<String> {
    let causes = keelson_api::validate::create(&row(plural), v);
    causes
        .into_iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}

/// What is wrong with a change.
pub fn wrong_update(plural: &str, new: &Value, old: &Value) -> Vec<String> {
    let f = row(plural).strategy.validate_update.unwrap();
    f(new, old)
        .into_iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}
