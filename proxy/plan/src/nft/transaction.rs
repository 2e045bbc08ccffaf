//! What makes one table out of another, all at once: the kernel shows packets the one or the other, never a state between.

use std::collections::BTreeMap;

use super::table::{Chain, Name, Rule, Set, Table, Value, Words};
use crate::model::Family;

/// Changes to a table, carried out in the order of the fields: what others refer to is made before them and removed
/// after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The table's name.
    pub name: &'static str,
    /// Its family.
    pub family: Family,
    /// The table is removed first, with all that is in it.
    pub anew: bool,
    /// Sets to make; their elements stand in `add_elements`.
    pub add_sets: BTreeMap<Name, Set>,
    /// Chains to make; their rules stand in `rules`.
    pub add_chains: BTreeMap<Name, Chain>,
    /// Chains that get other rules than they have.
    pub rules: BTreeMap<Name, Vec<Rule>>,
    /// Elements to remove, by set.
    pub delete_elements: BTreeMap<Name, Vec<(Words, Value)>>,
    /// Elements to add, by set.
    pub add_elements: BTreeMap<Name, Vec<(Words, Value)>>,
    /// Chains to remove.
    pub delete_chains: Vec<Name>,
    /// Sets to remove.
    pub delete_sets: Vec<Name>,
    /// Clients of these fronts (map, front, endpoint) stay with the endpoint no longer.
    pub forget: Vec<(Name, Words, Words)>,
}

impl Transaction {
    /// One that changes nothing.
    pub fn new(name: &'static str, family: Family) -> Self {
        Self {
            name,
            family,
            anew: false,
            add_sets: BTreeMap::new(),
            add_chains: BTreeMap::new(),
            rules: BTreeMap::new(),
            delete_elements: BTreeMap::new(),
            add_elements: BTreeMap::new(),
            delete_chains: Vec::new(),
            delete_sets: Vec::new(),
            forget: Vec::new(),
        }
    }

    /// What makes `want` out of `have`. A table that has a set or a base chain of another form is made anew: that
    /// happens when another version of this program made it.
    pub fn between(have: Option<&Table>, want: &Table) -> Self {
        let mut all = Self::new(want.name, want.family);
        let empty = Table::new(want.name, want.family);
        let have = match have {
            Some(have) if changeable(have, want) => have,
            other => {
                all.anew = other.is_some();
                &empty
            }
        };
        all.sets(have, want);
        all.chains(have, want);
        all
    }

    fn sets(&mut self, have: &Table, want: &Table) {
        let none = BTreeMap::new();
        for (name, set) in &want.sets {
            let there = have.sets.get(name).map_or(&none, |s| &s.elements);
            if !have.sets.contains_key(name) {
                self.add_sets.insert(name.clone(), form(set));
            }
            if set.dynamic.is_none() {
                self.elements(name, there, &set.elements);
            }
        }
        let gone = have.sets.keys().filter(|n| !want.sets.contains_key(*n));
        self.delete_sets.extend(gone.cloned());
    }

    fn elements(
        &mut self,
        set: &Name,
        have: &BTreeMap<Words, Value>,
        want: &BTreeMap<Words, Value>,
    ) {
        for (key, value) in have.iter().filter(|(k, v)| want.get(*k) != Some(*v)) {
            self.delete_element(set.clone(), key.clone(), value.clone());
        }
        for (key, value) in want.iter().filter(|(k, v)| have.get(*k) != Some(*v)) {
            self.add_element(set.clone(), key.clone(), value.clone());
        }
    }

    fn chains(&mut self, have: &Table, want: &Table) {
        for (name, chain) in &want.chains {
            match have.chains.get(name) {
                None => self.add_chain(name.clone(), chain.clone()),
                Some(there) if there.rules != chain.rules => {
                    self.rules.insert(name.clone(), chain.rules.clone());
                }
                Some(_) => {}
            }
        }
        let gone = have.chains.keys().filter(|n| !want.chains.contains_key(*n));
        self.delete_chains.extend(gone.cloned());
    }

