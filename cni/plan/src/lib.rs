//! What the CNI plugins decide: the protocol (specification 1.1.0), the configuration, which address
//! a container gets and which links, addresses and routes there are to be. Pure: the plugin carries it out.

pub mod alloc;
pub mod args;
pub mod backend;
pub mod bandwidth;
pub mod bridge;
pub mod config;
pub mod conntrack;
pub mod gate;
pub mod host_local;
pub mod iptables;
pub mod masquerade;
pub mod names;
pub mod nft;
pub mod portmap;
pub mod protocol;
pub mod ptp;
pub mod resolv;
pub mod result;
pub mod spoof;

pub use config::NetConf;
pub use protocol::{Args, Command, Error};
pub use result::Success;
