//! The IPVS backend's decisions: services become virtual servers with destinations ([`wanted`]), addresses on a link
//! of ours, and what netfilter has to do beside ([`rules`]); [`diff`] says what to change in the kernel, and in which
//! order, so that established connections live. [`sysctls`] are the kernel parameters that it needs.

mod diff;
mod iptables;
mod nftables;
mod rules;
mod server;
mod sysctl;
mod walk;
mod wanted;

pub use diff::{Action, Live, Server, diff};
pub use iptables::ruleset;
pub use nftables::{is_beside, table};
pub use rules::{Dropped, Masquerade, Origin, Rules, Treatment};
pub use server::{
    Destination, Flags, Forwarding, Scheduler, ServerKey, Timeouts, UnknownScheduler, VirtualServer,
};
pub use sysctl::{Kernel, Sysctl, sysctls};
pub use walk::walk;
pub use wanted::{Options, Wanted, WantedServer, wanted};
