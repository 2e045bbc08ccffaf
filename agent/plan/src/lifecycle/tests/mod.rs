//! A pod's whole way, in a world that does at once what the plan says.

mod beside;
mod evicted;
mod invariants;
mod stories;
mod table;
mod world;
