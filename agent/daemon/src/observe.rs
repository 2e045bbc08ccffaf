//! From the runtime's containers (and what outlived the last agent) to what the plan reads.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerState;
use keelson_agent_io::cni::Attachment;
use keelson_agent_io::logs;
use keelson_agent_plan::{
    Attempt, AttemptState, Failure, Observed, ProbeVerdict, Sandbox, Stage, names,
};
use keelson_runtime::{Container, Kind, State, container_cgroup};

use crate::shared::chain;
use crate::worker::Worker;
use crate::{files, network, resize};

/// Label that keeps a container's image reference: what the status shows as `imageID`.
pub(crate) const IMAGE_LABEL: &str = "keelson.io/image-ref";

/// Label that keeps the image as the spec named it.
pub(crate) const SPEC_IMAGE_LABEL: &str = "keelson.io/spec-image";

/// The exit code and reason CRI runtimes give a container whose process could not be started.
const START_ERROR: (i32, &str) = (128, "StartError");

impl Worker {
    /// Reads back what is there of the pod when its worker starts.
    pub(crate) async fn recover(&mut self, containers: Vec<Container>) {
        let known = containers.iter().any(|c| c.kind != Kind::Holder);
        self.take_containers(containers);
        if self.pod.metadata.deletion_timestamp.is_some() || self.observed.orphan {
            self.observed.terminating_since = Some(Timestamp::now());
        }
        if known {
            // What it runs with it has; what is to be made anew gets what it lacks then.
            self.observed.devices = Stage::Ready(());
            self.observed.device_health = self.shared.devices.health(&self.uid);
        }
        let runtime = self.shared.runtime.clone();
        if runtime.pod_cgroup_found(&self.uid).is_some() {
            self.observed.cgroup = whole_or_part(known);
            if let Some(spec) = self.pod.spec.as_ref().filter(|_| known) {
                let policy = &self.shared.config.memory;
                self.shared.classes.add(&runtime, policy, &self.uid, spec);
            }
        }
        if self.shared.volumes.has(&self.uid) {
            self.observed.volumes = whole_or_part(known);
            if known && !self.observed.orphan {
                self.shared.objects.add(&self.shared, &self.uid, &self.pod);
                self.refresh_now();
            }
        }
        if runtime.has_sandbox(&self.uid) {
            self.observed.sandbox = self.recover_sandbox().await;
            self.look_at_holder().await;
        } else if self.holder {
            self.observed.sandbox = part();
        }
        self.seed_probes();
    }

    /// A sandbox is whole when its namespaces are pinned and the network's result is on disk.
    async fn recover_sandbox(&mut self) -> Stage<Sandbox> {
        if self.observed.orphan {
            return part();
        }
        let made = self
            .shared
            .runtime
            .sandbox_create(&self.uid, &files::sandbox_options(&self.shared, &self.pod))
            .await;
        let Ok(made) = made else { return part() };
        let created = files::sandbox_created(&self.shared, &self.uid);
        let ips = match &made.netns {
            None => self.shared.config.ips(),
            Some(netns) => match self
                .shared
                .cni
                .cached(&Attachment::from_pod(&self.pod, netns))
            {
                Ok(Some(outcome)) => outcome.ips,
                _ => return part(),
            },
        };
        if made.netns.is_some() && !self.is_guarded(&ips).await {
            return part();
        }
        self.netns = made.netns;
        Stage::Ready(Sandbox { created, ips })
    }

    /// Whether a pod that was found is restricted as it must be. What ran already goes on, whatever the answer: nothing
    /// is known of the cluster yet, and the rules are as they were.
    async fn is_guarded(&self, ips: &[IpAddr]) -> bool {
        let (shared, pod, ips) = (self.shared.clone(), self.pod.clone(), ips.to_vec());
        let guarded = async move {
            let done = network::guard(&shared, &pod, &ips).await;
            if let Err(error) = &done {
                tracing::warn!(
                    pod = pod.metadata.name,
                    error,
                    "network of a pod that was found"
                );
            }
            done.is_ok()
        };
        if self.observed.containers.is_empty() {
            return guarded.await;
        }
        tokio::spawn(guarded);
        true
    }

