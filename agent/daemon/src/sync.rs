//! The watches that feed the workers: pods of this node, services, and the runtime's events.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as SpecContainer, Pod, PodSpec, PodStatus, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use keelson_agent_plan::{admit, event, resources, static_pod, status};
use keelson_runtime::{Container, Kind, RuntimeEvent, State};
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};

use crate::files;
use crate::outcome::Message;
use crate::shared::{Entry, Shared, chain};
use crate::statics::Statics;
use crate::worker::{self, Start};

const RETRY: Duration = Duration::from_secs(1);

/// Repeats until it works or the agent shuts down (`None`).
async fn insist<T, E, F>(shared: &Shared, what: &str, mut f: impl FnMut() -> F) -> Option<T>
where
    E: std::error::Error,
    F: Future<Output = Result<T, E>>,
{
    loop {
        match f().await {
            Ok(t) => return Some(t),
            Err(error) => tracing::warn!(what, error = %chain(&error), "trying again"),
        }
        tokio::select! {
            () = shared.shutdown.cancelled() => return None,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Feeds a watch's events to `take` until shutdown. Errors are logged; the watcher goes on by itself.
pub(crate) async fn follow<K>(
    shared: &Shared,
    api: Api<K>,
    config: watcher::Config,
    take: impl FnMut(Event<K>),
) where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    feed(shared, watcher(api, config), take).await;
}

/// The same for a stream that is there.
pub(crate) async fn feed<K>(
    shared: &Shared,
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    mut take: impl FnMut(Event<K>),
) {
    use kube::runtime::WatchStreamExt;
    let stream = stream.default_backoff();
    futures::pin_mut!(stream);
    loop {
        let next = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            next = stream.next() => next,
        };
        match next {
            Some(Ok(event)) => take(event),
            Some(Err(error)) => tracing::warn!(error = %chain(&error), "watch interrupted"),
            None => return,
        }
    }
}

/// Services, for the environment of containers.
pub(crate) async fn services(shared: Arc<Shared>) {
    let api: Api<Service> = Api::all(shared.client.clone());
    let mut fresh = HashMap::new();
    let key = |s: &Service| {
        (
            s.metadata.namespace.clone().unwrap_or_default(),
            s.metadata.name.clone().unwrap_or_default(),
        )
    };
    let slim = |mut s: Service| {
        s.metadata = ObjectMeta {
            name: s.metadata.name,
            namespace: s.metadata.namespace,
            ..ObjectMeta::default()
        };
        s.status = None;
        Arc::new(s)
    };
    let take = |event: Event<Service>| match event {
        Event::Init => fresh.clear(),
        Event::InitApply(s) => _ = fresh.insert(key(&s), slim(s)),
        Event::InitDone => {
            *shared.services() = std::mem::take(&mut fresh);
            shared.services_known.send_replace(true);
        }
        Event::Apply(s) => _ = shared.services().insert(key(&s), slim(s)),
        Event::Delete(s) => _ = shared.services().remove(&key(&s)),
    };
    follow(&shared, api, watcher::Config::default(), take).await;
}

/// Exits, to the workers they belong to; everything again when events may have been missed.
pub(crate) async fn runtime_events(shared: Arc<Shared>) {
    let mut events = shared.runtime.events();
    loop {
        let event = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            event = events.recv() => event,
        };
        match event {
            None => return,
            // A start is ours, and its step says how it went.
            Some(RuntimeEvent::Start { .. }) => {}
            Some(RuntimeEvent::Exit { id, code, at }) => {
                let owner = shared.owners().get(&id).cloned();
                if let Some(uid) = owner {
                    shared.tell(&uid, Message::Ended { id, code, at });
                }
            }
            Some(RuntimeEvent::Reconnected) => relist(&shared).await,
        }
    }
}

