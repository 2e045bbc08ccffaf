//! Ending a pod: containers, then what they stood on.

use super::{Context, Goal, eviction, is_sidecar};
use crate::action::{Action, Kill, Plan};
use crate::observed::{Attempt, AttemptState, Observed, Stage};

const DEFAULT_GRACE: i64 = 30;

pub(super) fn steps(ctx: &Context<'_>, goal: Goal, plan: &mut Plan) {
    let observed = ctx.observed;
    if observed.any_running() {
        return kill_in_order(ctx, plan);
    }
    if !observed.busy.is_empty() {
        return;
    }
    let terminate = goal == Goal::Terminate;
    remove_containers(observed, terminate || observed.reclaim, plan);
    away(&observed.sandbox, Action::RemoveSandbox, ctx, plan);
    let containers_gone = observed.containers.values().all(Vec::is_empty);
    if terminate && !containers_gone {
        return;
    }
    away(&observed.volumes, Action::TeardownVolumes, ctx, plan);
    away(&observed.cgroup, Action::RemoveCgroup, ctx, plan);
    let gone = matches!(observed.sandbox, Stage::Absent)
        && matches!(observed.volumes, Stage::Absent)
        && matches!(observed.cgroup, Stage::Absent);
    if !(terminate && gone) {
        return;
    }
    if observed.orphan {
        plan.actions.push(Action::RemoveLogs);
        plan.finished = true;
    } else {
        plan.actions.push(Action::DeletePod);
    }
}

/// Those that never ran go first of all; dead ones stay for people to look at until the pod itself goes.
fn remove_containers(observed: &Observed, all: bool, plan: &mut Plan) {
    for (name, attempts) in &observed.containers {
        for a in attempts
            .iter()
            .filter(|a| all || a.state == AttemptState::Created)
        {
            plan.actions.push(Action::RemoveContainer {
                container: name.clone(),
                attempt: a.attempt,
            });
        }
    }
}

/// Removes a stage. A failed one may be there in part: it is removed as well, when its time has come.
fn away<T>(stage: &Stage<T>, action: Action, ctx: &Context<'_>, plan: &mut Plan) {
    match stage {
        Stage::Ready(_) => plan.actions.push(action),
        Stage::Failed(f) if f.retry_at > ctx.now => plan.wake(f.retry_at),
        Stage::Failed(_) => plan.actions.push(action),
        Stage::Absent | Stage::Working => {}
    }
}

/// Sidecars outlive the containers they serve, and end in the reverse of their order.
fn kill_in_order(ctx: &Context<'_>, plan: &mut Plan) {
    let sidecars = ctx
        .spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| is_sidecar(c));
    let sidecars: Vec<&str> = sidecars.map(|c| c.name.as_str()).collect();
    let running = |name: &str| ctx.observed.latest(name).filter(|a| a.is_running());
    let mains = ctx
        .observed
        .containers
        .keys()
        .map(String::as_str)
        .filter(|n| !sidecars.contains(n));
    let mains: Vec<_> = mains.filter_map(|n| Some((n, running(n)?))).collect();
    let targets = match mains.is_empty() {
        false => mains,
        true => sidecars
            .iter()
            .rev()
            .find_map(|n| Some((*n, running(n)?)))
            .into_iter()
            .collect(),
    };
    for (name, attempt) in targets {
        kill(
            ctx,
            name,
            attempt,
            remaining(ctx),
            format!("Stopping container {name}"),
            plan,
        );
    }
}

/// All at once, for a reason of the pod's.
pub(super) fn kill_all(ctx: &Context<'_>, message: &str, plan: &mut Plan) {
    for (name, attempts) in &ctx.observed.containers {
        for a in attempts.iter().filter(|a| a.is_running()) {
            kill(ctx, name, a, grace(ctx), message.to_owned(), plan);
        }
    }
}

/// Kills a run that comes again whatever the policy says.
pub(super) fn kill_anew(
    ctx: &Context<'_>,
    name: &str,
    attempt: &Attempt,
    message: String,
    plan: &mut Plan,
) {
    let before = plan.actions.len();
    kill(ctx, name, attempt, grace(ctx), message, plan);
    for action in plan.actions.iter_mut().skip(before) {
        if let Action::KillContainer(kill) = action {
            kill.anew = true;
        }
    }
}

/// Kills a run, unless that is under way with as little grace or less.
pub(super) fn kill(
    ctx: &Context<'_>,
    name: &str,
    attempt: &Attempt,
    grace: i64,
    message: String,
    plan: &mut Plan,
) {
    if ctx
        .observed
        .killing
        .get(name)
        .is_some_and(|granted| *granted <= grace)
    {
        return;
    }
    let kill = Kill {
        container: name.to_owned(),
        attempt: attempt.attempt,
        grace,
        message,
        anew: false,
    };
    plan.actions.push(Action::KillContainer(kill));
}

/// Seconds a container of this pod gets; at least one, as upstream gives even to a forced deletion.
pub(super) fn grace(ctx: &Context<'_>) -> i64 {
    let deletion = ctx.pod.metadata.deletion_grace_period_seconds;
    let grace = deletion.or(ctx.spec.termination_grace_period_seconds);
    let own = grace.unwrap_or(DEFAULT_GRACE);
    let evicted = eviction(ctx).map_or(own, |e| e.grace);
    own.min(evicted).max(1)
}

/// What is left of the grace since the end began. A kill that runs keeps its own clock, so the figure only
/// matters for a container whose turn comes later.
fn remaining(ctx: &Context<'_>) -> i64 {
    let whole = grace(ctx);
    let begun = ctx.observed.terminating_since.unwrap_or(ctx.now);
    let gone = ctx.now.duration_since(begun).as_secs().max(0);
    let any_killed = !ctx.observed.killing.is_empty();
    if any_killed {
        whole
    } else {
        (whole - gone).max(1)
    }
}
