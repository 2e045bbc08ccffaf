//! Test beds: one description of a cluster's machines and networks, whatever runs them.
//!
//! [`Description`] is what a person writes (YAML), [`Layout`] what it comes to: every machine's interfaces, addresses
//! and routes. Both are values; the ways to run them (namespaces here, `scripts/testbed qemu`, Vagrant) read the layout.

mod addresses;
mod complete;
pub mod description;
mod forward;
pub mod keeper;
pub mod layout;
pub mod quality;
mod routes;
pub mod scripts;
pub mod state;
pub mod wiring;

pub use complete::{CLIENT, OUTSIDE};
pub use description::Description;
pub use layout::Layout;
pub use quality::Quality;
pub use wiring::Wiring;
