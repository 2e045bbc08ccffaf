//! What the caller wants to run, as plain values. Strings are final: references, expansions and
//! Kubernetes defaults have been applied by the agent's plan.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The pod a container belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodRef {
    /// Pod UID: the identity.
    pub uid: String,
    /// Namespace, for labels and people.
    pub namespace: String,
    /// Name, for labels and people.
    pub name: String,
}

/// Which list of the pod a container comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// `spec.initContainers`.
    Init,
    /// `spec.containers`.
    #[default]
    App,
    /// `spec.ephemeralContainers`.
    Ephemeral,
    /// None: process 1 of a shared PID namespace.
    Holder,
}

impl Kind {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Init => "init",
            Kind::App => "app",
            Kind::Ephemeral => "ephemeral",
            Kind::Holder => "holder",
        }
    }

    pub(crate) fn parse(text: &str) -> Kind {
        match text {
            "init" => Kind::Init,
            "ephemeral" => Kind::Ephemeral,
            "holder" => Kind::Holder,
            _ => Kind::App,
        }
    }
}

/// A low-level runtime other than runc itself (what a RuntimeClass names).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handler {
    /// containerd's runtime, such as `io.containerd.runc.v2`; that one when empty.
    pub runtime_type: String,
    /// The OCI runtime's program for `io.containerd.runc.v2`; `runc` when empty.
    pub binary: String,
}

/// A container to create.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerSpec {
    /// The pod.
    pub pod: PodRef,
    /// Container name within the pod.
    pub name: String,
    /// Restart count; part of the id.
    pub attempt: u32,
    /// Init, app or ephemeral.
    pub kind: Kind,
    /// Image name or digest as [`crate::Runtime::image`] takes it.
    pub image: String,
    /// Replaces the image's ENTRYPOINT and drops its CMD; empty: the image's.
    pub command: Vec<String>,
    /// Replaces the image's CMD; empty: the image's, unless `command` is set.
    pub args: Vec<String>,
    /// Added to (and winning over) the image's environment, in order.
    pub env: Vec<(String, String)>,
    /// Working directory; the image's when unset, `/` when neither is.
    pub working_dir: Option<String>,
    /// Bind mounts, in addition to the default ones.
    pub mounts: Vec<Mount>,
    /// cgroup limits.
    pub resources: Resources,
    /// Security context.
    pub security: Security,
    /// Allocate a terminal; stdout and stderr become one stream.
    pub tty: bool,
    /// Keep standard input open (empty until somebody attaches).
    pub stdin: bool,
    /// Close standard input when the first who attached has gone.
    pub stdin_once: bool,
    /// Value of `HOSTNAME` in the environment; the UTS namespace itself belongs to the sandbox.
    pub hostname: String,
    /// Namespaces to join or make.
    pub namespaces: Namespaces,
    /// cgroup of the pod as [`crate::Runtime::pod_cgroup`] returns it; the container's own is below.
    pub cgroup_parent: String,
    /// OOM score adjustment, -1000..=1000; clamped to what this process may set.
    pub oom_score_adj: i32,
    /// Sysctls of the container's namespaces. Those of the pod belong to the sandbox.
    pub sysctls: BTreeMap<String, String>,
    /// Labels of the containerd object, besides the runtime's own.
    pub labels: BTreeMap<String, String>,
    /// OCI annotations.
    pub annotations: BTreeMap<String, String>,
    /// What runs it.
    pub handler: Handler,
    /// Containers with the same group share one shim process; own shim when unset.
    pub shim_group: Option<String>,
    /// CRI-format log file, absolute; no log when empty.
    pub log_path: PathBuf,
}

/// How mounts travel between host and container (`mountPropagation`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// `None`: `rprivate`.
    #[default]
    Private,
    /// `HostToContainer`: `rslave`.
    HostToContainer,
    /// `Bidirectional`: `rshared`.
    Bidirectional,
}

/// A bind mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// Path on the host; must exist.
    pub host_path: PathBuf,
    /// Path in the container, absolute.
    pub container_path: PathBuf,
    /// Mount read-only.
    pub read_only: bool,
    /// Read-only with all that is mounted below (KEP-3857); needs runc 1.1 and Linux 5.12.
    pub recursive_read_only: bool,
    /// Propagation.
    pub propagation: Propagation,
}

/// cgroup limits of a container. Unset fields are not written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// cgroup v1 cpu shares, 2..=262144; converted to a weight on v2.
    pub cpu_shares: Option<u64>,
    /// CPU time per period, microseconds; negative is unlimited.
    pub cpu_quota: Option<i64>,
    /// Length of the period, microseconds.
    pub cpu_period: Option<u64>,
    /// Memory limit, bytes.
    pub memory_limit: Option<i64>,
    /// Largest number of tasks.
    pub pids_limit: Option<i64>,
    /// CPUs the container may use, list format (`0-2,7`).
    pub cpuset_cpus: Option<String>,
    /// NUMA nodes the container may have memory on, list format.
    pub cpuset_mems: Option<String>,
    /// Huge page limits; kept where the kernel counts huge pages by cgroup.
    pub hugepages: Vec<HugepageLimit>,
    /// Files of the unified hierarchy and what is written to them; nothing elsewhere.
    pub unified: BTreeMap<String, String>,
}

/// Limit of one huge page size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugepageLimit {
    /// Page size as the cgroup files name it (`2MB`, `1GB`).
    pub page_size: String,
    /// Bytes.
    pub limit: i64,
}

/// Which system call filter applies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The built-in allow list.
    #[default]
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// A profile in the OCI runtime's JSON format.
    Localhost(PathBuf),
}

/// Security context of a container, pod-level values merged in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// User id; the image's user when unset.
    pub run_as_user: Option<u32>,
    /// Primary group; the user's group in the image's passwd when unset, else 0.
    pub run_as_group: Option<u32>,
    /// Supplemental groups, the fsGroup among them.
    pub supplemental_groups: Vec<u32>,
    /// Only `supplemental_groups` count; those of the image's group file are left out
    /// (`supplementalGroupsPolicy: Strict`).
    pub strict_groups: bool,
    /// All capabilities, all devices, writable `/sys`, no seccomp, nothing masked.
    pub privileged: bool,
    /// Capabilities to add, with or without `CAP_`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to drop, with or without `CAP_`, or `ALL`.
    pub cap_drop: Vec<String>,
    /// Mount the root file system read-only.
    pub read_only_rootfs: bool,
    /// Set `no_new_privs` (`allowPrivilegeEscalation: false`).
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// `procMount: Unmasked`: no masked and read-only paths below `/proc`.
    pub unmasked: bool,
    /// Device nodes to make besides the default ones.
    pub devices: Vec<Device>,
}

/// A device node of the host to be made in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Node on the host.
    pub host_path: PathBuf,
    /// Node in the container.
    pub container_path: PathBuf,
    /// cgroup access, letters of `rwm`.
    pub access: String,
}

/// One kernel namespace of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Namespace {
    /// The container gets its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Joined by path: a sandbox's pinned file, or `/proc/<pid>/ns/pid` of another container.
    Path(PathBuf),
}

/// The namespaces of a container. The mount namespace is always its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Network.
    pub net: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// Processes.
    pub pid: Namespace,
    /// The sandbox's `/dev/shm`, shared by its containers; each has its own when unset.
    pub shm: Option<PathBuf>,
}
