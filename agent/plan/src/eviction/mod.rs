//! Node-pressure eviction: what the node's signals say, when a threshold counts as crossed, who goes first and what
//! is said about it. Rules and texts are upstream's ("Node-pressure Eviction", `pkg/kubelet/eviction`).
//!
//! ```text
//! observations --look()--> pressure (conditions, for the transition period) + the threshold to act on
//!     disk? first dead containers of ended pods and unused images     then rank() and one pod a round
//! ```

mod config;
pub mod limits;
mod rank;
mod state;
pub mod text;

use std::collections::BTreeMap;
use std::fmt;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

pub use config::{Error, Settings, defaults, parse, quantity};
pub use rank::{Candidate, Measure, Parts, measure, rank, reclaims};
pub use state::{Look, State};

use crate::admit::Refusal;
use crate::resources::{self, Qos};
use crate::static_pod;

/// What is watched, in the order in which several crossed thresholds are acted on: memory first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory of the machine that could be had without swapping: what the kernel says (`MemAvailable`), not the
    /// kubelet's sum, which counts active page cache as used.
    MemoryAvailable,
    /// Memory left below the limit of all pods' cgroup.
    AllocatableMemoryAvailable,
    /// Space of the file system with pods' volumes.
    NodefsAvailable,
    /// Its inodes.
    NodefsInodesFree,
    /// Space of the file system with images and containers' own layers.
    ImagefsAvailable,
    /// Its inodes.
    ImagefsInodesFree,
    /// Process ids.
    PidAvailable,
}

/// Signals that a configuration may name.
const NAMES: [(Signal, &str); 6] = [
    (Signal::MemoryAvailable, "memory.available"),
    (Signal::NodefsAvailable, "nodefs.available"),
    (Signal::NodefsInodesFree, "nodefs.inodesFree"),
    (Signal::ImagefsAvailable, "imagefs.available"),
    (Signal::ImagefsInodesFree, "imagefs.inodesFree"),
    (Signal::PidAvailable, "pid.available"),
];

impl Signal {
    fn of(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(s, _)| *s)
    }

    /// The resource that is short, as messages name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable | Self::AllocatableMemoryAvailable => "memory",
            Self::NodefsAvailable | Self::ImagefsAvailable => "ephemeral-storage",
            Self::NodefsInodesFree | Self::ImagefsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }

    fn condition(self) -> Condition {
        match self.resource() {
            "memory" => Condition::Memory,
            "pids" => Condition::Pid,
            _ => Condition::Disk,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(s, _)| s == self).map(|(_, n)| *n);
        f.write_str(name.unwrap_or("allocatableMemory.available"))
    }
}

/// Conditions of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// `DiskPressure`.
    Disk,
    /// `MemoryPressure`.
    Memory,
    /// `PIDPressure`.
    Pid,
}

impl Condition {
    /// The node event about its begin or its end.
    pub fn event(self, begins: bool) -> &'static str {
        match (self, begins) {
            (Self::Disk, true) => "NodeHasDiskPressure",
            (Self::Disk, false) => "NodeHasNoDiskPressure",
            (Self::Memory, true) => "NodeHasInsufficientMemory",
            (Self::Memory, false) => "NodeHasSufficientMemory",
            (Self::Pid, true) => "NodeHasInsufficientPID",
            (Self::Pid, false) => "NodeHasSufficientPID",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "DiskPressure",
            Self::Memory => "MemoryPressure",
            Self::Pid => "PIDPressure",
        })
    }
}

/// A figure of a threshold.
#[derive(Clone, Debug, PartialEq)]
pub enum Amount {
    /// Bytes (inodes, tasks), and how it was written.
    Quantity(u64, String),
    /// A part of the capacity, 0 to 1.
    Part(f64),
}

impl Amount {
    /// The figure for a capacity.
    pub fn of(&self, capacity: u64) -> u64 {
        match self {
            Self::Quantity(n, _) => *n,
            Self::Part(part) => (capacity as f64 * part) as u64,
        }
    }
}

/// When a signal is too low.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// Less than this.
    pub value: Amount,
    /// A soft one: it has to last for so long.
    pub grace: Option<SignedDuration>,
    /// Once crossed it holds until this much more is available.
    pub reclaim: Option<Amount>,
}