    /// A container that was ready and started before the agent was away stays so until its probes say
    /// otherwise: a restart of the agent takes no pod out of its services.
    fn seed_probes(&mut self) {
        let status = &self.observed.status;
        let all = status
            .init_container_statuses
            .iter()
            .chain(&status.container_statuses)
            .flatten();
        let mut seeds = BTreeMap::new();
        for s in all {
            let Some(run) = self.observed.latest(&s.name).filter(|a| a.is_running()) else {
                continue;
            };
            if s.container_id
                .as_deref()
                .is_some_and(|id| id.ends_with(&run.id))
            {
                let seed = ProbeVerdict {
                    attempt: run.attempt,
                    startup: (s.started == Some(true)).then_some(true),
                    liveness: None,
                    readiness: s.ready.then_some(true),
                };
                seeds.insert(s.name.clone(), seed);
            }
        }
        self.observed.probes = seeds;
    }

    /// Replaces all that is known of the pod's containers.
    pub(crate) fn take_containers(&mut self, all: Vec<Container>) {
        let all = self.take_holder(all);
        let mut runs: BTreeMap<String, Vec<Attempt>> = BTreeMap::new();
        {
            let mut owners = self.shared.owners();
            for c in &all {
                owners.insert(c.id.clone(), self.uid.clone());
            }
        }
        for c in &all {
            runs.entry(c.name.clone())
                .or_default()
                .push(self.attempt(c));
        }
        runs.values_mut()
            .for_each(|list| list.sort_by_key(|a| a.attempt));
        self.observed.containers = runs;
        self.note_ended();
    }

    /// Takes a container's end. Of one that is known to run the event says all: nobody is asked. Another may not have
    /// been started.
    pub(crate) async fn ended(&mut self, id: &str, code: i32, at: Timestamp) {
        let run = Run::running(&self.observed, id);
        let Some((run, started)) = run else {
            return self.reread(id).await;
        };
        let runtime = &self.shared.runtime;
        let pod = runtime.pod_cgroup_found(&self.uid).unwrap_or_default();
        let oom = runtime.was_killed_for_memory(id, &container_cgroup(&pod, id), code);
        self.let_log_settle(&run).await;
        let state = AttemptState::Exited {
            code,
            started: Some(started),
            finished: at,
            oom,
            reason: None,
            message: self.termination_message(&run, code),
        };
        let runs = self.observed.containers.get_mut(&run.name);
        if let Some(known) = runs.into_iter().flatten().find(|a| a.id == id) {
            known.state = state;
        }
        self.note_ended();
    }

    /// Reads one container again.
    pub(crate) async fn reread(&mut self, id: &str) {
        let found = match self.shared.runtime.container(id).await {
            Ok(found) => found,
            Err(error) => {
                // The runtime's events say when it is back; everything is listed again then.
                tracing::warn!(container = id, error = %chain(&error), "container cannot be read");
                return;
            }
        };
        if id == keelson_runtime::container::holder_id(&self.uid) {
            return self.note_holder(found);
        }
        match found {
            Some(c) => {
                if matches!(c.state, State::Exited { .. })
                    && let Some((run, _)) = Run::running(&self.observed, &c.id)
                {
                    self.let_log_settle(&run).await;
                }
                self.note(c);
            }
            None => {
                self.observed
                    .containers
                    .values_mut()
                    .for_each(|l| l.retain(|a| a.id != id));
                self.shared.owners().remove(id);
            }
        }
        self.observed.containers.retain(|_, l| !l.is_empty());
        self.note_ended();
    }

    /// Takes a container that was started a moment ago. One whose end was seen meanwhile has ended.
    pub(crate) fn note_running(&mut self, c: Container) {
        let runs = self.observed.containers.get(&c.name).into_iter().flatten();
        let ended = |a: &Attempt| a.id == c.id && matches!(a.state, AttemptState::Exited { .. });
        if !runs.into_iter().any(ended) {
            self.note(c);
        }
    }

    fn note(&mut self, c: Container) {
        let attempt = self.attempt(&c);
        self.shared.owners().insert(c.id, self.uid.clone());
        let list = self.observed.containers.entry(c.name).or_default();
        list.retain(|a| a.id != attempt.id);
        list.push(attempt);
        list.sort_by_key(|a| a.attempt);
    }

