//! Resizing pods in place: room is given to one pod at a time, then cgroups are written.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use keelson_agent_plan::resources::{self, Figures};
use keelson_agent_plan::{Failure, Stage, hugepages, memory, resize};
use keelson_runtime::{PodResources, Resources};

use crate::apply::{blocking, qos};
use crate::container;
use crate::outcome::{Message, Outcome};
use crate::shared::{Entry, Shared, chain};
use crate::worker::Worker;

/// Label that keeps what a container's cgroup has, as JSON.
pub(crate) const RESOURCES_LABEL: &str = "keelson.io/resources";

/// When a change that the runtime refused is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// What the label says.
pub(crate) fn from_label(text: Option<&String>) -> Option<ResourceRequirements> {
    serde_json::from_str(text?).ok()
}

/// What the label is to say of a container that has been given this.
pub(crate) fn to_label(c: &Container) -> String {
    let resources = c.resources.clone().unwrap_or_default();
    serde_json::to_string(&resources).unwrap_or_default()
}

impl Shared {
    /// Room has become free: those whose resize waits look again.
    pub(crate) fn room(&self) {
        let entries = self.entries();
        for entry in entries.values().filter(|e| e.waits) {
            // A worker that has just ended waits no more.
            let _ = entry.tx.send(Message::Room);
        }
    }
}

impl Worker {
    /// The pod's spec as far as it was admitted.
    pub(crate) fn allocated_spec(&self) -> PodSpec {
        let spec = self.pod.spec.as_ref();
        spec.map(|s| resize::allocated_spec(s, &self.observed).into_owned())
            .unwrap_or_default()
    }

    /// Takes what the spec asks for, if there is room. Nobody else is given room meanwhile.
    pub(crate) fn ask_for_room(&mut self) {
        let (pod, shared) = (self.pod.clone(), self.shared.clone());
        let Some(spec) = pod.spec.as_ref() else {
            return;
        };
        if !resize::wanted(spec, &self.observed) {
            self.observed.pending = None;
            return;
        }
        let allocatable = shared.allocatable();
        let mut entries = shared.entries();
        let others: Vec<Entry> = entries
            .iter()
            .filter(|(uid, e)| **uid != self.uid && e.is_active())
            .map(|(_, e)| e.clone())
            .collect();
        let others: Vec<&PodSpec> = others.iter().filter_map(Entry::spec).collect();
        let pinned = shared.pinning.infeasible(spec, &self.observed);
        let decision = pinned.unwrap_or_else(|| resize::decide(spec, &others, &allocatable));
        resize::take(decision, spec, &mut self.observed);
        if let Some(entry) = entries.get_mut(&self.uid) {
            entry.waits = self.observed.pending.is_some();
            entry.allocated = Some(Arc::new(self.allocated_spec()));
        }
        drop(entries);
        if self.observed.pending.is_none() {
            shared.room();
        }
    }

    pub(crate) fn update_cgroup(&mut self, figures: Figures) {
        self.observed.figures = Stage::Working;
        let (shared, uid, spec) = (self.shared.clone(), self.uid.clone(), self.allocated_spec());
        let work = move || Outcome::Figures(write_cgroup(&shared, &uid, &spec, figures));
        self.step(blocking(work, |e| Outcome::Figures(Err(e))));
    }

    pub(crate) fn update_container(&mut self, name: String, attempt: u32) {
        let spec = self.allocated_spec();
        let init = spec.init_containers.iter().flatten();
        let Some(c) = init.chain(&spec.containers).find(|c| c.name == name) else {
            return;
        };
        let limits = container::resources_of(&self.shared, &spec, c);
        let limits = match self.shared.pinning.has_own(&self.uid, &name) {
            true => Resources {
                cpu_quota: None,
                cpu_period: None,
                ..limits
            },
            false => limits,
        };
        let label = to_label(c);
        self.observed.updating.insert(name.clone());
        let id = keelson_runtime::container::id(&self.uid, &name, attempt);
        let shared = self.shared.clone();
        self.step(async move {
            let runtime = &shared.runtime;
            let result = async {
                runtime.container_update(&id, &limits).await?;
                runtime.container_label(&id, RESOURCES_LABEL, label).await
            };
            Outcome::Updated {
                container: name,
                id: id.clone(),
                result: result.await.map_err(|e| chain(&e)),
            }
        });
    }

    pub(crate) async fn update_ended(&mut self, name: &str, id: &str, result: Result<(), String>) {
        self.observed.updating.remove(name);
        match result {
            Ok(()) => _ = self.observed.resize_errors.remove(name),
            Err(message) => {
                tracing::warn!(container = id, error = message, "container not resized");
                let at = Timestamp::now();
                let failure = Failure {
                    reason: "Error".into(),
                    message,
                    at,
                    retry_at: at.checked_add(RETRY).unwrap_or(at),
                };
                self.observed.resize_errors.insert(name.to_owned(), failure);
            }
        }
        self.reread(id).await;
    }
}

/// The cgroup of a pod.
pub(crate) fn cgroup_of(shared: &Shared, uid: &str, pod: &Pod) -> String {
    let class = pod
        .spec
        .as_ref()
        .map_or(resources::Qos::BestEffort, resources::qos);
    shared.runtime.pod_cgroup(uid, qos(class))
}

/// Makes the pod's cgroup with these figures, or writes them. Blocks.
pub(crate) fn write_cgroup(
    shared: &Shared,
    uid: &str,
    spec: &PodSpec,
    figures: Figures,
) -> Result<Figures, String> {
    let limits = PodResources {
        cpu_shares: figures.cpu_shares,
        cpu_quota: figures.cpu_quota,
        cpu_period: figures.cpu_period,
        memory_limit: figures.memory_limit,
        pids_limit: shared.config.pod_pids_limit,
        hugepages: container::pages(hugepages::of_pod(spec, &shared.page_sizes)),
        unified: memory::pod(&shared.config.memory, spec),
    };
    let runtime = &shared.runtime;
    let made = runtime.pod_cgroup_create(uid, qos(resources::qos(spec)), &limits);
    shared
        .classes
        .add(runtime, &shared.config.memory, uid, spec);
    made.map(|_| figures).map_err(|e| chain(&e))
}
