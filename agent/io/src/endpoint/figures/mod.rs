//! Figures for machines and people: what is measured when somebody asks, and how it is told. Pure: what is not
//! measured is left out.

mod cadvisor;
mod rates;
mod resource;
mod summary;
pub mod text;

use jiff::Timestamp;

pub use crate::node::{FileSystem, Interface};
pub use crate::usage::Usage as Disk;
pub(super) use cadvisor::cadvisor;
pub(super) use rates::Rates;
pub(super) use resource::resource;
pub(super) use summary::{Node, summary};

/// How much is asked for: some figures cost more than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// CPU and memory.
    Resource,
    /// And all else that cgroups and network namespaces tell.
    Cgroups,
    /// And disk space, which is counted file by file.
    Disk,
}

/// CPU time of a cgroup, nanoseconds since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub total: u64,
    /// In user space.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// Waiting for the next period.
    pub throttled: u64,
}

/// Memory of a cgroup, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Charged.
    pub usage: u64,
    /// Without what could be dropped at once.
    pub working_set: u64,
    /// Anonymous.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Files mapped.
    pub mapped_file: u64,
    /// Page cache in use lately.
    pub active_file: u64,
    /// Page cache that could be dropped at once.
    pub inactive_file: u64,
    /// The kernel's own.
    pub kernel: u64,
    /// The most ever charged; 0 when not known.
    pub peak: u64,
    /// Swap in use.
    pub swap: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// Processes killed for memory.
    pub oom_kills: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that had to read.
    pub major_page_faults: u64,
}

/// Limits of a cgroup. `None`: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// cpu.shares.
    pub cpu_shares: Option<u64>,
    /// CPU time a period, microseconds.
    pub cpu_quota: Option<u64>,
    /// The period, microseconds.
    pub cpu_period: Option<u64>,
    /// Memory, bytes.
    pub memory: Option<u64>,
    /// Memory kept from others' pressure, bytes.
    pub memory_reservation: Option<u64>,
    /// Swap, bytes.
    pub swap: Option<u64>,
    /// Tasks.
    pub pids: Option<u64>,
}

/// What a cgroup has read from and written to a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// `major:minor`.
    pub device: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Figures of one cgroup at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// When they were read.
    pub at: Timestamp,
    /// CPU.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Tasks.
    pub tasks: u64,
    /// Processes.
    pub processes: u64,
    /// Limits; none below [`Depth::Cgroups`].
    pub limits: Limits,
    /// Block devices; none below [`Depth::Cgroups`].
    pub io: Vec<DeviceIo>,
}

/// A volume of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeUse {
    /// Its name in the pod.
    pub name: String,
    /// The claim behind it, if there is one.
    pub claim: Option<String>,
    /// What is in it.
    pub used: Disk,
    /// The file system it lies on.
    pub on: FileSystem,
    /// Whether it counts as the pod's ephemeral storage.
    pub ephemeral: bool,
}

/// A running container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerUse {
    /// Its name in the pod.
    pub name: String,
    /// The runtime's id.
    pub id: String,
    /// Its image.
    pub image: String,
    /// Its cgroup, absolute within the hierarchy.
    pub cgroup: String,
    /// When it started.
    pub started: Timestamp,
    /// `None`: it has just ended.
    pub usage: Option<Usage>,
    /// Its writable layer; none below [`Depth::Disk`].
    pub rootfs: Option<Disk>,
    /// Its logs; none below [`Depth::Disk`].
    pub logs: Option<Disk>,
}

/// A pod with running containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUse {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it started.
    pub started: Timestamp,
    /// Its cgroup, absolute within the hierarchy.
    pub cgroup: String,
    /// `None`: it has just ended.
    pub usage: Option<Usage>,
    /// Its interfaces but `lo`, that of the primary address first; none on the host's network.
    pub network: Vec<Interface>,
    /// Its containers.
    pub containers: Vec<ContainerUse>,
    /// Its volumes; none below [`Depth::Disk`].
    pub volumes: Vec<VolumeUse>,
}

/// What the machine's own parts use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// cgroups by the names of upstream's system containers (`kubelet`, `runtime`, `pods`): when each started, and what
    /// it uses.
    pub containers: Vec<(&'static str, Timestamp, Usage)>,
    /// The file system of images and containers' layers.
    pub images: Option<FileSystem>,
}
