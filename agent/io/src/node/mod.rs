//! The Node object: true figures of this machine, its conditions, and its lease.

mod facts;
mod load;
mod machine;
mod object;
mod status;

pub use facts::{
    Error, Facts, FileSystem, HugePages, Roots, file_system, page_sizes, read, read_figures,
};
pub(crate) use load::own_interfaces;
pub use load::{Interface, Load, load};
pub use machine::{Layout, layout};
pub use object::{lease, node};
pub use status::{Inputs, Pressure, addresses, status};
