//! The phase: upstream's counting of what the containers do.

use k8s_openapi::api::core::v1::{Container, PodStatus};

use crate::lifecycle::container::{Role, again, is_over};
use crate::lifecycle::{Context, Final, Goal, app_was_made, eviction, is_sidecar};
use crate::observed::AttemptState;

/// `Succeeded` and `Failed` never change again.
pub fn is_final(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What the phase is, going by the containers alone; final when nothing will run again.
pub(crate) fn wanted(ctx: &Context<'_>) -> &'static str {
    if init_failed(ctx) {
        return "Failed";
    }
    // A pod that has run is not pending again while its init containers run once more.
    if !has_run(ctx) && init_pending(ctx) {
        return "Pending";
    }
    apps(ctx)
}

/// What is reported: a final phase only when no container runs any more.
pub(crate) fn reported(ctx: &Context<'_>, goal: Goal, status: &PodStatus) -> &'static str {
    let before = ctx.observed.status.phase.as_deref();
    match before {
        Some("Failed") => return "Failed",
        Some("Succeeded") => return "Succeeded",
        _ => {}
    }
    let stopped = !ctx.observed.any_running() && ctx.observed.busy.is_empty();
    let late = ctx.observed.status.reason.as_deref() == Some("DeadlineExceeded");
    let phase = match goal {
        Goal::Finish(Final::Deadline | Final::Evicted) => "Failed",
        Goal::Terminate if stopped && (late || eviction(ctx).is_some()) => "Failed",
        Goal::Terminate if stopped => ended(status),
        Goal::Run | Goal::Finish(Final::Phase) | Goal::Terminate => wanted(ctx),
    };
    if is_final(Some(phase)) && !stopped {
        return if before == Some("Pending") && !app_was_made(ctx) {
            "Pending"
        } else {
            "Running"
        };
    }
    phase
}

/// The final phase of a pod that is ended from outside: by its containers' last words in the status, as
/// they may be gone by now. One that never ran has failed.
fn ended(status: &PodStatus) -> &'static str {
    let apps = status.container_statuses.iter().flatten();
    let terminated = |s: &k8s_openapi::api::core::v1::ContainerStatus| {
        let state = s.state.as_ref().and_then(|s| s.terminated.as_ref());
        let last = s.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        state.or(last).map(|t| t.exit_code)
    };
    let codes: Option<Vec<i32>> = apps.map(terminated).collect();
    match codes {
        Some(codes) if !codes.is_empty() && codes.iter().all(|c| *c == 0) => "Succeeded",
        _ => "Failed",
    }
}

fn init_containers<'a>(ctx: &'a Context<'_>) -> impl Iterator<Item = &'a Container> {
    ctx.spec.init_containers.iter().flatten()
}

/// A plain init container failed and will not be tried again.
fn init_failed(ctx: &Context<'_>) -> bool {
    let mut plain = init_containers(ctx).filter(|c| !is_sidecar(c));
    plain.any(|c| {
        let run = ctx.current(&c.name);
        run.is_some_and(|run| {
            run.exit_code().is_some_and(|code| code != 0) && !again(ctx, c, Role::Init, run)
        })
    })
}

fn has_run(ctx: &Context<'_>) -> bool {
    let mut apps = ctx.spec.containers.iter();
    apps.any(|c| ctx.observed.latest(&c.name).is_some())
}

fn init_pending(ctx: &Context<'_>) -> bool {
    init_containers(ctx).any(|c| match ctx.current(&c.name) {
        None => true,
        Some(a) if is_sidecar(c) => a.state == AttemptState::Created,
        Some(a) => a.exit_code() != Some(0),
    })
}

fn apps(ctx: &Context<'_>) -> &'static str {
    let (mut running, mut waiting, mut stopped, mut succeeded, mut to_come) = (0, 0, 0, 0, 0);
    for c in &ctx.spec.containers {
        let run = match ctx.current(&c.name) {
            // What ended for good in a sandbox that is gone has ended.
            None if is_over(ctx, c, Role::App) => ctx.observed.latest(&c.name),
            run => run,
        };
        match run.map(|a| (a, &a.state)) {
            None if ctx.observed.latest(&c.name).is_some() => {
                (stopped, to_come) = (stopped + 1, to_come + 1)
            }
            None => waiting += 1,
            Some((_, AttemptState::Created)) if was_restarted(ctx, &c.name) => {
                (stopped, to_come) = (stopped + 1, to_come + 1)
            }
            Some((_, AttemptState::Created)) => waiting += 1,
            Some((_, AttemptState::Running { .. })) => running += 1,
            Some((run, AttemptState::Exited { code, .. })) => {
                stopped += 1;
                succeeded += u32::from(*code == 0);
                to_come += u32::from(again(ctx, c, Role::App, run));
            }
        }
    }
    match (running, waiting, stopped) {
        (_, w, _) if w > 0 => "Pending",
        (r, _, _) if r > 0 => "Running",
        (_, _, 0) => "Pending",
        _ if to_come > 0 => "Running",
        (_, _, s) if s == succeeded => "Succeeded",
        _ => "Failed",
    }
}

fn was_restarted(ctx: &Context<'_>, name: &str) -> bool {
    ctx.observed.latest(name).is_some_and(|a| a.attempt > 0)
}
