//! Host ports in nftables: elements of maps that all containers share, so that a packet and a change cost the same with
//! any number of them. A table for each address family:
//!
//! ```text
//! map ports-at    { address . protocol . port          : container . port }
//! map ports       {           protocol . port          : container . port }
//! map marks-at    { source . address . protocol . port : jump mark-13 }
//! map marks       { source .           protocol . port : jump mark-13 }
//! chain hostports { mark by marks-at, translate by ports-at; to an address of the node's: mark by marks, translate by ports }
//! chain mark-13   { set bit 13 }         chain masquerade-13 (where packets leave) { with bit 13: masquerade }
//! ```

use super::{Forward, Mark, Wanted};
use crate::nft::expr::{self, Load};
use crate::nft::wire::Attributes;
use crate::nft::{
    Batch, Element, Family, Field, Holds, Map, OUTPUT, POSTROUTING, PREROUTING, Table, Value,
    octets, words,
};

/// The table's name.
pub const TABLE: &str = "keelson-hostports";

/// A family's table.
pub fn table(family: Family) -> Table {
    Table::of(family, TABLE)
}

const HOSTPORTS: &str = "hostports";
const CONTAINER: Holds = Holds::Fields(&[Field::Address, Field::Port]);

const PORTS_AT: Map = Map {
    name: "ports-at",
    key: &[Field::Address, Field::Protocol, Field::Port],
    holds: CONTAINER,
    ranges: false,
};
const PORTS: Map = Map {
    name: "ports",
    key: &[Field::Protocol, Field::Port],
    holds: CONTAINER,
    ranges: false,
};
const MARKS_AT: Map = Map {
    name: "marks-at",
    key: &[Field::Address, Field::Address, Field::Protocol, Field::Port],
    holds: Holds::Verdicts,
    ranges: true,
};
const MARKS: Map = Map {
    name: "marks",
    key: &[Field::Address, Field::Protocol, Field::Port],
    holds: Holds::Verdicts,
    ranges: true,
};

/// All maps.
pub const MAPS: [Map; 4] = [PORTS_AT, PORTS, MARKS_AT, MARKS];

/// Chains and their rules.
type Chains = Vec<(String, Vec<Vec<Attributes>>)>;

