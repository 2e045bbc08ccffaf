//! Init containers: one after the other; sidecars among them stay.

use k8s_openapi::api::core::v1::Container;

use super::container::{self, Role, has_started};
use super::{Context, app_was_made, is_sidecar};
use crate::action::Plan;
use crate::observed::AttemptState;

/// Takes the init containers' next step. True when the app containers may run.
pub(super) fn steps(ctx: &Context<'_>, plan: &mut Plan) -> bool {
    let init = ctx.spec.init_containers.as_deref().unwrap_or_default();
    if app_was_made(ctx) {
        // Dead init containers may have been removed by now: only sidecars still matter.
        for c in init.iter().filter(|c| is_sidecar(c)) {
            container::steps(ctx, c, Role::Init, plan);
        }
        return true;
    }
    for c in init {
        container::steps(ctx, c, Role::Init, plan);
        if !is_past(ctx, c) {
            return false;
        }
    }
    true
}

/// Whether the next one may run: a plain init container has succeeded, a sidecar has started.
fn is_past(ctx: &Context<'_>, c: &Container) -> bool {
    let Some(attempt) = ctx.current(&c.name) else {
        return false;
    };
    match attempt.state {
        AttemptState::Exited { code, .. } => !is_sidecar(c) && code == 0,
        AttemptState::Running { .. } => is_sidecar(c) && has_started(ctx, c, attempt),
        AttemptState::Created => false,
    }
}
