//! Random services and packets from seeds ([`World`]), and a node in network namespaces ([`Bed`]) in which real ones
//! are sent: what becomes of them is held against what is wanted.

pub mod bed;
mod room;
pub mod sample;
mod talk;
pub mod world;

pub use bed::Bed;
pub use room::sh;
pub use sample::{Case, Told, sample};
pub use talk::Seen;
pub use world::World;
