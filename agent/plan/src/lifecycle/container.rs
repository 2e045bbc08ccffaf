//! The next step of one container.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Probe};

use super::restart::should_restart;
use super::{Context, teardown};
use crate::action::{Action, Plan};
use crate::backoff;
use crate::observed::{Attempt, AttemptState, Hook, Image, ProbeVerdict};

/// Which list of the pod it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Init,
    App,
    Ephemeral,
}

/// How long a fresh failure is shown by its own name before it becomes a back-off.
pub(crate) const FRESH: SignedDuration = SignedDuration::from_secs(5);

pub(super) fn steps(ctx: &Context<'_>, c: &Container, role: Role, plan: &mut Plan) {
    if ctx.observed.busy.contains(&c.name) {
        return;
    }
    // An ephemeral one does not come again with a new sandbox.
    let known = match role {
        Role::Ephemeral => ctx.observed.latest(&c.name),
        Role::Init | Role::App => ctx.current(&c.name),
    };
    let Some(attempt) = known else {
        if !is_over(ctx, c, role) {
            create(ctx, c, next_attempt(ctx, &c.name), plan);
        }
        return;
    };
    match &attempt.state {
        AttemptState::Created => {
            if may_try(ctx, &c.name, plan) {
                let (container, attempt) = (c.name.clone(), attempt.attempt);
                plan.actions
                    .push(Action::StartContainer { container, attempt });
            }
        }
        AttemptState::Running { post_start, .. } => {
            supervise(ctx, c, role, attempt, post_start, plan)
        }
        AttemptState::Exited { finished, .. } => {
            if !again(ctx, c, role, attempt) {
                return;
            }
            match restart_at(ctx, attempt, &c.name, *finished) {
                Some(at) => plan.wake(at),
                None => create(ctx, c, attempt.attempt + 1, plan),
            }
        }
    }
}

/// Whether it is started again after this run, if that is over.
pub(crate) fn again(ctx: &Context<'_>, c: &Container, role: Role, run: &Attempt) -> bool {
    let by_policy = |code| should_restart(ctx.spec, c, role == Role::Init, code);
    role != Role::Ephemeral
        && (ctx.observed.comes_again(&c.name, run) || run.exit_code().is_some_and(by_policy))
}

/// Whether an app container's last run, in a sandbox that is gone, was its last.
pub(crate) fn is_over(ctx: &Context<'_>, c: &Container, role: Role) -> bool {
    let last = ctx.observed.latest(&c.name).filter(|_| role == Role::App);
    last.is_some_and(|run| {
        run.exit_code().is_some() && !ctx.is_past(run) && !again(ctx, c, role, run)
    })
}

/// When a container that ended may start again; `None`: now. What the agent itself ended does not wait.
pub(crate) fn restart_at(
    ctx: &Context<'_>,
    run: &Attempt,
    name: &str,
    finished: Timestamp,
) -> Option<Timestamp> {
    if ctx.observed.comes_again(name, run) {
        return None;
    }
    let entry = ctx.observed.backoffs.get(name)?;
    entry
        .until(backoff::CONTAINER, finished)
        .filter(|at| *at > ctx.now)
}

/// The number of a container's next run: one more than the last one seen, here or in the last status.
pub(crate) fn next_attempt(ctx: &Context<'_>, name: &str) -> u32 {
    if let Some(last) = ctx.observed.latest(name) {
        return last.attempt + 1;
    }
    let status = &ctx.observed.status;
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let known = lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|s| s.name == name);
    let known = known.filter(|s| s.container_id.is_some() || s.restart_count > 0);
    known.map_or(0, |s| {
        u32::try_from(s.restart_count).unwrap_or(0) + u32::from(s.container_id.is_some())
    })
}

/// Whether its last failure is long enough ago.
fn may_try(ctx: &Context<'_>, name: &str, plan: &mut Plan) -> bool {
    match ctx.observed.failures.get(name) {
        Some(f) if f.retry_at > ctx.now => {
            plan.wake(f.retry_at);
            false
        }
        _ => true,
    }
}

