//! On which nodes a daemon's pods belong, and how they are bound to them.

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint,
    Toleration,
};
use kube::ResourceExt;

use crate::node::tolerates;

/// Taints that every daemon's pod tolerates; the last one only on the host's network.
const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// Whether a pod should be made on a node, and whether one that is there may stay.
pub(super) fn fits(spec: &PodSpec, node: &Node) -> (bool, bool) {
    if !chosen(spec, node) {
        return (false, false);
    }
    let tolerations = tolerations(spec);
    let bears = |t: &Taint| tolerations.iter().any(|o| tolerates(o, t));
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref());
    let hard = |t: &&Taint| !bears(t) && t.effect != "PreferNoSchedule";
    let against: Vec<&Taint> = taints.unwrap_or_default().iter().filter(hard).collect();
    (
        against.is_empty(),
        !against.iter().any(|t| t.effect == "NoExecute"),
    )
}

fn chosen(spec: &PodSpec, node: &Node) -> bool {
    let named = spec.node_name.as_ref().filter(|n| !n.is_empty());
    let selector = spec.node_selector.iter().flatten();
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| {
        a.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    named.is_none_or(|n| *n == node.name_any())
        && { selector }.all(|(k, v)| node.labels().get(k) == Some(v))
        && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term(t, node)))
}

fn term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let name = node.name_any();
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!labels.is_empty() || !fields.is_empty())
        && labels.iter().all(|r| holds(r, node.labels().get(&r.key)))
        && fields
            .iter()
            .all(|r| r.key == "metadata.name" && holds(r, Some(&name)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |s: &String| s.parse::<i64>().ok();
    let compare = |f: fn(&i64, &i64) -> bool| {
        let bound = values.first().and_then(number);
        value
            .and_then(number)
            .zip(bound)
            .is_some_and(|(v, b)| f(&v, &b))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let host = spec.host_network == Some(true);
    let own = TOLERATED.len() - usize::from(!host);
    for (key, effect) in TOLERATED.iter().take(own) {
        let toleration = Toleration {
            key: Some((*key).into()),
            operator: Some("Exists".into()),
            effect: Some((*effect).into()),
            ..Toleration::default()
        };
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

/// Binds a pod to a node: the scheduler places it, and knows what else is there.
pub(super) fn bind(spec: &mut PodSpec, node: &str) {
    spec.tolerations = Some(tolerations(spec));
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let required = affinity
        .node_affinity
        .get_or_insert_default()
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(NodeSelector::default);
    // The node was chosen by these terms already.
    required.node_selector_terms = vec![NodeSelectorTerm {
        match_fields: Some(vec![field]),
        match_expressions: None,
    }];
}

/// The node that a pod is on, or bound to.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required
        .node_selector_terms
        .iter()
        .flat_map(|t| t.match_fields.iter().flatten());
    let mut names = fields
        .filter(|r| r.key == "metadata.name")
        .filter_map(|r| r.values.as_ref()?.first());
    names.next().map(String::as_str)
}
