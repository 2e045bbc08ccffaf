//! The options of masquerade, as `bridge` and `ptp` have them.

use serde::Deserialize;

use crate::config::{invalid, or_default};
use crate::protocol::Error;

/// Masquerade: whether, and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Masquerade {
    /// What leaves the container's network leaves with the node's address.
    #[serde(default, deserialize_with = "or_default")]
    pub ip_masq: bool,
    /// What does that.
    #[serde(default, deserialize_with = "or_default")]
    ip_masq_backend: String,
}

/// What sets rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// nftables, in tables of our own.
    Nftables,
    /// iptables, in chains of our own.
    Iptables,
}

impl Masquerade {
    /// What sets the rules: nftables unless said otherwise.
    pub fn backend(&self) -> Result<Backend, Error> {
        match self.ip_masq_backend.as_str() {
            "" | "nftables" => Ok(Backend::Nftables),
            "iptables" => Ok(Backend::Iptables),
            other => {
                let why = format!("{other:?}: allowed are nftables and iptables");
                Err(invalid("ipMasqBackend", why))
            }
        }
    }
}
