//! One pod's worker: waits, then observes, plans and applies. It alone changes what it knows of its pod.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container as SpecContainer, Pod, PodStatus};
use keelson_agent_plan::backoff::{self, Backoff, Curve};
use keelson_agent_plan::{Failure, Hook, Observed, Plan, Stage, ephemeral, plan, resize, status};
use keelson_runtime::Container;
use tokio::sync::{mpsc, oneshot};

use crate::kill;
use crate::outcome::Message;
use crate::probes::Probes;
use crate::shared::{Entry, Shared};
use crate::sources::Tokens;
use crate::status::Writer;
use crate::volumes;

/// How often tokens are looked at; all else is brought up to date when it changes.
const REFRESH: SignedDuration = SignedDuration::from_secs(60);
/// When a refresh is tried again that came before the pod's volumes were there, or that failed.
const REFRESH_RETRY: SignedDuration = SignedDuration::from_secs(1);
const REFRESH_FAILED: std::time::Duration = std::time::Duration::from_secs(20);

/// A pod's worker.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) uid: String,
    pub(crate) pod: Arc<Pod>,
    pub(crate) observed: Observed,
    pub(crate) tx: mpsc::UnboundedSender<Message>,
    rx: mpsc::UnboundedReceiver<Message>,
    /// Kills under way, by container and attempt.
    pub(crate) kills: BTreeMap<(String, u32), kill::Handle>,
    pub(crate) probes: Probes,
    /// Runs whose process could not be started, by container id.
    pub(crate) start_errors: BTreeMap<String, (Timestamp, String)>,
    /// `postStart` hooks that run or failed, by container id.
    pub(crate) hooks: BTreeMap<String, Hook>,
    pub(crate) netns: Option<PathBuf>,
    /// There is a holder of the pod's processes, or has been.
    pub(crate) holder: bool,
    pub(crate) backoffs: BTreeMap<String, Backoff>,
    pub(crate) tokens: Arc<Tokens>,
    writer: Writer,
    /// Who waits for the end of an evicted pod.
    evicting: Option<oneshot::Sender<()>>,
    /// Volumes are older than what they are made of.
    stale: bool,
    refresh_at: Timestamp,
    /// When the pod was first seen.
    seen: Instant,
    /// It had containers already.
    adopted: bool,
    refreshing: Arc<tokio::sync::Mutex<()>>,
}

/// What a worker starts with.
pub(crate) struct Start {
    /// The pod; one made up from labels for an orphan.
    pub(crate) pod: Arc<Pod>,
    /// The status to go on from: the API's, or a refusal.
    pub(crate) status: PodStatus,
    /// What the runtime already has of it.
    pub(crate) containers: Vec<Container>,
    /// The API does not know it.
    pub(crate) orphan: bool,
}

/// Starts a pod's worker and makes it known.
pub(crate) fn spawn(shared: &Arc<Shared>, start: Start) {
    let (tx, rx) = mpsc::unbounded_channel();
    let uid = start.pod.metadata.uid.clone().unwrap_or_default();
    let (pod, known) = split(start.pod);
    let status = Arc::new(start.status);
    let entry = Entry {
        tx: tx.clone(),
        pod: pod.clone(),
        status: status.clone(),
        containers: Arc::default(),
        netns: None,
        allocated: None,
        waits: false,
        forgotten: start.orphan,
    };
    shared.entries().insert(uid.clone(), entry);
    // From here on their ends are told.
    let ids = start.containers.iter().map(|c| (c.id.clone(), uid.clone()));
    shared.owners().extend(ids);
    let observed = Observed {
        orphan: start.orphan,
        status,
        host_ips: shared.config.ips(),
        recursive_read_only: shared.recursive_read_only,
        own_cpus: shared.pinning.has_any(&uid),
        ..Observed::default()
    };
    let worker = Worker {
        writer: Writer::start(shared.clone(), &pod, known.unwrap_or_default()),
        probes: Probes::new(tx.clone()),
        shared: shared.clone(),
        uid,
        pod,
        observed,
        tx,
        rx,
        kills: BTreeMap::new(),
        start_errors: BTreeMap::new(),
        hooks: BTreeMap::new(),
        netns: None,
        holder: false,
        backoffs: BTreeMap::new(),
        tokens: Arc::default(),
        evicting: None,
        stale: false,
        refresh_at: Timestamp::now() + REFRESH,
        seen: Instant::now(),
        adopted: !start.containers.is_empty(),
        refreshing: Arc::default(),
    };
    tokio::spawn(worker.run(start.containers));
}

/// A pod and its status in the API: what the worker says of it is kept apart.
fn split(mut pod: Arc<Pod>) -> (Arc<Pod>, Option<PodStatus>) {
    let status = match pod.status {
        Some(_) => Arc::make_mut(&mut pod).status.take(),
        None => None,
    };
    (pod, status)
}

