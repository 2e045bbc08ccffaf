//! What must be done to come from one compiled value to another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::blocks::Blocks;
use super::compiled::{AddressSet, Compiled, Element, Group, Id, Membership, Peers, Ports};

/// A difference. As one transaction: new sets, ranges and elements, new groups, pods, then what goes, in the opposite
/// order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Sets that are new, with their contents.
    pub sets_added: BTreeMap<Id, AddressSet>,
    /// Sets that go.
    pub sets_removed: BTreeSet<Id>,
    /// What is added to sets that stay.
    pub elements_added: BTreeMap<Id, BTreeSet<Element>>,
    /// What is taken from sets that stay.
    pub elements_removed: BTreeMap<Id, BTreeSet<Element>>,
    /// Ranges that are new.
    pub blocks_added: BTreeMap<Id, Arc<Blocks>>,
    /// Ranges that go.
    pub blocks_removed: BTreeSet<Id>,
    /// Groups that are new.
    pub groups_added: BTreeMap<Id, Arc<Group>>,
    /// Groups that go.
    pub groups_removed: BTreeSet<Id>,
    /// Pods' addresses that other rules apply to than before; `None`: none do.
    pub pods: BTreeMap<IpAddr, Option<Membership>>,
}

impl Delta {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The pods whose connections may be judged otherwise than before, given what the difference leads to.
    pub fn touched(&self, want: &Compiled) -> BTreeSet<IpAddr> {
        let changed = |id: &Id| {
            self.elements_added.contains_key(id) || self.elements_removed.contains_key(id)
        };
        let uses_changed = |group: &Group| {
            group.rules.iter().any(|r| {
                matches!(&r.peers, Peers::Addresses(id) if changed(id))
                    || matches!(&r.ports, Ports::Named(id) if changed(id))
            })
        };
        let groups: BTreeSet<Id> = want
            .groups
            .iter()
            .filter(|(_, g)| uses_changed(g))
            .map(|(id, _)| *id)
            .collect();
        let is_member = |m: &Membership| {
            m.ingress
                .iter()
                .chain(&m.egress)
                .any(|id| groups.contains(id))
        };
        let members = want
            .pods
            .iter()
            .filter(|(_, m)| is_member(m))
            .map(|(address, _)| *address);
        self.pods.keys().copied().chain(members).collect()
    }
}

/// What must be done to come from what is there to what is wanted.
pub fn diff(have: &Compiled, want: &Compiled) -> Delta {
    let mut delta = Delta::default();
    for (id, set) in &want.sets {
        let Some(old) = have.sets.get(id) else {
            delta.sets_added.insert(*id, set.clone());
            continue;
        };
        let added: BTreeSet<_> = set.elements.difference(&old.elements).copied().collect();
        let removed: BTreeSet<_> = old.elements.difference(&set.elements).copied().collect();
        keep(&mut delta.elements_added, *id, added);
        keep(&mut delta.elements_removed, *id, removed);
    }
    delta.sets_removed = gone(&have.sets, &want.sets);
    delta.blocks_added = fresh(&have.blocks, &want.blocks);
    delta.blocks_removed = gone(&have.blocks, &want.blocks);
    delta.groups_added = fresh(&have.groups, &want.groups);
    delta.groups_removed = gone(&have.groups, &want.groups);
    let changed = want
        .pods
        .iter()
        .filter(|(address, m)| have.pods.get(*address) != Some(*m));
    delta.pods = changed.map(|(address, m)| (*address, Some(*m))).collect();
    delta.pods.extend(
        gone(&have.pods, &want.pods)
            .into_iter()
            .map(|address| (address, None)),
    );
    delta
}

/// Changes that are none are not told.
pub(super) fn keep(all: &mut BTreeMap<Id, BTreeSet<Element>>, id: Id, elements: BTreeSet<Element>) {
    if !elements.is_empty() {
        all.insert(id, elements);
    }
}

fn gone<K: Ord + Copy, V>(have: &BTreeMap<K, V>, want: &BTreeMap<K, V>) -> BTreeSet<K> {
    have.keys()
        .filter(|k| !want.contains_key(k))
        .copied()
        .collect()
}

fn fresh<V: Clone>(have: &BTreeMap<Id, V>, want: &BTreeMap<Id, V>) -> BTreeMap<Id, V> {
    let new = want.iter().filter(|(id, _)| !have.contains_key(id));
    new.map(|(id, v)| (*id, v.clone())).collect()
}

impl Compiled {
    /// Does what a difference says.
    pub fn apply(&mut self, delta: &Delta) {
        self.sets.retain(|id, _| !delta.sets_removed.contains(id));
        self.sets
            .extend(delta.sets_added.iter().map(|(id, s)| (*id, s.clone())));
        for (id, set) in &mut self.sets {
            for element in delta.elements_removed.get(id).into_iter().flatten() {
                set.elements.remove(element);
            }
            set.elements
                .extend(delta.elements_added.get(id).into_iter().flatten());
        }
        self.blocks
            .retain(|id, _| !delta.blocks_removed.contains(id));
        self.blocks
            .extend(delta.blocks_added.iter().map(|(id, b)| (*id, b.clone())));
        self.groups
            .retain(|id, _| !delta.groups_removed.contains(id));
        self.groups
            .extend(delta.groups_added.iter().map(|(id, g)| (*id, g.clone())));
        for (address, membership) in &delta.pods {
            match membership {
                Some(m) => {
                    self.pods.insert(*address, *m);
                }
                None => {
                    self.pods.remove(address);
                }
            }
        }
    }
}
