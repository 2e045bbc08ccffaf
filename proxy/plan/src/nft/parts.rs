//! Parts of rules, rules and sets that the tables of several modes have in common.

use ipnet::IpNet;

use super::intervals::intervals;
use super::services::HAIRPIN;
use super::table::{Field, Holds, LOCAL, Load, Part, Rule, Set, Value, state, status};

/// Priority of chains before destinations are translated.
pub const GUARD: i32 = -110;
/// Where destinations are translated (`NF_IP_PRI_NAT_DST`).
pub const DSTNAT: i32 = -100;
/// Where sources are translated (`NF_IP_PRI_NAT_SRC`).
pub const SRCNAT: i32 = 100;

/// Matches where one of these bits is set.
pub fn bits(load: Load, mask: u32) -> Part {
    Part::Bits {
        load,
        mask,
        not: false,
    }
}

/// Matches a connection's first packet.
pub fn first() -> Part {
    bits(Load::State, state::NEW)
}

/// Matches a connection whose destination was translated.
pub fn translated() -> Part {
    bits(Load::Status, status::DNAT)
}

/// Matches what comes from one of this machine's addresses.
pub fn own_source() -> Part {
    Part::Is {
        load: Load::SourceType,
        bytes: LOCAL.to_ne_bytes().into(),
        not: false,
    }
}

/// Matches what an endpoint sends to itself.
pub fn itself() -> Part {
    Part::In {
        key: vec![Load::Source, Load::Destination],
        set: HAIRPIN.into(),
        not: false,
    }
}

/// Refuses connections to these addresses: what is still for one of them is for none of its services.
pub fn unserved(addresses: &str) -> Rule {
    let stray = Part::In {
        key: vec![Load::Destination],
        set: addresses.into(),
        not: false,
    };
    vec![first(), stray, Part::Reject]
}

/// Masquerades what carries a mark. It is cleared, so that a packet that comes by again (a tunnel) is not masked twice.
pub fn masquerade_marked(mark: u32) -> Rule {
    vec![
        bits(Load::Mark, mark),
        Part::ClearMark(mark),
        Part::Masquerade,
    ]
}

/// A set of networks.
pub fn nets<'a>(nets: impl Iterator<Item = &'a IpNet>) -> Set {
    let mut set = Set::new(&[Field::Address], Holds::Nothing);
    set.intervals = true;
    let found = intervals(nets).into_iter();
    set.elements.extend(found.map(|i| (i, Value::None)));
    set
}
