//! What was allocated to a Service stays its own when an update leaves it out (upstream's `patchAllocatedValues`), and
//! goes when its new type has no use for it (`dropTypeDependentFields`).

use serde_json::{Value, json};

use crate::json::{
    at, each, fill_int, fill_text, int, is_zero, items, keep, object_at, remove, set, text,
};

pub(super) fn prepare_create(v: &mut Value) {
    set(v, "status", json!({"loadBalancer": {}}));
}

pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    keep(new, old, "status");
    let Some(spec) = object_at(new, "/spec") else {
        return;
    };
    let old = at(old, "/spec");
    follow_first(spec, old);
    drop_unused(spec, old);
    if addressed(spec) && addressed(old) {
        fill_text(spec, "clusterIP", text(old, "/clusterIP"));
        if is_zero(at(spec, "/clusterIPs")) && text(spec, "/clusterIP") == text(old, "/clusterIP") {
            keep(spec, old, "clusterIPs");
        }
    }
    if exposed(spec) && exposed(old) {
        each(spec, "/ports", |p| node_port(p, items(old, "/ports")));
    }
    if health(spec)
        && health(old)
        && let Some(n) = int(old, "/healthCheckNodePort")
    {
        fill_int(spec, "healthCheckNodePort", n);
    }
}

/// Who writes `clusterIP` alone means the first of `clusterIPs` too (upstream's `normalizeClusterIPs`).
fn follow_first(spec: &mut Value, old: &Value) {
    let (one, had) = (text(spec, "/clusterIP"), text(old, "/clusterIP"));
    if one == had || had.is_empty() || at(spec, "/clusterIPs") != at(old, "/clusterIPs") {
        return;
    }
    if one.is_empty() {
        remove(spec, "clusterIPs");
    } else {
        let mut all = items(spec, "/clusterIPs").to_vec();
        if let Some(first) = all.first_mut() {
            *first = json!(one);
        }
        set(spec, "clusterIPs", all);
    }
}

/// Says of a Service's `spec` whether it has a use for some fields.
type Need = fn(&Value) -> bool;

fn addressed(spec: &Value) -> bool {
    matches!(
        text(spec, "/type"),
        "ClusterIP" | "NodePort" | "LoadBalancer"
    )
}

fn exposed(spec: &Value) -> bool {
    matches!(text(spec, "/type"), "NodePort" | "LoadBalancer")
}

fn balanced(spec: &Value) -> bool {
    text(spec, "/type") == "LoadBalancer"
}

fn health(spec: &Value) -> bool {
    balanced(spec) && text(spec, "/externalTrafficPolicy") == "Local"
}

fn reachable(spec: &Value) -> bool {
    exposed(spec) || addressed(spec) && !items(spec, "/externalIPs").is_empty()
}

/// Who needs what.
const NEEDS: &[(Need, &[&str])] = &[
    (addressed, &["clusterIP", "clusterIPs"]),
    (addressed, &["ipFamilies"]),
    (addressed, &["ipFamilyPolicy"]),
    (health, &["healthCheckNodePort"]),
    (balanced, &["allocateLoadBalancerNodePorts"]),
    (balanced, &["loadBalancerClass"]),
    (reachable, &["externalTrafficPolicy"]),
];

/// When the type changes to one without a use for a field, and the user did not touch the field, it goes.
fn drop_unused(spec: &mut Value, old: &Value) {
    for (need, fields) in NEEDS {
        let same = fields.iter().all(|f| spec.get(*f) == old.get(*f));
        if need(old) && !need(spec) && same {
            fields.iter().for_each(|f| drop(remove(spec, f)));
        }
    }
    let ports = |s: &Value| -> Vec<Option<i64>> {
        let ports = items(s, "/ports").iter();
        ports.map(|p| int(p, "/nodePort")).collect()
    };
    if exposed(old) && !exposed(spec) && ports(old) == ports(spec) {
        each(spec, "/ports", |p| drop(remove(p, "nodePort")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_new_type_does_not_need_goes() {
        let port = json!({"port": 80, "nodePort": 30080});
        let old = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 30000, "allocateLoadBalancerNodePorts": true, "ports": [port]}});
        let to = |kind: &str, change: Value| {
            let mut new = old.clone();
            new["spec"]["type"] = json!(kind);
            for (field, value) in change.as_object().into_iter().flatten() {
                new["spec"][field] = value.clone();
            }
            prepare_update(&mut new, &old);
            new["spec"].take()
        };
        assert_eq!(
            to("ExternalName", json!({"externalName": "a.b"})),
            json!({"type": "ExternalName", "externalName": "a.b", "ports": [{"port": 80}]})
        );
        let address = json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80}]});
        assert_eq!(to("ClusterIP", json!({})), address);
        let node = to("NodePort", json!({}));
        assert_eq!(
            (&node["ports"][0], node.get("healthCheckNodePort")),
            (&port, None)
        );
        assert_eq!(node["externalTrafficPolicy"], "Local");
        let cleared = to(
            "ExternalName",
            json!({"externalName": "a.b", "clusterIP": ""}),
        );
        assert_eq!(cleared.get("clusterIPs"), None);
        let moved = to("ClusterIP", json!({"clusterIP": "10.0.0.2"}));
        assert_eq!(moved["clusterIPs"], json!(["10.0.0.2"]));
        // What the user sets stays, for validation to refuse.
        let odd = to("ExternalName", json!({"clusterIP": "10.0.0.2"}));
        assert_eq!(odd["clusterIP"], "10.0.0.2");
    }
}
