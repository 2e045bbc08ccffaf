//! Validation of services.

use serde_json::Value;

use super::field::{At, Errors};
use super::{Seen, check, check_update, meta, names, port, port_or_name};
use crate::status::Cause;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// A Service.
pub(crate) fn service(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        let kind = spec.child("type").text();
        errs.required_one_of(&spec.child("type"), TYPES, "");
        errs.required_one_of(&spec.child("sessionAffinity"), &["ClientIP", "None"], "");
        meta::labels(&spec.child("selector"), errs);
        addresses(&spec, kind, errs);
        ports(&spec, kind, errs);
        external_name(&spec, kind, errs);
        traffic(&spec, kind, errs);
        affinity(&spec, errs);
    })
}

fn addresses(spec: &At<'_>, kind: &str, errs: &mut Errors) {
    let (one, many) = (spec.child("clusterIP"), spec.child("clusterIPs"));
    let list: Vec<At<'_>> = spec.items("clusterIPs").collect();
    if kind == "ExternalName" {
        if !one.is_zero() {
            errs.forbidden(&one.path, "may not be set for ExternalName services");
        }
        if !list.is_empty() {
            errs.forbidden(&many.path, "may not be set for ExternalName services");
        }
        return;
    }
    if list.len() > 2 {
        errs.invalid(&many, "may only hold up to 2 values");
    }
    if let Some(first) = list.first()
        && first.text() != one.text()
        && !one.is_zero()
    {
        errs.invalid(&many, "first value must match `clusterIP`");
    }
    let all = if list.is_empty() { vec![one] } else { list };
    for ip in all.iter().filter(|ip| !ip.text().is_empty()) {
        if ip.text() != "None" {
            errs.check(ip, names::ip(ip.text()));
        } else if kind != "ClusterIP" {
            errs.invalid(ip, &format!("may not be set to 'None' for {kind} services"));
        }
    }
    for family in spec.items("ipFamilies") {
        errs.one_of(&family, &["IPv4", "IPv6"]);
    }
    errs.one_of(
        &spec.child("ipFamilyPolicy"),
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
    for ip in spec.items("externalIPs") {
        errs.check(&ip, names::ip(ip.text()));
    }
}

fn ports(spec: &At<'_>, kind: &str, errs: &mut Errors) {
    let list: Vec<At<'_>> = spec.items("ports").collect();
    let headless = spec.child("clusterIP").text() == "None";
    if list.is_empty() && !headless && kind != "ExternalName" {
        errs.required(&spec.child("ports"), "");
    }
    let (mut seen, mut numbers, mut node_ports) =
        (Seen::default(), Seen::default(), Seen::default());
    for p in &list {
        let (name, number, protocol) = (p.child("name"), p.child("port"), p.child("protocol"));
        if name.text().is_empty() {
            if list.len() > 1 {
                errs.required(&name, "");
            }
        } else {
            errs.check(&name, names::dns_label(name.text()));
            seen.unique(&name, errs);
        }
        errs.check(&number, names::port(number.int().unwrap_or_default()));
        errs.required_one_of(&protocol, &["SCTP", "TCP", "UDP"], "");
        port_or_name(&p.child("targetPort"), errs);
        if !numbers.0.insert(format!(
            "{}/{}",
            number.int().unwrap_or_default(),
            protocol.text()
        )) {
            errs.duplicate(p);
        }
        let node = p.child("nodePort");
        if let Some(n) = node.int().filter(|n| *n != 0) {
            if !matches!(kind, "NodePort" | "LoadBalancer") {
                errs.forbidden(
                    &node.path,
                    &format!("may not be used when `type` is '{kind}'"),
                );
            }
            port(&node, errs);
            if !node_ports.0.insert(format!("{n}/{}", protocol.text())) {
                errs.duplicate(&node);
            }
        }
    }
}

fn external_name(spec: &At<'_>, kind: &str, errs: &mut Errors) {
    let name = spec.child("externalName");
    if kind != "ExternalName" {
        return;
    }
    let bare = name.text().strip_suffix('.').unwrap_or(name.text());
    if bare.is_empty() {
        errs.required(&name, "");
    } else {
        errs.check(&name, names::dns_subdomain(bare));
    }
}

fn traffic(spec: &At<'_>, kind: &str, errs: &mut Errors) {
    let external = spec.child("externalTrafficPolicy");
    errs.one_of(&external, &["Cluster", "Local"]);
    errs.one_of(&spec.child("internalTrafficPolicy"), &["Cluster", "Local"]);
    let reachable =
        matches!(kind, "NodePort" | "LoadBalancer") || !spec.child("externalIPs").is_zero();
    if !external.is_zero() && !reachable {
        errs.invalid(
            &external,
            "may only be set for externally-accessible services",
        );
    }
    let ranges = spec.child("loadBalancerSourceRanges");
    if !ranges.is_zero() && kind != "LoadBalancer" {
        errs.forbidden(
            &ranges.path,
            "may only be used when `type` is 'LoadBalancer'",
        );
    }
    for range in spec.items("loadBalancerSourceRanges") {
        errs.check(&range, names::cidr(range.text().trim()));
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if spec.child(field).is_set() && kind != "LoadBalancer" {
            errs.forbidden(
                &spec.child(field).path,
                "may only be used when `type` is 'LoadBalancer'",
            );
        }
    }
    let health = spec.child("healthCheckNodePort");
    if health.int().is_some_and(|n| n != 0)
        && !(kind == "LoadBalancer" && external.text() == "Local")
    {
        errs.invalid(
            &health,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
}

fn affinity(spec: &At<'_>, errs: &mut Errors) {
    let config = spec.child("sessionAffinityConfig");
    let seconds = config.child("clientIP.timeoutSeconds");
    match spec.child("sessionAffinity").text() {
        "None" if config.is_set() => {
            errs.forbidden(
                &config.path,
                "must not be set when session affinity is None",
            );
        }
        "ClientIP" if seconds.int().is_some_and(|n| !(1..=86_400).contains(&n)) => {
            errs.invalid(&seconds, "must be greater than 0 and less than 86400");
        }
        _ => {}
    }
}

/// A change of a Service: its addresses stay, unless it becomes or was an alias.
pub(crate) fn service_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        let (new, old) = (new.child("spec"), old.child("spec"));
        let alias = |s: &At<'_>| s.child("type").text() == "ExternalName";
        if alias(&new) || alias(&old) {
            return;
        }
        let (ip, was) = (new.child("clusterIP"), old.child("clusterIP"));
        if !was.text().is_empty() && ip.value != was.value {
            errs.invalid(
                &At::new(new.child("clusterIPs").value, "spec.clusterIPs[0]"),
                "may not change once set",
            );
        }
        let (class, had) = (
            new.child("loadBalancerClass"),
            old.child("loadBalancerClass"),
        );
        if had.is_set() && new.child("type").text() == "LoadBalancer" && class.value != had.value {
            errs.invalid(&class, "may not change once set");
        }
    })
}
