//! Node lifecycle: notices nodes that fall silent, marks them and their pods, and lets pods move away, carefully.
//!
//! ```text
//! lease, status -> watchtower (for how long silent, by our own clock) -> health: conditions to Unknown
//!                                                                     -> taints: NoSchedule at once,
//!                                                    zone (how bad?) -->         NoExecute at a pace
//! taints, tolerations -> eviction: pods deleted when their time is over
//! ```

mod eviction;
mod health;
mod taints;
mod watchtower;
mod zone;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};
use serde_json::json;
use tokio::time::Instant;

use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::Key;
use crate::runner::{Controller, Outcome, Work};

pub use eviction::TaintEviction;
pub(crate) use eviction::tolerates;
use health::Ready;
use watchtower::Watchtower;
use zone::Pace;

const LEASES: &str = "kube-node-lease";

/// How patiently nodes are watched; the defaults are kube-controller-manager's.
#[derive(Clone, Debug)]
pub struct Timing {
    /// A node that is silent for so long is lost (`--node-monitor-grace-period`).
    pub grace: Duration,
    /// How often is looked (`--node-monitor-period`).
    pub period: Duration,
    /// Time between two nodes of a zone that get their pods evicted (`--node-eviction-rate`, as its inverse).
    pub eviction_interval: Duration,
    /// The same in a large zone where most nodes are lost (`--secondary-node-eviction-rate`).
    pub slow_eviction_interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(40),
            period: Duration::from_secs(5),
            eviction_interval: Duration::from_secs(10),
            slow_eviction_interval: Duration::from_secs(100),
        }
    }
}

/// The controller.
pub struct NodeLifecycle {
    caches: Arc<Caches>,
    timing: Timing,
    state: Mutex<State>,
}

struct State {
    tower: Watchtower<Instant>,
    /// When a node of a zone was last given over to eviction.
    evicted: HashMap<String, Instant>,
}

impl NodeLifecycle {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>, timing: Timing) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .nodes
            .subscribe(move |c| c.states().for_each(|n| queue.add(Key::of(n))));
        let away = (timing.period * 3).max(timing.grace / 4);
        let state = State {
            tower: Watchtower::new(away),
            evicted: HashMap::new(),
        };
        let it = Self {
            caches: caches.clone(),
            timing,
            state: Mutex::new(state),
        };
        (it, work)
    }

    /// Looks at all nodes: for how long this one has been silent, and at which pace pods may leave it.
    fn look(&self, node: &Node) -> (Duration, Pace, Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        state.tower.tick(now);
        let nodes = self.caches.nodes.list("");
        let mut silent = Duration::ZERO;
        let mut seen = Vec::new();
        for other in &nodes {
            let name = other.name_any();
            let lease = self.caches.leases.get(&Key::new(LEASES, &name));
            let since = state
                .tower
                .observe(&name, health::stamp(other, lease.as_deref()), now);
            if name == node.name_any() {
                silent = since;
            }
            // Suspects count as lost here: nodes that are lost together do not fall silent in the same moment.
            let well = health::ready(other) == Ready::True && since <= self.timing.grace / 2;
            seen.push((zone::of(other), well));
        }
        let names: Vec<String> = nodes.iter().map(|n| n.name_any()).collect();
        state.tower.keep(&names);
        let zone = zone::of(node);
        let last = state.evicted.get(&zone);
        let since = last.map_or(Duration::MAX, |at| now.duration_since(*at));
        (silent, zone::pace(&zone, &seen), since)
    }

    fn evicting(&self, node: &Node) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.evicted.insert(zone::of(node), Instant::now());
    }
}

#[async_trait]
impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(node) = self.caches.nodes.get(key) else {
            return Ok(Outcome::default());
        };
        let (silent, pace, since) = self.look(&node);
        let lost = silent > self.timing.grace;
        let interval = match pace {
            Pace::Normal => Some(self.timing.eviction_interval),
            Pace::Slow => Some(self.timing.slow_eviction_interval),
            Pace::Hold | Pace::Stop => None,
        };
        let may_evict = interval.is_some_and(|i| since >= i);
        let now = Timestamp::now();
        let mut actions = Vec::new();
        let ready = if lost {
            actions.extend(health::unknown(&node, now));
            Ready::Unknown
        } else {
            health::ready(&node)
        };
        if let Some((taints, evicts)) = taints::plan(&node, ready, pace, may_evict, now) {
            if evicts {
                self.evicting(&node);
            }
            // The status was just written: its version is not ours any more.
            let target = match actions.is_empty() {
                true => Target::of(node.as_ref()).unchanged(node.as_ref()),
                false => Target::of(node.as_ref()),
            };
            actions.push(Action::patch(target, json!({"spec": {"taints": taints}})));
        }
        if ready == Ready::Unknown {
            let pods = self.caches.pods.list("");
            let on = |p: &&Arc<Pod>| {
                p.spec.as_ref().and_then(|s| s.node_name.as_ref()) == Some(&key.name)
            };
            actions.extend(
                pods.iter()
                    .filter(on)
                    .filter_map(|p| health::pod_not_ready(p, now)),
            );
        }
        Ok(Outcome {
            actions,
            again: Some(self.timing.period),
        })
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}
