//! A pod as the scheduler sees it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use kube::ResourceExt;

use super::{Effect, Labels, Requirement, Resources, Selector, Taint};

/// What a container without requests counts as when nodes are compared (upstream's `util/pod_resources.go`).
const DEFAULT_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its UID, which names it here.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// `spec.schedulerName`.
    pub scheduler_name: String,
    /// Larger goes first.
    pub priority: i32,
    /// Whether it may take the place of pods of lower priority.
    pub may_preempt: bool,
    /// Where it is bound to.
    pub node: Option<String>,
    /// Where room was made for it.
    pub nominated: Option<String>,
    /// When it was started; for the choice of victims.
    pub started: Option<Timestamp>,
    /// Being deleted.
    pub is_terminating: bool,
    /// Succeeded or failed: takes no room.
    pub is_finished: bool,
    /// Names of scheduling gates.
    pub gates: Vec<String>,
    /// The message of its `PodScheduled` condition, if that is False.
    pub refusal: Option<String>,
    /// What it asks for, itself as one pod included.
    pub requests: Resources,
    /// The same with defaults for containers that ask for nothing: (millicores, bytes).
    pub weight: (i64, i64),
    /// Ports it takes of its node.
    pub ports: Vec<HostPort>,
    /// Its claims' names, each with whether the claim is its own (a generic ephemeral volume).
    pub claims: Vec<(String, bool)>,
    /// Its containers' images.
    pub images: Vec<String>,
    /// `spec.nodeSelector`.
    pub node_selector: Selector,
    /// Required node affinity: one of the terms must match.
    pub required_nodes: Option<Vec<NodeTerm>>,
    /// Preferred node affinity, with weights.
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    /// Taints it tolerates.
    pub tolerations: Vec<Toleration>,
    /// Topology spread constraints.
    pub spread: Vec<Spread>,
    /// Required: pods that must be near.
    pub affinity: Vec<PodTerm>,
    /// Required: pods that must not be near.
    pub anti_affinity: Vec<PodTerm>,
    /// Preferred, with weights; negative for anti-affinity.
    pub preferred_pods: Vec<(i64, PodTerm)>,
}

/// A port of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The address; `0.0.0.0`: every one.
    pub ip: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

impl HostPort {
    /// Whether two pods cannot both have it.
    pub fn conflicts(&self, other: &Self) -> bool {
        let is_any = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || is_any(&self.ip) || is_any(&other.ip))
    }
}

/// A term over nodes: all of it must match; an empty one matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTerm {
    /// Over the node's labels.
    pub labels: Vec<Requirement>,
    /// Over `metadata.name`.
    pub fields: Vec<Requirement>,
}

/// A toleration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    /// The taint's key; `None`: any.
    pub key: Option<String>,
    /// The taint's value; `None`: any.
    pub value: Option<String>,
    /// The taint's effect; `None`: any.
    pub effect: Option<Effect>,
}

impl Toleration {
    /// Whether it tolerates the taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self
                .value
                .as_ref()
                .is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// A topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The node label whose values are the domains.
    pub key: String,
    /// How much fuller than the emptiest a domain may be.
    pub max_skew: i64,
    /// Below so many domains, the emptiest counts as empty.
    pub min_domains: usize,
    /// `DoNotSchedule` rather than `ScheduleAnyway`.
    pub is_required: bool,
    /// Which pods are counted.
    pub selector: Selector,
    /// Count only nodes that the pod's node selector and affinity admit.
    pub honours_affinity: bool,
    /// Count only nodes whose taints the pod tolerates.
    pub honours_taints: bool,
}

/// A term over other pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTerm {
    /// The node label that says what is near.
    pub key: String,
    /// Which pods.
    pub selector: Selector,
    /// In which namespaces.
    pub namespaces: BTreeSet<String>,
    /// And in namespaces with these labels.
    pub namespace_selector: Option<Selector>,
}

/// The claims of a pod's volumes.
fn claims(pod: &api::Pod, spec: &api::PodSpec) -> Vec<(String, bool)> {
    let of = |v: &api::Volume| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some((claim.claim_name.clone(), false)),
        (None, Some(_)) => Some((format!("{}-{}", pod.name_any(), v.name), true)),
        _ => None,
    };
    spec.volumes.iter().flatten().filter_map(of).collect()
}

