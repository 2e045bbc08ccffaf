//! NetworkPolicies, pods and namespaces, put in one by one; what this node enforces, and how that changed, given out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace as ApiNamespace, Pod as ApiPod};
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::compiled::Compiled;
use super::derived::{Derived, Dirty};
use super::diff::Delta;
use super::model::{Invalid, Name, Pod, Policy};
use super::parse;
use super::selector::Labels;
use super::sets::Sets;
use super::world::{Known, World};

/// Namespaces and names of what a list brought, as the watch gives them; namespaces themselves have an empty namespace.
type Names = BTreeSet<(String, String)>;

/// What is known, as seen from a node.
#[derive(Clone, Debug)]
pub struct State {
    node: Box<str>,
    world: World,
    sets: Sets,
    derived: Derived,
    dirty: Dirty,
    invalid: BTreeMap<Name, Vec<Invalid>>,
}

impl State {
    /// Nothing known yet, on this node.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            world: World::default(),
            sets: Sets::default(),
            derived: Derived::default(),
            dirty: Dirty::default(),
            invalid: BTreeMap::new(),
        }
    }

    /// Adds or replaces a NetworkPolicy. `false`: nothing that matters changed.
    pub fn set_policy(&mut self, policy: &NetworkPolicy) -> bool {
        let (policy, invalid) = parse::policy(policy);
        let name = policy.name.clone();
        self.invalid.remove(&name);
        if !invalid.is_empty() {
            self.invalid.insert(name.clone(), invalid);
        }
        self.put_policy(&name, Some(policy))
    }

    /// Removes a NetworkPolicy.
    pub fn remove_policy(&mut self, namespace: &str, name: &str) -> bool {
        let name = Name::new(namespace, name);
        self.invalid.remove(&name);
        self.put_policy(&name, None)
    }

    /// Adds or replaces a pod, of any node. `false`: nothing that matters changed.
    pub fn set_pod(&mut self, pod: &ApiPod) -> bool {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let name = Name::new(&text(&pod.metadata.namespace), &text(&pod.metadata.name));
        self.world.gone.remove(&name);
        self.put_pod(&name, parse::pod(pod, &self.node))
    }

    /// Removes a pod. One of this node that still has addresses of the network plugin's stays until these are taken
    /// back: who deletes a pod by force must not set its processes free.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) -> bool {
        let name = Name::new(namespace, name);
        if self.world.holds_addresses(&name) {
            self.world.gone.insert(name);
            return false;
        }
        self.put_pod(&name, None)
    }

    /// The addresses that the network plugin gave to a pod of this node: its status tells them only after its
    /// containers started. They count beside the status's, for a pod with this UID, as soon as the pod itself is known
    /// and until they are replaced; none: the plugin took them back. `false`: nothing changed.
    pub fn set_addresses(
        &mut self,
        namespace: &str,
        name: &str,
        uid: &str,
        addresses: &[IpAddr],
    ) -> bool {
        let name = Name::new(namespace, name);
        let own = self
            .world
            .given
            .get(&name)
            .is_some_and(|(given, _)| **given == *uid);
        if !addresses.is_empty() {
            let canonical = addresses.iter().map(IpAddr::to_canonical).collect();
            self.world
                .given
                .insert(name.clone(), (uid.into(), canonical));
        } else if own {
            self.world.given.remove(&name);
        }
        if !self.world.holds_addresses(&name) && self.world.gone.remove(&name) {
            return self.put_pod(&name, None);
        }
        let pod = self.world.pod(&name).map(|k| k.pod.clone());
        pod.is_some_and(|pod| self.put_pod(&name, Some(pod)))
    }

    /// Adds or replaces a namespace. `false`: nothing that matters changed.
    pub fn set_namespace(&mut self, namespace: &ApiNamespace) -> bool {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        self.label(name, Some(Labels::new(namespace.metadata.labels.as_ref())))
    }

    /// Removes a namespace. Its pods stay until they are removed, but no namespace selector finds them any more.
    pub fn remove_namespace(&mut self, name: &str) -> bool {
        self.label(name, None)
    }

    /// Forgets what a new list did not bring, of the kinds that were listed.
    pub fn retain(
        &mut self,
        policies: Option<&Names>,
        pods: Option<&Names>,
        namespaces: Option<&Names>,
    ) -> bool {
        let is_kept =
            |names: &Names, a: &str, b: &str| names.contains(&(a.to_owned(), b.to_owned()));
        let gone = |list: Vec<Name>, keep: Option<&Names>| -> Vec<Name> {
            let gone = |n: &Name| keep.is_some_and(|k| !is_kept(k, &n.namespace, &n.name));
            list.into_iter().filter(gone).collect()
        };
        let policies = gone(self.policies().map(|p| p.name.clone()).collect(), policies);
        let pods = gone(self.pods().map(|(name, _, _)| name).collect(), pods);
        let named = |(name, _): (&Arc<str>, _)| Name {
            namespace: "".into(),
            name: name.clone(),
        };
        let namespaces = gone(
            self.world.namespaces.iter().map(named).collect(),
            namespaces,
        );
        let mut changed = false;
        for name in &policies {
            changed |= self.remove_policy(&name.namespace, &name.name);
        }
        for name in &pods {
            changed |= self.remove_pod(&name.namespace, &name.name);
        }
        for name in &namespaces {
            changed |= self.remove_namespace(&name.name);
        }
        changed
    }

    /// Brings [`Self::compiled`] up to date and tells how it changed since the last time. The work is proportional to
    /// what changed.
    pub fn sync(&mut self) -> Delta {
        let dirty = std::mem::take(&mut self.dirty);
        self.derived.sync(&mut self.world, &mut self.sets, dirty)
    }

    /// What this node enforces, as of the last [`Self::sync`].
    pub fn compiled(&self) -> &Compiled {
        &self.derived.compiled
    }

    /// Parts of policies that mean nothing.
    pub fn invalid(&self) -> impl Iterator<Item = &Invalid> {
        self.invalid.values().flatten()
    }

    /// All policies.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.world
            .namespaces
            .values()
            .flat_map(|n| n.policies.values().map(|p| &**p))
    }

    /// All pods with addresses of their own, of all nodes: name, pod, and all their addresses.
    pub fn pods(&self) -> impl Iterator<Item = (Name, &Pod, &[IpAddr])> {
        let namespaces = self.world.namespaces.keys();
        let pods = namespaces.flat_map(|namespace| self.world.pods_of(namespace));
        pods.map(|(name, known)| (name, &known.pod, &*known.addresses))
    }

    /// The UID of a pod that is known.
    pub fn pod_uid(&self, namespace: &str, name: &str) -> Option<&str> {
        let known = self.world.namespaces.get(namespace)?.pods.get(name)?;
        Some(&known.pod.uid)
    }

    /// A namespace's labels; `None`: it is not known.
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.world.namespaces.get(name)?.labels.as_ref()
    }

    /// Whether nothing is remembered.
    #[cfg(test)]
    pub(super) fn is_bare(&self) -> bool {
        let other = !self.invalid.is_empty()
            || !self.dirty.pods.is_empty()
            || !self.dirty.policies.is_empty();
        self.world.is_bare() && self.sets.is_bare() && self.derived.is_bare() && !other
    }

    fn put_policy(&mut self, name: &Name, new: Option<Policy>) -> bool {
        let namespace = self.world.namespaces.get(&name.namespace);
        let old = namespace.and_then(|n| n.policies.get(&name.name)).cloned();
        if old.as_deref() == new.as_ref() {
            return false;
        }
        self.enter(&name.namespace);
        let new = new.map(Arc::new);
        if let Some(n) = self.world.namespaces.get_mut(&name.namespace) {
            let selects = |pod: &Arc<str>| {
                let labels = n.pods.get(pod).map(|k| &k.pod.labels);
                labels.is_some_and(|l| old.iter().chain(&new).any(|p| p.selects(l)))
            };
            for pod in n.local.iter().filter(|pod| selects(pod)) {
                let pod = Name {
                    namespace: name.namespace.clone(),
                    name: pod.clone(),
                };
                self.dirty.member(pod, &name.name);
            }
            match new {
                Some(new) => {
                    n.policies.insert(name.name.clone(), new);
                }
                None => {
                    n.policies.remove(&name.name);
                }
            }
        }
        self.dirty.policies.insert(name.clone());
        self.world.tidy(&name.namespace);
        true
    }

    fn put_pod(&mut self, name: &Name, pod: Option<Pod>) -> bool {
        let new = pod.map(|pod| self.known(name, pod));
        let old = self.world.pod(name);
        if old == new.as_ref() {
            return false;
        }
        self.enter(&name.namespace);
        // Addresses may change hands: others that say to have them are looked at too.
        let old = self.world.pod(name);
        let addresses = old.into_iter().chain(&new).flat_map(|k| &k.addresses);
        let others = addresses.flat_map(|a| self.world.claimants(*a)).cloned();
        let touched: BTreeSet<Name> = others.chain([name.clone()]).collect();
        let before = self.sets.shares(&self.world, &touched);
        let was_local = self.world.is_local(name);
        self.world.put_pod(name, new);
        let is_local = |n: &&Name| (was_local && *n == name) || self.world.is_local(n);
        for pod in touched.iter().filter(is_local) {
            self.dirty.pod(pod.clone());
        }
        let after = self.sets.shares(&self.world, &touched);
        self.sets.change(&before, &after);
        true
    }

    /// A pod with what it was given here.
    fn known(&self, name: &Name, pod: Pod) -> Known {
        let given = self
            .world
            .given
            .get(name)
            .filter(|(uid, _)| *uid == pod.uid && pod.local);
        let mut addresses = pod.addresses.clone();
        addresses.extend(given.into_iter().flat_map(|(_, a)| a));
        addresses.sort_unstable();
        addresses.dedup();
        Known { pod, addresses }
    }

    fn label(&mut self, name: &str, labels: Option<Labels>) -> bool {
        let old = self
            .world
            .namespaces
            .get(name)
            .and_then(|n| n.labels.as_ref());
        if old == labels.as_ref() {
            return false;
        }
        let name: Arc<str> = name.into();
        self.world
            .namespaces
            .entry(name.clone())
            .or_default()
            .labels = labels;
        self.sets.relabel(&mut self.world, &name);
        self.world.tidy(&name);
        true
    }

    /// Something of a namespace comes: if it is the first, sets must know the namespace.
    fn enter(&mut self, name: &Arc<str>) {
        if !self.world.namespaces.contains_key(name) {
            self.world
                .namespaces
                .insert(name.clone(), Default::default());
            self.sets.relabel(&mut self.world, name);
        }
    }
}

#[cfg(test)]
mod tests;
