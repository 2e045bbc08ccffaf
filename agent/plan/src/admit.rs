//! Whether this node can take a pod that was bound to it: the scheduler may have been wrong, or somebody
//! else (or nobody) may have bound it. Reasons and texts are upstream's.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::eviction::{self, Condition};
use crate::quantity::milli_of;
use crate::resources;
use crate::shutdown;
use crate::sysctl;

/// What the node is.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What pods may use.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Resources that plugins give out: who does not get any is refused then.
    pub devices: BTreeSet<String>,
    /// Sysctls allowed besides the safe ones: names, or prefixes that end in `*`.
    pub unsafe_sysctls: Vec<String>,
    /// What it is short of, in order.
    pub pressure: Vec<Condition>,
    /// It is shutting down.
    pub shutting_down: bool,
}

/// Why a pod is refused: it fails with this reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Such as `OutOfcpu`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Admits a pod beside the active ones already here.
pub fn admit(pod: &Pod, others: &[&PodSpec], node: &Node) -> Result<(), Refusal> {
    eviction::admit(pod, &node.pressure)?;
    let Some(spec) = &pod.spec else { return Ok(()) };
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        let message = format!("Pod's OS field {} doesn't match node's OS linux", os.name);
        return Err(refuse("PodOSNotSupported", message));
    }
    sysctl::check(spec, &node.unsafe_sysctls)
        .map_err(|why| refuse("SysctlForbidden", format!("forbidden sysctl: {why}")))?;
    fits(spec, others, node)?;
    if !selected(spec, node) {
        let message =
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Err(refuse("NodeAffinity", message.into()));
    }
    let taken: Vec<_> = others.iter().flat_map(|s| host_ports(s)).collect();
    let clash = |p: &Port| {
        taken
            .iter()
            .any(|t| t.1 == p.1 && t.2 == p.2 && (t.0 == p.0 || any(&t.0) || any(&p.0)))
    };
    if host_ports(spec).iter().any(clash) {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Err(refuse("NodePorts", message.into()));
    }
    if node.shutting_down {
        let message = shutdown::NOT_ADMITTED;
        return Err(refuse("NodeShutdown", message.into()));
    }
    Ok(())
}

pub(crate) fn refuse(reason: &str, message: String) -> Refusal {
    Refusal {
        reason: reason.to_owned(),
        message: format!("Pod was rejected: {message}"),
    }
}

fn fits(spec: &PodSpec, others: &[&PodSpec], node: &Node) -> Result<(), Refusal> {
    let pods = milli_of(&node.allocatable, "pods") / 1000;
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let lack = match node.allocatable.contains_key("pods") && count >= pods {
        true => Some(Lack::new("pods", 1, count, pods)),
        false => lacks(spec, others, &node.allocatable, |name| {
            !node.devices.contains(name)
        }),
    };
    lack.map_or(Ok(()), |l| {
        Err(refuse(&format!("OutOf{}", l.resource), l.message))
    })
}

/// What the node has too little of.
pub(crate) struct Lack {
    resource: String,
    /// Upstream's sentence.
    pub(crate) message: String,
}

impl Lack {
    fn new(resource: &str, requested: i64, used: i64, capacity: i64) -> Self {
        let message = format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Self {
            resource: resource.to_owned(),
            message,
        }
    }
}

/// The first resource of which there is too little beside the others, of those that are counted.
pub(crate) fn lacks(
    spec: &PodSpec,
    others: &[&PodSpec],
    allocatable: &BTreeMap<String, Quantity>,
    counted: impl Fn(&str) -> bool,
) -> Option<Lack> {
    // cpu is counted in thousandths, everything else in units.
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| c.resources.as_ref());
    let requests = containers
        .chain([spec.resources.as_ref()])
        .filter_map(|r| r?.requests.as_ref());
    let lists = requests.chain(spec.overhead.as_ref());
    let mut names: Vec<&str> = lists.flat_map(BTreeMap::keys).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let mut names = names.into_iter().filter(|name| counted(name));
    names.find_map(|name| {
        let unit = if name == "cpu" { 1 } else { 1000 };
        let requested = resources::request(spec, name) / unit;
        let used: i64 = others
            .iter()
            .map(|s| resources::request(s, name) / unit)
            .sum();
        let capacity = milli_of(allocatable, name) / unit;
        let lacks = requested > 0 && used + requested > capacity;
        lacks.then(|| Lack::new(name, requested, used, capacity))
    })
}

fn selected(spec: &PodSpec, node: &Node) -> bool {
    let plain = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(k, v)| node.labels.get(k) == Some(v));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref());
    let required = required.and_then(|n| {
        n.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    plain && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term(t, node)))
}

/// A term without any requirement matches nothing.
pub(crate) fn term(t: &NodeSelectorTerm, node: &Node) -> bool {
    let name = |key: &str| (key == "metadata.name").then(|| node.name.clone());
    let (labels, fields) = (
        t.match_expressions.iter().flatten(),
        t.match_fields.iter().flatten(),
    );
    let empty = labels.clone().next().is_none() && fields.clone().next().is_none();
    !empty
        && labels
            .into_iter()
            .all(|r| requirement(r, node.labels.get(&r.key).cloned()))
        && fields.into_iter().all(|r| requirement(r, name(&r.key)))
}