impl Pod {
    /// The pod in an API object.
    pub fn parse(pod: &api::Pod) -> Self {
        let empty = api::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let status = pod.status.as_ref();
        let affinity = spec.affinity.as_ref();
        let mut this = Self {
            uid: pod.uid().unwrap_or_default(),
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            labels: pod.labels().clone(),
            scheduler_name: spec.scheduler_name.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or_default(),
            may_preempt: spec.preemption_policy.as_deref() != Some("Never"),
            node: spec.node_name.clone().filter(|node| !node.is_empty()),
            nominated: status
                .and_then(|status| status.nominated_node_name.clone())
                .filter(|node| !node.is_empty()),
            started: status
                .and_then(|status| status.start_time.as_ref())
                .map(|time| time.0),
            is_terminating: pod.metadata.deletion_timestamp.is_some(),
            is_finished: status
                .and_then(|status| status.phase.as_deref())
                .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed")),
            gates: spec
                .scheduling_gates
                .iter()
                .flatten()
                .map(|gate| gate.name.clone())
                .collect(),
            refusal: status.and_then(refusal),
            requests: requests(spec, status),
            weight: weight(spec, status),
            ports: ports(spec),
            claims: claims(pod, spec),
            images: spec
                .containers
                .iter()
                .filter_map(|c| c.image.clone())
                .collect(),
            node_selector: Selector::from_map(spec.node_selector.as_ref()),
            tolerations: spec.tolerations.iter().flatten().map(toleration).collect(),
            ..Self::default()
        };
        this.read_node_affinity(affinity.and_then(|affinity| affinity.node_affinity.as_ref()));
        this.read_pod_affinity(affinity);
        let constraints = spec.topology_spread_constraints.iter().flatten();
        this.spread = constraints
            .map(|constraint| spread(constraint, &this.labels))
            .collect();
        this
    }

    fn read_node_affinity(&mut self, affinity: Option<&api::NodeAffinity>) {
        let Some(affinity) = affinity else { return };
        let required = affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref();
        self.required_nodes =
            required.map(|required| required.node_selector_terms.iter().map(node_term).collect());
        let preferred = &affinity.preferred_during_scheduling_ignored_during_execution;
        self.preferred_nodes = preferred
            .iter()
            .flatten()
            .map(|term| (i64::from(term.weight), node_term(&term.preference)))
            .collect();
    }

    fn read_pod_affinity(&mut self, affinity: Option<&api::Affinity>) {
        let Some(affinity) = affinity else { return };
        if let Some(near) = &affinity.pod_affinity {
            let required = near
                .required_during_scheduling_ignored_during_execution
                .iter();
            self.affinity = required.flatten().map(|term| self.pod_term(term)).collect();
            let preferred = near
                .preferred_during_scheduling_ignored_during_execution
                .iter();
            let preferred = preferred.flatten();
            let terms: Vec<_> = preferred
                .map(|term| {
                    (
                        i64::from(term.weight),
                        self.pod_term(&term.pod_affinity_term),
                    )
                })
                .collect();
            self.preferred_pods.extend(terms);
        }
        if let Some(far) = &affinity.pod_anti_affinity {
            let required = far
                .required_during_scheduling_ignored_during_execution
                .iter();
            self.anti_affinity = required.flatten().map(|term| self.pod_term(term)).collect();
            let preferred = far
                .preferred_during_scheduling_ignored_during_execution
                .iter();
            let preferred = preferred.flatten();
            let terms: Vec<_> = preferred
                .map(|term| {
                    (
                        -i64::from(term.weight),
                        self.pod_term(&term.pod_affinity_term),
                    )
                })
                .collect();
            self.preferred_pods.extend(terms);
        }
    }

    fn pod_term(&self, term: &api::PodAffinityTerm) -> PodTerm {
        let mut selector = term
            .label_selector
            .as_ref()
            .map_or_else(Selector::nothing, Selector::from_label_selector);
        selector
            .0
            .extend(own_values(term.match_label_keys.as_ref(), &self.labels));
        for requirement in own_values(term.mismatch_label_keys.as_ref(), &self.labels) {
            selector.0.push(Requirement {
                op: super::Op::NotIn,
                ..requirement
            });
        }
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(self.namespace.clone());
        }
        PodTerm {
            key: term.topology_key.clone(),
            selector,
            namespaces,
            namespace_selector: term
                .namespace_selector
                .as_ref()
                .map(Selector::from_label_selector),
        }
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// `matchLabelKeys`: the pod's own values of some labels; those it does not have are passed over.
fn own_values<'a>(
    keys: Option<&'a Vec<String>>,
    labels: &'a Labels,
) -> impl Iterator<Item = Requirement> + 'a {
    let own = |key: &'a String| Some(Requirement::equals(key, labels.get(key)?));
    keys.into_iter().flatten().filter_map(own)
}

fn refusal(status: &api::PodStatus) -> Option<String> {
    let mut conditions = status.conditions.iter().flatten();
    let scheduled = conditions.find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    Some(scheduled.message.clone().unwrap_or_default())
}

