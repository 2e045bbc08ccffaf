//! A Deployment's status: counts and the conditions Available, Progressing.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::rollout::{Bounds, size};

/// What there is.
pub(super) struct Picture<'a> {
    pub(super) new: Option<&'a ReplicaSet>,
    pub(super) old: &'a [&'a ReplicaSet],
    /// Name of a ReplicaSet that is being made just now.
    pub(super) created: Option<&'a str>,
}

fn sum(sets: &[&ReplicaSet], f: impl Fn(&ReplicaSetStatus) -> i32) -> i32 {
    sets.iter().filter_map(|s| s.status.as_ref()).map(f).sum()
}

/// Whether the rollout is over: all wanted pods are new and available, and no old one is left.
pub(super) fn complete(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
) -> bool {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|s| s.replicas)
        .unwrap_or(1);
    let of = |f: fn(&ReplicaSetStatus) -> i32| new.and_then(|n| n.status.as_ref()).map_or(0, f);
    new.is_some()
        && of(|s| s.replicas) == wanted
        && of(|s| s.available_replicas.unwrap_or(0)) == wanted
        && sum(old, |s| s.replicas) == 0
}

/// The status, and after how many seconds it may change by itself.
pub(super) fn status(
    deployment: &Deployment,
    picture: &Picture<'_>,
    now: Timestamp,
) -> (DeploymentStatus, Option<u64>) {
    let all: Vec<&ReplicaSet> = picture.old.iter().copied().chain(picture.new).collect();
    let was = deployment.status.clone().unwrap_or_default();
    let some = |n: i32| Some(n).filter(|n| *n > 0);
    let available = sum(&all, |s| s.available_replicas.unwrap_or(0));
    let wanted: i32 = all.iter().map(|s| size(s)).sum();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(&all, |s| s.replicas)),
        updated_replicas: some(sum(picture.new.as_slice(), |s| s.replicas)),
        ready_replicas: some(sum(&all, |s| s.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some(wanted - available),
        terminating_replicas: Some(sum(&all, |s| s.terminating_replicas.unwrap_or(0))),
        collision_count: was.collision_count,
        conditions: was.conditions.clone(),
    };
    let mut conditions = was.conditions.unwrap_or_default();
    set(
        &mut conditions,
        available_condition(deployment, available),
        false,
        now,
    );
    let (progress, touched) = progressing(deployment, picture, &status, now);
    if let Some(progress) = progress {
        set(&mut conditions, progress, touched, now);
    }
    replica_failure(&mut conditions, &all);
    let again = deadline(deployment, picture, &conditions, now);
    status.conditions = Some(conditions);
    (status, again)
}

/// A set whose pods are refused makes the Deployment tell so.
fn replica_failure(conditions: &mut Vec<DeploymentCondition>, sets: &[&ReplicaSet]) {
    const FAILURE: &str = "ReplicaFailure";
    let all = sets.iter().rev().filter_map(|s| s.status.as_ref());
    let mut all = all.flat_map(|s| s.conditions.iter().flatten());
    let told = all.find(|c| c.type_ == FAILURE && c.status == "True");
    conditions.retain(|c| c.type_ != FAILURE);
    conditions.extend(told.map(|c| DeploymentCondition {
        type_: FAILURE.into(),
        status: "True".into(),
        reason: c.reason.clone(),
        message: c.message.clone(),
        last_transition_time: c.last_transition_time.clone(),
        last_update_time: c.last_transition_time.clone(),
    }));
}