    /// Makes a set with its elements.
    pub fn add_set(&mut self, name: Name, set: Set) {
        self.add_sets.insert(name.clone(), form(&set));
        for (key, value) in set.elements {
            self.add_element(name.clone(), key, value);
        }
    }

    /// Makes a chain with its rules.
    pub fn add_chain(&mut self, name: Name, chain: Chain) {
        self.rules.insert(name.clone(), chain.rules);
        let rules = Vec::new();
        self.add_chains.insert(name, Chain { rules, ..chain });
    }

    /// Removes a chain.
    pub fn delete_chain(&mut self, name: Name) {
        self.delete_chains.push(name);
    }

    /// Adds an element.
    pub fn add_element(&mut self, set: Name, key: Words, value: Value) {
        self.add_elements.entry(set).or_default().push((key, value));
    }

    /// Removes an element.
    pub fn delete_element(&mut self, set: Name, key: Words, value: Value) {
        let elements = self.delete_elements.entry(set).or_default();
        elements.push((key, value));
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::new(self.name, self.family)
    }

    /// Counts: elements added and removed, chains written.
    pub fn size(&self) -> (usize, usize, usize) {
        let count = |of: &BTreeMap<Name, Vec<(Words, Value)>>| of.values().map(Vec::len).sum();
        (
            count(&self.add_elements),
            count(&self.delete_elements),
            self.rules.len(),
        )
    }

    /// Carries it out on a value: the kernel for tests of plans, and what is remembered of the real one.
    /// Refuses what the kernel refuses: it names what is missing or there already.
    pub fn apply(&self, table: Option<Table>) -> Result<Table, String> {
        let new = || Table::new(self.name, self.family);
        let mut table = table.filter(|_| !self.anew).unwrap_or_else(new);
        let no_set = |name: &Name| format!("no set {name}");
        for (name, set) in &self.add_sets {
            if table.sets.insert(name.clone(), set.clone()).is_some() {
                return Err(format!("set {name} exists"));
            }
        }
        for (name, chain) in &self.add_chains {
            if table.chains.insert(name.clone(), chain.clone()).is_some() {
                return Err(format!("chain {name} exists"));
            }
        }
        for (name, rules) in &self.rules {
            let chain = table
                .chains
                .get_mut(name)
                .ok_or(format!("no chain {name}"))?;
            chain.rules.clone_from(rules);
        }
        for (name, elements) in &self.delete_elements {
            let set = table.sets.get_mut(name).ok_or_else(|| no_set(name))?;
            for (key, value) in elements {
                if set.elements.remove(key).as_ref() != Some(value) {
                    return Err(format!("set {name} has no element {key:?}: {value:?}"));
                }
            }
        }
        for (name, elements) in &self.add_elements {
            let set = table.sets.get_mut(name).ok_or_else(|| no_set(name))?;
            for (key, value) in elements {
                if set.elements.insert(key.clone(), value.clone()).is_some() {
                    return Err(format!("set {name} has element {key:?} already"));
                }
            }
        }
        for name in &self.delete_chains {
            table
                .chains
                .remove(name)
                .ok_or(format!("no chain {name}"))?;
        }
        for name in &self.delete_sets {
            table.sets.remove(name).ok_or_else(|| no_set(name))?;
        }
        Ok(table)
    }
}

/// A set without its elements.
fn form(set: &Set) -> Set {
    Set {
        elements: BTreeMap::new(),
        key: set.key.clone(),
        holds: set.holds.clone(),
        ..*set
    }
}

fn changeable(have: &Table, want: &Table) -> bool {
    let sets = want.sets.iter().all(|(name, set)| {
        let there = have.sets.get(name);
        there.is_none_or(|h| h.same_form(set))
    });
    let chains = want.chains.iter().all(|(name, chain)| {
        let there = have.chains.get(name);
        there.is_none_or(|h| h.hook == chain.hook)
    });
    sets && chains
}
