//! A machine in memory: it carries actions out as the daemon does.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::backoff::{self, Backoff};
use crate::observed::{Hook, Image, ImageFailure, ProbeVerdict};
use crate::resize::Decision;
use crate::{Action, Attempt, AttemptState, Failure, Observed, Plan, Sandbox, Stage, plan};
use crate::{resize, resources};

pub(super) struct World {
    pub(super) pod: Pod,
    pub(super) observed: Observed,
    pub(super) now: Timestamp,
    /// Every action but events, in order.
    pub(super) log: Vec<String>,
    /// Reasons of events.
    pub(super) events: Vec<String>,
    /// Images that cannot be pulled.
    pub(super) bad_images: Vec<&'static str>,
    /// Containers whose limits the runtime does not take.
    pub(super) bad_resizes: Vec<&'static str>,
    /// What the node says to a resize.
    pub(super) room: fn(&PodSpec) -> Decision,
    pub(super) finished: bool,
}

impl World {
    /// A pod with this spec on an empty machine.
    pub(super) fn new(spec: Value) -> Self {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1}, "spec": spec});
        let now = Timestamp::from_second(1_800_000_000).expect("time");
        Self {
            pod: serde_json::from_value(pod).expect("pod"),
            observed: Observed {
                host_ips: vec!["192.0.2.1".parse().expect("ip")],
                ..Observed::default()
            },
            now,
            log: Vec::new(),
            events: Vec::new(),
            bad_images: Vec::new(),
            bad_resizes: Vec::new(),
            room: |_| Decision::Fits,
            finished: false,
        }
    }

    /// One look and what follows from it.
    pub(super) fn turn(&mut self) -> Plan {
        let spec = self.pod.spec.as_ref().expect("a spec");
        match resize::wanted(spec, &self.observed) {
            true => resize::take((self.room)(spec), spec, &mut self.observed),
            false => self.observed.pending = None,
        }
        let mut plan = plan(&self.pod, &self.observed, self.now);
        for action in std::mem::take(&mut plan.actions) {
            self.apply(action);
        }
        self.observed.status = Arc::new(plan.status.clone());
        self.finished = plan.finished;
        plan
    }

    /// Turns until nothing is left to do at this moment; too many are a plan that does not end.
    pub(super) fn settle(&mut self) -> Plan {
        for _ in 0..100 {
            let before = (self.log.len(), self.observed.clone());
            let plan = self.turn();
            if (self.log.len(), &self.observed) == (before.0, &before.1) || self.finished {
                return plan;
            }
        }
        panic!(
            "the plan does not come to rest: {:?}",
            &self.log[self.log.len() - 6..]
        );
    }

    pub(super) fn wait(&mut self, seconds: i64) -> Plan {
        self.pass(seconds);
        self.settle()
    }

    pub(super) fn pass(&mut self, seconds: i64) {
        let later = self.now.checked_add(SignedDuration::from_secs(seconds));
        self.now = later.expect("time");
    }

    /// The newest run of a container ends.
    pub(super) fn exit(&mut self, name: &str, code: i32) -> Plan {
        self.end(name, code);
        self.settle()
    }

    pub(super) fn end(&mut self, name: &str, code: i32) {
        let now = self.now;
        let run = self.run(name);
        let started = match run.state {
            AttemptState::Running { started, .. } => Some(started),
            _ => None,
        };
        run.state = AttemptState::Exited {
            code,
            started,
            finished: now,
            oom: false,
            reason: None,
            message: None,
        };
        self.observed.killing.remove(name);
    }

    pub(super) fn run(&mut self, name: &str) -> &mut Attempt {
        self.observed
            .containers
            .get_mut(name)
            .and_then(|l| l.last_mut())
            .expect("a run")
    }

    pub(super) fn verdict(&mut self, name: &str, verdict: ProbeVerdict) -> Plan {
        let attempt = self.run(name).attempt;
        self.observed
            .probes
            .insert(name.into(), ProbeVerdict { attempt, ..verdict });
        self.settle()
    }

    pub(super) fn delete(&mut self) -> Plan {
        self.pod.metadata.deletion_timestamp = Some(Time(self.now));
        self.observed.terminating_since = Some(self.now);
        self.settle()
    }

    /// Ends everything that is being killed.
    pub(super) fn die(&mut self) -> Plan {
        let dying: Vec<String> = self.observed.killing.keys().cloned().collect();
        dying.iter().for_each(|n| self.end(n, 137));
        self.settle()
    }

    pub(super) fn took(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    pub(super) fn status(&self, name: &str) -> ContainerStatus {
        let s = &self.observed.status;
        let all = s
            .init_container_statuses
            .iter()
            .chain(&s.container_statuses)
            .flatten();
        all.into_iter()
            .find(|c| c.name == name)
            .cloned()
            .expect("a status")
    }

    /// `Running`, `Waiting:reason` or `Terminated:reason`.
    pub(super) fn state(&self, name: &str) -> String {
        let state = self.status(name).state.unwrap_or_default();
        match (state.running, state.waiting, state.terminated) {
            (Some(_), ..) => "Running".into(),
            (_, Some(w), _) => format!("Waiting:{}", w.reason.unwrap_or_default()),
            (.., Some(t)) => format!("Terminated:{}", t.reason.unwrap_or_default()),
            _ => "none".into(),
        }
    }

    pub(super) fn phase(&self) -> &str {
        self.observed.status.phase.as_deref().unwrap_or_default()
    }

    /// Status, reason and message of a condition.
    pub(super) fn condition(&self, kind: &str) -> (String, String, String) {
        let c = self
            .observed
            .status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == kind)
            .expect("a condition");
        (
            c.status.clone(),
            c.reason.clone().unwrap_or_default(),
            c.message.clone().unwrap_or_default(),
        )
    }

    fn apply(&mut self, action: Action) {
        let takes_away = matches!(
            action,
            Action::RemoveSandbox | Action::TeardownVolumes | Action::RemoveCgroup
        );
        assert!(
            !(takes_away && self.observed.any_running()),
            "{action:?} under a running container"
        );
        if !matches!(action, Action::Event(_)) {
            self.log.push(short(&action));
        }
        let o = &mut self.observed;
        match action {
            Action::AssignDevices => o.devices = Stage::Ready(()),
            Action::CreateCgroup => {
                let spec = self.pod.spec.as_ref().expect("a spec");
                o.figures = Stage::Ready(resources::pod(&resize::allocated_spec(spec, o), None));
                o.cgroup = Stage::Ready(());
            }
            Action::MaterializeVolumes => o.volumes = Stage::Ready(()),
            Action::CreateSandbox => {
                o.sandbox = Stage::Ready(Sandbox {
                    created: self.now,
                    ips: vec!["10.0.0.2".parse().expect("ip")],
                });
            }
            Action::RemoveSandbox => o.sandbox = Stage::Absent,
            Action::TeardownVolumes => o.volumes = Stage::Absent,
            Action::RemoveCgroup => o.cgroup = Stage::Absent,
            Action::EnsureImage { container, attempt } => {
                let image = if self.bad_images.contains(&container.as_str()) {
                    self.image_failure(&container)
                } else {
                    Image::Ready { attempt }
                };
                self.observed.images.insert(container, image);
            }
            Action::CreateContainer { container, attempt } => self.create(&container, attempt),
            Action::StartContainer { container, .. } => self.start(&container),
            Action::UpdateCgroup(figures) => o.figures = Stage::Ready(figures),
            Action::UpdateContainer { container, .. }
                if self.bad_resizes.contains(&container.as_str()) =>
            {
                let failure = self.failure("Error");
                self.observed.resize_errors.insert(container, failure);
            }
            Action::UpdateContainer { container, .. } => {
                self.observed.resize_errors.remove(&container);
                let has = self.allocated(&container);
                self.run(&container).resources = has;
            }
            Action::KillContainer(k) => {
                if k.anew {
                    o.anew.insert(k.container.clone(), k.attempt);
                }
                o.killing.insert(k.container, k.grace);
            }
            Action::RemoveContainer { container, attempt } => {
                let list = o.containers.get_mut(&container).expect("a container");
                let running = |a: &Attempt| a.attempt == attempt && a.is_running();
                assert!(
                    !list.iter().any(running),
                    "removes {container}/{attempt}, which runs"
                );
                list.retain(|a| a.attempt != attempt);
                o.containers.retain(|_, l| !l.is_empty());
            }
            Action::DeletePod => o.orphan = true,
            Action::RemoveLogs => {}
            Action::Event(e) => self.events.push(e.reason.into_owned()),
        }
    }

    fn image_failure(&mut self, container: &str) -> Image {
        let at = self.now;
        let key = format!("image {container}");
        let entry = Backoff::next(
            self.observed.backoffs.get(&key).copied(),
            backoff::CONTAINER,
            at,
        );
        self.observed.backoffs.insert(key, entry);
        let retry_at = at.checked_add(entry.delay).expect("time");
        Image::Failed(ImageFailure {
            reason: "ErrImagePull".into(),
            message: "no such image".into(),
            at,
            retry_at,
        })
    }

    fn create(&mut self, name: &str, attempt: u32) {
        if attempt > 0 {
            let entry = Backoff::next(
                self.observed.backoffs.get(name).copied(),
                backoff::CONTAINER,
                self.now,
            );
            self.observed.backoffs.insert(name.to_owned(), entry);
        }
        let run = Attempt {
            attempt,
            id: format!("u-{name}-{attempt}"),
            image: "img:1".into(),
            image_id: "sha256:1".into(),
            spec_image: self.spec_image(name),
            resources: self.allocated(name),
            created: self.now,
            state: AttemptState::Created,
        };
        self.observed
            .containers
            .entry(name.to_owned())
            .or_default()
            .push(run);
        self.start(name);
    }

    fn allocated(&self, name: &str) -> Option<k8s_openapi::api::core::v1::ResourceRequirements> {
        let spec = self.pod.spec.as_ref().expect("a spec");
        let init = spec.init_containers.iter().flatten();
        let c = init.chain(&spec.containers).find(|c| c.name == name)?;
        let own = resize::allocated(&self.observed, c).cloned();
        Some(own.unwrap_or_default())
    }

    fn spec_image(&self, name: &str) -> Option<String> {
        let spec = self.pod.spec.as_ref().expect("a spec");
        let mut all = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        all.find(|c| c.name == name).and_then(|c| c.image.clone())
    }

    fn start(&mut self, name: &str) {
        let started = self.now;
        self.run(name).state = AttemptState::Running {
            started,
            post_start: Hook::Done,
        };
    }

    /// Changes a container of the spec, as the agent takes it.
    pub(super) fn change(&mut self, name: &str, f: impl FnOnce(&mut Container)) {
        let mut new = self.pod.spec.clone().expect("a spec");
        let init = new.init_containers.iter_mut().flatten();
        let c = init.chain(&mut new.containers).find(|c| c.name == name);
        f(c.expect("a container"));
        let old = self.pod.spec.replace(new.clone()).expect("a spec");
        resize::remember(&old, &new, &mut self.observed);
    }

    pub(super) fn fail(&mut self, name: &str, reason: &str) {
        let failure = self.failure(reason);
        self.observed.failures.insert(name.into(), failure);
    }

    fn failure(&self, reason: &str) -> Failure {
        let retry_at = self
            .now
            .checked_add(SignedDuration::from_secs(10))
            .expect("time");
        Failure {
            reason: reason.into(),
            message: "why".into(),
            at: self.now,
            retry_at,
        }
    }
}