impl Worker {
    async fn run(mut self, containers: Vec<Container>) {
        let shutdown = self.shared.shutdown.clone();
        // Boxed here and below: what a step needs is there only as long as the step, not as long as the pod.
        Box::pin(self.recover(containers)).await;
        loop {
            let wake_at = match self.turn().await {
                Some(plan) => plan.wake_at,
                None => break,
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                message = self.rx.recv() => match message {
                    Some(message) => Box::pin(self.take(message)).await,
                    None => return,
                },
                () = until(wake_at) => {}
                () = until(Some(self.refresh_at)) => self.refresh(),
            }
            while let Ok(message) = self.rx.try_recv() {
                Box::pin(self.take(message)).await;
            }
        }
        self.end();
    }

    /// Plans and applies once. `None` when nothing of the pod is left.
    async fn turn(&mut self) -> Option<Plan> {
        self.ask_for_room();
        let mut plan = plan(&self.pod, &self.observed, Timestamp::now());
        self.note_start(&plan.status);
        // Who learns that it is over may want its devices at once.
        if status::is_final(plan.status.phase.as_deref()) {
            self.shared.devices.release(&self.uid);
        }
        // One for all who keep it.
        if *self.observed.status != plan.status {
            self.observed.status = Arc::new(std::mem::take(&mut plan.status));
        }
        if !self.observed.orphan {
            self.writer.write(&self.observed.status);
        }
        // Telling comes first: what is begun now takes the processors.
        for action in std::mem::take(&mut plan.actions) {
            self.apply(action);
        }
        self.publish();
        if plan.finished {
            return None;
        }
        if self.is_down() {
            self.evicting = None;
        }
        self.probes
            .sync(&self.shared, &self.pod, &mut self.observed);
        Some(plan)
    }

    /// Nothing runs, and nothing is left of what it stood on.
    fn is_down(&self) -> bool {
        let o = &self.observed;
        let gone = matches!(o.sandbox, Stage::Absent)
            && matches!(o.volumes, Stage::Absent)
            && matches!(o.cgroup, Stage::Absent);
        gone && !o.any_running() && o.busy.is_empty()
    }

    /// A pod that begins to run is measured, if it was seen waiting.
    fn note_start(&self, next: &PodStatus) {
        let phase = |s: &PodStatus| s.phase.clone().unwrap_or_default();
        let waited = matches!(phase(&self.observed.status).as_str(), "" | "Pending");
        if waited && phase(next) == "Running" && !self.adopted {
            self.shared.metrics.pod_start.observe(self.seen.elapsed());
        }
    }

    fn end(&mut self) {
        self.shared.entries().remove(&self.uid);
        self.shared.devices.release(&self.uid);
        self.shared.room();
        self.shared.pinning.release(&self.uid);
        self.shared.objects.remove(&self.uid);
        let ids = self
            .observed
            .containers
            .values()
            .flatten()
            .map(|a| a.id.clone());
        let holder = keelson_runtime::container::holder_id(&self.uid);
        let mut owners = self.shared.owners();
        owners.remove(&holder);
        ids.for_each(|id| _ = owners.remove(&id));
        tracing::debug!(pod = self.pod.metadata.name, uid = self.uid, "pod is gone");
    }

    /// Lets others see the pod, its status and its containers.
    fn publish(&mut self) {
        let mut entries = self.shared.entries();
        let Some(entry) = entries.get_mut(&self.uid) else {
            return;
        };
        let was_active = entry.is_active();
        entry.pod.clone_from(&self.pod);
        entry.status.clone_from(&self.observed.status);
        if *entry.containers != self.observed.containers {
            entry.containers = Arc::new(self.observed.containers.clone());
            self.shared.pinning.look();
        }
        entry.netns.clone_from(&self.netns);
        let ended = was_active && !entry.is_active();
        drop(entries);
        if ended {
            self.shared.pinning.release(&self.uid);
            self.shared.room();
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.take_pod(pod),
            Message::Refresh => self.refresh_now(),
            Message::Shown => self.writer.again(),
            // Asked for again at the next turn.
            Message::Room => {}
            Message::Gone(last) => {
                if let Some(last) = last {
                    self.pod = split(last).0;
                }
                self.observed.orphan = true;
                self.observed
                    .terminating_since
                    .get_or_insert_with(Timestamp::now);
            }
            Message::Evict(eviction, done) => {
                self.observed.evicted = Some(eviction);
                self.evicting = Some(done);
                self.observed
                    .terminating_since
                    .get_or_insert_with(Timestamp::now);
            }
            Message::Reclaim => self.observed.reclaim = true,
            Message::Devices => {
                self.observed.device_health = self.shared.devices.health(&self.uid);
            }
            Message::Container(id) => self.reread(&id).await,
            Message::Ended { id, code, at } => self.ended(&id, code, at).await,
            Message::Containers(all) => self.take_containers(all),
            Message::Step(outcome) => self.step_ended(outcome).await,
            Message::Probe {
                container,
                attempt,
                kind,
                verdict,
            } => {
                self.probes
                    .note(&mut self.observed, &container, attempt, kind, verdict);
            }
        }
    }

