//! Columns of services, endpoints, ingresses and network policies.

use serde_json::{Value, json};

use super::{AGE, Col, NAME, NONE, UNSET, join_or_none, label_text, or, or_none, selector_text};
use crate::json::{at, int, items, text, texts};

pub(crate) const SERVICE: &[Col] = &[
    NAME,
    Col::text("Type", |v, _| json!(text(v, "/spec/type"))),
    Col::text("Cluster-IP", |v, _| json!(cluster_ip(v))),
    Col::text("External-IP", |v, _| json!(external_ip(v))),
    Col::text("Port(s)", |v, _| ports(v)),
    AGE,
    Col::text("Selector", |v, _| label_text(v, "/spec/selector")).wide(),
];

pub(crate) const ENDPOINTS: &[Col] = &[
    NAME,
    Col::text("Endpoints", |v, _| json!(endpoints(v))),
    AGE,
];

pub(crate) const ENDPOINT_SLICE: &[Col] = &[
    NAME,
    Col::text("AddressType", |v, _| json!(text(v, "/addressType"))),
    Col::text("Ports", |v, _| json!(slice_ports(v))),
    Col::text("Endpoints", |v, _| json!(slice_endpoints(v))),
    AGE,
];

pub(crate) const INGRESS: &[Col] = &[
    NAME,
    Col::text("Class", |v, _| json!(ingress_class(v))),
    Col::text("Hosts", |v, _| json!(hosts(v))),
    Col::text("Address", |v, _| json!(load_balancer(v).join(","))),
    Col::text("Ports", |v, _| {
        json!(if items(v, "/spec/tls").is_empty() {
            "80"
        } else {
            "80, 443"
        })
    }),
    AGE,
];

pub(crate) const INGRESS_CLASS: &[Col] = &[
    NAME,
    Col::text("Controller", |v, _| json!(text(v, "/spec/controller"))),
    Col::text("Parameters", |v, _| json!(parameters(v))),
    AGE,
];

pub(crate) const NETWORK_POLICY: &[Col] = &[
    NAME,
    Col::text("Pod-Selector", |v, _| selector_text(v, "/spec/podSelector")),
    AGE,
];

pub(crate) const IP_ADDRESS: &[Col] = &[NAME, Col::text("ParentRef", |v, _| json!(parent(v))), AGE];

pub(crate) const SERVICE_CIDR: &[Col] = &[
    NAME,
    Col::text("CIDRs", |v, _| join_or_none(texts(v, "/spec/cidrs"))),
    AGE,
];

fn cluster_ip(v: &Value) -> &str {
    match texts(v, "/spec/clusterIPs").first() {
        Some(ip) if !ip.is_empty() => ip,
        _ => or_none(text(v, "/spec/clusterIP")),
    }
}

fn load_balancer(v: &Value) -> Vec<&str> {
    let points = items(v, "/status/loadBalancer/ingress").iter();
    points
        .map(|i| or(text(i, "/ip"), text(i, "/hostname")))
        .filter(|s| !s.is_empty())
        .collect()
}

fn external_ip(v: &Value) -> String {
    let given = texts(v, "/spec/externalIPs");
    match text(v, "/spec/type") {
        "ExternalName" => text(v, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let mut all = load_balancer(v);
            if all.is_empty() && given.is_empty() {
                return "<pending>".into();
            }
            all.extend(given);
            all.join(",")
        }
        _ => or_none(&given.join(",")).to_owned(),
    }
}

fn ports(v: &Value) -> Value {
    join_or_none(items(v, "/spec/ports").iter().map(|p| {
        let (port, protocol) = (int(p, "/port").unwrap_or_default(), text(p, "/protocol"));
        match int(p, "/nodePort").unwrap_or_default() {
            0 => format!("{port}/{protocol}"),
            node => format!("{port}:{node}/{protocol}"),
        }
    }))
}

/// A list cut at `max`, saying how many more there are.
fn few(list: &[String], max: usize) -> String {
    let shown = list.iter().take(max).cloned().collect::<Vec<_>>().join(",");
    match list.len().saturating_sub(max) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn endpoints(v: &Value) -> String {
    let mut all = Vec::new();
    for subset in items(v, "/subsets") {
        let ports = items(subset, "/ports");
        for address in items(subset, "/addresses") {
            let ip = text(address, "/ip");
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            for port in ports {
                let port = int(port, "/port").unwrap_or_default();
                all.push(if ip.contains(':') {
                    format!("[{ip}]:{port}")
                } else {
                    format!("{ip}:{port}")
                });
            }
        }
    }
    or_none(&few(&all, 3)).to_owned()
}

fn slice_ports(v: &Value) -> String {
    let all: Vec<String> = items(v, "/ports")
        .iter()
        .map(|p| match (int(p, "/port"), text(p, "/name")) {
            (Some(n), _) => n.to_string(),
            (None, "") => "*".into(),
            (None, name) => name.to_owned(),
        })
        .collect();
    if all.is_empty() {
        UNSET.into()
    } else {
        few(&all, 3)
    }
}

fn slice_endpoints(v: &Value) -> String {
    let all: Vec<String> = items(v, "/endpoints")
        .iter()
        .flat_map(|e| texts(e, "/addresses"))
        .map(str::to_owned)
        .collect();
    if all.is_empty() {
        UNSET.into()
    } else {
        few(&all, 3)
    }
}

fn ingress_class(v: &Value) -> &str {
    let old = crate::meta::annotation(v, "kubernetes.io/ingress.class").unwrap_or_default();
    or_none(or(text(v, "/spec/ingressClassName"), old))
}

fn hosts(v: &Value) -> String {
    let all: Vec<String> = items(v, "/spec/rules")
        .iter()
        .map(|r| text(r, "/host").to_owned())
        .filter(|h| !h.is_empty())
        .collect();
    if all.is_empty() {
        "*".into()
    } else {
        few(&all, 3)
    }
}

fn parameters(v: &Value) -> String {
    let p = at(v, "/spec/parameters");
    if p.is_null() {
        return NONE.into();
    }
    let group = text(p, "/apiGroup");
    let dot = if group.is_empty() { "" } else { "." };
    format!("{}{dot}{group}/{}", text(p, "/kind"), text(p, "/name"))
}

fn parent(v: &Value) -> String {
    let p = at(v, "/spec/parentRef");
    let parts = ["/group", "/resource", "/namespace", "/name"].map(|f| text(p, f));
    or_none(
        &parts
            .into_iter()
            .filter(|s| !s.is_empty())
            .collect::<Vec<_>>()
            .join("/"),
    )
    .to_owned()
}
