//! Carries out what the plan decided: nftables, IPVS and conntrack by netlink, iptables by `iptables-restore`, sysctls by
//! file.

pub mod conntrack;
pub mod iptables;
pub mod ipvs;
pub mod loopback;
mod netlink;
pub mod nft;
pub mod node;
pub mod others;
pub mod route;
pub mod sysctl;

/// What went wrong, naming the action.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started, or its pipe broke.
    #[error("run {program}: {source}")]
    Start {
        /// The program.
        program: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A program refused; holds what it said.
    #[error("{program}: {message}")]
    Refused {
        /// The program.
        program: &'static str,
        /// Its words.
        message: String,
    },
    /// A netlink conversation failed.
    #[error("{action}: {source}")]
    Netlink {
        /// What was done.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel has no IPVS, or this process may not use it.
    #[error("no IPVS (module ip_vs) in this kernel: {source}")]
    NoIpvs {
        /// Why.
        source: std::io::Error,
    },
    /// A change to virtual servers, or to the link with their addresses, failed.
    #[error("{action} {object}: {source}")]
    Ipvs {
        /// What was done.
        action: &'static str,
        /// To what.
        object: String,
        /// Why.
        source: std::io::Error,
    },
    /// nf_tables refused a transaction: nothing of it is in place.
    #[error("nftables: {what}: {source}")]
    Nftables {
        /// The change that it refused.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A sysctl could not be written.
    #[error("write {path}: {source}")]
    Sysctl {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}
