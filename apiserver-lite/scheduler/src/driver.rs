//! The loop: takes what the watches tell, and gives the next pod a node.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use kube::Client;
use tokio::sync::mpsc::{UnboundedSender, channel, unbounded_channel};
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::api::{Nomination, Writer};
use crate::cache::Cache;
use crate::framework::{Change, Diagnosis, Outcome, schedule};
use crate::model::{Node, Pod};
use crate::plugins::volume_binding::{self, Decision};
use crate::preemption::{self, Room};
use crate::queue::Queue;
use crate::storage::Storage;
use crate::watch::{self, Kind, Object, Update};

/// Updates that wait for the loop before the watches are held up.
const BUFFER: usize = 1024;

/// How a binding went.
struct Bound {
    pod: Arc<Pod>,
    node: String,
    volumes: Vec<Decision>,
    result: Result<(), BindError>,
}

/// What kept a pod from its node.
enum BindError {
    /// Its volumes: why.
    Volumes(String),
    /// The binding itself.
    Pod(kube::Error),
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Volumes(why) => {
                write!(f, "running PreBind plugin \"VolumeBinding\": {why}")
            }
            Self::Pod(error) => write!(f, "binding rejected: {error}"),
        }
    }
}

/// Schedules until `stop`.
pub(crate) async fn run(client: Client, config: Config, stop: CancellationToken) {
    let (sender, mut updates) = channel(BUFFER);
    watch::start(&client, &sender, &stop);
    let (bound_sender, mut bound) = unbounded_channel();
    let mut driver = Driver {
        writer: Writer::new(client, &config.scheduler_name, config.parallel_binds),
        config,
        cache: Cache::default(),
        queue: Queue::default(),
        unseen: Kind::ALL.into(),
        bound: bound_sender,
    };
    while !stop.is_cancelled() {
        while let Ok(update) = updates.try_recv() {
            driver.apply(update, Instant::now());
        }
        while let Ok(done) = bound.try_recv() {
            driver.finish(done, Instant::now());
        }
        if driver.schedule_next(Instant::now()) {
            // Bindings and watches get their turn between two pods.
            tokio::task::yield_now().await;
            continue;
        }
        let wake_at = driver.queue.wake_at();
        let wake = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake => {}
            Some(done) = bound.recv() => driver.finish(done, Instant::now()),
            Some(update) = updates.recv() => driver.apply(update, Instant::now()),
        }
    }
}

struct Driver {
    config: Config,
    writer: Arc<Writer>,
    cache: Cache,
    queue: Queue,
    /// Kinds that were not listed yet: nothing is decided on half a picture.
    unseen: HashSet<Kind>,
    bound: UnboundedSender<Bound>,
}

impl Driver {
    fn apply(&mut self, update: Update, now: Instant) {
        match update {
            Update::Put(_, Object::Pod(pod)) => self.put_pod(pod, now),
            Update::Put(_, Object::Node(node)) => self.put_node(node, now),
            Update::Put(name, Object::Namespace(labels)) => {
                let was = Arc::make_mut(&mut self.cache.namespaces).insert(name, labels.clone());
                if was != Some(labels) {
                    self.queue.changed(Change::NAMESPACE, now);
                }
            }
            Update::Put(id, Object::Group(group)) => {
                Arc::make_mut(&mut self.cache.groups).insert(id, group);
            }
            Update::Put(id, Object::Budget(budget)) => {
                Arc::make_mut(&mut self.cache.budgets).insert(id, budget);
            }
            Update::Put(_, Object::Volume(volume)) => {
                self.storage(now, |s| s.put_volume(*volume));
            }
            Update::Put(_, Object::Claim(claim)) => self.storage(now, |s| s.put_claim(*claim)),
            Update::Put(_, Object::Class(class)) => self.storage(now, |s| s.put_class(class)),
            Update::Gone(kind, id) => self.gone(kind, &id, now),
            Update::Listed(kind, ids) => {
                let known = self.known(kind);
                known
                    .iter()
                    .filter(|id| !ids.contains(*id))
                    .for_each(|id| self.gone(kind, id, now));
                self.unseen.remove(&kind);
            }
        }
    }

    /// Takes news of volumes, claims or classes; a change may let a pod in.
    fn storage(&mut self, now: Instant, put: impl FnOnce(&mut Storage) -> bool) {
        if put(Arc::make_mut(&mut self.cache.storage)) {
            self.queue.changed(Change::STORAGE, now);
        }
    }