/// `Create c/0`, `Kill c/0 30s`, `RemoveSandbox`.
fn short(action: &Action) -> String {
    match action {
        Action::EnsureImage { container, attempt } => format!("Image {container}/{attempt}"),
        Action::CreateContainer { container, attempt } => format!("Create {container}/{attempt}"),
        Action::StartContainer { container, attempt } => format!("Start {container}/{attempt}"),
        Action::RemoveContainer { container, attempt } => format!("Remove {container}/{attempt}"),
        Action::UpdateContainer { container, .. } => format!("Update {container}"),
        Action::UpdateCgroup(f) => format!("UpdateCgroup {}", f.cpu_shares.unwrap_or_default()),
        Action::KillContainer(k) => format!("Kill {}/{} {}s", k.container, k.attempt, k.grace),
        other => format!("{other:?}"),
    }
}

/// A spec of containers by name, each with more fields.
pub(super) fn spec(policy: &str, init: &[(&str, Value)], apps: &[(&str, Value)]) -> Value {
    let list = |l: &[(&str, Value)]| {
        let one = |(name, more): &(&str, Value)| {
            let mut c = json!({"name": name, "image": "img:1"});
            for (k, v) in more.as_object().into_iter().flatten() {
                c[k] = v.clone();
            }
            c
        };
        l.iter().map(one).collect::<Vec<_>>()
    };
    let mut spec = json!({"restartPolicy": policy, "containers": list(apps)});
    if !init.is_empty() {
        spec["initContainers"] = json!(list(init));
    }
    spec
}

/// States by container, for comparing at one glance.
pub(super) fn states(world: &World, names: &[&str]) -> BTreeMap<String, String> {
    names
        .iter()
        .map(|n| ((*n).to_owned(), world.state(n)))
        .collect()
}
