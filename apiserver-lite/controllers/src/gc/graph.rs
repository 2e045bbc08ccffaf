//! Who owns whom: of each object only its name, owners and what holds its deletion.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::ApiResource;

use crate::informer::Key;

/// Holds an owner until its dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Holds an owner until its dependents do not refer to it any more.
pub(super) const ORPHAN: &str = "orphan";

/// An object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    pub(super) resource: Arc<ApiResource>,
    pub(super) key: Key,
    pub(super) uid: Arc<str>,
    pub(super) version: Option<String>,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) finalizers: Vec<String>,
    pub(super) deleting: bool,
}

impl Object {
    pub(super) fn new(resource: &Arc<ApiResource>, meta: ObjectMeta) -> Option<Self> {
        Some(Self {
            resource: resource.clone(),
            key: Key::new(meta.namespace.unwrap_or_default(), meta.name?),
            uid: meta.uid?.into(),
            version: meta.resource_version,
            owners: meta.owner_references.unwrap_or_default(),
            finalizers: meta.finalizers.unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        })
    }

    pub(super) fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    /// Whether it is being deleted and waits for its dependents.
    pub(super) fn is_waiting(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    /// Whether there may be something to do about it.
    fn concerns(&self) -> bool {
        !self.owners.is_empty() || (self.deleting && (self.has(FOREGROUND) || self.has(ORPHAN)))
    }
}

/// [`Object::is_waiting`] of metadata.
pub(super) fn waits(meta: &ObjectMeta) -> bool {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    meta.deletion_timestamp.is_some() && finalizers.iter().any(|f| f == FOREGROUND)
}

/// All objects, by UID, and who refers to a UID as owner.
#[derive(Default)]
pub(super) struct Graph {
    objects: HashMap<Arc<str>, Object>,
    dependents: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Object> {
        let all = self.dependents.get(uid).into_iter().flatten();
        all.filter_map(|d| self.objects.get(d)).cloned().collect()
    }

    /// Objects of a kind.
    pub(super) fn of_kind(&self, resource: &ApiResource) -> BTreeSet<Arc<str>> {
        let all = self.objects.values();
        all.filter(|o| *o.resource == *resource)
            .map(|o| o.uid.clone())
            .collect()
    }

    /// How many objects of a kind a namespace has.
    pub(super) fn count(&self, group: &str, plural: &str, namespace: &str) -> usize {
        let is = |o: &&Object| {
            o.resource.plural == plural && o.resource.group == group && o.key.namespace == namespace
        };
        self.objects.values().filter(is).count()
    }

    /// Takes an object's state; gives the UIDs to look at.
    pub(super) fn apply(&mut self, new: Object) -> Vec<Arc<str>> {
        let uid = new.uid.clone();
        let old = self.objects.get(&uid).cloned();
        if old.as_ref().is_some_and(|o| {
            (&o.owners, &o.finalizers, o.deleting) == (&new.owners, &new.finalizers, new.deleting)
        }) {
            // Only its contents changed: remember the version, as deletions name it.
            self.objects.insert(uid, new);
            return Vec::new();
        }
        let mut wake = Vec::new();
        let left = |o: &&OwnerReference| !new.owners.iter().any(|n| n.uid == o.uid);
        for owner in old.iter().flat_map(|o| &o.owners).filter(left) {
            wake.extend(self.unlink(&owner.uid, &uid));
        }
        for owner in &new.owners {
            let of = self
                .dependents
                .entry(owner.uid.as_str().into())
                .or_default();
            of.insert(uid.clone());
        }
        // Its dependents go with it, and it may wait for itself already.
        if new.is_waiting() && !old.as_ref().is_some_and(Object::is_waiting) {
            wake.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        // No longer blocking: those that wait for it may go.
        wake.extend(self.waiting_owners(&new));
        if new.concerns() {
            wake.push(uid.clone());
        }
        self.objects.insert(uid, new);
        wake
    }

    /// An object is gone; gives the UIDs to look at.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<Arc<str>> {
        let Some(old) = self.objects.remove(uid) else {
            return Vec::new();
        };
        let mut wake = self.waiting_owners(&old);
        for owner in &old.owners {
            self.unlink(&owner.uid, uid);
        }
        wake.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        wake
    }

    fn waiting_owners(&self, object: &Object) -> Vec<Arc<str>> {
        let owners = object.owners.iter();
        owners
            .filter_map(|o| self.objects.get(o.uid.as_str()))
            .filter(|o| o.is_waiting())
            .map(|o| o.uid.clone())
            .collect()
    }

    /// Forgets that `uid` refers to `owner`; gives the owner if that waits.
    fn unlink(&mut self, owner: &str, uid: &str) -> Option<Arc<str>> {
        if let Some(of) = self.dependents.get_mut(owner) {
            of.remove(uid);
            if of.is_empty() {
                self.dependents.remove(owner);
            }
        }
        let there = self.objects.get(owner).filter(|o| o.is_waiting());
        there.map(|o| o.uid.clone())
    }
}
