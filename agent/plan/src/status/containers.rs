//! Container statuses, in upstream's words.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::time;
use crate::ephemeral;
use crate::event;
use crate::lifecycle::container::{FRESH, Role, again, has_started, restart_at, verdict};
use crate::lifecycle::{Context, Goal, is_sidecar};
use crate::mount;
use crate::names;
use crate::observed::{Attempt, AttemptState, Image};
use crate::resize;

/// The exit code shown for a container that cannot be found.
const UNKNOWN_CODE: i32 = 137;

/// Statuses of the init containers, of the containers and of the ephemeral ones, in the order of the spec.
pub(super) fn statuses(ctx: &Context<'_>, goal: Goal) -> [Vec<ContainerStatus>; 3] {
    let before = &ctx.observed.status;
    let of = |list: &[Container], role: Role, old: &Option<Vec<ContainerStatus>>| {
        let status = |c: &Container| {
            let old = old.iter().flatten().find(|s| s.name == c.name);
            Builder {
                ctx,
                goal,
                c,
                role,
                old,
            }
            .build()
        };
        list.iter().map(status).collect()
    };
    let init = ctx.spec.init_containers.as_deref().unwrap_or_default();
    let ephemeral: Vec<Container> = ephemeral::containers(ctx.spec).collect();
    [
        of(init, Role::Init, &before.init_container_statuses),
        of(&ctx.spec.containers, Role::App, &before.container_statuses),
        of(
            &ephemeral,
            Role::Ephemeral,
            &before.ephemeral_container_statuses,
        ),
    ]
}

struct Builder<'a> {
    ctx: &'a Context<'a>,
    goal: Goal,
    c: &'a Container,
    role: Role,
    old: Option<&'a ContainerStatus>,
}

