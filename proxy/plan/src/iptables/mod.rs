//! The iptables backend: services' rules in the shape every operator knows from kube-proxy ([`ruleset`], and as
//! they change, [`Live`]), and what a packet meets in them ([`walk`]).

mod hostport;
mod names;
mod rule;
mod ruleset;
mod services;
pub mod walk;

pub use hostport::leftovers;
pub use names::{endpoint_chain, service_chain};
pub use ruleset::{Line, Ruleset, Table};
pub use services::{Live, ruleset};