fn is_sidecar(container: &api::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a pod asks for: its containers and sidecars together, or at its start the largest init container beside the
/// sidecars that run already, whichever is more (KEP-753); pod-level requests instead of those (KEP-2837); the
/// runtime class's overhead on top.
fn requests(spec: &api::PodSpec, status: Option<&api::PodStatus>) -> Resources {
    let of = |c: &api::Container| container_requests(c, status);
    let (mut sidecars, mut start) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            sidecars.add(&of(container));
            start.max(&sidecars);
        } else {
            let mut now = sidecars.clone();
            now.add(&of(container));
            start.max(&now);
        }
    }
    let mut total = sidecars;
    spec.containers
        .iter()
        .for_each(|container| total.add(&of(container)));
    total.max(&start);
    let whole = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    total.replace(&Resources::parse(whole));
    total.add(&Resources::parse(spec.overhead.as_ref()));
    total.pods = 1;
    total
}

/// What is asked for, what the node has promised and what the container has now: a resize takes the largest until it is
/// done (KEP-1287). One that can never be done counts no more.
fn container_requests(c: &api::Container, status: Option<&api::PodStatus>) -> Resources {
    let wanted = c.resources.as_ref().and_then(|r| r.requests.as_ref());
    let known = status.and_then(|s| {
        let lists = [&s.container_statuses, &s.init_container_statuses];
        let mut all = lists.into_iter().flatten().flatten();
        all.find(|s| s.name == c.name && s.resources.is_some())
    });
    let Some(known) = known else {
        return Resources::parse(wanted);
    };
    let has = known.resources.as_ref().and_then(|r| r.requests.as_ref());
    let mut asked = Resources::parse(known.allocated_resources.as_ref());
    asked.max(&Resources::parse(has));
    if !status.is_some_and(is_infeasible) {
        asked.max(&Resources::parse(wanted));
    }
    asked
}

fn is_infeasible(status: &api::PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|c| c.type_ == "PodResizePending" && c.reason.as_deref() == Some("Infeasible"))
}

fn weight(spec: &api::PodSpec, status: Option<&api::PodStatus>) -> (i64, i64) {
    let asked = requests(spec, status);
    let resting = |name: &str| {
        let containers = spec.containers.iter();
        containers
            .filter(|c| {
                let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
                requests.is_none_or(|requests| !requests.contains_key(name))
            })
            .count() as i64
    };
    (
        asked.cpu.saturating_add(resting("cpu") * DEFAULT_CPU),
        asked
            .memory
            .saturating_add(resting("memory") * DEFAULT_MEMORY),
    )
}

fn ports(spec: &api::PodSpec) -> Vec<HostPort> {
    let on_host = spec.host_network == Some(true);
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| is_sidecar(c));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let own = on_host.then_some(port.container_port);
            let number = port.host_port.filter(|port| *port > 0).or(own)?;
            let or = |text: &Option<String>, default: &str| {
                text.clone()
                    .filter(|text| !text.is_empty())
                    .unwrap_or_else(|| default.into())
            };
            let (ip, protocol) = (or(&port.host_ip, "0.0.0.0"), or(&port.protocol, "TCP"));
            Some(HostPort {
                ip,
                protocol,
                port: number,
            })
        })
        .collect()
}

fn node_term(term: &api::NodeSelectorTerm) -> NodeTerm {
    let parse = |list: &Option<Vec<api::NodeSelectorRequirement>>| {
        let list = list.iter().flatten();
        list.map(|r| Requirement::parse(&r.key, &r.operator, r.values.as_ref()))
            .collect()
    };
    NodeTerm {
        labels: parse(&term.match_expressions),
        fields: parse(&term.match_fields),
    }
}

fn toleration(toleration: &api::Toleration) -> Toleration {
    let not_empty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let any_value = toleration.operator.as_deref() == Some("Exists");
    Toleration {
        key: not_empty(&toleration.key),
        value: (!any_value).then(|| toleration.value.clone().unwrap_or_default()),
        effect: toleration.effect.as_deref().and_then(Effect::parse),
    }
}

fn spread(constraint: &api::TopologySpreadConstraint, labels: &Labels) -> Spread {
    let selector = constraint.label_selector.as_ref();
    let mut selector = selector.map_or_else(Selector::nothing, Selector::from_label_selector);
    selector
        .0
        .extend(own_values(constraint.match_label_keys.as_ref(), labels));
    Spread {
        key: constraint.topology_key.clone(),
        max_skew: i64::from(constraint.max_skew),
        min_domains: constraint
            .min_domains
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(1),
        is_required: constraint.when_unsatisfiable == "DoNotSchedule",
        selector,
        honours_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honours_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
