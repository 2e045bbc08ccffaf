//! The plan of a PodDisruptionBudget.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{
    PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::action::{Action, Target};
use crate::pod::is_ready;
use crate::runner::Outcome;

/// For so many seconds after its eviction a pod is taken as gone, though it is not being deleted yet.
const EVICTED: i64 = 120;

/// How many pods a pod's workload wants.
pub enum Expected {
    /// So many, of the workload with this UID.
    Replicas(String, i32),
    /// Nobody controls the pod.
    Nothing,
    /// The workload is not of a kind with replicas, or gone.
    Unknown(String),
}

/// How many pods there should be, and how many of them healthy.
struct Goal {
    expected: i32,
    healthy: i32,
}

/// Decides for a budget about its pods.
pub fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: &dyn Fn(&Pod) -> Expected,
    now: Timestamp,
) -> Outcome {
    let Some(spec) = &budget.spec else {
        return Outcome::default();
    };
    let was = budget.status.clone().unwrap_or_default();
    let (evicted, again) = evicted(&was, pods, now);
    let healthy = pods.iter().filter(|p| {
        p.metadata.deletion_timestamp.is_none()
            && is_ready(p)
            && !evicted.contains_key(&p.name_any())
    });
    let healthy = count(healthy.count());
    let goal = goal(spec, pods, expected);
    let mut actions = Vec::new();
    let (status, reason, message) = match &goal {
        Ok(goal) => {
            let allowed = healthy - goal.healthy;
            let allowed = if goal.expected > 0 { allowed.max(0) } else { 0 };
            let reason = if allowed > 0 {
                "SufficientPods"
            } else {
                "InsufficientPods"
            };
            let status = PodDisruptionBudgetStatus {
                current_healthy: Some(healthy),
                desired_healthy: Some(goal.healthy),
                disruptions_allowed: Some(allowed),
                expected_pods: Some(goal.expected),
                ..was.clone()
            };
            (status, reason, String::new())
        }
        Err(why) => {
            let status = PodDisruptionBudgetStatus {
                disruptions_allowed: Some(0),
                current_healthy: was.current_healthy.or(Some(0)),
                desired_healthy: was.desired_healthy.or(Some(0)),
                expected_pods: was.expected_pods.or(Some(0)),
                ..was.clone()
            };
            (status, "SyncFailed", why.clone())
        }
    };
    let status = PodDisruptionBudgetStatus {
        disrupted_pods: Some(evicted).filter(|e| !e.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: Some(conditions(budget, reason, message, now)),
        ..status
    };
    if budget.status.as_ref() != Some(&status) {
        // Evictions take from it at the same time.
        let target = Target::of(budget).unchanged(budget);
        if let Err(why) = &goal {
            actions.push(Action::Event {
                about: Target::of(budget),
                kind: "Warning",
                reason: "CalculateExpectedPodCountFailed",
                message: format!("Failed to calculate the number of expected pods: {why}"),
            });
        }
        actions.push(Action::whole_status(
            target,
            budget.status.as_ref(),
            &status,
        ));
    }
    Outcome {
        actions,
        again: again.map(|s| Duration::from_secs(s.unsigned_abs())),
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Evicted pods that are still to be deleted, and after how many seconds the first of them is not believed any more.
fn evicted(
    was: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<i64>) {
    let left = |at: &Time| at.0.as_second() + EVICTED - now.as_second();
    let all = was.disrupted_pods.iter().flatten();
    let all = all.filter(|(name, at)| {
        let stays =
            |p: &Arc<Pod>| p.name_any() == **name && p.metadata.deletion_timestamp.is_none();
        left(at) > 0 && pods.iter().any(stays)
    });
    let all: BTreeMap<_, _> = all.map(|(n, t)| (n.clone(), t.clone())).collect();
    let again = all.values().map(left).min();
    (all, again)
}

fn goal(
    spec: &PodDisruptionBudgetSpec,
    pods: &[Arc<Pod>],
    expected: &dyn Fn(&Pod) -> Expected,
) -> Result<Goal, String> {
    if let Some(most) = &spec.max_unavailable {
        let expected = wanted(pods, expected)?;
        let healthy = (expected - share(most, expected)).max(0);
        return Ok(Goal { expected, healthy });
    }
    match &spec.min_available {
        None => Ok(Goal {
            expected: 0,
            healthy: 0,
        }),
        Some(IntOrString::Int(healthy)) => Ok(Goal {
            expected: count(pods.len()),
            healthy: *healthy,
        }),
        Some(percent) => {
            let expected = wanted(pods, expected)?;
            let healthy = share(percent, expected);
            Ok(Goal { expected, healthy })
        }
    }
}

/// A number, or a percentage rounded up.
fn share(value: &IntOrString, of: i32) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            i32::try_from((i64::from(of) * percent + 99) / 100).unwrap_or(i32::MAX)
        }
    }
}

/// The replicas of all workloads that the pods belong to.
fn wanted(pods: &[Arc<Pod>], expected: &dyn Fn(&Pod) -> Expected) -> Result<i32, String> {
    let mut workloads = BTreeMap::new();
    for pod in pods {
        match expected(pod) {
            Expected::Nothing => {}
            Expected::Replicas(uid, n) => drop(workloads.insert(uid, n)),
            Expected::Unknown(what) => {
                return Err(format!("found no replicas for the controller {what}"));
            }
        }
    }
    Ok(workloads.values().sum())
}

fn conditions(
    budget: &PodDisruptionBudget,
    reason: &str,
    message: String,
    now: Timestamp,
) -> Vec<Condition> {
    const ALLOWED: &str = "DisruptionAllowed";
    let status = if reason == "SufficientPods" {
        "True"
    } else {
        "False"
    };
    let old = budget.status.as_ref().and_then(|s| s.conditions.clone());
    let mut all = old.unwrap_or_default();
    let before = all.iter().find(|c| c.type_ == ALLOWED);
    let since = before.filter(|c| c.status == status);
    let since = since.map_or(Time(now), |c| c.last_transition_time.clone());
    all.retain(|c| c.type_ != ALLOWED);
    all.push(Condition {
        type_: ALLOWED.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_transition_time: since,
        observed_generation: budget.metadata.generation,
    });
    all
}
