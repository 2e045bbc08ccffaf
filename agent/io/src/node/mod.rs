//! The Node object: true figures of this machine, its conditions, and its lease.

mod facts;
mod object;
mod status;

pub use facts::{Error, Facts, FileSystem, HugePages, Roots, file_system, read, read_figures};
pub use object::{lease, node};
pub use status::{Inputs, Pressure, addresses, status};
