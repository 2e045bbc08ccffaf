//! A group's chain, and the sets that its rules look addresses up in.

use super::names::{self, REFUSE};
use crate::model::Family;
use crate::nft::table::{Field, Holds, Load, Part, Rule, Set, Value, Verdict, Words, Writer};
use crate::policy::blocks::Blocks;
use crate::policy::compiled::{self, AddressSet, Element, Group, Peers, Ports};
use crate::policy::model::{Direction, PortRange};

/// A set of pods, as far as it is of a family.
pub(super) fn set(of: &AddressSet, family: Family) -> Set {
    let mut set = Set::new(key(of.key.port.is_some()), Holds::Nothing);
    let ours = of.elements.iter().filter(|e| is_of(e, family));
    set.elements.extend(ours.map(|e| (element(e), Value::None)));
    set
}

/// The fields of a set of pods, or of their ports of a name.
pub(super) fn key(with_port: bool) -> &'static [Field] {
    match with_port {
        false => &[Field::Address],
        true => &[Field::Address, Field::Protocol, Field::Port],
    }
}

/// Whether an element is of a family.
pub(super) fn is_of(element: &Element, family: Family) -> bool {
    Family::of(&element.address) == family
}

/// An element's key.
pub(super) fn element(element: &Element) -> Words {
    let address = Writer::default().address(element.address);
    match element.port {
        None => address.words(),
        Some((protocol, port)) => address.protocol(protocol).port(port).words(),
    }
}

/// A set of intervals, as far as it is of a family.
pub(super) fn intervals(blocks: &Blocks, family: Family) -> Set {
    let mut set = Set::new(&[Field::Address], Holds::Nothing);
    set.intervals = true;
    let mut put = |first, last| {
        let ends = Writer::default().address(first).address(last);
        set.elements.insert(ends.words(), Value::None);
    };
    match family {
        Family::V4 => (blocks.v4.iter()).for_each(|(a, b)| put((*a).into(), (*b).into())),
        Family::V6 => (blocks.v6.iter()).for_each(|(a, b)| put((*a).into(), (*b).into())),
    }
    set
}

/// The chain's rules: what one of them matches returns to where the connection is judged on, all else is refused.
pub(super) fn rules(group: &Group) -> Vec<Rule> {
    let allowed = group.rules.iter().flat_map(|rule| {
        let peer = peer(group.direction, rule);
        ports(&rule.ports)
            .into_iter()
            .map(move |port| [peer.clone(), port, vec![Part::Verdict(Verdict::Return)]].concat())
    });
    let refuse = Part::Verdict(Verdict::Goto(REFUSE.into()));
    allowed.chain([vec![refuse]]).collect()
}

/// Matches the other end.
fn peer(direction: Direction, rule: &compiled::Rule) -> Rule {
    let set = match &rule.peers {
        Peers::Any => return Rule::new(),
        Peers::Addresses(id) => names::set(id),
        Peers::Blocks(id) => names::blocks(id),
    };
    let load = match direction {
        Direction::Egress => Load::ReplySource,
        Direction::Ingress => Load::OriginalSource,
    };
    vec![is_in(vec![load], set)]
}

/// Matches one of the ports each.
fn ports(ports: &Ports) -> Vec<Rule> {
    match ports {
        Ports::All => vec![Rule::new()],
        Ports::Numbers(ranges) => ranges.iter().map(range).collect(),
        Ports::Named(id) => {
            let key = vec![Load::ReplySource, Load::Protocol, Load::ReplyPort];
            vec![vec![is_in(key, names::set(id))]]
        }
    }
}

/// The protocol stands first: what has no ports has something else in their place.
fn range(range: &PortRange) -> Rule {
    let is = |load, bytes: &[u8]| Part::Is {
        load,
        bytes: bytes.into(),
        not: false,
    };
    let mut rule = vec![is(Load::Protocol, &[range.protocol.number()])];
    match (range.first, range.last) {
        (0, u16::MAX) => {}
        (one, last) if one == last => rule.push(is(Load::ReplyPort, &one.to_be_bytes())),
        (first, last) => rule.push(Part::Between {
            load: Load::ReplyPort,
            first,
            last,
        }),
    }
    rule
}

fn is_in(key: Vec<Load>, set: crate::nft::table::Name) -> Part {
    let not = false;
    Part::In { key, set, not }
}