async fn relist(shared: &Shared) {
    let Some(all) = insist(shared, "list containers", || shared.runtime.containers()).await else {
        return;
    };
    let mut by_pod = group(all);
    let uids: Vec<String> = shared.entries().keys().cloned().collect();
    for uid in uids {
        let containers = by_pod.remove(&uid).unwrap_or_default();
        shared.tell(&uid, Message::Containers(containers));
    }
}

fn is_running(c: &Container) -> bool {
    matches!(c.state, State::Running { .. })
}

/// Tells of containers that ended after the agent had listed them and before their workers were there to be told.
async fn ended_unseen(shared: Arc<Shared>, mut running: HashMap<String, String>) {
    let Some(all) = insist(&shared, "list containers", || shared.runtime.containers()).await else {
        return;
    };
    for c in all.iter().filter(|c| is_running(c)) {
        running.remove(&c.id);
    }
    for (id, uid) in running {
        shared.tell(&uid, Message::Container(id));
    }
}

fn group(all: Vec<Container>) -> BTreeMap<String, Vec<Container>> {
    let mut by_pod: BTreeMap<String, Vec<Container>> = BTreeMap::new();
    for c in all {
        by_pod.entry(c.pod.uid.clone()).or_default().push(c);
    }
    by_pod
}

/// The pods bound to this node.
pub(crate) async fn pods(shared: Arc<Shared>) {
    let Some(found) = insist(&shared, "list containers", || shared.runtime.containers()).await
    else {
        return;
    };
    if let Err(error) = shared.runtime.containers_sweep(&found) {
        tracing::warn!(error = %chain(&error), "files of containers that are gone stay");
    }
    let running = found.iter().filter(|c| is_running(c));
    let running = running.map(|c| (c.id.clone(), c.pod.uid.clone())).collect();
    // Static pods need no API.
    let mut found = group(found);
    let mut statics = Statics::new(shared.clone());
    statics.look(&mut found);
    tokio::spawn(statics.run());
    let mut node = shared.node.subscribe();
    let registered = tokio::select! {
        () = shared.shutdown.cancelled() => return,
        r = node.wait_for(Option::is_some) => r.is_ok(),
    };
    if !registered {
        return;
    }
    let mut sync = Sync {
        shared: shared.clone(),
        found,
        running,
        listed: Vec::new(),
        first: true,
    };
    let api: Api<Pod> = Api::all(shared.client.clone());
    let config =
        watcher::Config::default().fields(&format!("spec.nodeName={}", shared.config.node_name));
    follow(&shared, api, config, |event| sync.take(event)).await;
}

struct Sync {
    shared: Arc<Shared>,
    /// What the runtime had when the agent started and no worker has taken yet.
    found: BTreeMap<String, Vec<Container>>,
    /// What ran then, by container id, and whose it is.
    running: HashMap<String, String>,
    /// A list under way.
    listed: Vec<Pod>,
    first: bool,
}

