//! QoS classes and the figures that go into cgroups.
//! Sources: "Pod Quality of Service Classes"; cgroup formulas as upstream's `cm` and `qos` packages have them.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::containers;
use crate::quantity::{milli_of, value_of};

/// A pod's quality of service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Limits equal to requests for cpu and memory in every container.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl fmt::Display for Qos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        })
    }
}

/// Figures for a cgroup. What is unset is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// cgroup v1 cpu shares.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time a period.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    /// Tasks.
    pub pids_limit: Option<i64>,
}

impl Figures {
    /// With all the CPU time there is.
    pub fn without_quota(self) -> Self {
        Self {
            cpu_quota: None,
            cpu_period: None,
            ..self
        }
    }

    /// The larger of each figure; what is not limited is the largest.
    pub fn larger(&self, other: &Self) -> Self {
        fn of<T: Ord + Copy>(a: Option<T>, b: Option<T>) -> Option<T> {
            a.zip(b).map(|(a, b)| a.max(b))
        }
        let cpu_quota = of(self.cpu_quota, other.cpu_quota);
        Self {
            cpu_shares: of(self.cpu_shares, other.cpu_shares),
            cpu_quota,
            cpu_period: cpu_quota.map(|_| PERIOD),
            memory_limit: of(self.memory_limit, other.memory_limit),
            pids_limit: of(self.pids_limit, other.pids_limit),
        }
    }
}

const PERIOD: u64 = 100_000;
const MIN_QUOTA: i64 = 1000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

type List = BTreeMap<String, Quantity>;

fn list(
    r: Option<&ResourceRequirements>,
    pick: fn(&ResourceRequirements) -> &Option<List>,
) -> Option<&List> {
    r.and_then(|r| pick(r).as_ref())
}

fn requests(r: Option<&ResourceRequirements>) -> Option<&List> {
    list(r, |r| &r.requests)
}

fn limits(r: Option<&ResourceRequirements>) -> Option<&List> {
    list(r, |r| &r.limits)
}

/// The resources of a pod as a whole (KEP-2837), if they are set.
fn pod_level(spec: &PodSpec) -> Option<&ResourceRequirements> {
    let own = spec.resources.as_ref();
    own.filter(|r| r.requests.is_some() || r.limits.is_some())
}

/// Whether containers of a pod can have CPUs and memory of their own: it is guaranteed, and what it asks for is not set
/// for the pod as a whole, which does not say whose it is.
pub fn is_pinned(spec: &PodSpec) -> bool {
    pod_level(spec).is_none() && qos(spec) == Qos::Guaranteed
}

