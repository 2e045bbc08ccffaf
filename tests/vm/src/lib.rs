//! Machines of their own in QEMU (`scripts/vm`): kernel, systemd, cgroup v2, Debian's containerd; with a line to run
//! scripts in each. One alone, or a test bed of several on networks.

pub mod bed;
pub mod dist;
mod inside;
pub mod machine;
pub mod snapshot;
mod wires;

pub use bed::Bed;
pub use dist::Dist;
pub use inside::in_machine;
pub use machine::{Machine, Output};
pub use snapshot::Snapshot;
