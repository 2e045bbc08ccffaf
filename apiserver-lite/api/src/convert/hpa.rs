//! HorizontalPodAutoscalers: `v2` is stored. `v1` has one CPU figure; what it has no field for travels in
//! annotations, so that a write through `v1` loses nothing (as upstream).

use serde_json::{Map, Value, json};

use crate::{json as j, meta};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

/// Stored form (`v2`) to `v1`.
pub(crate) fn to_v1(v: &mut Value) {
    j::set(v, "apiVersion", "autoscaling/v1");
    let (cpu, rest) = split(v, "/spec", "metrics", |m| {
        (j::text(m, "/resource/target/type") == "Utilization")
            .then(|| j::at(m, "/resource/target/averageUtilization"))
    });
    let (now, current) = split(v, "/status", "currentMetrics", |m| {
        Some(j::at(m, "/resource/current/averageUtilization"))
    });
    let behavior = j::object_at(v, "/spec").and_then(|s| j::remove(s, "behavior"));
    let conditions = j::object_at(v, "/status").and_then(|s| j::remove(s, "conditions"));
    for (pointer, key, value) in [
        ("/spec", "targetCPUUtilizationPercentage", cpu),
        ("/status", "currentCPUUtilizationPercentage", now),
    ] {
        if let (Some(o), Some(value)) = (j::object_at(v, pointer), value) {
            j::set(o, key, value);
        }
    }
    let rest = (!rest.is_empty()).then_some(Value::Array(rest));
    let current = (!current.is_empty()).then_some(Value::Array(current));
    for (key, value) in [
        (METRICS, rest),
        (BEHAVIOR, behavior),
        (CONDITIONS, conditions),
        (CURRENT, current),
    ] {
        if let Some(value) = value {
            meta::set_annotation(v, key, &value.to_string());
        }
    }
}

/// `v1` to the stored form (`v2`).
pub(crate) fn from_v1(v: &mut Value) {
    j::set(v, "apiVersion", "autoscaling/v2");
    let mut metrics = Vec::new();
    if let Some(cpu) =
        j::object_at(v, "/spec").and_then(|s| j::remove(s, "targetCPUUtilizationPercentage"))
    {
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": cpu}}}));
    }
    let mut current = Vec::new();
    if let Some(cpu) =
        j::object_at(v, "/status").and_then(|s| j::remove(s, "currentCPUUtilizationPercentage"))
    {
        current.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": cpu}}}));
    }
    metrics.extend(take_list(v, METRICS));
    current.extend(take_list(v, CURRENT));
    let behavior = take(v, BEHAVIOR);
    let conditions = take(v, CONDITIONS);
    for (key, field, value) in [
        (
            "spec",
            "metrics",
            (!metrics.is_empty()).then_some(Value::Array(metrics)),
        ),
        ("spec", "behavior", behavior),
        (
            "status",
            "currentMetrics",
            (!current.is_empty()).then_some(Value::Array(current)),
        ),
        ("status", "conditions", conditions),
    ] {
        if let Some(value) = value
            && let Some(o) = j::object(v, key)
        {
            j::set(o, field, value);
        }
    }
}

/// Takes a list of metrics apart: the first CPU figure that `v1` can say, and the rest.
fn split(
    v: &mut Value,
    pointer: &str,
    key: &str,
    figure: fn(&Value) -> Option<&Value>,
) -> (Option<Value>, Vec<Value>) {
    let list = j::object_at(v, pointer).and_then(|s| j::remove(s, key));
    let Some(Value::Array(list)) = list else {
        return (None, Vec::new());
    };
    let mut cpu = None;
    let mut rest = Vec::new();
    for m in list {
        let is_cpu = j::text(&m, "/type") == "Resource" && j::text(&m, "/resource/name") == "cpu";
        match figure(&m)
            .filter(|f| is_cpu && cpu.is_none() && f.is_i64())
            .cloned()
        {
            Some(f) => cpu = Some(f),
            None => rest.push(m),
        }
    }
    (cpu, rest)
}

fn take(v: &mut Value, annotation: &str) -> Option<Value> {
    let all = v.pointer_mut("/metadata/annotations")?;
    let text = j::remove(all, annotation)?;
    if all.as_object().is_some_and(Map::is_empty) {
        meta::set(v, "annotations", Value::Null);
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn take_list(v: &mut Value, annotation: &str) -> Vec<Value> {
    match take(v, annotation) {
        Some(Value::Array(a)) => a,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
        let v2 = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "metrics": [cpu, memory], "behavior": {"scaleUp": {"selectPolicy": "Max"}}},
            "status": {"conditions": [{"type": "AbleToScale"}], "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 10}}}]}});
        let mut v = v2.clone();
        to_v1(&mut v);
        assert_eq!(
            v["spec"],
            json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 80})
        );
        assert_eq!(v["status"], json!({"currentCPUUtilizationPercentage": 10}));
        assert_eq!(
            meta::annotations(&v).map(|(k, _)| k).collect::<Vec<_>>(),
            [BEHAVIOR, CONDITIONS, METRICS]
        );
        from_v1(&mut v);
        assert_eq!(v, v2);
    }
}
