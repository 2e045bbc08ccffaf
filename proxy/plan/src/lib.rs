//! The service dataplane's decisions, pure: Services and EndpointSlices become services with their endpoints
//! ([`state`]), those become each backend's rules as a value ([`nft`], [`iptables`], [`ipvs`]), and what differs from what is there
//! becomes one transaction. [`conntrack`] says which flows outlived their endpoint, [`decide`] what the model says of a
//! packet, whatever the backend, and those who walk rules ([`walk`]) say what they do. [`policy`] does the same for NetworkPolicies.

pub mod conntrack;
pub mod decide;
pub mod explain;
pub mod health;
pub mod iptables;
pub mod ipvs;
pub mod model;
pub mod nft;
pub mod options;
pub mod others;
pub mod packet;
pub mod policy;
pub mod select;
pub mod state;
pub mod userspace;
pub mod walk;
