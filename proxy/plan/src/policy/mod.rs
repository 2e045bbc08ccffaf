//! NetworkPolicy (networking.k8s.io/v1), decided: policies, pods and namespaces ([`state`]) become what a node enforces
//! as values ([`compiled`]) and what must change for it ([`diff`]). [`walk`] says what these do with a packet, [`decide`]
//! what the specification does, with the names of the policies.

pub mod blocks;
pub mod compiled;
pub mod decide;
mod derived;
pub mod diff;
pub mod model;
pub mod parse;
mod part;
pub mod selector;
mod sets;
pub mod state;
pub mod walk;
mod world;

#[cfg(test)]
mod tests;
