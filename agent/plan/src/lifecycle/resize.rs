//! The steps of a resize: the pod's cgroup grows first and shrinks last, so that it always holds its containers'.

use k8s_openapi::api::core::v1::Container;

use super::{Context, teardown};
use crate::action::{Action, Plan};
use crate::observed::Stage;
use crate::resize::{self, applied_spec};
use crate::resources::{self, Figures};

/// What the pod's cgroup is to have now.
fn target(ctx: &Context<'_>) -> Figures {
    let wanted = resize::pod_figures(ctx.spec, ctx.observed);
    if resize::lacking(ctx.spec, ctx.observed).is_empty() {
        return wanted;
    }
    let now = match &ctx.observed.figures {
        Stage::Ready(now) => now.clone(),
        _ => resources::pod(&applied_spec(ctx.spec, ctx.observed), None),
    };
    wanted.larger(&now)
}

/// Whether something is not as it was allocated yet.
pub(crate) fn in_progress(ctx: &Context<'_>) -> bool {
    let known = |f: &Figures| *f != target(ctx);
    !resize::lacking(ctx.spec, ctx.observed).is_empty()
        || ctx.observed.figures.ready().is_some_and(known)
}

pub(super) fn steps(ctx: &Context<'_>, plan: &mut Plan) {
    let target = target(ctx);
    match &ctx.observed.figures {
        Stage::Ready(now) if *now == target => {}
        Stage::Working => return,
        Stage::Failed(f) if f.retry_at > ctx.now => return plan.wake(f.retry_at),
        _ => return plan.actions.push(Action::UpdateCgroup(target)),
    }
    for (c, has, to) in resize::lacking(ctx.spec, ctx.observed) {
        let observed = ctx.observed;
        let taken = observed.busy.contains(&c.name)
            || observed.updating.contains(&c.name)
            || observed.killing.contains_key(&c.name);
        if taken {
            continue;
        }
        let error = observed.resize_errors.get(&c.name);
        match error.filter(|f| f.retry_at > ctx.now) {
            Some(f) => plan.wake(f.retry_at),
            None if resize::restarts(c, has, &to) => restart(ctx, c, plan),
            None => update(ctx, c, plan),
        }
    }
}

fn restart(ctx: &Context<'_>, c: &Container, plan: &mut Plan) {
    let Some(run) = ctx.observed.latest(&c.name) else {
        return;
    };
    let message = format!("Container {} resize requires restart", c.name);
    teardown::kill_anew(ctx, &c.name, run, message, plan);
}

fn update(ctx: &Context<'_>, c: &Container, plan: &mut Plan) {
    let Some(run) = ctx.observed.latest(&c.name) else {
        return;
    };
    plan.actions.push(Action::UpdateContainer {
        container: c.name.clone(),
        attempt: run.attempt,
    });
}