impl Builder<'_> {
    fn build(&self) -> ContainerStatus {
        let attempts = self
            .ctx
            .observed
            .containers
            .get(&self.c.name)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let Some((latest, earlier)) = attempts.split_last() else {
            return self.unseen();
        };
        let before = earlier.last().and_then(terminated);
        let last = before.or_else(|| self.old.and_then(|o| old_last(o, latest)));
        let (state, last) = match &latest.state {
            AttemptState::Created => (self.waiting(), last),
            AttemptState::Running { started, .. } => (running(*started), last),
            AttemptState::Exited { .. } => self.exited(latest, last),
        };
        let started = matches!(latest.state, AttemptState::Running { .. })
            && has_started(self.ctx, self.c, latest);
        let (allocated_resources, resources) = self.resources(latest);
        ContainerStatus {
            name: self.c.name.clone(),
            allocated_resources,
            resources,
            image: if latest.image.is_empty() {
                self.image()
            } else {
                latest.image.clone()
            },
            image_id: latest.image_id.clone(),
            container_id: Some(format!("containerd://{}", latest.id)),
            restart_count: i32::try_from(latest.attempt).unwrap_or(i32::MAX),
            ready: self.ready(latest, started),
            started: Some(started),
            state: Some(state),
            last_state: Some(last.map(finished).unwrap_or_default()),
            volume_mounts: mount::statuses(self.c, self.ctx.observed.recursive_read_only),
            allocated_resources_status: self.ctx.observed.device_health.get(&self.c.name).cloned(),
            ..Default::default()
        }
    }

    /// What is allocated, and what a run has or will have (KEP-1287).
    fn resources(
        &self,
        latest: &Attempt,
    ) -> (
        Option<BTreeMap<String, Quantity>>,
        Option<ResourceRequirements>,
    ) {
        if self.role == Role::Ephemeral {
            return (None, None);
        }
        let allocated = resize::allocated(self.ctx.observed, self.c);
        let has = latest.resources.as_ref().filter(|_| latest.is_running());
        let has = has.or(allocated).cloned().unwrap_or_default();
        (allocated.and_then(|r| r.requests.clone()), Some(has))
    }

    fn image(&self) -> String {
        self.c.image.clone().unwrap_or_default()
    }

    /// A run that is over: shown as it ended, or as waiting for its next start.
    fn exited(
        &self,
        latest: &Attempt,
        last: Option<ContainerStateTerminated>,
    ) -> (ContainerState, Option<ContainerStateTerminated>) {
        let (AttemptState::Exited { finished: at, .. }, Some(end)) =
            (&latest.state, terminated(latest))
        else {
            return (self.waiting(), last);
        };
        if self.goal != Goal::Run || !again(self.ctx, self.c, self.role, latest) {
            return (finished(end), last);
        }
        if let Some(until) = restart_at(self.ctx, latest, &self.c.name, *at) {
            let delay = until.duration_since(*at);
            let message =
                event::crash_loop_message(delay, &self.c.name, &names::pod_ref(self.ctx.pod));
            return (waiting("CrashLoopBackOff", Some(message)), Some(end));
        }
        match self.trouble() {
            Some(state) => (state, Some(end)),
            None => (finished(end), last),
        }
    }

    fn ready(&self, latest: &Attempt, started: bool) -> bool {
        match &latest.state {
            AttemptState::Exited { code, .. } => {
                self.role == Role::Init && !is_sidecar(self.c) && *code == 0
            }
            AttemptState::Running { .. } if self.role == Role::App || is_sidecar(self.c) => {
                let probed = verdict(self.ctx, latest, &self.c.name).readiness;
                started && (self.c.readiness_probe.is_none() || probed == Some(true))
            }
            _ => false,
        }
    }

    /// No run is known: not made yet, or lost.
    fn unseen(&self) -> ContainerStatus {
        let mut status = ContainerStatus {
            name: self.c.name.clone(),
            image: self.image(),
            state: Some(self.waiting()),
            last_state: Some(ContainerState::default()),
            started: Some(false),
            ..Default::default()
        };
        let Some(old) = self.old else { return status };
        let old_state = old.state.clone().unwrap_or_default();
        let ends = self.goal != Goal::Run;
        if old_state.terminated.is_some() && (ends || self.role == Role::Init) {
            return old.clone();
        }
        status.restart_count = old.restart_count;
        status.last_state = old.last_state.clone();
        if let Some(end) = old_state.terminated {
            status.last_state = Some(finished(end));
        } else if old_state.running.is_some() && ends {
            let end = lost("The container could not be located when the pod was terminated");
            return ContainerStatus {
                state: Some(finished(end)),
                ready: false,
                started: Some(false),
                ..old.clone()
            };
        } else if old_state.running.is_some() {
            let end = lost(
                "The container could not be located when the pod was deleted.  The container used to be Running",
            );
            status.last_state = Some(finished(end));
            status.restart_count += 1;
        }
        status
    }

    fn waiting(&self) -> ContainerState {
        self.trouble().unwrap_or_else(|| {
            let init = self.role != Role::Ephemeral
                && self
                    .ctx
                    .spec
                    .init_containers
                    .as_ref()
                    .is_some_and(|i| !i.is_empty());
            waiting(
                if init {
                    "PodInitializing"
                } else {
                    "ContainerCreating"
                },
                None,
            )
        })
    }

    /// Why a container cannot be made or started, if that is so.
    fn trouble(&self) -> Option<ContainerState> {
        let observed = self.ctx.observed;
        if let Some(f) = observed.failures.get(&self.c.name) {
            return Some(waiting(&f.reason, Some(f.message.clone())));
        }
        let Some(Image::Failed(f)) = observed.images.get(&self.c.name) else {
            return None;
        };
        let fresh = self.ctx.now.duration_since(f.at) < FRESH;
        if fresh || f.reason != "ErrImagePull" {
            return Some(waiting(&f.reason, Some(f.message.clone())));
        }
        let message = format!(
            "Back-off pulling image \"{}\": ErrImagePull: {}",
            self.image(),
            f.message
        );
        Some(waiting("ImagePullBackOff", Some(message)))
    }
}

/// What the last status knew of the run before `latest`.
fn old_last(old: &ContainerStatus, latest: &Attempt) -> Option<ContainerStateTerminated> {
    let same = old
        .container_id
        .as_deref()
        .is_some_and(|id| id.ends_with(&latest.id));
    let state = |s: &Option<ContainerState>| s.as_ref().and_then(|s| s.terminated.clone());
    if same {
        state(&old.last_state)
    } else {
        state(&old.state).or_else(|| state(&old.last_state))
    }
}

/// How a run ended, if it did.
fn terminated(attempt: &Attempt) -> Option<ContainerStateTerminated> {
    let AttemptState::Exited {
        code,
        started,
        finished,
        oom,
        reason,
        message,
    } = &attempt.state
    else {
        return None;
    };
    let usual = match (oom, code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    };
    Some(ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", attempt.id)),
        exit_code: *code,
        reason: Some(reason.clone().unwrap_or_else(|| usual.to_owned())),
        message: message.clone().filter(|m| !m.is_empty()),
        signal: None,
        started_at: started.map(time),
        finished_at: Some(time(*finished)),
    })
}

fn lost(message: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: UNKNOWN_CODE,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some(message.into()),
        ..Default::default()
    }
}

fn finished(end: ContainerStateTerminated) -> ContainerState {
    ContainerState {
        terminated: Some(end),
        ..Default::default()
    }
}

fn running(since: jiff::Timestamp) -> ContainerState {
    ContainerState {
        running: Some(ContainerStateRunning {
            started_at: Some(time(since)),
        }),
        ..Default::default()
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..Default::default()
    }
}