fn requirement(r: &NodeSelectorRequirement, value: Option<String>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let numbers = || {
        Some((
            value.as_ref()?.parse::<i64>().ok()?,
            values.first()?.parse::<i64>().ok()?,
        ))
    };
    match r.operator.as_str() {
        "In" => value.is_some_and(|v| values.contains(&v)),
        "NotIn" => value.is_none_or(|v| !values.contains(&v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(have, want)| have > want),
        "Lt" => numbers().is_some_and(|(have, want)| have < want),
        _ => false,
    }
}

type Port = (String, String, i32);

fn any(ip: &str) -> bool {
    matches!(ip, "" | "0.0.0.0" | "::")
}

/// Address, protocol and number of a pod's host ports.
fn host_ports(spec: &PodSpec) -> Vec<Port> {
    let all = spec.containers.iter().chain(
        spec.init_containers
            .iter()
            .flatten()
            .filter(|c| c.restart_policy.is_some()),
    );
    let ports = all.flat_map(|c| c.ports.iter().flatten());
    let port = |p: &k8s_openapi::api::core::v1::ContainerPort| {
        let number = p.host_port.filter(|n| *n > 0)?;
        Some((
            p.host_ip.clone().unwrap_or_default(),
            p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            number,
        ))
    };
    ports.filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).expect("spec")
    }

    #[test]
    fn refusals() {
        let node = Node {
            unsafe_sysctls: Vec::new(),
            pressure: Vec::new(),
            devices: ["example.com/fpga".to_owned()].into(),
            shutting_down: false,
            name: "n1".into(),
            labels: [
                ("disk".to_owned(), "ssd".to_owned()),
                ("gen".to_owned(), "3".to_owned()),
            ]
            .into(),
            allocatable: [("cpu", "2"), ("memory", "1Gi"), ("pods", "3")]
                .map(|(k, v)| (k.to_owned(), Quantity(v.into())))
                .into(),
        };
        let wants = |r: Value| json!({"containers": [{"name": "c", "resources": {"requests": r}}]});
        let affinity = |e: Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [e]}}}})
        };
        let port = |ip: &str, proto: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": ip, "protocol": proto}]}]});
        let other = spec(
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}},
            "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"}]}]}),
        );
        let expr = |key: &str, op: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]});
        let rows = [
            ("fits", wants(json!({"cpu": "500m"})), None),
            ("cpu", wants(json!({"cpu": "501m"})), Some("OutOfcpu")),
            (
                "memory",
                wants(json!({"memory": "2Gi"})),
                Some("OutOfmemory"),
            ),
            (
                "unknown resource",
                wants(json!({"example.com/gpu": "1"})),
                Some("OutOfexample.com/gpu"),
            ),
            (
                "a plugin's resource",
                wants(json!({"example.com/fpga": "1"})),
                None,
            ),
            (
                "selector",
                json!({"containers": [], "nodeSelector": {"disk": "hdd"}}),
                Some("NodeAffinity"),
            ),
            (
                "affinity in",
                affinity(expr("disk", "In", json!(["ssd"]))),
                None,
            ),
            (
                "affinity not in",
                affinity(expr("disk", "NotIn", json!(["ssd"]))),
                Some("NodeAffinity"),
            ),
            (
                "affinity gt",
                affinity(expr("gen", "Gt", json!(["2"]))),
                None,
            ),
            (
                "affinity lt",
                affinity(expr("gen", "Lt", json!(["2"]))),
                Some("NodeAffinity"),
            ),
            (
                "affinity empty term",
                affinity(json!({})),
                Some("NodeAffinity"),
            ),
            (
                "affinity field",
                affinity(
                    json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}),
                ),
                None,
            ),
            ("port on all addresses", port("", "TCP"), Some("NodePorts")),
            ("port on another address", port("10.0.0.2", "TCP"), None),
            ("port of another protocol", port("", "UDP"), None),
            (
                "windows",
                json!({"containers": [], "os": {"name": "windows"}}),
                Some("PodOSNotSupported"),
            ),
        ];
        for (name, value, want) in rows {
            let pod = Pod {
                spec: Some(spec(value)),
                ..Default::default()
            };
            let got = admit(&pod, &[&other], &node).err().map(|r| r.reason);
            assert_eq!(got.as_deref(), want, "{name}");
        }
        let pod = Pod {
            spec: Some(spec(json!({"containers": []}))),
            ..Default::default()
        };
        let refusal = admit(&pod, &[&other, &other, &other], &node).expect_err("full");
        let ends = Node {
            shutting_down: true,
            ..node.clone()
        };
        let late = admit(&pod, &[], &ends).expect_err("shutting down");
        assert_eq!(late.reason, "NodeShutdown");
        assert_eq!(
            late.message,
            "Pod was rejected: Pod was rejected as the node is shutting down."
        );
        assert_eq!(refusal.reason, "OutOfpods");
        assert_eq!(
            refusal.message,
            "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"
        );
    }
}