impl Sync {
    fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => self.listed.push(slim(pod)),
            Event::InitDone => self.list_done(),
            Event::Apply(pod) if self.shared.mirrors.apply(&pod) => {}
            Event::Apply(pod) => self.apply(slim(pod)),
            Event::Delete(pod) => {
                self.shared.mirrors.remove(&pod);
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                self.shared.gone(&uid, Some(Arc::new(slim(pod))));
            }
        }
    }

    fn list_done(&mut self) {
        let mut listed = std::mem::take(&mut self.listed);
        self.shared.mirrors.listed(&listed);
        listed.retain(|p| static_pod::mirrored(p).is_none());
        if self.first {
            self.release_gone(&listed);
        }
        let uid = |p: &Pod| p.metadata.uid.clone().unwrap_or_default();
        let seen: HashSet<String> = listed.iter().map(uid).collect();
        let known: Vec<String> = {
            let entries = self.shared.entries();
            let of_api = entries
                .iter()
                .filter(|(_, e)| !static_pod::is_static(&e.pod));
            of_api.map(|(uid, _)| uid.clone()).collect()
        };
        for gone in known.iter().filter(|k| !seen.contains(*k)) {
            self.shared.gone(gone, None);
        }
        // Those that run keep their place: they are admitted before new ones are counted.
        listed.sort_by_key(|p| {
            (
                !self.is_here(p),
                p.metadata.creation_timestamp.clone().map(|t| t.0),
            )
        });
        for pod in listed {
            self.apply(pod);
        }
        if std::mem::take(&mut self.first) {
            self.orphans();
            let shared = &self.shared;
            let alive: HashSet<String> = shared.entries().keys().cloned().collect();
            shared.devices.retain(|uid| alive.contains(uid));
            let running = std::mem::take(&mut self.running);
            tokio::spawn(ended_unseen(self.shared.clone(), running));
        }
    }

    fn is_here(&self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.found.contains_key(uid) || pod.status.as_ref().is_some_and(|s| s.start_time.is_some())
    }

    fn apply(&mut self, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if self.shared.entries().contains_key(&uid) {
            return self.shared.tell(&uid, Message::Pod(Arc::new(pod)));
        }
        let mut status = pod.status.clone().unwrap_or_default();
        let is_here = self.is_here(&pod);
        if !is_here && pod.metadata.deletion_timestamp.is_none() {
            status = self.admit(&pod, status);
        }
        let over = status::is_final(status.phase.as_deref());
        if !over && pod.metadata.deletion_timestamp.is_none() {
            status = pin(&self.shared, &pod, status, is_here);
        }
        let containers = self.found.remove(&uid).unwrap_or_default();
        worker::spawn(
            &self.shared,
            Start {
                pod: Arc::new(pod),
                status,
                containers,
                orphan: false,
            },
        );
    }

    /// Takes back what pods had that went while the agent was away.
    fn release_gone(&self, listed: &[Pod]) {
        let over = |p: &Pod| status::is_final(p.status.as_ref().and_then(|s| s.phase.as_deref()));
        let (over, there): (Vec<&Pod>, Vec<&Pod>) = listed.iter().partition(|p| over(p));
        let uid = |p: &&Pod| p.metadata.uid.clone().unwrap_or_default();
        let mut keep: BTreeSet<String> = self.found.keys().cloned().collect();
        over.iter().map(uid).for_each(|uid| _ = keep.remove(&uid));
        keep.extend(there.iter().map(uid));
        keep.extend(self.shared.entries().keys().cloned());
        self.shared.pinning.retain(&keep);
    }

    /// The status a new pod starts with: as it is, or refused.
    fn admit(&self, pod: &Pod, status: PodStatus) -> PodStatus {
        let others: Vec<Entry> = {
            let entries = self.shared.entries();
            entries
                .values()
                .filter(|e| e.is_active())
                .cloned()
                .collect()
        };
        let specs: Vec<&PodSpec> = others.iter().filter_map(Entry::spec).collect();
        let api = self.shared.node.borrow().clone();
        let node = admit::Node {
            name: self.shared.config.node_name.clone(),
            labels: api
                .as_ref()
                .and_then(|n| n.metadata.labels.clone())
                .unwrap_or_default(),
            allocatable: self.shared.allocatable(),
            devices: match &pod.spec {
                Some(spec) => self.shared.devices.managed(spec),
                None => BTreeSet::new(),
            },
            unsafe_sysctls: self.shared.config.allowed_unsafe_sysctls.clone(),
            pressure: self.shared.pressure.borrow().clone().unwrap_or_default(),
            shutting_down: *self.shared.stopping.borrow(),
        };
        match admit::admit(pod, &specs, &node) {
            Ok(()) => status,
            Err(refusal) => refuse(&self.shared, pod, refusal, status),
        }
    }

    /// What is here of pods that the API does not have: only torn down.
    fn orphans(&mut self) {
        let shared = self.shared.clone();
        let note = |what: &str, error: &dyn std::error::Error| {
            tracing::warn!(what, error = %chain(error), "orphans cannot be listed");
        };
        let mut uids: BTreeSet<String> = self.found.keys().cloned().collect();
        uids.extend(
            shared
                .runtime
                .sandboxes()
                .inspect_err(|e| note("sandboxes", e))
                .unwrap_or_default(),
        );
        let cgroups = shared
            .runtime
            .pod_cgroups()
            .inspect_err(|e| note("cgroups", e))
            .unwrap_or_default();
        uids.extend(cgroups.into_iter().map(|(uid, _)| uid));
        uids.extend(
            shared
                .volumes
                .list()
                .inspect_err(|e| note("volumes", e))
                .unwrap_or_default(),
        );
        // Logs go last, after the API has forgotten the pod: of a pod that was just gone only they may be left.
        uids.extend(files::logged(&shared.config.log_dir).into_keys());
        let known: Vec<String> = shared.entries().keys().cloned().collect();
        for uid in uids.into_iter().filter(|u| !known.contains(u)) {
            let containers = self.found.remove(&uid).unwrap_or_default();
            tracing::info!(uid, containers = containers.len(), "orphan is torn down");
            let pod = Arc::new(made_up(&uid, &containers));
            worker::spawn(
                &shared,
                Start {
                    pod,
                    status: PodStatus::default(),
                    containers,
                    orphan: true,
                },
            );
        }
        // A network attachment may be left of a pod of which nothing else is.
        shared.leftovers.notify_one();
    }
}

