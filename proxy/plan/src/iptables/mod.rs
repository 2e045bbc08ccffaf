//! The iptables backend's rules, in the shape every operator knows from kube-proxy.

mod beyond;
mod hostport;
mod names;
mod ruleset;
mod services;

pub use beyond::beyond;
pub use hostport::leftovers;
pub use names::{endpoint_chain, service_chain};
pub use ruleset::{Ruleset, Table};
pub use services::{Options, ruleset};
