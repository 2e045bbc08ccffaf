//! What holds rules.

use serde::Deserialize;

/// Which of the kernel's packet filters holds the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// nftables, over netlink, in tables of our own.
    Nftables,
    /// iptables, by its programs, in chains of our own.
    Iptables,
}
