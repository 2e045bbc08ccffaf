//! The service dataplane's decisions, pure: Services and EndpointSlices become services with their
//! endpoints ([`state`]), those become each backend's rules as a value ([`iptables`]), and what differs
//! from what is there becomes one transaction. [`conntrack`] says which flows outlived their endpoint.

pub mod conntrack;
pub mod decide;
pub mod iptables;
pub mod model;
pub mod nft;
pub mod options;
pub mod packet;
pub mod select;
pub mod state;
