//! Columns of metrics.k8s.io, as metrics-server shows them.

use serde_json::{Value, json};

use super::{Col, NAME};
use crate::json::text;
use crate::quantity::Quantity;

/// Usage of a node, of one resource; of a pod, of all its containers.
fn usage(v: &Value, resource: &str) -> Value {
    let of_node = v.pointer("/usage").into_iter();
    let containers = v.pointer("/containers").and_then(Value::as_array);
    let of_pod = containers
        .into_iter()
        .flatten()
        .filter_map(|c| c.get("usage"));
    let amounts = of_node
        .chain(of_pod)
        .filter_map(|usage| Quantity::from_value(usage.get(resource)?).ok());
    match amounts.reduce(Quantity::plus) {
        Some(sum) => json!(sum.to_string()),
        None => json!(""),
    }
}

/// `nodes` and `pods` of metrics.k8s.io.
pub(crate) const METRICS: &[Col] = &[
    NAME,
    Col::text("cpu", |v, _| usage(v, "cpu")),
    Col::text("memory", |v, _| usage(v, "memory")),
    Col::text("Window", |v, _| json!(text(v, "/window"))),
];