fn create(ctx: &Context<'_>, c: &Container, attempt: u32, plan: &mut Plan) {
    if !may_try(ctx, &c.name, plan) {
        return;
    }
    let container = c.name.clone();
    match ctx.observed.images.get(&c.name) {
        Some(Image::Working) => {}
        Some(Image::Ready { attempt: sure }) if *sure >= attempt => {
            plan.actions
                .push(Action::CreateContainer { container, attempt });
        }
        Some(Image::Failed(f)) if f.retry_at > ctx.now => {
            plan.wake(f.retry_at);
            if let Some(stale) = f.at.checked_add(FRESH).ok().filter(|t| *t > ctx.now) {
                plan.wake(stale);
            }
        }
        None | Some(Image::Ready { .. } | Image::Failed(_)) => {
            plan.actions
                .push(Action::EnsureImage { container, attempt });
        }
    }
}

/// Kills a running container whose probe or hook failed, or whose image in the spec is another one now.
fn supervise(
    ctx: &Context<'_>,
    c: &Container,
    role: Role,
    attempt: &Attempt,
    hook: &Hook,
    plan: &mut Plan,
) {
    let verdict = verdict(ctx, attempt, &c.name);
    let changed = attempt.spec_image.is_some() && attempt.spec_image != c.image;
    let (why, probe): (_, Option<&Probe>) = if matches!(hook, Hook::Failed(_)) {
        ("FailedPostStartHook", None)
    } else if changed {
        ("definition changed", None)
    } else if verdict.startup == Some(false) {
        ("failed startup probe", c.startup_probe.as_ref())
    } else if verdict.liveness == Some(false) {
        ("failed liveness probe", c.liveness_probe.as_ref())
    } else {
        return;
    };
    // 137 is the code of a killed process: whether the policy would start it again. A new image does so by itself.
    let anew = changed && role != Role::Ephemeral;
    let again =
        anew || role != Role::Ephemeral && should_restart(ctx.spec, c, role == Role::Init, 137);
    let message = match why {
        "FailedPostStartHook" => why.to_owned(),
        why => format!(
            "Container {} {why}{}",
            c.name,
            if again { ", will be restarted" } else { "" }
        ),
    };
    if anew {
        return teardown::kill_anew(ctx, &c.name, attempt, message, plan);
    }
    let grace = probe.and_then(|p| p.termination_grace_period_seconds);
    let grace = grace.unwrap_or_else(|| teardown::grace(ctx));
    teardown::kill(ctx, &c.name, attempt, grace, message, plan);
}

/// The verdicts of this very run; those of an earlier one do not count.
pub(crate) fn verdict(ctx: &Context<'_>, attempt: &Attempt, name: &str) -> ProbeVerdict {
    let known = ctx
        .observed
        .probes
        .get(name)
        .filter(|v| v.attempt == attempt.attempt);
    known.cloned().unwrap_or_default()
}

/// Running, its `postStart` hook is done and its startup probe, if any, has succeeded.
pub(crate) fn has_started(ctx: &Context<'_>, c: &Container, attempt: &Attempt) -> bool {
    let AttemptState::Running {
        post_start: Hook::Done,
        ..
    } = attempt.state
    else {
        return false;
    };
    c.startup_probe.is_none() || verdict(ctx, attempt, &c.name).startup == Some(true)
}

/// Removes dead runs but the last two: the newest, and the one before it for `logs --previous`.
pub(super) fn prune(ctx: &Context<'_>, name: &str, attempts: &[Attempt], plan: &mut Plan) {
    if ctx.observed.busy.contains(name) {
        return;
    }
    let old = attempts.len().saturating_sub(2);
    for a in attempts.iter().take(old).filter(|a| !a.is_running()) {
        plan.actions.push(Action::RemoveContainer {
            container: name.to_owned(),
            attempt: a.attempt,
        });
    }
}