/// An element and the map it is of.
pub type Place = (&'static str, Element);

/// The elements that an attachment is to have.
pub fn elements(wanted: &Wanted, owner: &str) -> Vec<Place> {
    let each = wanted.forwards.iter();
    each.flat_map(|forward| {
        let (ports, marks) = match forward.host {
            Some(_) => (PORTS_AT.name, MARKS_AT.name),
            None => (PORTS.name, MARKS.name),
        };
        let key = front(forward);
        let port = forward.to.1.to_be_bytes();
        let to = [octets(forward.to.0), words(&port)].concat();
        let element = |key, last, value| Element {
            key,
            last,
            value,
            comment: owner.to_owned(),
        };
        let marked = sources(wanted).map(|(first, last, chain)| {
            let (from, until) = ([first, key.clone()].concat(), [last, key.clone()].concat());
            (marks, element(from, Some(until), Value::Jump(chain)))
        });
        let marked: Vec<Place> = marked.collect();
        let translated = (ports, element(key.clone(), None, Value::Fields(to)));
        [translated].into_iter().chain(marked)
    })
    .collect()
}

fn sources(wanted: &Wanted) -> impl Iterator<Item = (Vec<u8>, Vec<u8>, String)> {
    let chain = match &wanted.mark {
        Mark::Bit(bit) => Some(mark_chain(*bit)),
        // Such a configuration is for iptables.
        Mark::Chain(_) => None,
    };
    wanted.sources.iter().filter_map(move |net| {
        let chain = chain.clone()?;
        Some((octets(net.network()), octets(net.broadcast()), chain))
    })
}

/// Where a forward's packets come to, as a key.
fn front(forward: &Forward) -> Vec<u8> {
    let host = forward.host.map(octets).unwrap_or_default();
    let protocol = words(&[forward.protocol.number()]);
    [host, protocol, words(&forward.port.to_be_bytes())].concat()
}

/// Elements for the same packets as others, whosever: only one can be.
pub fn same_front(family: Family, have: Vec<Place>, want: &[Place]) -> Vec<Place> {
    let source = family.width() as usize;
    // What of a key follows the source.
    let front = |(_, element): &Place| -> Vec<u8> {
        let skip = if element.last.is_some() { source } else { 0 };
        element.key.get(skip..).unwrap_or_default().to_vec()
    };
    let wanted: Vec<Vec<u8>> = want.iter().map(front).collect();
    have.into_iter()
        .filter(|place| wanted.contains(&front(place)))
        .collect()
}

fn mark_chain(bit: u8) -> String {
    format!("mark-{bit}")
}

fn masquerade_chain(bit: u8) -> String {
    format!("masquerade-{bit}")
}

/// What must be there before elements are: the batch fails where it is.
pub fn base(family: Family) -> Batch {
    let mut batch = Batch::new(table(family));
    batch.table();
    // The first that says whether all of it is there.
    batch.chain(HOSTPORTS, None, true);
    // Services are translated at the usual priority, and a pod's port takes nothing from them (CVE-2019-9946).
    batch.chain("prerouting", Some(PREROUTING.behind()), false);
    batch.chain("output", Some(OUTPUT.behind()), false);
    for (map, id) in MAPS.iter().zip(1..) {
        batch.map(map, id);
    }
    rules(&mut batch, &base_rules(family));
    batch
}

/// What a bit of the mark needs: the batch fails where it is there.
pub fn masquerading(family: Family, bit: u8) -> Batch {
    let mut batch = Batch::new(table(family));
    batch.chain(&mark_chain(bit), None, true);
    batch.chain(&masquerade_chain(bit), Some(POSTROUTING), false);
    rules(&mut batch, &masquerading_rules(bit));
    batch
}

fn rules(batch: &mut Batch, chains: &Chains) {
    for (chain, rules) in chains {
        for rule in rules {
            batch.rule(chain, rule);
        }
    }
}

/// `RTN_LOCAL`: an address of this machine's.
const LOCAL: u32 = 2;

fn base_rules(family: Family) -> Chains {
    let front = [Load::Destination(family), Load::Protocol, Load::Port];
    let with = |mut key: Vec<Attributes>, then: &[Attributes]| {
        key.extend_from_slice(then);
        key
    };
    let mark = |map: &Map, key: &[Load]| {
        let key = [&[Load::Source(family)], key].concat();
        with(expr::load(&key), &[expr::decide_by(map.name)])
    };
    let translate =
        |map: &Map, key: &[Load]| with(expr::load(key), &expr::translate_by(family, map.name));
    let elsewhere = [expr::compare(&LOCAL.to_ne_bytes(), true), expr::leave()];
    let mut hostports = vec![
        mark(&MARKS_AT, &front),
        translate(&PORTS_AT, &front),
        with(expr::load(&[Load::DestinationType]), &elsewhere),
    ];
    if family == Family::V6 {
        // No answer comes back to ::1 from another link; left alone it is refused at once.
        let loopback = octets(std::net::Ipv6Addr::LOCALHOST.into());
        let leave = [expr::compare(&loopback, false), expr::leave()];
        hostports.push(with(expr::load(&[Load::Destination(family)]), &leave));
    }
    hostports.extend([mark(&MARKS, &front[1..]), translate(&PORTS, &front[1..])]);
    let enter = || vec![vec![expr::jump(HOSTPORTS)]];
    vec![
        (HOSTPORTS.to_owned(), hostports),
        ("prerouting".to_owned(), enter()),
        ("output".to_owned(), enter()),
    ]
}

fn masquerading_rules(bit: u8) -> Chains {
    let mask = 1 << bit;
    let mut leaving = expr::marked(mask);
    leaving.push(expr::masquerade());
    vec![
        (mark_chain(bit), vec![expr::set_mark(mask)]),
        (masquerade_chain(bit), vec![leaving]),
    ]
}

/// What is not there of what an attachment is to have: `rules` are the chains of the rules that are.
pub fn missing(wanted: &Wanted, owner: &str, rules: &[String], have: &[Place]) -> Option<String> {
    let bit = match wanted.mark {
        Mark::Bit(bit) if !wanted.sources.is_empty() => Some(bit),
        _ => None,
    };
    let needed = base_rules(wanted.family).into_iter();
    let mut needed = needed.chain(bit.map(masquerading_rules).into_iter().flatten());
    let short = needed.find(|(chain, wanted)| {
        let count = rules.iter().filter(|r| *r == chain).count();
        count < wanted.len()
    });
    if let Some((chain, _)) = short {
        return Some(format!("rules of chain {chain} of table {TABLE} are gone"));
    }
    let elements = elements(wanted, owner);
    let (map, _) = elements.iter().find(|e| !have.contains(e))?;
    Some(format!("an element of map {map} of table {TABLE} is gone"))
}
