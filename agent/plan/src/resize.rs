//! Resizing a pod in place (KEP-1287): what is allocated to its containers, whether what its spec asks for fits, and
//! what a running container still lacks.
//!
//! Three values of one thing: the spec says what is wanted, `allocated` what the node has promised, and a run's own
//! `resources` what its cgroup has.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::admit;
use crate::devices;
use crate::observed::{Observed, Pending};
use crate::quantity::milli_of;
use crate::resources::{self, Figures, Qos};

/// What can be resized.
const NAMES: [&str; 2] = ["cpu", "memory"];

/// Whether the node can give what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is given.
    Fits,
    /// Not now; it may be when other pods have gone.
    Deferred(String),
    /// Never: the whole node has less.
    Infeasible(String),
}

/// Those that can be resized: containers, and sidecars among the init containers.
fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let init = spec.init_containers.iter().flatten();
    init.filter(|c| c.restart_policy.as_deref() == Some("Always"))
        .chain(&spec.containers)
}

type Lists<'a> = [&'a Option<BTreeMap<String, Quantity>>; 2];

fn lists(r: Option<&ResourceRequirements>) -> Lists<'_> {
    r.map_or([&None, &None], |r| [&r.requests, &r.limits])
}

/// CPU and memory, requests and limits, are the same figures.
pub fn same(a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>) -> bool {
    NAMES.iter().all(|name| same_of(a, b, name))
}

fn same_of(a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>, name: &str) -> bool {
    let (a, b) = (lists(a), lists(b));
    a.iter()
        .zip(b)
        .all(|(a, b)| milli_of(a.as_ref(), name) == milli_of(b.as_ref(), name))
}

/// What is allocated to a container: what was admitted, else what its last run has, else what its spec says.
pub fn allocated<'a>(observed: &'a Observed, c: &'a Container) -> Option<&'a ResourceRequirements> {
    let admitted = observed.allocated.get(&c.name);
    let run = || observed.latest(&c.name).and_then(|a| a.resources.as_ref());
    admitted.or_else(run).or(c.resources.as_ref())
}

/// The spec with each container's resources replaced.
fn with<'a>(
    spec: &'a PodSpec,
    of: impl for<'b> Fn(&'b Container) -> Option<ResourceRequirements>,
) -> Cow<'a, PodSpec> {
    let mut spec = Cow::Borrowed(spec);
    let names: Vec<String> = containers(&spec).map(|c| c.name.clone()).collect();
    for name in names {
        let Some(c) = containers(&spec).find(|c| c.name == name) else {
            continue;
        };
        let resources = of(c);
        if same(resources.as_ref(), c.resources.as_ref()) {
            continue;
        }
        let spec = spec.to_mut();
        let all = spec.init_containers.iter_mut().flatten();
        for c in all.chain(&mut spec.containers).filter(|c| c.name == name) {
            c.resources.clone_from(&resources);
        }
    }
    spec
}

/// The spec as far as it was admitted.
pub fn allocated_spec<'a>(spec: &'a PodSpec, observed: &Observed) -> Cow<'a, PodSpec> {
    if observed.allocated.is_empty() && !wanted(spec, observed) {
        return Cow::Borrowed(spec);
    }
    with(spec, |c| allocated(observed, c).cloned())
}

/// What the cgroup of a pod is given as far as it was admitted. CPUs of its own have no quota: a container would be stopped
/// although nobody else could use them.
pub fn pod_figures(spec: &PodSpec, observed: &Observed) -> Figures {
    let figures = resources::pod(&allocated_spec(spec, observed), None);
    match observed.own_cpus {
        true => figures.without_quota(),
        false => figures,
    }
}

/// Why a guaranteed pod cannot be given other CPUs or other memory while it runs: they would be on other places.
pub fn pinned(spec: &PodSpec, observed: &Observed, cpu: bool, memory: bool) -> Option<Decision> {
    if resources::qos(spec) != Qos::Guaranteed {
        return None;
    }
    let changes = |name: &str| {
        containers(spec).any(|c| !same_of(allocated(observed, c), c.resources.as_ref(), name))
    };
    let rows = [
        (cpu, "cpu", "CPU Manager policy \"static\""),
        (memory, "memory", "Memory Manager policy \"Static\""),
    ];
    let why = rows
        .into_iter()
        .find(|(on, name, _)| *on && changes(name))?
        .2;
    Some(Decision::Infeasible(format!(
        "Resize is infeasible for Guaranteed Pods alongside {why}"
    )))
}

