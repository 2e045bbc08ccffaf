//! NetworkPolicies as a table of our own. Packets are judged by their connection's tuples, whichever way they go and
//! whatever was translated: the client is who began, the pod and its port are who answers. So there is no rule that lets
//! established connections pass, and a change counts for them from its transaction on.
//!
//! ```text
//! egress      address                       : jump g-ID      pods that are isolated in this direction
//! ingress     address                       : jump g-ID
//! self        address . address                              each of these pods with itself
//! s-ID        address, or address . protocol . port          pods as peers, or their ports of a name
//! b-ID        address intervals                              blocks without their exceptions
//!
//! chain forward {
//!     what belongs to another connection passes
//!     what is of none: goto untracked
//!     ct original saddr vmap @egress
//!     ct reply saddr vmap @ingress
//! }
//! chain g-ID {
//!     ct original saddr @s-ID meta l4proto tcp ct reply proto-src 80 return
//!     goto refuse
//! }
//! ```
//!
//! What goes between a pod and its node never comes by the forward hook: it is exempt, as the specification wants.

mod frame;
mod group;
mod live;
mod names;

pub use frame::judge_ipvs;
pub use live::Live;
pub use names::{EGRESS, INGRESS, ITSELF};

use std::net::IpAddr;

use super::table::{Chain, Holds, Name, Set, Table, Value, Words, Writer};
use crate::model::Family;
use crate::policy::compiled::{Compiled, Membership};
use crate::policy::diff::Delta;
use crate::policy::model::Direction;

/// The table's name, in the family `ip` and in `ip6`.
pub const TABLE: &str = "keelson-policy";

/// The whole table of a family.
pub fn table(compiled: &Compiled, family: Family) -> Table {
    let mut table = frame::frame(family);
    for (id, set) in &compiled.sets {
        table.sets.insert(names::set(id), group::set(set, family));
    }
    for (id, blocks) in &compiled.blocks {
        let set = group::intervals(blocks, family);
        table.sets.insert(names::blocks(id), set);
    }
    for (id, group) in &compiled.groups {
        let rules = group::rules(group);
        let chain = Chain { hook: None, rules };
        table.chains.insert(names::group(id), chain);
    }
    for (address, membership) in of_family(&compiled.pods, family) {
        for (set, key, value) in places(*address, membership) {
            if let Some(set) = table.sets.get_mut(&set) {
                set.elements.insert(key, value);
            }
        }
    }
    table
}

/// The forms of all sets whose elements a change may touch: a table without elements and rules of policies.
pub fn forms(delta: &Delta, family: Family) -> Table {
    let mut table = frame::frame(family);
    for (id, elements) in delta.elements_added.iter().chain(&delta.elements_removed) {
        let with_port = elements.iter().any(|e| e.port.is_some());
        let form = Set::new(group::key(with_port), Holds::Nothing);
        table.sets.insert(names::set(id), form);
    }
    table
}

fn of_family<'a, V: 'a>(
    all: impl IntoIterator<Item = (&'a IpAddr, &'a V)>,
    family: Family,
) -> impl Iterator<Item = (&'a IpAddr, &'a V)> {
    let ours = move |(address, _): &(&IpAddr, &V)| Family::of(address) == family;
    all.into_iter().filter(ours)
}

/// A pod's elements: where its connections are judged, and that it may reach itself.
fn places(address: IpAddr, membership: &Membership) -> Vec<(Name, Words, Value)> {
    let new = Writer::default;
    let mut all = vec![(
        ITSELF.into(),
        new().address(address).address(address).words(),
        Value::None,
    )];
    for direction in Direction::BOTH {
        if let Some(id) = membership.group(direction) {
            let (map, to) = (names::map(direction), names::jump(&id));
            all.push((map, new().address(address).words(), Value::Verdict(to)));
        }
    }
    all
}

#[cfg(test)]
pub(crate) mod tests;
