//! Support for the black-box suites: whole clusters on one machine, each node in namespaces of its own.
//!
//! ```text
//!   client 10.99.0.2 ── 10.99.0.1 router 10.88.0.1 ── switch ──┬── 10.88.0.11 n1  (containerd, keelson server)
//!                                                              └── 10.88.0.12 n2  (containerd, keelson agent)
//! ```
//!
//! Switch, routers, client and nodes are each a tree of processes in their own PID, network, mount, IPC and UTS
//! namespaces. Ending the tree's first process ends everything in it and takes the links and mounts along; so
//! nothing can be left over, not even when a test is killed, and beds never meet: all have the same addresses.
//!
//! Tests make beds by [`Bed`]'s functions, people by `scripts/testbed netns`; both are laid out from a description
//! ([`testbed`]).

pub mod bed;
pub mod bins;
pub mod endpoints;
pub mod figures;
pub mod https;
pub mod images;
pub mod node;
pub mod peers;
pub mod process;
pub mod snapshot;
pub mod space;
pub mod stream;
pub mod suite;
pub mod testbed;
pub mod wait;
pub mod worker;

pub use bed::{Bed, Output};
pub use node::Node;
pub use suite::Suite;
pub use wait::eventually;
pub use worker::Worker;
