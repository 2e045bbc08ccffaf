//! What is known of a pod at one moment: facts only, gathered by the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodStatus, ResourceRequirements, ResourceStatus};

use crate::backoff::Backoff;
use crate::eviction::Eviction;
use crate::resources::Figures;

/// A step that failed and when it may be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The waiting reason shown for it, such as `CreateContainerConfigError`.
    pub reason: String,
    /// Why.
    pub message: String,
    /// When it happened.
    pub at: Timestamp,
    /// Not before this.
    pub retry_at: Timestamp,
}

/// A step that is needed once: the sandbox, the volumes, the cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stage<T> {
    /// Not there.
    #[default]
    Absent,
    /// Being made at this moment.
    Working,
    /// The last try failed.
    Failed(Failure),
    /// There.
    Ready(T),
}

impl<T> Stage<T> {
    /// The result, when it is there.
    pub fn ready(&self) -> Option<&T> {
        match self {
            Self::Ready(t) => Some(t),
            _ => None,
        }
    }

    /// Nothing is there and nothing is being made.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Absent | Self::Failed(_))
    }
}

/// A pod's namespaces and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// When it was made: containers made before it belong to an earlier one.
    pub created: Timestamp,
    /// The pod's addresses, primary first; the node's for host network.
    pub ips: Vec<IpAddr>,
}

/// One run of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Counts from 0: the container's restart count.
    pub attempt: u32,
    /// The runtime's id, without `containerd://`.
    pub id: String,
    /// The image as the runtime names it.
    pub image: String,
    /// The image's digest.
    pub image_id: String,
    /// The image the spec named when it was made, if that is known: another one since then restarts it.
    pub spec_image: Option<String>,
    /// What its cgroup has, if that is known.
    pub resources: Option<ResourceRequirements>,
    /// When it was made.
    pub created: Timestamp,
    /// How far it is.
    pub state: AttemptState,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running {
        /// Since when.
        started: Timestamp,
        /// The `postStart` hook.
        post_start: Hook,
    },
    /// Over.
    Exited {
        /// Exit code; 128 + signal when killed.
        code: i32,
        /// When it started, if it did.
        started: Option<Timestamp>,
        /// When it ended.
        finished: Timestamp,
        /// Killed for memory.
        oom: bool,
        /// A reason other than the usual, such as `StartError`.
        reason: Option<String>,
        /// The termination message.
        message: Option<String>,
    },
}

impl Attempt {
    /// Its process runs.
    pub fn is_running(&self) -> bool {
        matches!(self.state, AttemptState::Running { .. })
    }

    /// Its exit code, when it is over.
    pub fn exit_code(&self) -> Option<i32> {
        match self.state {
            AttemptState::Exited { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// A hook of a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hook {
    /// There is none, or it has succeeded.
    #[default]
    Done,
    /// Still runs: the container does not count as started.
    Running,
    /// Failed: the container is killed.
    Failed(String),
}

/// What is known about a container's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// Being looked up or pulled.
    Working,
    /// Made sure of, for this attempt.
    Ready {
        /// The attempt it was made sure of for: `Always` asks again for the next.
        attempt: u32,
    },
    /// It cannot be had at the moment.
    Failed(ImageFailure),
}

/// Why an image cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFailure {
    /// `ErrImagePull`, `ErrImageNeverPull` or `InvalidImageName`.
    pub reason: String,
    /// The registry's or runtime's words.
    pub message: String,
    /// When it failed.
    pub at: Timestamp,
    /// Not before this.
    pub retry_at: Timestamp,
}

/// What the probes of a running attempt say. `None`: the probe has not decided yet, or there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeVerdict {
    /// The attempt the verdicts are of.
    pub attempt: u32,
    /// The startup probe.
    pub startup: Option<bool>,
    /// The liveness probe.
    pub liveness: Option<bool>,
    /// The readiness probe.
    pub readiness: Option<bool>,
}

/// Why a resize waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred` or `Infeasible`.
    pub reason: &'static str,
    /// Why.
    pub message: String,
}

/// All that is known of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The pod is gone from the API (or was never seen there since the agent started): only tear down.
    pub orphan: bool,
    /// When the agent first saw that the pod is to end.
    pub terminating_since: Option<Timestamp>,
    /// The node cannot keep it, or it has more on disk than it may.
    pub evicted: Option<Eviction>,
    /// The disk is too full to keep dead containers for people to look at.
    pub reclaim: bool,
    /// Devices of plugins, where its containers ask for such.
    pub devices: Stage<()>,
    /// How they are, by container name.
    pub device_health: BTreeMap<String, Vec<ResourceStatus>>,
    /// The pod's cgroup.
    pub cgroup: Stage<()>,
    /// The pod's volumes.
    pub volumes: Stage<()>,
    /// The sandbox.
    pub sandbox: Stage<Sandbox>,
    /// Runs by container name, oldest first.
    pub containers: BTreeMap<String, Vec<Attempt>>,
    /// Containers whose creation, start or removal is under way.
    pub busy: BTreeSet<String>,
    /// Runs killed to come again whatever the policy says, by container name.
    pub anew: BTreeMap<String, u32>,
    /// What was admitted for containers whose spec has changed since, by name.
    pub allocated: BTreeMap<String, ResourceRequirements>,
    /// Why what the spec asks for is not allocated.
    pub pending: Option<Pending>,
    /// What stands in the pod's cgroup; absent: not known.
    pub figures: Stage<Figures>,
    /// Containers whose cgroup is being changed.
    pub updating: BTreeSet<String>,
    /// The last failure to change a container's cgroup, by container name.
    pub resize_errors: BTreeMap<String, Failure>,
    /// Runs being killed: container name to the grace seconds granted.
    pub killing: BTreeMap<String, i64>,
    /// The last failure to make or start, by container name.
    pub failures: BTreeMap<String, Failure>,
    /// Restart back-off by container name.
    pub backoffs: BTreeMap<String, Backoff>,
    /// Images by container name.
    pub images: BTreeMap<String, Image>,
    /// Probes by container name.
    pub probes: BTreeMap<String, ProbeVerdict>,
    /// The status last written or read: times of transitions, restart counts and a phase that is final come from it.
    pub status: Arc<PodStatus>,
    /// The node's addresses, primary first.
    pub host_ips: Vec<IpAddr>,
    /// Whether the node can make mounts read-only with all below them.
    pub recursive_read_only: bool,
    /// A container of it has CPUs of its own: they bound the pod, not a share of all CPUs' time.
    pub own_cpus: bool,
}

impl Observed {
    /// The newest run of a container.
    pub fn latest(&self, name: &str) -> Option<&Attempt> {
        self.containers.get(name).and_then(|a| a.last())
    }

    /// Any container's process runs.
    pub fn any_running(&self) -> bool {
        self.containers.values().flatten().any(Attempt::is_running)
    }

    /// A run that was killed to come again.
    pub fn comes_again(&self, name: &str, run: &Attempt) -> bool {
        self.anew.get(name) == Some(&run.attempt)
    }

    /// The newest run that belongs to the present sandbox.
    pub fn current(&self, name: &str) -> Option<&Attempt> {
        let since = self.sandbox.ready().map(|s| s.created);
        self.latest(name)
            .filter(|a| a.is_running() || since.is_none_or(|s| a.created >= s))
    }
}