/// The spec as its containers have it at this moment.
pub(crate) fn applied_spec<'a>(spec: &'a PodSpec, observed: &Observed) -> Cow<'a, PodSpec> {
    with(spec, |c| {
        let run = observed.latest(&c.name).and_then(|a| a.resources.clone());
        run.or_else(|| allocated(observed, c).cloned())
    })
}

/// Whether the spec asks for something else than is allocated.
pub fn wanted(spec: &PodSpec, observed: &Observed) -> bool {
    containers(spec).any(|c| !same(allocated(observed, c), c.resources.as_ref()))
}

/// Before a new spec is taken: what containers without a run had stays allocated to them.
pub fn remember(old: &PodSpec, new: &PodSpec, observed: &mut Observed) {
    for c in containers(old) {
        let Some(now) = containers(new).find(|n| n.name == c.name) else {
            continue;
        };
        let known = observed.allocated.contains_key(&c.name) || observed.latest(&c.name).is_some();
        if !known && !same(c.resources.as_ref(), now.resources.as_ref()) {
            let had = c.resources.clone().unwrap_or_default();
            observed.allocated.insert(c.name.clone(), had);
        }
    }
}

/// Whether a pod with this spec fits beside the others.
pub fn decide(
    spec: &PodSpec,
    others: &[&PodSpec],
    allocatable: &BTreeMap<String, Quantity>,
) -> Decision {
    for name in NAMES {
        let unit = if name == "cpu" { 1 } else { 1000 };
        let asked = resources::request(spec, name) / unit;
        let capacity = milli_of(allocatable, name) / unit;
        if asked > capacity {
            return Decision::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {asked}, capacity: {capacity}"
            ));
        }
    }
    // Devices are not resized.
    match admit::lacks(spec, others, allocatable, |name| {
        !devices::is_extended(name)
    }) {
        None => Decision::Fits,
        Some(lack) => Decision::Deferred(lack.message),
    }
}

/// Takes a decision about what the spec asks for.
pub fn take(decision: Decision, spec: &PodSpec, observed: &mut Observed) {
    observed.pending = match decision {
        Decision::Fits => {
            let new: Vec<_> = containers(spec)
                .filter(|c| !same(allocated(observed, c), c.resources.as_ref()))
                .map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default()))
                .collect();
            observed.allocated.extend(new);
            None
        }
        Decision::Deferred(message) => Some(Pending {
            reason: "Deferred",
            message,
        }),
        Decision::Infeasible(message) => Some(Pending {
            reason: "Infeasible",
            message,
        }),
    };
}

/// Whether its `resizePolicy` has a container restarted for this change.
pub fn restarts(c: &Container, from: &ResourceRequirements, to: &ResourceRequirements) -> bool {
    let policies = c.resize_policy.iter().flatten();
    let mut restarting = policies.filter(|p| p.restart_policy == "RestartContainer");
    restarting.any(|p| !same_of(Some(from), Some(to), &p.resource_name))
}

/// Running containers whose cgroup is not what is allocated to them: name, what they have, what they are to have.
pub(crate) fn lacking<'a>(
    spec: &'a PodSpec,
    observed: &'a Observed,
) -> Vec<(
    &'a Container,
    &'a ResourceRequirements,
    ResourceRequirements,
)> {
    let lacks = |c: &'a Container| {
        let run = observed.latest(&c.name).filter(|a| a.is_running())?;
        let has = run.resources.as_ref()?;
        let to = observed.allocated.get(&c.name)?;
        (!same(Some(has), Some(to))).then(|| (c, has, to.clone()))
    };
    containers(spec).filter_map(lacks).collect()
}

