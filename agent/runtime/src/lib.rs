//! Everything the agent asks of the machine to run a container: containerd over its native gRPC
//! services, images, OCI specs, pod cgroups, and sandboxes that are nothing but pinned namespaces.
//!
//! ```text
//! archive | registry -> content store -> snapshots (chain ids) -> image
//! sandbox_create -> run_dir/ns/<uid>/{net,ipc,uts}      pod_cgroup_create -> kubepods/<qos>/pod<uid>
//! container_create -> snapshot + container object (labels)
//! container_start  -> task + keelson-logger (binary://)  -> events: Start, Exit
//! ```
//!
//! Nothing that matters is kept in memory only: every name is derived from pod UID, container name and attempt,
//! and every state is read back from containerd's labels and tasks, the cgroups and the mount table.
//! A second [`Runtime`] over the same configuration sees what the first one saw.

pub mod archive;
pub mod auth;
pub mod cgroup;
mod client;
mod config;
pub mod container;
mod disk;
mod error;
mod events;
mod exec;
pub mod failpoint;
pub mod image;
mod lease;
mod model;
mod providers;
mod runtime;
mod sandbox;
mod shims;
pub mod spec;
mod stats;
mod sys;

pub use auth::Auth;
pub use cgroup::{Driver, PodResources, Qos, container_cgroup, unified as is_unified};
pub use config::Config;
pub use container::{Attached, Container, Created, State};
pub use disk::LayerUsage;
pub use error::{Error, PullKind};
pub use events::{Events, RuntimeEvent};
pub use exec::{ExecOptions, ExecOutput, ExecProcess, ExecSession, Stdin};
pub use image::{Image, ImageConfig, Pulled, ViewMount};
pub use model::{
    ContainerSpec, Device, Handler, HugepageLimit, Kind, Mount, Namespace, Namespaces, PodRef,
    Propagation, Resources, Seccomp, Security,
};
pub use providers::Providers;
pub use runtime::Runtime;
pub use sandbox::{Sandbox, SandboxOptions};
pub use stats::{DeviceIo, Limits, Stats, Usage, cgroup_made, cgroup_stats, cgroup_usage};
