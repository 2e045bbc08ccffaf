//! Masquerade: its options, as `bridge` and `ptp` have them, and its rules in nftables.

use ipnet::IpNet;
use serde::Deserialize;

use crate::backend::Backend;
use crate::config::{invalid, or_default};
use crate::gate::Gate;
use crate::names;
use crate::nft::expr::{self, Load};
use crate::nft::wire::Attributes;
use crate::nft::{Element, Family, Field, Holds, Map, POSTROUTING, Table, octets};
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

impl Masquerade {
    /// What is to hold the rules; `None`: whichever there is.
    ///
    /// # Errors
    /// When there is no such thing.
    pub fn backend(&self) -> Result<Option<Backend>, Error> {
        match self.ip_masq_backend.as_str() {
            "" => Ok(None),
            "nftables" => Ok(Some(Backend::Nftables)),
            "iptables" => Ok(Some(Backend::Iptables)),
            other => {
                let why = format!("{other:?}: allowed are nftables and iptables");
                Err(invalid("ipMasqBackend", why))
            }
        }
    }
}

/// Groups that a router must not send on with another source.
const MULTICAST: [&str; 2] = ["224.0.0.0/4", "ff00::/8"];

/// Leads what comes from an attachment's address to the chain of its network.
pub const fn gate(family: Family) -> Gate {
    Gate {
        table: Table::of(family, names::TABLE),
        base: "postrouting",
        hook: POSTROUTING,
        map: Map {
            name: "sources",
            key: &[Field::Address],
            holds: Holds::Verdicts,
            ranges: false,
        },
        key: Load::Source(family),
    }
}

/// The element of an attachment's address; `link` is its link on the host.
pub fn element(network: &str, link: &str, address: IpNet) -> Element {
    let chain = names::network_chain(&address.trunc());
    Element::leading(octets(address.addr()), chain, names::tag(network, link))
}

/// The rules for a network: what stays in it and what goes to a group is left alone.
pub fn rules(network: IpNet) -> Vec<Vec<Attributes>> {
    let family = Family::of(network.addr());
    let groups = MULTICAST.iter().filter_map(|m| m.parse::<IpNet>().ok());
    let alone = groups.filter(|g| family.has(g)).chain([network]);
    let alone = alone.map(|net| {
        let mut rule = expr::load(&[Load::Destination(family)]);
        rule.extend([
            expr::mask(&octets(net.netmask())),
            expr::compare(&octets(net.network()), false),
            expr::accept(),
        ]);
        rule
    });
    alone.chain([vec![expr::masquerade()]]).collect()
}
