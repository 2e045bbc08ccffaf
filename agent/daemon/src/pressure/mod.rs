//! Keeps the node alive: looks at its signals, removes what nobody needs, and ends pods when that is not enough.
//!
//! ```text
//! each period: logs that are too large are rotated
//!              signals -> look (plan) -> conditions -> Node
//!              pods with limits: measure -> over? evict
//!              a threshold to act on: dead containers, images -> still short? rank (plan), evict one, wait for its end
//! ```
//!
//! A look costs a handful of small reads. Pods are measured only where a limit or a shortage asks for it.

mod images;
mod logs;
mod signals;
mod usage;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use keelson_agent_plan::eviction::{
    self, Candidate, Condition, Eviction, Look, Measure, Observation, Signal, State, Threshold,
    limits, text,
};
use keelson_agent_plan::{event::Event, resources};
use keelson_runtime::PodResources;
use tokio::sync::oneshot;

use crate::outcome::Message;
use crate::shared::{Entry, Shared, chain};
use images::Collector;
use signals::Seen;

/// How long the end of an evicted pod is waited for beyond its grace, before the next may be.
const CLEANUP: Duration = Duration::from_secs(30);
/// How long dead containers may take to go.
const REMOVAL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Measuring a pod takes no more than a part of the time in so many.
const SHARE: u32 = 20;

/// Runs until shutdown.
pub(crate) async fn run(shared: Arc<Shared>) {
    hold_pods(&shared).await;
    let mut manager = Manager {
        state: State::default(),
        images: Collector::new(shared.clone()),
        roots: signals::Roots::default(),
        measured: HashMap::new(),
        shared: shared.clone(),
    };
    loop {
        let evicted = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            evicted = manager.turn() => evicted,
        };
        let wait = async {
            if evicted.is_empty() {
                tokio::time::sleep(shared.config.eviction.period).await;
            }
            // One that does not end is logged by its worker; the node cannot wait for it.
            let ends = evicted
                .into_iter()
                .map(|(grace, end)| tokio::time::timeout(grace + CLEANUP, end));
            futures::future::join_all(ends).await;
        };
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            () = wait => {}
        }
    }
}

/// Writes the limits of all pods' cgroup.
async fn hold_pods(shared: &Arc<Shared>) {
    if !shared.config.enforce_pods {
        return;
    }
    let own = shared.clone();
    let set = tokio::task::spawn_blocking(move || {
        let facts = keelson_agent_io::node::read(&own.roots).map_err(|e| chain(&e))?;
        let reserved = own.config.reserved;
        let all =
            keelson_agent_plan::reserve::all_pods(facts.cpus, facts.memory, facts.pids, reserved);
        let signed = |n: u64| i64::try_from(n).ok();
        let limits = PodResources {
            cpu_shares: Some(all.cpu_shares),
            memory_limit: signed(all.memory),
            pids_limit: signed(all.pids),
            ..PodResources::default()
        };
        own.runtime
            .pods_cgroup_update(&limits)
            .map_err(|e| chain(&e))
    });
    if let Err(error) = set.await.unwrap_or_else(|e| Err(e.to_string())) {
        tracing::warn!(error, "limits of all pods together not set");
        let event = Event::pod(
            "FailedNodeAllocatableEnforcement",
            format!("Failed to update Node Allocatable Limits: {error}"),
        );
        shared.events.node(&shared.config.node_name, event);
    }
}

/// The grace of an evicted pod, and its end.
type Ending = (Duration, oneshot::Receiver<()>);

struct Manager {
    shared: Arc<Shared>,
    state: State,
    images: Collector,
    roots: signals::Roots,
    /// When pods with limits are to be measured again.
    measured: HashMap<String, Instant>,
}

