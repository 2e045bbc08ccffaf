//! Starting all containers again in place, as a rule of one of them asks for when it ends (KEP-5532).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;

use super::{Context, container, restart, teardown};
use crate::action::Plan;
use crate::observed::{Attempt, AttemptState, Observed};

/// What the others get: the rule wants all of them gone.
const GRACE: i64 = 1;

/// Runs whose end has all containers started again: name, run and when it ended.
pub(super) fn triggers<'a>(
    spec: &'a PodSpec,
    observed: &'a Observed,
) -> impl Iterator<Item = (&'a str, &'a Attempt, Timestamp)> {
    let init = spec.init_containers.iter().flatten();
    let containers = init.chain(&spec.containers);
    let ruled = containers.filter(|c| c.restart_policy_rules.is_some());
    ruled.flat_map(|c| {
        let runs = observed.containers.get(&c.name).into_iter().flatten();
        runs.filter_map(|run| match run.state {
            AttemptState::Exited { code, finished, .. } if restart::restarts_all(c, code) => {
                Some((c.name.as_str(), run, finished))
            }
            _ => None,
        })
    })
}

/// Whether a container has not come again yet.
pub(crate) fn in_progress(ctx: &Context<'_>) -> bool {
    let init = ctx.spec.init_containers.iter().flatten();
    let mut containers = init.chain(&ctx.spec.containers);
    ctx.epoch.is_some()
        && containers.any(|c| {
            let run = ctx.observed.latest(&c.name);
            run.is_some_and(|run| ctx.is_past(run))
        })
}

/// Ends what is of the past, then waits as long as the container that asked for it has to. True while nothing else is
/// to be done.
pub(super) fn steps(ctx: &Context<'_>, plan: &mut Plan) -> bool {
    let Some(epoch) = ctx.epoch else {
        return false;
    };
    let mut waits = false;
    for (name, runs) in &ctx.observed.containers {
        let past = runs.iter().filter(|a| a.is_running() && ctx.is_past(a));
        for run in past {
            let message = format!("Container {name} is started again with all others");
            teardown::kill(ctx, name, run, GRACE, message, plan);
            waits = true;
        }
    }
    if waits {
        return true;
    }
    let mut last = triggers(ctx.spec, ctx.observed).filter(|(_, _, at)| *at == epoch);
    let at = last.find_map(|(name, run, at)| {
        let newest = ctx.observed.latest(name) == Some(run);
        newest
            .then(|| container::restart_at(ctx, run, name, at))
            .flatten()
    });
    at.inspect(|at| plan.wake(*at)).is_some()
}
