//! What was allocated to a Service stays its own when an update leaves it out (upstream's `patchAllocatedValues`).

use serde_json::{Value, json};

use crate::json::{at, each, fill_int, fill_text, int, is_zero, items, keep, object_at, set, text};

pub(super) fn prepare_create(v: &mut Value) {
    set(v, "status", json!({"loadBalancer": {}}));
}

pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    keep(new, old, "status");
    let Some(spec) = object_at(new, "/spec") else {
        return;
    };
    let old = at(old, "/spec");
    let addressed =
        |s: &Value| matches!(text(s, "/type"), "ClusterIP" | "NodePort" | "LoadBalancer");
    if addressed(spec) && addressed(old) {
        fill_text(spec, "clusterIP", text(old, "/clusterIP"));
        if is_zero(at(spec, "/clusterIPs")) && text(spec, "/clusterIP") == text(old, "/clusterIP") {
            keep(spec, old, "clusterIPs");
        }
    }
    let exposed = |s: &Value| matches!(text(s, "/type"), "NodePort" | "LoadBalancer");
    if exposed(spec) && exposed(old) {
        each(spec, "/ports", |p| node_port(p, items(old, "/ports")));
    }
    let health = |s: &Value| {
        text(s, "/type") == "LoadBalancer" && text(s, "/externalTrafficPolicy") == "Local"
    };
    if health(spec)
        && health(old)
        && let Some(n) = int(old, "/healthCheckNodePort")
    {
        fill_int(spec, "healthCheckNodePort", n);
    }
}

/// A port without a node port takes that of the old port of the same number and protocol.
fn node_port(p: &mut Value, old: &[Value]) {
    let same = |o: &&Value| {
        int(o, "/port") == int(p, "/port") && text(o, "/protocol") == text(p, "/protocol")
    };
    let had = old
        .iter()
        .find(same)
        .and_then(|o| int(o, "/nodePort"))
        .filter(|n| *n != 0);
    if let Some(n) = had {
        fill_int(p, "nodePort", n);
    }
}