type Said = (&'static str, &'static str, &'static str, String);

fn available_condition(deployment: &Deployment, available: i32) -> Said {
    let enough = deployment.spec.as_ref().is_some_and(|s| {
        let bounds = Bounds::of(s);
        available >= bounds.replicas - bounds.unavailable
    });
    if enough {
        (
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".into(),
        )
    } else {
        (
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.".into(),
        )
    }
}

/// The condition Progressing, and whether something moved since it was last said.
fn progressing(
    deployment: &Deployment,
    picture: &Picture<'_>,
    status: &DeploymentStatus,
    now: Timestamp,
) -> (Option<Said>, bool) {
    let name = deployment.name_any();
    let paused = deployment.spec.as_ref().and_then(|s| s.paused) == Some(true);
    let was = current(deployment);
    let of = |verb: &str| match picture.new {
        Some(new) => format!("ReplicaSet \"{}\" {verb}", new.name_any()),
        None => format!("Deployment \"{name}\" {verb}"),
    };
    if let Some(created) = picture.created {
        return (
            Some((
                "Progressing",
                "True",
                "NewReplicaSetCreated",
                format!("Created new replica set \"{created}\""),
            )),
            true,
        );
    }
    if paused {
        return (
            Some((
                "Progressing",
                "Unknown",
                "DeploymentPaused",
                "Deployment is paused".into(),
            )),
            false,
        );
    }
    if was.is_some_and(|c| c.reason.as_deref() == Some("DeploymentPaused")) {
        return (
            Some((
                "Progressing",
                "Unknown",
                "DeploymentResumed",
                "Deployment is resumed".into(),
            )),
            true,
        );
    }
    if complete(deployment, picture.new, picture.old) {
        return (
            Some((
                "Progressing",
                "True",
                "NewReplicaSetAvailable",
                of("has successfully progressed."),
            )),
            false,
        );
    }
    if moved(deployment, status) {
        return (
            Some((
                "Progressing",
                "True",
                "ReplicaSetUpdated",
                of("is progressing."),
            )),
            true,
        );
    }
    if timed_out(deployment, was, now) {
        return (
            Some((
                "Progressing",
                "False",
                "ProgressDeadlineExceeded",
                of("has timed out progressing."),
            )),
            false,
        );
    }
    match (was, picture.new) {
        (None, Some(new)) => {
            let text = format!("Found new replica set \"{}\"", new.name_any());
            (
                Some(("Progressing", "True", "FoundNewReplicaSet", text)),
                true,
            )
        }
        _ => (None, false),
    }
}

fn current(deployment: &Deployment) -> Option<&DeploymentCondition> {
    deployment
        .status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == "Progressing")
}

/// More new pods, fewer old ones, more ready or more available: a step on.
fn moved(deployment: &Deployment, now: &DeploymentStatus) -> bool {
    let Some(was) = &deployment.status else {
        return false;
    };
    let n = |v: Option<i32>| v.unwrap_or(0);
    let old = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(now.updated_replicas) > n(was.updated_replicas)
        || old(now) < old(was)
        || n(now.ready_replicas) > n(was.ready_replicas)
        || n(now.available_replicas) > n(was.available_replicas)
}

fn deadline_seconds(deployment: &Deployment) -> Option<i64> {
    // i32::MAX stands for "never" upstream.
    let seconds = deployment
        .spec
        .as_ref()?
        .progress_deadline_seconds
        .unwrap_or(600);
    (seconds < i32::MAX).then_some(i64::from(seconds))
}

fn timed_out(deployment: &Deployment, was: Option<&DeploymentCondition>, now: Timestamp) -> bool {
    let Some((was, limit)) = was.zip(deadline_seconds(deployment)) else {
        return false;
    };
    match was.reason.as_deref() {
        // What was complete once does not time out because a pod restarts.
        Some("NewReplicaSetAvailable") => false,
        Some("ProgressDeadlineExceeded") => true,
        _ => was
            .last_update_time
            .as_ref()
            .is_some_and(|t| now.as_second() - t.0.as_second() >= limit),
    }
}

fn deadline(
    deployment: &Deployment,
    picture: &Picture<'_>,
    conditions: &[DeploymentCondition],
    now: Timestamp,
) -> Option<u64> {
    let limit = deadline_seconds(deployment)?;
    let c = conditions
        .iter()
        .find(|c| c.type_ == "Progressing" && c.status == "True")?;
    if complete(deployment, picture.new, picture.old)
        || c.reason.as_deref() == Some("NewReplicaSetAvailable")
    {
        return None;
    }
    let since = now.as_second() - c.last_update_time.as_ref()?.0.as_second();
    u64::try_from(limit - since + 1).ok()
}

/// Sets a condition; its times move only when it says something else (`touch`: or when something moved).
fn set(
    conditions: &mut Vec<DeploymentCondition>,
    (kind, value, reason, message): Said,
    touch: bool,
    now: Timestamp,
) {
    let was = conditions.iter_mut().find(|c| c.type_ == kind);
    let time = Some(Time(now));
    match was {
        Some(c) if c.status == value && c.reason.as_deref() == Some(reason) && !touch => {
            c.message = Some(message);
        }
        Some(c) => {
            let transition = if c.status == value {
                c.last_transition_time.clone()
            } else {
                time.clone()
            };
            *c = DeploymentCondition {
                type_: kind.into(),
                status: value.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: transition,
                last_update_time: time,
            };
        }
        None => conditions.push(DeploymentCondition {
            type_: kind.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: time.clone(),
            last_update_time: time,
        }),
    }
}