    fn put_pod(&mut self, pod: Arc<Pod>, now: Instant) {
        if pod.is_finished {
            return self.gone(Kind::Pod, &pod.uid, now);
        }
        if pod.node.is_some() {
            self.queue.remove(&pod.uid);
            let is_new = self.cache.is_assumed(&pod.uid) || self.cache.pod(&pod.uid).is_none();
            let was = self.cache.pod(&pod.uid).cloned();
            self.cache.add_pod(pod.clone());
            if is_new {
                self.queue.changed(Change::POD_BOUND, now);
            } else if was.is_some_and(|was| differs(&was, &pod)) {
                self.queue.changed(Change::POD_CHANGED, now);
            }
            return;
        }
        let is_ours = pod.scheduler_name == self.config.scheduler_name;
        if pod.is_terminating || !is_ours {
            self.cache.denominate(&pod.uid);
            return self.queue.remove(&pod.uid);
        }
        // Bound already; the watch is only behind.
        if self.cache.is_assumed(&pod.uid) && self.queue.get(&pod.uid).is_none() {
            return;
        }
        match &pod.nominated {
            Some(node) if !self.cache.is_assumed(&pod.uid) => {
                self.cache.nominate(pod.clone(), node)
            }
            _ => {}
        }
        self.queue.add(pod, now);
    }

    fn put_node(&mut self, node: Node, now: Instant) {
        let is = node.clone();
        let change = self
            .cache
            .set_node(node)
            .map_or(Change::NODE_ADDED, |was| node_change(&was, &is));
        if change != Change::NONE {
            self.queue.changed(change, now);
        }
    }

    fn gone(&mut self, kind: Kind, id: &str, now: Instant) {
        match kind {
            Kind::Pod => {
                let made_room = self
                    .queue
                    .get(id)
                    .is_some_and(|pod| pod.nominated.is_some());
                self.queue.remove(id);
                self.writer.recorder.forget(id);
                if self.cache.remove_pod(id).is_some() || made_room {
                    self.queue.changed(Change::POD_GONE, now);
                }
            }
            Kind::Node => {
                self.cache.remove_node(id);
                self.queue.changed(Change::NODE_GONE, now);
            }
            Kind::Namespace => drop(Arc::make_mut(&mut self.cache.namespaces).remove(id)),
            Kind::Budget => drop(Arc::make_mut(&mut self.cache.budgets).remove(id)),
            Kind::Volume => self.storage(now, |s| s.volumes.remove(id).is_some()),
            Kind::Claim => self.storage(now, |s| s.remove_claim(id)),
            Kind::Class => self.storage(now, |s| s.classes.remove(id).is_some()),
            _ => drop(Arc::make_mut(&mut self.cache.groups).remove(id)),
        }
    }

    /// The objects of a kind that we know.
    fn known(&self, kind: Kind) -> Vec<String> {
        fn keys<T>(map: &BTreeMap<String, T>) -> Vec<String> {
            map.keys().cloned().collect()
        }
        match kind {
            Kind::Pod => {
                let mut uids = self.queue.uids();
                uids.extend(self.cache.pod_uids());
                uids
            }
            Kind::Node => self.cache.node_names(),
            Kind::Namespace => keys(&self.cache.namespaces),
            Kind::Budget => keys(&self.cache.budgets),
            Kind::Volume => keys(&self.cache.storage.volumes),
            Kind::Claim => keys(&self.cache.storage.claims),
            Kind::Class => keys(&self.cache.storage.classes),
            _ => {
                let prefix = format!("{kind:?}/");
                let mut ids = keys(&self.cache.groups);
                ids.retain(|id| id.starts_with(&prefix));
                ids
            }
        }
    }

    /// Gives the next pod a node, or says why not. Whether there was one.
    fn schedule_next(&mut self, now: Instant) -> bool {
        if !self.unseen.is_empty() {
            return false;
        }
        let Some(pod) = self.queue.pop(now) else {
            return false;
        };
        let snapshot = self.cache.snapshot();
        let nominated = self.cache.snapshot_with_nominated(&pod);
        match schedule(
            &pod,
            &snapshot,
            nominated.as_ref(),
            rand::random_range(0..usize::MAX),
        ) {
            Outcome::Node(node) => {
                let plan = volume_binding::decide(&pod, &snapshot, &node);
                self.bind(pod, node, plan);
            }
            Outcome::Nowhere(diagnosis) => {
                let room =
                    preemption::find(&pod, nominated.as_ref().unwrap_or(&snapshot), &diagnosis);
                self.refuse(pod, &diagnosis, room, now);
            }
        }
        true
    }

