//! What the CNI plugin decides: the protocol (specification 1.1.0), the configuration, which address
//! a container gets and which links, addresses and routes there are to be. Pure: the plugin carries it out.

pub mod alloc;
pub mod config;
pub mod conntrack;
pub mod names;
pub mod nft;
pub mod portmap;
pub mod protocol;
pub mod result;

pub use config::NetConf;
pub use protocol::{Args, Command, Error};
pub use result::Success;