/// A signal's figures at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// What is left.
    pub available: u64,
    /// Of how much.
    pub capacity: u64,
}

/// All signals that could be read.
pub type Observations = BTreeMap<Signal, Observation>;

/// What a pod is ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The status' reason: [`REASON`], or [`crate::shutdown::REASON`].
    pub reason: &'static str,
    /// The status' message.
    pub message: String,
    /// Seconds its containers get.
    pub grace: i64,
    /// The node's need, not the pod's own limit: it gets the condition `DisruptionTarget` (KEP-3329).
    pub disruption: bool,
}

/// The reason in events and statuses.
pub const REASON: &str = "Evicted";

/// Seconds that a pod gets when there is no time.
pub const AT_ONCE: i64 = 1;

const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// Pods that the node itself needs are not evicted: static ones would not come back, and those of system priority
/// are what keeps it going.
pub fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|s| s.priority);
    static_pod::is_static(pod)
        || static_pod::mirrored(pod).is_some()
        || priority.is_some_and(|p| p >= SYSTEM_CRITICAL)
}

/// Whether a node under pressure takes a pod that was bound to it.
pub fn admit(pod: &Pod, pressure: &[Condition]) -> Result<(), Refusal> {
    if pressure.is_empty() || is_critical(pod) {
        return Ok(());
    }
    if pressure == [Condition::Memory] {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        if resources::qos(spec) != Qos::BestEffort || tolerates_memory_pressure(spec) {
            return Ok(());
        }
    }
    Err(Refusal {
        reason: REASON.into(),
        message: format!("Pod was rejected: {}", text::node_condition(pressure)),
    })
}

fn tolerates_memory_pressure(spec: &PodSpec) -> bool {
    const TAINT: &str = "node.kubernetes.io/memory-pressure";
    spec.tolerations.iter().flatten().any(|t| {
        let key = t.key.as_deref().unwrap_or_default();
        let exists = t.operator.as_deref() == Some("Exists");
        let empty = t.value.as_deref().unwrap_or_default().is_empty();
        (key == TAINT || (key.is_empty() && exists))
            && (exists || empty)
            && t.effect
                .as_deref()
                .is_none_or(|e| e.is_empty() || e == "NoSchedule")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn who_may_enter() {
        use Condition::{Disk, Memory, Pid};
        let plain = || json!({"containers": [{"name": "c"}]});
        let with = |key: &str, value: Value| {
            let mut spec = plain();
            spec[key] = value;
            spec
        };
        let burstable =
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]});
        let tolerates =
            |key: &str| with("tolerations", json!([{"key": key, "operator": "Exists"}]));
        type Row = (
            &'static str,
            Value,
            &'static [Condition],
            Option<&'static str>,
        );
        let rows: [Row; 9] = [
            ("no pressure", plain(), &[], None),
            (
                "best effort, memory",
                plain(),
                &[Memory],
                Some("[MemoryPressure]"),
            ),
            ("burstable, memory", burstable.clone(), &[Memory], None),
            (
                "burstable, disk",
                burstable.clone(),
                &[Disk],
                Some("[DiskPressure]"),
            ),
            (
                "burstable, both",
                burstable,
                &[Disk, Memory],
                Some("[DiskPressure MemoryPressure]"),
            ),
            (
                "tolerates memory",
                tolerates("node.kubernetes.io/memory-pressure"),
                &[Memory],
                None,
            ),
            (
                "tolerates another",
                tolerates("node.kubernetes.io/disk-pressure"),
                &[Memory],
                Some("[MemoryPressure]"),
            ),
            (
                "tolerating does not help with disks",
                tolerates(""),
                &[Disk],
                Some("[DiskPressure]"),
            ),
            (
                "critical",
                with("priority", json!(SYSTEM_CRITICAL)),
                &[Disk, Pid],
                None,
            ),
        ];
        for (name, spec, pressure, want) in rows {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("pod");
            let got = admit(&pod, pressure).err();
            let wanted = want.map(|w| format!("Pod was rejected: The node had condition: {w}. "));
            assert_eq!(got.as_ref().map(|r| r.message.clone()), wanted, "{name}");
            assert!(got.is_none_or(|r| r.reason == "Evicted"), "{name}");
        }
    }
}
