//! `macspoofchk`: a container's frames with another source than its own hardware address are dropped.

use crate::gate::Gate;
use crate::names;
use crate::nft::expr::{self, Load};
use crate::nft::wire::Attributes;
use crate::nft::{BRIDGED, Element, Field, Holds, Map, Table};

/// Leads what comes from an attachment's link to its chain.
pub const GATE: Gate = Gate {
    table: Table::of_bridges(names::TABLE),
    base: "prerouting",
    hook: BRIDGED,
    map: Map {
        name: "ports",
        key: &[Field::Link],
        holds: Holds::Verdicts,
        ranges: false,
    },
    key: Load::Link,
};

/// The key of a link: its name.
pub fn key(link: &str) -> Vec<u8> {
    /// Bytes of a name with its zeros (`IFNAMSIZ`).
    const NAME: usize = 16;
    let mut key = link.as_bytes().to_vec();
    key.resize(NAME, 0);
    key
}

/// The element of an attachment; `link` is its link on the host.
pub fn element(network: &str, link: &str) -> Element {
    Element::leading(key(link), link.to_owned(), names::tag(network, link))
}

/// The rules for a hardware address.
pub fn rules(mac: &[u8]) -> Vec<Vec<Attributes>> {
    let mut rule = expr::load(&[Load::Hardware]);
    rule.extend([expr::compare(mac, true), expr::drop()]);
    vec![rule]
}
