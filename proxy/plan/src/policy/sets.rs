//! Sets of pods that are in use: one for each distinct selection, however many policies make it, kept up to date
//! element by element.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::compiled::{AddressSet, Compiled, Element, Id, SetKey};
use super::diff::{Delta, keep};
use super::model::{Name, Scope};
use super::world::{World, selects_namespace};

/// The sets in use, and how they changed since they were last given out.
#[derive(Clone, Debug, Default)]
pub(super) struct Sets {
    entries: BTreeMap<Id, Entry>,
    /// `true`: added, `false`: taken out.
    changes: BTreeMap<Id, BTreeMap<Element, bool>>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Arc<SetKey>,
    /// How many policies' directions use it.
    users: usize,
    /// Given out before: only changes are to be told.
    built: bool,
}

impl Sets {
    #[cfg(test)]
    pub(super) fn is_bare(&self) -> bool {
        self.entries.is_empty() && self.changes.is_empty()
    }

    /// One more uses a set.
    pub(super) fn take(&mut self, world: &mut World, id: Id, key: &Arc<SetKey>) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.users += 1;
            return;
        }
        let entry = Entry {
            key: key.clone(),
            users: 1,
            built: false,
        };
        self.entries.insert(id, entry);
        for namespace in world.in_scope(&key.scope) {
            if let Some(n) = world.namespaces.get_mut(&namespace) {
                n.sets.insert(id);
            }
        }
    }

    /// One less uses a set. It is there until changes are given out next.
    pub(super) fn release(&mut self, id: Id) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.users = entry.users.saturating_sub(1);
        }
    }

    /// What pods are in sets, of those that were given out.
    pub(super) fn shares<'a>(
        &self,
        world: &World,
        pods: impl IntoIterator<Item = &'a Name>,
    ) -> BTreeSet<(Id, Element)> {
        let mut shares = BTreeSet::new();
        for name in pods {
            let Some(known) = world.pod(name) else {
                continue;
            };
            let sets = world.namespaces.get(&name.namespace).map(|n| &n.sets);
            for id in sets.into_iter().flatten() {
                if let Some(entry) = self.entries.get(id).filter(|e| e.built) {
                    shares.extend(
                        world
                            .elements(name, known, &entry.key)
                            .into_iter()
                            .map(|e| (*id, e)),
                    );
                }
            }
        }
        shares
    }

    /// What was in sets before is now what is in them.
    pub(super) fn change(
        &mut self,
        before: &BTreeSet<(Id, Element)>,
        after: &BTreeSet<(Id, Element)>,
    ) {
        before
            .difference(after)
            .for_each(|(id, e)| self.put(*id, *e, false));
        after
            .difference(before)
            .for_each(|(id, e)| self.put(*id, *e, true));
    }

    fn put(&mut self, id: Id, element: Element, is_in: bool) {
        let changes = self.changes.entry(id).or_default();
        // There and back again is no change.
        if changes.get(&element) == Some(&!is_in) {
            changes.remove(&element);
        } else {
            changes.insert(element, is_in);
        }
    }

    /// A namespace came, or its labels changed: sets that look into it now get its pods, others lose them.
    pub(super) fn relabel(&mut self, world: &mut World, namespace: &Arc<str>) {
        let Some(n) = world.namespaces.get_mut(namespace) else {
            return;
        };
        let mut turned = Vec::new();
        for (id, entry) in &self.entries {
            let is_in = match &entry.key.scope {
                Scope::One(one) => one == namespace,
                Scope::Matching(selector) => selects_namespace(selector, n.labels.as_ref()),
            };
            let differs = if is_in {
                n.sets.insert(*id)
            } else {
                n.sets.remove(id)
            };
            if differs && entry.built {
                turned.push((*id, entry.key.clone(), is_in));
            }
        }
        for (id, key, is_in) in turned {
            for (name, known) in world.pods_of(namespace) {
                for element in world.elements(&name, known, &key) {
                    self.put(id, element, is_in);
                }
            }
        }
    }

    /// Brings compiled sets up to date, and tells how.
    pub(super) fn sync(&mut self, world: &mut World, compiled: &mut Compiled, delta: &mut Delta) {
        self.sweep(world, compiled, delta);
        for (id, changes) in std::mem::take(&mut self.changes) {
            let Some(set) = compiled.sets.get_mut(&id) else {
                continue;
            };
            let (added, removed): (Vec<_>, Vec<_>) =
                changes.into_iter().partition(|(_, is_in)| *is_in);
            let added: BTreeSet<Element> = added.into_iter().map(|(e, _)| e).collect();
            let removed: BTreeSet<Element> = removed.into_iter().map(|(e, _)| e).collect();
            set.elements.extend(&added);
            for element in &removed {
                set.elements.remove(element);
            }
            keep(&mut delta.elements_added, id, added);
            keep(&mut delta.elements_removed, id, removed);
        }
        for (id, entry) in self.entries.iter_mut().filter(|(_, e)| !e.built) {
            entry.built = true;
            let set = AddressSet {
                key: entry.key.clone(),
                elements: world.build(*id, &entry.key),
            };
            compiled.sets.insert(*id, set.clone());
            delta.sets_added.insert(*id, set);
        }
    }

    /// Forgets sets that nobody uses.
    fn sweep(&mut self, world: &mut World, compiled: &mut Compiled, delta: &mut Delta) {
        let unused: Vec<Id> = self
            .entries
            .iter()
            .filter(|(_, e)| e.users == 0)
            .map(|(id, _)| *id)
            .collect();
        for id in unused {
            let Some(entry) = self.entries.remove(&id) else {
                continue;
            };
            for namespace in world.in_scope(&entry.key.scope) {
                if let Some(n) = world.namespaces.get_mut(&namespace) {
                    n.sets.remove(&id);
                }
            }
            if entry.built {
                compiled.sets.remove(&id);
                delta.sets_removed.insert(id);
            }
        }
    }
}
