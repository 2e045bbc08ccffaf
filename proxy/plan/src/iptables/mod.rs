//! The iptables backend: services' rules in the shape every operator knows from kube-proxy ([`ruleset`], and as
//! they change, [`Live`]), what a packet meets in them ([`walk`]), and
//! which of iptables' variants they are for ([`variant`]).

mod hostport;
mod names;
mod rule;
mod ruleset;
mod services;
pub mod variant;
pub mod walk;

pub use hostport::leftovers;
pub use names::{endpoint_chain, service_chain};
pub(crate) use rule::words;
pub use ruleset::{Line, Ruleset, Table};
pub use services::{Live, ruleset};