/// Tells that a pod can't be taken; its status from then on.
pub(crate) fn refuse(
    shared: &Shared,
    pod: &Pod,
    refusal: admit::Refusal,
    status: PodStatus,
) -> PodStatus {
    tracing::info!(
        pod = pod.metadata.name,
        reason = refusal.reason,
        "pod refused"
    );
    let told = event::Event {
        warning: true,
        reason: refusal.reason.clone().into(),
        message: refusal.message.clone(),
        container: None,
    };
    shared.events.pod(pod, told);
    let now = Timestamp::now();
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some(refusal.reason),
        message: Some(refusal.message),
        start_time: Timestamp::from_second(now.as_second()).ok().map(Time),
        qos_class: pod.spec.as_ref().map(|s| resources::qos(s).to_string()),
        container_statuses: None,
        init_container_statuses: None,
        ..status
    }
}

/// Gives a pod CPUs and memory of its own where it is to have them, near its devices; one that is here has kept them, unless
/// an earlier agent handed none out. Its status from then on.
pub(crate) fn pin(shared: &Shared, pod: &Pod, status: PodStatus, is_here: bool) -> PodStatus {
    let pinning = &shared.pinning;
    let admitted = match pinning.numa().filter(|_| !is_here) {
        None => pinning.admit(pod, &mut []),
        Some(numa) => {
            let devices = &shared.devices;
            devices.near(pod, &numa, |asking| pinning.admit(pod, &mut [asking]))
        }
    };
    match admitted {
        Ok(()) => status,
        Err(refusal) => refuse(shared, pod, refusal, status),
    }
}

/// A pod as far as its containers tell. It gets one second to end, as upstream gives.
fn made_up(uid: &str, containers: &[Container]) -> Pod {
    let known = containers
        .first()
        .map(|c| c.pod.clone())
        .unwrap_or_default();
    let named = containers.iter().filter(|c| c.kind != Kind::Holder);
    let names: BTreeSet<&str> = named.map(|c| c.name.as_str()).collect();
    let list = names.into_iter().map(|n| SpecContainer {
        name: n.to_owned(),
        ..SpecContainer::default()
    });
    Pod {
        metadata: ObjectMeta {
            name: Some(known.name),
            namespace: Some(known.namespace),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: list.collect(),
            termination_grace_period_seconds: Some(1),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// A pod without what the agent never reads.
fn slim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    pod
}
