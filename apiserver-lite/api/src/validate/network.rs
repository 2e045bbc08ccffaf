//! Validation of endpoints, slices, ingresses and network policies.

use serde_json::Value;

use super::field::{At, Errors};
use super::{check, check_update, label_selector, names, port, port_or_name};
use crate::status::Cause;

/// Endpoints.
pub(crate) fn endpoints(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        for s in at.items("subsets") {
            for list in ["addresses", "notReadyAddresses"] {
                for a in s.items(list) {
                    errs.check(&a.child("ip"), names::ip(a.child("ip").text()));
                }
            }
            if s.child("addresses").is_zero() && s.child("notReadyAddresses").is_zero() {
                errs.required(&s, "must specify `addresses` or `notReadyAddresses`");
            }
            for p in s.items("ports") {
                errs.check(
                    &p.child("port"),
                    names::port(p.child("port").int().unwrap_or_default()),
                );
                errs.required_one_of(&p.child("protocol"), &["SCTP", "TCP", "UDP"], "");
            }
        }
    })
}

/// An EndpointSlice.
pub(crate) fn endpoint_slice(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let kind = at.child("addressType");
        errs.required_one_of(&kind, &["FQDN", "IPv4", "IPv6"], "");
        let count = at.items("endpoints").count();
        if count > 1000 {
            errs.too_many("endpoints", count, 1000);
        }
        for e in at.items("endpoints") {
            let addresses = e.items("addresses").count();
            if addresses == 0 {
                errs.required(&e.child("addresses"), "must contain at least 1 address");
            }
            for a in e.items("addresses") {
                address(kind.text(), &a, errs);
            }
            let host = e.child("hostname");
            if host.is_set() {
                errs.check(&host, names::dns_label(host.text()));
            }
        }
        for p in at.items("ports") {
            if !p.child("name").text().is_empty() {
                errs.check(&p.child("name"), names::dns_label(p.child("name").text()));
            }
            errs.required_one_of(&p.child("protocol"), &["SCTP", "TCP", "UDP"], "");
            port(&p.child("port"), errs);
        }
    })
}

fn address(kind: &str, at: &At<'_>, errs: &mut Errors) {
    match kind {
        "IPv4" if at.text().parse::<std::net::Ipv4Addr>().is_err() => {
            errs.invalid(at, "must be a valid IPv4 address")
        }
        "IPv6" if at.text().parse::<std::net::Ipv6Addr>().is_err() => {
            errs.invalid(at, "must be a valid IPv6 address")
        }
        "FQDN" => errs.check(at, names::dns_subdomain(at.text())),
        _ => {}
    }
}

/// A change of an EndpointSlice.
pub(crate) fn endpoint_slice_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        errs.immutable(&new.child("addressType"), old.child("addressType").value)
    })
}

/// An Ingress.
pub(crate) fn ingress(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        if spec.child("rules").is_zero() && !spec.child("defaultBackend").is_set() {
            errs.invalid(
                &spec.child("rules"),
                "either `defaultBackend` or `rules` must be specified",
            );
        }
        if spec.child("defaultBackend").is_set() {
            backend(&spec.child("defaultBackend"), errs);
        }
        for rule in spec.items("rules") {
            let host = rule.child("host");
            if host.text().parse::<std::net::IpAddr>().is_ok() {
                errs.invalid(&host, "must be a DNS name, not an IP address");
            } else if host.text().contains('*') {
                errs.check(&host, names::wildcard_subdomain(host.text()));
            } else if !host.text().is_empty() {
                errs.check(&host, names::dns_subdomain(host.text()));
            }
            if rule.child("http").is_set() && rule.child("http.paths").is_zero() {
                errs.required(&rule.child("http.paths"), "");
            }
            for path in rule.items("http.paths") {
                ingress_path(&path, errs);
            }
        }
    })
}

fn ingress_path(at: &At<'_>, errs: &mut Errors) {
    let (kind, path) = (at.child("pathType"), at.child("path"));
    errs.required_one_of(
        &kind,
        &["Exact", "ImplementationSpecific", "Prefix"],
        "pathType must be specified",
    );
    if matches!(kind.text(), "Exact" | "Prefix") && !path.text().starts_with('/') {
        errs.invalid_value(&path.path, path.text(), "must be an absolute path");
    }
    backend(&at.child("backend"), errs);
}