    /// Whoever is told of a container's end finds all of its log, and a failed one's message may be taken from there.
    async fn let_log_settle(&self, run: &Run) {
        let log = self.log_path(run);
        let settled = tokio::task::spawn_blocking(move || logs::settle(&log)).await;
        match settled.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(container = run.id, error = %e, "the container's log may lack its end");
            }
            _ => {}
        }
    }

    fn log_path(&self, run: &Run) -> PathBuf {
        let dir = &self.shared.config.log_dir;
        names::log_path(dir, &self.pod, &run.name, run.attempt)
    }

    fn falls_back_to_log(&self, container: &str) -> bool {
        let spec = self.spec_of(container);
        let policy = spec
            .as_deref()
            .and_then(|s| s.termination_message_policy.as_deref());
        policy == Some("FallbackToLogsOnError")
    }

    /// Tells kills whose process is gone.
    fn note_ended(&mut self) {
        for ((name, attempt), kill) in &self.kills {
            let runs = self.observed.containers.get(name).into_iter().flatten();
            if !runs
                .into_iter()
                .any(|a| a.attempt == *attempt && a.is_running())
            {
                kill.ended();
            }
        }
    }

    fn attempt(&self, c: &Container) -> Attempt {
        let state = match &c.state {
            State::Created => match self.start_errors.get(&c.id) {
                None => AttemptState::Created,
                Some((at, message)) => AttemptState::Exited {
                    code: START_ERROR.0,
                    started: None,
                    finished: *at,
                    oom: false,
                    reason: Some(START_ERROR.1.into()),
                    message: Some(message.clone()),
                },
            },
            State::Running { started, .. } => {
                let post_start = self.hooks.get(&c.id).cloned().unwrap_or_default();
                AttemptState::Running {
                    started: *started,
                    post_start,
                }
            }
            State::Exited {
                code,
                started,
                at,
                oom,
            } => AttemptState::Exited {
                code: *code,
                started: *started,
                finished: *at,
                oom: *oom,
                reason: None,
                message: self.termination_message(&Run::of(c), *code),
            },
        };
        Attempt {
            attempt: c.attempt,
            id: c.id.clone(),
            image: c.image.clone(),
            image_id: c.labels.get(IMAGE_LABEL).unwrap_or(&c.image_id).clone(),
            spec_image: c.labels.get(SPEC_IMAGE_LABEL).cloned(),
            resources: resize::from_label(c.labels.get(resize::RESOURCES_LABEL)),
            created: c.created,
            state,
        }
    }

    /// The message a run left; the status remembers it when the file is gone with the volumes.
    fn termination_message(&self, run: &Run, code: i32) -> Option<String> {
        let file = files::termination_log(&self.shared, &self.uid, &run.name, run.attempt);
        if let Some(message) = files::message(&file) {
            return Some(message);
        }
        if let Some(message) = self.remembered(run) {
            return Some(message);
        }
        (code != 0 && self.falls_back_to_log(&run.name))
            .then(|| files::log_tail(&self.log_path(run)))
            .flatten()
    }

    fn remembered(&self, run: &Run) -> Option<String> {
        let status = &self.observed.status;
        let all = status
            .init_container_statuses
            .iter()
            .chain(&status.container_statuses)
            .flatten();
        let own = all.filter(|s| s.name == run.name);
        let ends = own
            .flat_map(|s| [&s.state, &s.last_state])
            .flatten()
            .filter_map(|s: &ContainerState| s.terminated.as_ref());
        let mut same = ends.filter(|t| {
            t.container_id
                .as_deref()
                .is_some_and(|id| id.ends_with(&run.id))
        });
        same.find_map(|t| t.message.clone())
    }
}

/// One run of a container.
struct Run {
    name: String,
    attempt: u32,
    id: String,
}

impl Run {
    fn of(c: &Container) -> Self {
        Self {
            name: c.name.clone(),
            attempt: c.attempt,
            id: c.id.clone(),
        }
    }

    /// The run of this id, if it is known to run, and since when.
    fn running(observed: &Observed, id: &str) -> Option<(Self, Timestamp)> {
        let all = observed.containers.iter();
        let mut all = all.flat_map(|(name, runs)| runs.iter().map(move |a| (name, a)));
        all.find_map(|(name, a)| match a.state {
            AttemptState::Running { started, .. } if a.id == id => {
                let run = Self {
                    name: name.clone(),
                    attempt: a.attempt,
                    id: a.id.clone(),
                };
                Some((run, started))
            }
            _ => None,
        })
    }
}

/// What an earlier agent left: whole if containers stand on it; else perhaps in part, so that it is made (or
/// removed) again.
fn whole_or_part(whole: bool) -> Stage<()> {
    if whole { Stage::Ready(()) } else { part() }
}

fn part<T>() -> Stage<T> {
    let now = Timestamp::now();
    Stage::Failed(Failure {
        reason: String::new(),
        message: "left by an earlier agent".into(),
        at: now,
        retry_at: now,
    })
}
