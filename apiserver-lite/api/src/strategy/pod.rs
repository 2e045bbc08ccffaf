//! What the system knows of a pod: its phase and class of service at birth, and how long it may take to die.

use serde_json::{Value, json};

use crate::defaults::mirror_service_account;
use crate::json::{at, entries, int, items, keep, object, object_at, set, text};
use crate::quantity::Quantity;

pub(super) fn prepare_create(v: &mut Value) {
    let class = qos(v);
    set(v, "status", json!({"phase": "Pending", "qosClass": class}));
    if !items(v, "/spec/schedulingGates").is_empty()
        && let Some(status) = object(v, "status")
    {
        let waiting = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
        set(status, "conditions", waiting);
    }
    if let Some(spec) = object_at(v, "/spec") {
        mirror_service_account(spec);
    }
}

pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    keep(new, old, "status");
    if let Some(spec) = object_at(new, "/spec") {
        mirror_service_account(spec);
    }
}

/// Seconds to die: what was asked for, else the pod's own; none if nothing runs yet or any more.
/// A negative figure of the pod means 1 (upstream's `podStrategy.CheckGracefulDelete`).
pub(super) fn grace(pod: &Value, asked: Option<i64>) -> i64 {
    let finished = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    if text(pod, "/spec/nodeName").is_empty() || finished {
        return 0;
    }
    let own = int(pod, "/spec/terminationGracePeriodSeconds").unwrap_or_default();
    match asked.unwrap_or(own) {
        ..0 => 1,
        seconds => seconds,
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by CPU and memory of all containers, or of the pod itself where it says
/// any (KEP-2837).
pub(crate) fn qos(pod: &Value) -> &'static str {
    let own = at(pod, "/spec");
    let parts: Vec<&Value> = match ["/resources/requests", "/resources/limits"]
        .iter()
        .any(|list| entries(own, list).next().is_some())
    {
        true => vec![own],
        false => items(pod, "/spec/containers")
            .iter()
            .chain(items(pod, "/spec/initContainers"))
            .collect(),
    };
    let positive = |c: &Value, pointer: &str| -> Vec<(String, Quantity)> {
        entries(c, pointer)
            .filter(|(name, _)| matches!(*name, "cpu" | "memory"))
            .filter_map(|(name, q)| Some((name.to_owned(), Quantity::from_value(q).ok()?)))
            .filter(|(_, q)| q.signum() > 0)
            .collect()
    };
    let mut any = false;
    let mut guaranteed = true;
    for c in parts {
        let (requests, limits) = (
            positive(c, "/resources/requests"),
            positive(c, "/resources/limits"),
        );
        any |= !requests.is_empty() || !limits.is_empty();
        // Every limit is also the request, and both resources are limited.
        guaranteed &= limits.len() == 2 && requests.iter().all(|r| limits.contains(r));
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