fn backend(at: &At<'_>, errs: &mut Errors) {
    let (service, resource) = (at.child("service"), at.child("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => errs.invalid_value(
            &at.path,
            "",
            "cannot set both resource and service backends",
        ),
        (false, false) => errs.required(at, "resource or service backend is required"),
        (false, true) => {}
        (true, false) => {
            if service.child("name").text().is_empty() {
                errs.required(&service.child("name"), "");
            }
            let (name, number) = (service.child("port.name"), service.child("port.number"));
            if name.is_zero() && number.is_zero() {
                errs.required(&service.child("port"), "port name or number is required");
            } else if !name.is_zero() && !number.is_zero() {
                errs.invalid_value(
                    &service.child("port").path,
                    "",
                    "cannot set both port name & port number",
                );
            }
            port(&number, errs);
        }
    }
}

/// An IngressClass.
pub(crate) fn ingress_class(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let controller = at.child("spec.controller");
        if controller.text().len() > 250 {
            errs.too_long(&controller.path, 250);
        }
        if controller.text().is_empty() {
            errs.required(&controller, "");
        }
        errs.one_of(
            &at.child("spec.parameters.scope"),
            &["Cluster", "Namespace"],
        );
    })
}

/// A change of an IngressClass: its controller stays.
pub(crate) fn ingress_class_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        let controller = old.child("spec.controller");
        errs.immutable(&new.child("spec.controller"), controller.value);
    })
}

/// A NetworkPolicy.
pub(crate) fn network_policy(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        label_selector(&spec.child("podSelector"), errs);
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.items(rules) {
                rule.items("ports").for_each(|p| policy_port(&p, errs));
                rule.items(peers).for_each(|p| policy_peer(&p, errs));
            }
        }
        for kind in spec.items("policyTypes") {
            errs.one_of(&kind, &["Egress", "Ingress"]);
        }
    })
}

fn policy_port(p: &At<'_>, errs: &mut Errors) {
    errs.one_of(&p.child("protocol"), &["SCTP", "TCP", "UDP"]);
    let (start, end) = (p.child("port"), p.child("endPort"));
    port_or_name(&start, errs);
    if !end.is_set() {
        return;
    }
    match start.int() {
        Some(n) if end.int().unwrap_or_default() < n => {
            errs.invalid(&end, "must be greater than or equal to `port`");
        }
        Some(_) => port(&end, errs),
        None if start.is_set() => {
            errs.invalid(&end, "may not be specified when `port` is non-numeric")
        }
        None => errs.invalid(&end, "may not be specified when `port` is not specified"),
    }
}

fn policy_peer(p: &At<'_>, errs: &mut Errors) {
    let block = p.child("ipBlock");
    let selectors = [p.child("podSelector"), p.child("namespaceSelector")];
    let selected = selectors.iter().any(At::is_set);
    selectors.iter().for_each(|s| label_selector(s, errs));
    match (selected, block.is_set()) {
        (false, false) => errs.required(p, "must specify a peer"),
        (true, true) => errs.forbidden(&p.path, "may not specify both ipBlock and another peer"),
        _ => {}
    }
    if block.is_set() {
        ip_block(&block, errs);
    }
}

fn ip_block(block: &At<'_>, errs: &mut Errors) {
    let cidr = block.child("cidr");
    if cidr.text().is_empty() {
        errs.required(&cidr, "");
        return;
    }
    errs.check(&cidr, names::cidr(cidr.text()));
    let Ok(net) = cidr.text().parse::<ipnet::IpNet>() else {
        return;
    };
    for e in block.items("except") {
        match e.text().parse::<ipnet::IpNet>() {
            Ok(inner) if net.contains(&inner) && net != inner => {}
            Ok(_) => errs.invalid(
                &e,
                &format!("must be a strict subset of `{}`", block.child("cidr").path),
            ),
            Err(_) => errs.check(&e, names::cidr(e.text())),
        }
    }
}

/// A ServiceCIDR.
pub(crate) fn service_cidr(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let all = at.child("spec.cidrs");
        match at.items("spec.cidrs").count() {
            0 => errs.required(&all, "at least one CIDR required"),
            1 | 2 => {}
            _ => errs.invalid(&all, "may only hold up to 2 values"),
        }
        for cidr in at.items("spec.cidrs") {
            errs.check(&cidr, names::cidr(cidr.text()));
        }
    })
}
