//! The service dataplane's decisions, pure: Services and EndpointSlices become services with their
//! endpoints ([`state`]), those become each backend's rules as a value ([`iptables`], [`ipvs`]), and what differs
//! from what is there becomes one transaction. [`conntrack`] says which flows outlived their endpoint.

pub mod conntrack;
pub mod iptables;
pub mod ipvs;
pub mod model;
pub mod nft;
pub mod options;
pub mod select;
pub mod state;