/// The class of a pod. Pod-level resources (KEP-2837) decide alone when they are set.
pub fn qos(spec: &PodSpec) -> Qos {
    let parts: Vec<Option<&ResourceRequirements>> = match pod_level(spec) {
        Some(r) => vec![Some(r)],
        None => containers::all(spec)
            .map(|c| c.resources.as_ref())
            .collect(),
    };
    let figure = |l: Option<&List>, name: &str| milli_of(l, name);
    let names = ["cpu", "memory"];
    let any = parts.iter().any(|r| {
        names
            .iter()
            .any(|n| figure(requests(*r), n) > 0 || figure(limits(*r), n) > 0)
    });
    if !any {
        return Qos::BestEffort;
    }
    let guaranteed = parts.iter().all(|r| {
        names.iter().all(|n| {
            let limit = figure(limits(*r), n);
            // A request that is not set takes the limit's value.
            let request = requests(*r)
                .filter(|l| l.contains_key(*n))
                .map_or(limit, |l| figure(Some(l), n));
            limit > 0 && request == limit
        })
    });
    if guaranteed {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// CPU shares of a request.
pub fn shares(milli_cpu: i64) -> u64 {
    let shares = u64::try_from(milli_cpu).unwrap_or(0) * 1024 / 1000;
    shares.clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU time a period for a limit; none without one.
pub fn quota(milli_cpu: i64) -> Option<i64> {
    (milli_cpu > 0).then(|| (milli_cpu * PERIOD as i64 / 1000).max(MIN_QUOTA))
}

fn request_or_limit(r: Option<&ResourceRequirements>, name: &str) -> i64 {
    match requests(r).filter(|l| l.contains_key(name)) {
        Some(l) => milli_of(l, name),
        None => milli_of(limits(r), name),
    }
}

/// What a container asks for of a resource, in thousandths; its limit where it has no request.
pub fn request_of(c: &Container, name: &str) -> i64 {
    request_or_limit(c.resources.as_ref(), name)
}

fn positive(n: i64) -> Option<i64> {
    (n > 0).then_some(n)
}

/// Memory that a container asks for and may have, bytes; 0 for none.
pub fn memory(c: &Container) -> [i64; 2] {
    let r = c.resources.as_ref();
    let request = request_or_limit(r, "memory") / 1000;
    [request, value_of(limits(r), "memory")]
}

/// A container's own cgroup.
pub fn container(c: &Container) -> Figures {
    let r = c.resources.as_ref();
    let quota = quota(milli_of(limits(r), "cpu"));
    Figures {
        cpu_shares: Some(shares(request_or_limit(r, "cpu"))),
        cpu_quota: quota,
        cpu_period: quota.map(|_| PERIOD),
        memory_limit: positive(value_of(limits(r), "memory")),
        pids_limit: None,
    }
}

/// The pod's cgroup, which holds all of its containers' and the overhead of its runtime. Limits of the pod itself
/// (KEP-2837) go first; without one, a limit counts only if every container has one.
pub fn pod(spec: &PodSpec, pids_limit: Option<i64>) -> Figures {
    let limit = |name: &str| {
        let own = milli_of(limits(spec.resources.as_ref()), name);
        let all = containers::all(spec).all(|c| milli_of(limits(c.resources.as_ref()), name) > 0);
        let sum = match (own, all) {
            (0, false) => return 0,
            (0, true) => pod_figure(spec, |r| milli_of(limits(r), name)),
            (own, _) => own,
        };
        sum + milli_of(spec.overhead.as_ref(), name)
    };
    let quota = quota(limit("cpu"));
    Figures {
        cpu_shares: Some(match qos(spec) {
            Qos::BestEffort => MIN_SHARES,
            _ => shares(request(spec, "cpu")),
        }),
        cpu_quota: quota,
        cpu_period: quota.map(|_| PERIOD),
        memory_limit: positive(limit("memory") / 1000),
        pids_limit,
    }
}

/// What a pod needs of a resource, in thousandths: the sum of its containers and sidecars, or more if an
/// init container needs more (with the sidecars before it), and the overhead.
/// Source: "Resource sharing within containers", KEP-753.
pub fn request(spec: &PodSpec, name: &str) -> i64 {
    let own = spec.resources.as_ref();
    let has = |l: Option<&List>| l.is_some_and(|l| l.contains_key(name));
    let sum = match has(requests(own)) || has(limits(own)) {
        true => request_or_limit(own, name),
        false => pod_figure(spec, |r| request_or_limit(r, name)),
    };
    sum + milli_of(spec.overhead.as_ref(), name)
}

/// What a pod's containers may have of a resource together, in thousandths; none if no container is limited.
pub fn limit(spec: &PodSpec, name: &str) -> Option<i64> {
    let limited =
        |c: &Container| limits(c.resources.as_ref()).is_some_and(|l| l.contains_key(name));
    containers::all(spec)
        .any(limited)
        .then(|| pod_figure(spec, |r| milli_of(limits(r), name)))
}

/// What a pod's containers need together at most: sidecars stay beside those that come after them.
pub(crate) fn pod_figure(spec: &PodSpec, of: impl Fn(Option<&ResourceRequirements>) -> i64) -> i64 {
    let (mut sidecars, mut peak) = (0, 0);
    for c in spec.init_containers.iter().flatten() {
        let own = of(c.resources.as_ref());
        if c.restart_policy.as_deref() == Some("Always") {
            sidecars += own;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + own);
        }
    }
    let apps: i64 = spec
        .containers
        .iter()
        .map(|c| of(c.resources.as_ref()))
        .sum();
    peak.max(sidecars + apps)
}

/// Priority from which a pod counts as critical for its node.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;
const GUARANTEED_OOM: i32 = -997;
const BEST_EFFORT_OOM: i32 = 1000;

/// Whether the node, or the cluster, cannot do without the pod.
pub fn is_critical(spec: &PodSpec) -> bool {
    spec.priority.is_some_and(|p| p >= SYSTEM_CRITICAL)
}

/// How early the kernel kills a container when memory runs out.
/// Source: "Node out of memory behavior": 1000 - 1000 * request / capacity, between 3 and 999.
pub fn oom_score_adj(spec: &PodSpec, c: &Container, memory_capacity: i64) -> i32 {
    if is_critical(spec) {
        return GUARANTEED_OOM;
    }
    match qos(spec) {
        Qos::Guaranteed => GUARANTEED_OOM,
        Qos::BestEffort => BEST_EFFORT_OOM,
        Qos::Burstable => {
            let request = (request_or_limit(c.resources.as_ref(), "memory") + spare(spec)) / 1000;
            let part = 1000 * i128::from(request) / i128::from(memory_capacity.max(1));
            let adjust = 1000 - i32::try_from(part).unwrap_or(1000);
            adjust.clamp(1000 + GUARANTEED_OOM, BEST_EFFORT_OOM - 1)
        }
    }
}

/// A container's part of the memory that the pod asks for beyond what its containers do (KEP-2837).
fn spare(spec: &PodSpec) -> i64 {
    let own = requests(spec.resources.as_ref()).filter(|l| l.contains_key("memory"));
    let Some(own) = own else { return 0 };
    let asked = pod_figure(spec, |r| request_or_limit(r, "memory"));
    let count = i64::try_from(containers::all(spec).count()).unwrap_or(i64::MAX);
    (milli_of(own, "memory") - asked).max(0) / count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container_with(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
        let list = |l: &[(&str, &str)]| {
            let map: List = l
                .iter()
                .map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned())))
                .collect();
            (!map.is_empty()).then_some(map)
        };
        let resources = ResourceRequirements {
            requests: list(requests),
            limits: list(limits),
            ..Default::default()
        };
        Container {
            resources: Some(resources),
            ..Default::default()
        }
    }

    fn spec(containers: Vec<Container>) -> PodSpec {
        PodSpec {
            containers,
            ..Default::default()
        }
    }

    #[test]
    fn classes() {
        let full = [("cpu", "500m"), ("memory", "64Mi")];
        let rows = [
            ("nothing", vec![container_with(&[], &[])], Qos::BestEffort),
            ("equal", vec![container_with(&full, &full)], Qos::Guaranteed),
            (
                "limits alone",
                vec![container_with(&[], &full)],
                Qos::Guaranteed,
            ),
            (
                "equal in other units",
                vec![container_with(
                    &[("cpu", "0.5"), ("memory", "65536Ki")],
                    &full,
                )],
                Qos::Guaranteed,
            ),
            (
                "one container without",
                vec![container_with(&full, &full), container_with(&[], &[])],
                Qos::Burstable,
            ),
            (
                "request alone",
                vec![container_with(&[("cpu", "1")], &[])],
                Qos::Burstable,
            ),
            (
                "no memory limit",
                vec![container_with(&[], &[("cpu", "1")])],
                Qos::Burstable,
            ),
        ];
        for (name, containers, want) in rows {
            assert_eq!(qos(&spec(containers)), want, "{name}");
        }
    }

    #[test]
    fn cgroup_figures() {
        let both = [("cpu", "500m"), ("memory", "64Mi")];
        let guaranteed = pod(
            &spec(vec![
                container_with(&both, &both),
                container_with(&both, &both),
            ]),
            Some(100),
        );
        let want = Figures {
            cpu_shares: Some(1024),
            cpu_quota: Some(100_000),
            cpu_period: Some(100_000),
            memory_limit: Some(128 << 20),
            pids_limit: Some(100),
        };
        assert_eq!(guaranteed, want);
        let half_limited = pod(
            &spec(vec![
                container_with(&both, &both),
                container_with(&[("cpu", "1")], &[]),
            ]),
            None,
        );
        assert_eq!(
            half_limited,
            Figures {
                cpu_shares: Some(1536),
                ..Default::default()
            }
        );
        assert_eq!(
            pod(&spec(vec![Container::default()]), None).cpu_shares,
            Some(2)
        );
    }

    #[test]
    fn shares_and_quota() {
        assert_eq!(
            [0, 1, 100, 1000, 1_000_000].map(shares),
            [2, 2, 102, 1024, 262_144]
        );
        assert_eq!(
            [0, 5, 100, 2000].map(quota),
            [None, Some(1000), Some(10_000), Some(200_000)]
        );
    }

    #[test]
    fn oom_scores() {
        let gib = 1_i64 << 30;
        let rows = [
            ("best effort", container_with(&[], &[]), 1000),
            (
                "guaranteed",
                container_with(&[], &[("cpu", "1"), ("memory", "1Gi")]),
                -997,
            ),
            ("a quarter", container_with(&[("memory", "1Gi")], &[]), 750),
            ("cpu alone", container_with(&[("cpu", "1")], &[]), 999),
            ("everything", container_with(&[("memory", "4Gi")], &[]), 3),
        ];
        for (name, c, want) in rows {
            let spec = spec(vec![c.clone()]);
            assert_eq!(oom_score_adj(&spec, &c, 4 * gib), want, "{name}");
        }
    }

    #[test]
    fn figures_of_pods() {
        // name, spec, shares, quota, memory
        let gib = 1_i64 << 30;
        let rows = [
            (
                "nothing",
                json!({"containers": [{"name": "a"}]}),
                2,
                None,
                None,
            ),
            (
                "its own request",
                json!({"resources": {"requests": {"cpu": "2"}}, "containers": [{"name": "a"}]}),
                2048,
                None,
                None,
            ),
            (
                "its own limits",
                json!({"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}, "containers": [{"name": "a"}]}),
                2048,
                Some(200_000),
                Some(gib),
            ),
            (
                "its own limit wins over its containers'",
                json!({"resources": {"limits": {"memory": "2Gi"}},
                    "containers": [{"name": "a", "resources": {"limits": {"memory": "1Gi"}}}]}),
                2,
                None,
                Some(2 * gib),
            ),
            (
                "its own request wins over its containers'",
                json!({"resources": {"requests": {"cpu": "2"}},
                    "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}),
                2048,
                None,
                None,
            ),
            (
                "with overhead",
                json!({"overhead": {"cpu": "1", "memory": "1Gi"},
                    "containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}),
                2048,
                Some(200_000),
                Some(2 * gib),
            ),
            (
                "overhead limits nothing by itself",
                json!({"overhead": {"cpu": "1", "memory": "1Gi"},
                    "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}),
                2048,
                None,
                None,
            ),
        ];
        for (name, value, shares, quota, memory) in rows {
            let spec: PodSpec = serde_json::from_value(value).expect("a spec");
            let want = Figures {
                cpu_shares: Some(shares),
                cpu_quota: quota,
                cpu_period: quota.map(|_| PERIOD),
                memory_limit: memory,
                pids_limit: None,
            };
            assert_eq!(pod(&spec, None), want, "{name}");
        }
    }

    #[test]
    fn spare_memory_of_a_pod_is_its_containers() {
        let own = json!({"resources": {"requests": {"memory": "2Gi"}}, "containers": [{"name": "a"}, {"name": "b"}]});
        let spec: PodSpec = serde_json::from_value(own).expect("a spec");
        assert_eq!(oom_score_adj(&spec, &spec.containers[0], 4 << 30), 750);
    }

    #[test]
    fn init_containers_raise_the_request() {
        let cpu = |m: &str| container_with(&[("cpu", m)], &[]);
        let mut sidecar = cpu("200m");
        sidecar.restart_policy = Some("Always".into());
        let mut spec = spec(vec![cpu("100m"), cpu("100m")]);
        spec.init_containers = Some(vec![sidecar, cpu("300m")]);
        assert_eq!(request(&spec, "cpu"), 500);
        spec.init_containers = None;
        assert_eq!(request(&spec, "cpu"), 200);
    }
}
