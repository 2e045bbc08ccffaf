//! The table as it changes: work is proportional to the change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{TABLE, group, names, of_family, places};
use crate::model::Family;
use crate::nft::table::{Chain, Value};
use crate::nft::transaction::Transaction;
use crate::policy::compiled::{Compiled, Element, Id, Membership};
use crate::policy::diff::Delta;

/// What is to be known of a table to change it: which groups its pods go to.
#[derive(Clone, Debug)]
pub struct Live {
    family: Family,
    pods: BTreeMap<IpAddr, Membership>,
}

impl Live {
    /// No pod is restricted yet.
    pub fn new(family: Family) -> Self {
        Self {
            family,
            pods: BTreeMap::new(),
        }
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Begins anew with all that is there.
    pub fn reset(&mut self, compiled: &Compiled) {
        let pods = of_family(&compiled.pods, self.family);
        self.pods = pods.map(|(address, m)| (*address, *m)).collect();
    }

    /// What the changes mean for the table.
    pub fn update(&mut self, delta: &Delta) -> Transaction {
        let mut all = Transaction::new(TABLE, self.family);
        for (id, set) in &delta.sets_added {
            all.add_set(names::set(id), group::set(set, self.family));
        }
        for (id, blocks) in &delta.blocks_added {
            all.add_set(names::blocks(id), group::intervals(blocks, self.family));
        }
        for (id, added) in &delta.groups_added {
            let rules = group::rules(added);
            all.add_chain(names::group(id), Chain { hook: None, rules });
        }
        let (added, removed) = (&delta.elements_added, &delta.elements_removed);
        self.elements(added, |set, key| all.add_element(set, key, Value::None));
        self.elements(removed, |set, key| {
            all.delete_element(set, key, Value::None)
        });
        for (address, membership) in of_family(&delta.pods, self.family) {
            self.pod(&mut all, *address, *membership);
        }
        all.delete_chains = delta.groups_removed.iter().map(names::group).collect();
        let sets = delta.sets_removed.iter().map(names::set);
        let blocks = delta.blocks_removed.iter().map(names::blocks);
        all.delete_sets = sets.chain(blocks).collect();
        all
    }

    fn elements(
        &self,
        all: &BTreeMap<Id, BTreeSet<Element>>,
        mut put: impl FnMut(crate::nft::table::Name, crate::nft::table::Words),
    ) {
        for (id, elements) in all {
            for element in elements.iter().filter(|e| group::is_of(e, self.family)) {
                put(names::set(id), group::element(element));
            }
        }
    }

    /// A pod's connections are judged otherwise than before.
    fn pod(&mut self, all: &mut Transaction, address: IpAddr, new: Option<Membership>) {
        let old = match new {
            Some(new) => self.pods.insert(address, new),
            None => self.pods.remove(&address),
        };
        let of = |m: Option<Membership>| m.map(|m| places(address, &m)).unwrap_or_default();
        let (before, after) = (of(old), of(new));
        for (set, key, value) in before.iter().filter(|p| !after.contains(p)) {
            all.delete_element(set.clone(), key.clone(), value.clone());
        }
        for (set, key, value) in after.into_iter().filter(|p| !before.contains(p)) {
            all.add_element(set, key, value);
        }
    }
}
