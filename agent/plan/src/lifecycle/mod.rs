//! From a pod and what was observed to the next steps.
//!
//! ```text
//! Run:       devices -> cgroup, volumes, sandbox -> init containers one after the other -> containers
//!            exited? restart by policy, after its back-off    probe or hook failed? kill
//! Finish:    the phase is final (or the deadline has passed): kill -> sandbox, volumes, cgroup away
//! Terminate: the API deletes it, or has forgotten it: as Finish, then containers away -> final delete
//! ```
//!
//! A step that was taken shows in the next observation, so the same observation gives the same plan and
//! a plan without actions is the end of the way.

pub(crate) mod all;
pub(crate) mod container;
mod init;
pub(crate) mod resize;
mod restart;
mod teardown;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::action::{Action, Plan};
use crate::devices;
use crate::ephemeral;
use crate::event;
use crate::eviction::{self, Eviction};
use crate::observed::{Attempt, Observed, Stage};
use crate::shutdown;
use crate::status;

pub use restart::should_restart;

/// What is wanted of the pod as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// It runs.
    Run,
    /// It has ended, or must: keep its last containers for people to look at.
    Finish(Final),
    /// It goes away altogether.
    Terminate,
}

/// Why a pod's phase is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Final {
    /// Its containers say so, or an earlier status did.
    Phase,
    /// `activeDeadlineSeconds` has passed.
    Deadline,
    /// The node evicts it.
    Evicted,
}

/// What every step looks at.
pub(crate) struct Context<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) spec: &'a PodSpec,
    pub(crate) observed: &'a Observed,
    pub(crate) now: Timestamp,
    /// When a container ended that has all started again: runs made before are of the past.
    pub(crate) epoch: Option<Timestamp>,
}

impl<'a> Context<'a> {
    fn new(pod: &'a Pod, spec: &'a PodSpec, observed: &'a Observed, now: Timestamp) -> Self {
        let ends = all::triggers(spec, observed).map(|(_, _, at)| at);
        Self {
            pod,
            spec,
            observed,
            now,
            epoch: ends.max(),
        }
    }

    /// Whether a run was made before all were to start again.
    pub(crate) fn is_past(&self, run: &Attempt) -> bool {
        self.epoch.is_some_and(|epoch| run.created < epoch)
    }

    /// The newest run that belongs to the present sandbox, and came after all were to start again.
    pub(crate) fn current(&self, name: &str) -> Option<&'a Attempt> {
        let run = self.observed.current(name);
        run.filter(|a| a.is_running() || !self.is_past(a))
    }
}

/// The next steps for a pod, its status, and when to look again.
pub fn plan(pod: &Pod, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let empty = PodSpec::default();
    let ctx = Context::new(pod, pod.spec.as_ref().unwrap_or(&empty), observed, now);
    let goal = goal(&ctx, &mut plan);
    match goal {
        Goal::Run => run(&ctx, &mut plan),
        Goal::Finish(_) | Goal::Terminate => teardown::steps(&ctx, goal, &mut plan),
    }
    plan.status = status::compute(&ctx, goal);
    plan.actions.extend(
        status::transitions(&ctx, &plan.status)
            .into_iter()
            .map(Action::Event),
    );
    plan
}

fn goal(ctx: &Context<'_>, plan: &mut Plan) -> Goal {
    if ctx.observed.orphan || ctx.pod.metadata.deletion_timestamp.is_some() {
        return Goal::Terminate;
    }
    if status::is_final(ctx.observed.status.phase.as_deref()) {
        return Goal::Finish(Final::Phase);
    }
    if eviction(ctx).is_some() {
        return Goal::Finish(Final::Evicted);
    }
    match (deadline(ctx), ctx.observed.status.reason.as_deref()) {
        (_, Some("DeadlineExceeded")) => return Goal::Finish(Final::Deadline),
        (Some(end), _) if end <= ctx.now => {
            plan.actions.push(Action::Event(event::deadline_exceeded()));
            return Goal::Finish(Final::Deadline);
        }
        (Some(end), _) => plan.wake(end),
        (None, _) => {}
    }
    if status::is_final(Some(status::wanted_phase(ctx))) {
        Goal::Finish(Final::Phase)
    } else {
        Goal::Run
    }
}

/// The eviction under way. One that an earlier agent began shows in the status, and gets no more time.
pub(crate) fn eviction(ctx: &Context<'_>) -> Option<Eviction> {
    let status = &ctx.observed.status;
    let begun = || {
        let ends = [eviction::REASON, shutdown::REASON]
            .into_iter()
            .find(|r| status.reason.as_deref() == Some(r))
            .filter(|_| !status::is_final(status.phase.as_deref()));
        ends.map(|reason| Eviction {
            reason,
            message: status.message.clone().unwrap_or_default(),
            grace: eviction::AT_ONCE,
            disruption: status::is_disrupted(status),
        })
    };
    ctx.observed.evicted.clone().or_else(begun)
}

fn deadline(ctx: &Context<'_>) -> Option<Timestamp> {
    let seconds = ctx.spec.active_deadline_seconds?;
    let start = ctx.observed.status.start_time.as_ref()?;
    start.0.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn run(ctx: &Context<'_>, plan: &mut Plan) {
    let observed = ctx.observed;
    if observed.sandbox.is_gone() && observed.any_running() {
        let message = event::SANDBOX_CHANGED;
        teardown::kill_all(ctx, message, plan);
        return;
    }
    // A pod that does not get its devices fails before anything is made for it.
    if devices::asks(ctx.spec) && !need(&observed.devices, Action::AssignDevices, ctx.now, plan) {
        return;
    }
    let cgroup = need(&observed.cgroup, Action::CreateCgroup, ctx.now, plan);
    let volumes = need(&observed.volumes, Action::MaterializeVolumes, ctx.now, plan);
    let before = plan.actions.len();
    let sandbox = need(&observed.sandbox, Action::CreateSandbox, ctx.now, plan);
    if plan.actions.len() > before && !observed.containers.is_empty() {
        plan.actions.push(Action::Event(event::sandbox_changed()));
    }
    if !(cgroup && volumes && sandbox) {
        return;
    }
    if all::steps(ctx, plan) {
        return;
    }
    for c in ephemeral::containers(ctx.spec) {
        container::steps(ctx, &c, container::Role::Ephemeral, plan);
    }
    let initialized = init::steps(ctx, plan);
    if initialized {
        for c in &ctx.spec.containers {
            container::steps(ctx, c, container::Role::App, plan);
        }
    }
    resize::steps(ctx, plan);
    // What began a restart of all is kept until all have come again.
    if all::in_progress(ctx) {
        return;
    }
    for (name, attempts) in &observed.containers {
        container::prune(ctx, name, attempts, plan);
    }
}

/// Whether a stage is there; if not, makes it, or looks again when it may be tried again.
fn need<T>(stage: &Stage<T>, action: Action, now: Timestamp, plan: &mut Plan) -> bool {
    match stage {
        Stage::Ready(_) => return true,
        Stage::Working => {}
        Stage::Failed(f) if f.retry_at > now => plan.wake(f.retry_at),
        Stage::Failed(_) | Stage::Absent => plan.actions.push(action),
    }
    false
}

/// An init container that keeps running beside the others (KEP-753).
pub(crate) fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// Whether an app container has been made in the present sandbox: initialisation is over.
pub(crate) fn app_was_made(ctx: &Context<'_>) -> bool {
    ctx.spec
        .containers
        .iter()
        .any(|c| ctx.current(&c.name).is_some())
}

#[cfg(test)]
mod tests;