impl Manager {
    /// One look and what follows; pods that were evicted.
    async fn turn(&mut self) -> Vec<Ending> {
        logs::rotate(&self.shared).await;
        let seen = match self.roots.read(&self.shared).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(error, "the node's figures cannot be read");
                let known = self.shared.pressure.borrow().clone();
                self.publish(known.unwrap_or_default());
                return Vec::new();
            }
        };
        let config = self.shared.config.clone();
        let (thresholds, transition) = (&config.eviction.thresholds, config.eviction.transition);
        let look = self
            .state
            .look(thresholds, &seen.signals, transition, Timestamp::now());
        self.publish(look.pressure);
        let evicted = self.hold_to_limits(seen.dedicated).await;
        if !evicted.is_empty() {
            return evicted;
        }
        let Some(threshold) = look.act.and_then(|place| thresholds.get(place)) else {
            if let Some(disk) = seen.signals.get(&Signal::ImagefsAvailable) {
                self.images.turn(*disk).await;
            }
            return Vec::new();
        };
        let node = &config.node_name;
        self.shared
            .events
            .node(node, text::threshold_met(threshold.signal));
        let Some(seen) = self.reclaim(threshold.signal, seen).await else {
            return Vec::new();
        };
        self.evict_one(threshold, &seen).await.into_iter().collect()
    }

    /// Lets the node's keeper, admission and people know of a change.
    fn publish(&self, now: Vec<Condition>) {
        let before = self.shared.pressure.borrow().clone();
        if before.as_ref() == Some(&now) {
            return;
        }
        self.shared.pressure.send_replace(Some(now.clone()));
        let before = before.unwrap_or_default();
        let node = &self.shared.config.node_name;
        let tell = |condition: &Condition, begins| {
            tracing::info!(%condition, begins, "pressure on the node");
            let event = text::condition(node, *condition, begins);
            self.shared.events.node(node, event);
        };
        let missing = |of: &[Condition], c: &Condition| !of.contains(c);
        now.iter()
            .filter(|c| missing(&before, c))
            .for_each(|c| tell(c, true));
        before
            .iter()
            .filter(|c| missing(&now, c))
            .for_each(|c| tell(c, false));
    }

    /// Evicts pods that have more on disk than they may.
    async fn hold_to_limits(&mut self, dedicated: bool) -> Vec<Ending> {
        let mut evicted = Vec::new();
        let mut due = HashMap::new();
        for entry in self.shared.active() {
            let needs = limits::needs(&entry.pod);
            if needs == limits::Needs::default() {
                continue;
            }
            let uid = uid(&entry);
            let began = Instant::now();
            if let Some(at) = self.measured.get(&uid).filter(|at| **at > began) {
                due.insert(uid, *at);
                continue;
            }
            let disk = usage::disk(&self.shared, &entry, needs).await;
            due.insert(uid, began + began.elapsed() * SHARE);
            if let Some(message) = limits::exceeded(&entry.pod, &disk.bytes, dedicated) {
                let grace = eviction::AT_ONCE;
                evicted.extend(self.evict(
                    &entry,
                    Eviction {
                        reason: eviction::REASON,
                        message,
                        grace,
                        disruption: false,
                    },
                ));
            }
        }
        self.measured = due;
        evicted
    }

    /// Removes what nobody needs, where that helps. The signals afterwards, unless they say that it was enough.
    async fn reclaim(&mut self, signal: Signal, seen: Seen) -> Option<Seen> {
        if !eviction::reclaims(signal, seen.dedicated) {
            return Some(seen);
        }
        self.remove_dead().await;
        self.images.remove_unused().await;
        let seen = match self.roots.read(&self.shared).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(error, "the node's figures cannot be read");
                return None;
            }
        };
        let relieved = Look::is_relieved(&self.shared.config.eviction.thresholds, &seen.signals);
        (!relieved).then_some(seen)
    }

    /// Removes the containers of pods that are over.
    async fn remove_dead(&self) {
        let dead = || {
            let entries = self.shared.entries();
            let dead = entries
                .values()
                .filter(|e| !e.is_active() && !e.containers.is_empty());
            dead.map(uid).collect::<Vec<_>>()
        };
        for uid in dead() {
            self.shared.tell(&uid, Message::Reclaim);
        }
        let gone = async {
            while !dead().is_empty() {
                tokio::time::sleep(REMOVAL.0).await;
            }
        };
        if tokio::time::timeout(REMOVAL.1, gone).await.is_err() {
            tracing::warn!("dead containers are still there");
        }
    }

    /// Evicts the pod that goes first, if one may.
    async fn evict_one(&self, threshold: &Threshold, seen: &Seen) -> Option<Ending> {
        let measure = eviction::measure(threshold.signal, seen.dedicated);
        let active: BTreeMap<String, Entry> = self
            .shared
            .active()
            .into_iter()
            .map(|e| (uid(&e), e))
            .collect();
        let mut candidates = Vec::new();
        for (uid, entry) in &active {
            candidates.push(self.candidate(uid, entry, measure, threshold.signal).await);
        }
        eviction::rank(measure, &mut candidates);
        for candidate in candidates {
            let Some(entry) = active.get(&candidate.uid) else {
                continue;
            };
            if eviction::is_critical(&entry.pod) {
                continue;
            }
            let used = usage::by_container(&self.shared, entry, measure).await;
            let thresholds = &self.shared.config.eviction.thresholds;
            let spec = entry.pod.spec.clone().unwrap_or_default();
            let eviction = Eviction {
                reason: eviction::REASON,
                message: text::node_low(threshold.signal, thresholds, &seen.signals, &spec, &used),
                grace: match threshold.grace {
                    None => eviction::AT_ONCE,
                    Some(_) => self.shared.config.eviction.max_grace,
                },
                disruption: true,
            };
            if let Some(ending) = self.evict(entry, eviction) {
                return Some(ending);
            }
        }
        tracing::warn!(signal = %threshold.signal, "no pod can be evicted");
        None
    }

    async fn candidate(
        &self,
        uid: &str,
        entry: &Entry,
        measure: Measure,
        signal: Signal,
    ) -> Candidate {
        let spec = entry.pod.spec.clone().unwrap_or_default();
        let asked = resources::request(&spec, signal.resource()) / 1000;
        Candidate {
            uid: uid.to_owned(),
            priority: spec.priority.unwrap_or(0),
            usage: usage::of_pod(&self.shared, entry, measure).await,
            request: u64::try_from(asked).unwrap_or(0),
        }
    }

    /// Has a pod's worker end it; not one that the node needs.
    fn evict(&self, entry: &Entry, eviction: Eviction) -> Option<Ending> {
        let m = &entry.pod.metadata;
        if eviction::is_critical(&entry.pod) {
            tracing::warn!(
                pod = m.name,
                namespace = m.namespace,
                "a critical pod is not evicted"
            );
            return None;
        }
        tracing::info!(
            pod = m.name,
            namespace = m.namespace,
            message = eviction.message,
            "pod evicted"
        );
        self.shared
            .events
            .pod(&entry.pod, text::evicted(&eviction.message));
        let own = entry
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.termination_grace_period_seconds);
        let grace = eviction.grace.min(own.unwrap_or(i64::MAX)).max(0);
        let (done, end) = oneshot::channel();
        // A worker that has just ended drops the sender: the end has come.
        let _ = entry.tx.send(Message::Evict(eviction, done));
        Some((Duration::from_secs(u64::try_from(grace).unwrap_or(0)), end))
    }
}

fn uid(entry: &Entry) -> String {
    entry.pod.metadata.uid.clone().unwrap_or_default()
}

/// A file system's signals.
fn space(fs: &keelson_agent_io::node::FileSystem) -> [Observation; 2] {
    let of = |available, capacity| Observation {
        available,
        capacity,
    };
    [of(fs.available, fs.size), of(fs.inodes_free, fs.inodes)]
}
