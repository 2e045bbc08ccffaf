//! Defaults of services, endpoints, ingresses and network policies.

use serde_json::{Value, json};

use super::tcp;
use crate::json::{
    at, each, fill, fill_text, has, is_zero, items, object, object_at, remove, set, text,
};

/// Seconds a client stays with an endpoint (`service.spec.sessionAffinityConfig`).
const AFFINITY_SECONDS: i64 = 10_800;

/// A Service. IP families and addresses are the allocator's.
pub(crate) fn service(v: &mut Value) {
    let Some(spec) = object(v, "spec") else {
        return;
    };
    fill_text(spec, "sessionAffinity", "None");
    match text(spec, "/sessionAffinity") {
        "None" => {
            remove(spec, "sessionAffinityConfig");
        }
        "ClientIP" => {
            if let Some(ip) =
                object(spec, "sessionAffinityConfig").and_then(|c| object(c, "clientIP"))
            {
                fill(ip, "timeoutSeconds", AFFINITY_SECONDS);
            }
        }
        _ => {}
    }
    fill_text(spec, "type", "ClusterIP");
    each(spec, "/ports", port);
    let kind = text(spec, "/type").to_owned();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !items(spec, "/externalIPs").is_empty());
    if external {
        fill_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        fill(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn port(p: &mut Value) {
    fill_text(p, "protocol", "TCP");
    if is_zero(at(p, "/targetPort")) && has(p, "/port") {
        let number = at(p, "/port").clone();
        set(p, "targetPort", number);
    }
}

/// Endpoints.
pub(crate) fn endpoints(v: &mut Value) {
    each(v, "/subsets", |s| tcp(s, "/ports"));
}

/// An EndpointSlice.
pub(crate) fn endpoint_slice(v: &mut Value) {
    each(v, "/ports", |p| {
        fill(p, "name", "");
        fill(p, "protocol", "TCP");
    });
    each(v, "/endpoints", |e| fill(e, "conditions", json!({})));
}

/// A NetworkPolicy: with egress rules it is about egress too.
pub(crate) fn network_policy(v: &mut Value) {
    let Some(spec) = object(v, "spec") else {
        return;
    };
    for rules in ["/ingress", "/egress"] {
        each(spec, rules, |r| tcp(r, "/ports"));
    }
    if items(spec, "/policyTypes").is_empty() {
        let egress = !items(spec, "/egress").is_empty();
        set(
            spec,
            "policyTypes",
            if egress {
                json!(["Ingress", "Egress"])
            } else {
                json!(["Ingress"])
            },
        );
    }
}

/// An IngressClass.
pub(crate) fn ingress_class(v: &mut Value) {
    if let Some(p) = object_at(v, "/spec/parameters") {
        fill(p, "scope", "Cluster");
    }
}