/// What upstream's events say of a resize.
pub fn details(spec: &PodSpec, generation: Option<i64>, error: &str) -> String {
    let one = |c: &Container| serde_json::json!({"name": c.name, "resources": c.resources});
    let init = spec.init_containers.iter().flatten();
    let init: Vec<_> = init
        .filter(|c| c.restart_policy.as_deref() == Some("Always"))
        .map(one)
        .collect();
    let mut text = serde_json::json!({"containers": spec.containers.iter().map(one).collect::<Vec<_>>(),
        "generation": generation.unwrap_or_default()});
    if !init.is_empty() {
        text["initContainers"] = init.into();
    }
    if !error.is_empty() {
        text["error"] = error.into();
    }
    text.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).expect("a spec")
    }

    fn asks(cpu: &str, memory: &str) -> Value {
        json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
    }

    #[test]
    fn decisions() {
        let allocatable =
            [("cpu", "4"), ("memory", "4Gi")].map(|(k, v)| (k.to_owned(), Quantity(v.into())));
        let allocatable = allocatable.into();
        let other = spec(asks("1", "1Gi"));
        let deferred =
            |text: &str| Decision::Deferred(format!("Node didn't have enough resource: {text}"));
        let never =
            |text: &str| Decision::Infeasible(format!("Node didn't have enough capacity: {text}"));
        let rows = [
            ("fits", asks("3", "1Gi"), Decision::Fits),
            ("fits to the last", asks("3", "3Gi"), Decision::Fits),
            (
                "not beside the other",
                asks("3500m", "1Gi"),
                deferred("cpu, requested: 3500, used: 1000, capacity: 4000"),
            ),
            (
                "memory not beside the other",
                asks("1", "4Gi"),
                deferred("memory, requested: 4294967296, used: 1073741824, capacity: 4294967296"),
            ),
            (
                "never",
                asks("5", "1Gi"),
                never("cpu, requested: 5000, capacity: 4000"),
            ),
            (
                "never, memory",
                asks("1", "5Gi"),
                never("memory, requested: 5368709120, capacity: 4294967296"),
            ),
        ];
        for (name, value, want) in rows {
            assert_eq!(
                decide(&spec(value), &[&other], &allocatable),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_on_its_own_places_stays() {
        let pod = |cpu: &str, memory: &str| {
            let all = json!({"cpu": cpu, "memory": memory});
            spec(
                json!({"containers": [{"name": "a", "resources": {"requests": all, "limits": all}}]}),
            )
        };
        let mut observed = Observed::default();
        remember(&pod("1", "1Gi"), &pod("2", "2Gi"), &mut observed);
        let burstable = spec(asks("2", "1Gi"));
        let cpu = "CPU Manager policy \"static\"";
        let memory = "Memory Manager policy \"Static\"";
        let rows = [
            ("no manager", pod("2", "2Gi"), (false, false), None),
            ("cpu", pod("2", "1Gi"), (true, true), Some(cpu)),
            ("cpu is the same", pod("1", "2Gi"), (true, false), None),
            ("memory", pod("1", "2Gi"), (true, true), Some(memory)),
            ("memory is the same", pod("2", "1Gi"), (false, true), None),
            ("not guaranteed", burstable, (true, true), None),
        ];
        for (name, spec, (of_cpu, of_memory), want) in rows {
            let got = pinned(&spec, &observed, of_cpu, of_memory);
            let want =
                want.map(|w| format!("Resize is infeasible for Guaranteed Pods alongside {w}"));
            assert_eq!(got, want.map(Decision::Infeasible), "{name}");
        }
    }

    #[test]
    fn own_cpus_have_no_quota() {
        let all = json!({"cpu": "1", "memory": "1Gi"});
        let spec = spec(json!({"containers": [{"name": "a", "resources": {"limits": all}}]}));
        let mut observed = Observed::default();
        assert_eq!(pod_figures(&spec, &observed).cpu_quota, Some(100_000));
        observed.own_cpus = true;
        let figures = pod_figures(&spec, &observed);
        assert_eq!((figures.cpu_quota, figures.cpu_period), (None, None));
        assert_eq!(
            (figures.cpu_shares, figures.memory_limit),
            (Some(1024), Some(1 << 30))
        );
    }

    #[test]
    fn restarts_by_policy() {
        let policy =
            |name: &str, policy: &str| json!({"resourceName": name, "restartPolicy": policy});
        let figures = |cpu: &str, memory: &str| -> ResourceRequirements {
            let all = json!({"requests": {"cpu": cpu, "memory": memory}});
            serde_json::from_value(all).expect("resources")
        };
        let from = figures("1", "1Gi");
        let rows = [
            ("no policy", json!([]), figures("2", "1Gi"), false),
            (
                "cpu, not required",
                json!([policy("cpu", "NotRequired")]),
                figures("2", "1Gi"),
                false,
            ),
            (
                "cpu",
                json!([policy("cpu", "RestartContainer")]),
                figures("2", "1Gi"),
                true,
            ),
            (
                "cpu is the same",
                json!([policy("cpu", "RestartContainer")]),
                figures("1000m", "2Gi"),
                false,
            ),
            (
                "memory",
                json!([policy("memory", "RestartContainer")]),
                figures("1", "2Gi"),
                true,
            ),
            (
                "one of both",
                json!([
                    policy("cpu", "NotRequired"),
                    policy("memory", "RestartContainer")
                ]),
                figures("2", "2Gi"),
                true,
            ),
        ];
        for (name, policies, to, want) in rows {
            let c = json!({"name": "a", "resizePolicy": policies});
            let c: Container = serde_json::from_value(c).expect("a container");
            assert_eq!(restarts(&c, &from, &to), want, "{name}");
        }
    }
}