    /// The agent owns its part of the status: only conditions of others are taken from the API.
    fn take_pod(&mut self, pod: Arc<Pod>) {
        let (pod, says) = split(pod);
        let theirs = says.iter().flat_map(|s| s.conditions.iter().flatten());
        let theirs: Vec<_> = theirs
            .filter(|c| !status::CONDITIONS.contains(&c.type_.as_str()))
            .cloned()
            .collect();
        let status = Arc::make_mut(&mut self.observed.status);
        let own = status.conditions.get_or_insert_default();
        own.retain(|c| status::CONDITIONS.contains(&c.type_.as_str()));
        own.extend(theirs);
        if pod.metadata.deletion_timestamp.is_some() {
            self.observed
                .terminating_since
                .get_or_insert_with(Timestamp::now);
        }
        let (old, new) = (&self.pod.metadata, &pod.metadata);
        let renamed = old.labels != new.labels || old.annotations != new.annotations;
        let changed = renamed || self.pod.spec != pod.spec;
        if renamed {
            self.refresh_now();
        }
        if let Some(says) = says.filter(|s| status::is_disowned(s, &self.observed.status)) {
            self.writer.correct(says);
        }
        if let (Some(old), Some(new)) = (&self.pod.spec, &pod.spec) {
            resize::remember(old, new, &mut self.observed);
        }
        if changed {
            // What a container lacked may be there now.
            let now = Timestamp::now();
            let failures = self.observed.failures.values_mut();
            failures.for_each(|f| f.retry_at = f.retry_at.min(now));
        }
        self.pod = pod;
    }

    /// Has the volumes' files brought up to date.
    pub(crate) fn refresh_now(&mut self) {
        self.stale = true;
        self.refresh_at = Timestamp::now();
    }

    fn refresh(&mut self) {
        let now = Timestamp::now();
        self.refresh_at = now + REFRESH;
        let observed = &self.observed;
        if observed.orphan || !observed.any_running() || observed.volumes.ready().is_none() {
            if self.stale {
                self.refresh_at = now + REFRESH_RETRY;
            }
            return;
        }
        let files = std::mem::take(&mut self.stale) || self.tokens.due(now);
        let grows = volumes::may_grow(&self.shared, &self.pod);
        if !files && !grows {
            return;
        }
        let (job, tx, lock) = (
            volumes::Job::new(self),
            self.tx.clone(),
            self.refreshing.clone(),
        );
        tokio::spawn(async move {
            // One after the other: what was fetched last is written last.
            let done = {
                let _one = lock.lock().await;
                if grows {
                    job.grow_all().await;
                }
                !files || job.refresh().await
            };
            if !done {
                tokio::time::sleep(REFRESH_FAILED).await;
                let _ = tx.send(Message::Refresh);
            }
        });
    }

    /// A container of the spec.
    pub(crate) fn spec_of(&self, name: &str) -> Option<Cow<'_, SpecContainer>> {
        let spec = self.pod.spec.as_ref()?;
        let mut all = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        let found = all.find(|c| c.name == name).map(Cow::Borrowed);
        found.or_else(|| ephemeral::find(spec, name).map(Cow::Owned))
    }

    /// One more failure of `what`: what to remember of it.
    pub(crate) fn failure(
        &mut self,
        what: &str,
        curve: Curve,
        reason: &str,
        message: String,
    ) -> Failure {
        let at = Timestamp::now();
        let entry = Backoff::next(self.backoffs.get(what).copied(), curve, at);
        self.backoffs.insert(what.to_owned(), entry);
        Failure {
            reason: reason.to_owned(),
            message,
            at,
            retry_at: at.checked_add(entry.delay).unwrap_or(at),
        }
    }

    /// Grows a container's restart back-off.
    pub(crate) fn restarted(&mut self, container: &str) {
        let previous = self.observed.backoffs.get(container).copied();
        let entry = Backoff::next(previous, backoff::CONTAINER, Timestamp::now());
        self.observed.backoffs.insert(container.to_owned(), entry);
    }

    /// Waits until the API was told the status as it is now.
    pub(crate) fn told(&self) -> impl Future<Output = ()> + Send + use<> {
        self.writer.told()
    }

    /// Deletes the pod from the API, after its status.
    pub(crate) fn delete_pod(&self) {
        self.writer.delete();
    }
}

/// Sleeps until a time; for ever without one.
async fn until(at: Option<Timestamp>) {
    match at {
        None => std::future::pending().await,
        Some(at) => {
            // A little late rather than early: the plan compares whole nanoseconds.
            let wait = at
                .duration_since(Timestamp::now())
                .max(SignedDuration::ZERO);
            tokio::time::sleep(wait.unsigned_abs() + std::time::Duration::from_millis(1)).await;
        }
    }
}
