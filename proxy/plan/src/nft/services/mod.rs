//! Services as a table. The cost of a packet and of a change does not grow with the number of services: a front is
//! found in one map, an endpoint in another, and the chains between them are shared by all services of the same form.
//!
//! ```text
//! guards      address . protocol . port                 : goto refuse, drop, ...
//! outside     address . protocol . port                 : class                         those from outside, if they differ
//! services    address . protocol . port                 : class
//! paths       class                                     : goto address-mask-outsiders-3
//! endpoints   address . protocol . port . slot          : endpoint . port               slot = 0, 1, 2
//! affinity    client . address . protocol . port        : endpoint . port               added by rules
//! remember    address . protocol . port                 : goto remember-10800           looked at after translation
//!
//! chain address-mask-outsiders-3 {
//!     the class is taken away
//!     who does not come from a pod is marked, to be masqueraded
//!     dnat to (address . protocol . port . random of 3) in endpoints
//! }
//! ```
//!
//! Node ports have the same maps without the address.

mod classes;
mod frame;
mod guard;
mod live;
mod names;
mod path;
mod pieces;
pub(crate) mod source;

pub use guard::{Guard, Then};
pub use live::Live;
pub use names::{
    AFFINITY, AFFINITY_LOCAL, CLUSTER_IPS, HAIRPIN, Maps, NODE_PORT_NETS, PATHS, PODS,
};
pub use path::{Mask, Path, Slots, Sticky};
pub use pieces::{Piece, Shared, pieces};

use std::collections::HashSet;

use self::classes::Classes;
use super::table::{Chain, Field, Name, Rule, Table, Value, Words};
use crate::model::{Entry, Family};
use crate::options::Options;

/// The table's name, in the family `ip` and in `ip6`.
pub const TABLE: &str = "keelson-proxy";

/// The whole table of a family.
pub fn table<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    family: Family,
    options: &Options,
) -> Table {
    let mut table = frame::frame(family, options);
    let mut classes = Classes::default();
    for entry in entries {
        for piece in pieces(entry, family, options) {
            put(&mut table, &mut classes, piece, options);
        }
    }
    table
}

/// Those of the remembered clients (map, client with what it asked for, endpoint) that may not stay where they are.
pub fn stale(
    clients: Vec<(Name, Words, Words)>,
    entries: &[Entry],
    family: Family,
    options: &Options,
) -> Vec<(Name, Words, Words)> {
    if clients.is_empty() {
        return clients;
    }
    let all = entries.iter().flat_map(|e| pieces(e, family, options));
    let stays: HashSet<_> = all
        .filter_map(|piece| match piece {
            Piece::Stays(map, front, endpoint) => Some((map, front, endpoint)),
            _ => None,
        })
        .collect();
    let address = Field::Address.width(family);
    let may_stay = |(map, key, endpoint): &(Name, Words, Words)| {
        // The client's address, then the front with its address, or, for a node port, without it.
        let fronts = [key.get(address..), key.get(2 * address..)];
        let mut fronts = fronts.into_iter().flatten();
        fronts.any(|f| stays.contains(&(map.clone(), f.into(), endpoint.clone())))
    };
    clients.into_iter().filter(|c| !may_stay(c)).collect()
}

fn put(table: &mut Table, classes: &mut Classes, piece: Piece, options: &Options) {
    let (set, key, value) = match piece {
        Piece::Shared(shared, ip) => {
            let (set, key) = shared.element(ip);
            (set, key, Value::None)
        }
        Piece::Own(set, key, value) => (set, key, value),
        Piece::Class(set, key, path) => (set, key, classes.value(&path)),
        Piece::Path(path) => {
            chain(table, path.name(), || path.rules(options));
            classes.element(&path)
        }
        Piece::Stays(..) => return,
        Piece::Memory(sticky) => return chain(table, sticky.name(), || sticky.rules()),
        Piece::Guard(guard) => {
            if let (Some(name), Some(set)) = (guard.set_name(), guard.set(table.family)) {
                table.sets.insert(name, set);
            }
            return chain(table, guard.name(), || guard.rules(options));
        }
    };
    if let Some(set) = table.sets.get_mut(&set) {
        set.elements.insert(key, value);
    }
}

fn chain(table: &mut Table, name: Name, rules: impl FnOnce() -> Vec<Rule>) {
    table.chains.entry(name).or_insert_with(|| Chain {
        hook: None,
        rules: rules(),
    });
}

#[cfg(test)]
mod tests;
