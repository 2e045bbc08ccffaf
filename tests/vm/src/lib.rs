//! A machine of its own in QEMU (`scripts/vm`): kernel, systemd, cgroup v2, Debian's containerd; with a line to run
//! scripts in it.

pub mod machine;
pub mod snapshot;

pub use machine::{Machine, Output};
pub use snapshot::Snapshot;
