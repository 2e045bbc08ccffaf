//! What the node agent decides, without doing any of it: a pod and what was observed of it become
//! actions, a status and a time to look again.
//!
//! Nothing here reads a clock, a file or a socket: times and figures are handed in, so every decision
//! is a value that can be printed, compared and tested by a table.

pub mod access;
pub mod action;
pub mod admit;
pub mod backoff;
pub mod checkpoint;
pub mod claim;
pub mod cni;
pub mod containers;
pub mod correlate;
pub mod cpu_manager;
pub mod cpuset;
pub mod csi;
pub mod devices;
pub mod dns;
pub mod doctor;
pub mod duration;
pub mod env;
pub mod ephemeral;
pub mod event;
pub mod eviction;
pub mod hosts;
pub mod hugepages;
pub mod image_gc;
pub mod lifecycle;
pub mod log_rotation;
pub mod memory;
pub mod memory_manager;
pub mod mount;
pub mod names;
pub mod observed;
pub mod probe;
pub mod pull;
pub mod quantity;
pub mod reserve;
pub mod resize;

pub mod resources;
pub mod security;
pub mod shutdown;
pub mod static_pod;
pub mod status;
pub mod sysctl;
pub mod topology;

pub use action::{Action, Kill, Plan};
pub use lifecycle::plan;
pub use observed::{
    Attempt, AttemptState, Failure, Hook, Image, ImageFailure, Observed, Pending, ProbeVerdict,
    Sandbox, Stage,
};