    fn bind(&mut self, pod: Arc<Pod>, node: String, volumes: Vec<Decision>) {
        tracing::debug!(pod = pod.full_name(), node, "assigned");
        self.cache.assume(pod.clone(), &node);
        if !volumes.is_empty() {
            Arc::make_mut(&mut self.cache.storage).assume(&volumes, &node);
        }
        let (writer, bound) = (self.writer.clone(), self.bound.clone());
        tokio::spawn(async move {
            let result = match writer.bind_volumes(&pod, &node, &volumes).await {
                Ok(()) => writer.bind(&pod, &node).await.map_err(BindError::Pod),
                Err(why) => Err(BindError::Volumes(why)),
            };
            // The loop has ended: nobody needs to know.
            let _ = bound.send(Bound {
                pod,
                node,
                volumes,
                result,
            });
        });
    }

    fn finish(&mut self, done: Bound, now: Instant) {
        let Bound {
            pod,
            node,
            volumes,
            result,
        } = done;
        let writer = self.writer.clone();
        match result {
            Ok(()) => {
                self.queue.remove(&pod.uid);
                tokio::spawn(async move { writer.report_placed(&pod, &node).await });
            }
            Err(error) => {
                tracing::warn!(pod = pod.full_name(), node, %error, "bind");
                self.cache.forget(&pod.uid);
                if !volumes.is_empty() {
                    Arc::make_mut(&mut self.cache.storage).forget(&volumes);
                }
                self.queue.try_again(&pod.uid, now);
                self.queue.changed(Change::POD_GONE, now);
                let is_gone = matches!(&error, BindError::Pod(kube::Error::Api(status)) if status.code == 404);
                if !is_gone {
                    let note = error.to_string();
                    tokio::spawn(async move {
                        writer.report_refused(&pod, note, Nomination::Keep).await
                    });
                }
            }
        }
    }

    fn refuse(
        &mut self,
        pod: Arc<Pod>,
        diagnosis: &Diagnosis,
        room: Result<Room, preemption::NoRoom>,
        now: Instant,
    ) {
        self.queue.failed(&pod.uid, diagnosis.helps, now);
        let mut message = diagnosis.message();
        let nomination = match room {
            Ok(room) => {
                let node = room.node.clone();
                self.make_room(&pod, room);
                Nomination::Set(node)
            }
            Err(_) if diagnosis.refusals.is_empty() => Nomination::Keep,
            Err(no) => {
                message = format!("{message} preemption: {}", no.why);
                if no.is_underway {
                    Nomination::Keep
                } else {
                    self.cache.denominate(&pod.uid);
                    Nomination::Clear
                }
            }
        };
        tracing::debug!(pod = pod.full_name(), message, "unschedulable");
        let writer = self.writer.clone();
        tokio::spawn(async move { writer.report_refused(&pod, message, nomination).await });
    }

    /// Lets the victims go, and reserves their room for the pod; pods of lower priority that counted on it must look
    /// again.
    fn make_room(&mut self, pod: &Arc<Pod>, room: Room) {
        for lower in self.cache.nominated_below(&room.node, pod.priority) {
            self.cache.denominate(&lower.uid);
            let writer = self.writer.clone();
            tokio::spawn(async move { writer.clear_nomination(&lower).await });
        }
        self.cache.nominate(pod.clone(), &room.node);
        for victim in room.victims {
            let (writer, pod, node) = (self.writer.clone(), pod.clone(), room.node.clone());
            tracing::info!(
                pod = pod.full_name(),
                victim = victim.full_name(),
                node,
                "preempt"
            );
            tokio::spawn(async move { writer.evict(&victim, &pod, &node).await });
        }
    }
}

/// Whether a bound pod changed in something that other pods' filters look at.
fn differs(was: &Pod, is: &Pod) -> bool {
    was.labels != is.labels
        || was.requests != is.requests
        || was.is_terminating != is.is_terminating
}

/// What about a node changed that could let a pod in.
fn node_change(was: &Node, is: &Node) -> Change {
    let table = [
        (was.allocatable != is.allocatable, Change::NODE_ALLOCATABLE),
        (was.labels != is.labels, Change::NODE_LABELS),
        (
            was.taints != is.taints || was.is_unschedulable != is.is_unschedulable,
            Change::NODE_TAINTS,
        ),
    ];
    let changed = table.into_iter().filter(|(differs, _)| *differs);
    changed.fold(Change::NONE, |all, (_, change)| all | change)
}
