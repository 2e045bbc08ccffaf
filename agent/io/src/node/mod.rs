//! The Node object: true figures of this machine, its conditions, and its lease.

mod facts;
mod object;
mod status;

pub use facts::{Error, Facts, HugePages, Roots, read};
pub use object::{lease, node};
pub use status::{Inputs, Thresholds, addresses, status};
