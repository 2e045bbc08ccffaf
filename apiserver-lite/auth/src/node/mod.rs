//! The Node authorizer: a node may read what the pods on it refer to, and write what is its own.

mod authorize;
mod graph;
#[cfg(test)]
mod tests;

pub use authorize::{authorize, node_name, rules};
pub use graph::Graph;
