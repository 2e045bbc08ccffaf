//! What the API and the network plugin said: namespaces, their pods and policies, and who has which address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::compiled::{Element, Id, SetKey};
use super::model::{Name, Pod, Policy, Scope};
use super::selector::{Labels, Selector};

/// All that is known, with the indices that find it.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Addresses that the network plugin gave to pods of this node, by the pod's name, with its UID.
    pub(super) given: BTreeMap<Name, (Box<str>, Vec<IpAddr>)>,
    /// Pods of this node that the API has no more, but the network plugin has not taken their addresses back.
    pub(super) gone: BTreeSet<Name>,
    /// Who says to have an address: nearly always one.
    claims: BTreeMap<IpAddr, Vec<Name>>,
    /// Labels that pods have, each once.
    labels: BTreeSet<Arc<Labels>>,
}

/// A namespace with what is in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespace {
    /// `None`: the namespace itself was not seen yet.
    pub(super) labels: Option<Labels>,
    pub(super) pods: BTreeMap<Arc<str>, Known>,
    /// The pods of this node.
    pub(super) local: BTreeSet<Arc<str>>,
    pub(super) policies: BTreeMap<Arc<str>, Arc<Policy>>,
    /// The sets of pods in whose scope the namespace is.
    pub(super) sets: BTreeSet<Id>,
}

/// A pod and all its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) pod: Pod,
    /// Those of its status and those that it was given here.
    pub(super) addresses: Vec<IpAddr>,
}

impl Namespace {
    fn is_empty(&self) -> bool {
        self.labels.is_none() && self.pods.is_empty() && self.policies.is_empty()
    }
}

/// Whether a selector matches a namespace. Of one that was not seen yet nothing is known but that it is there.
pub(super) fn selects_namespace(selector: &Selector, labels: Option<&Labels>) -> bool {
    selector.is_everything() || labels.is_some_and(|l| selector.matches(l))
}

impl World {
    #[cfg(test)]
    pub(super) fn is_bare(&self) -> bool {
        let given = !self.given.is_empty() || !self.gone.is_empty();
        self.namespaces.is_empty() && self.claims.is_empty() && self.labels.is_empty() && !given
    }

    pub(super) fn pod(&self, name: &Name) -> Option<&Known> {
        self.namespaces.get(&name.namespace)?.pods.get(&name.name)
    }

    /// Whether a pod is of this node.
    pub(super) fn is_local(&self, name: &Name) -> bool {
        self.pod(name).is_some_and(|k| k.pod.local)
    }

    /// Whether a pod has addresses of the network plugin's.
    pub(super) fn holds_addresses(&self, name: &Name) -> bool {
        let given = self.given.get(name).zip(self.pod(name));
        given.is_some_and(|((uid, _), known)| known.pod.local && known.pod.uid == *uid)
    }

    /// Adds, replaces or removes a pod. Its labels are shared with others'.
    pub(super) fn put_pod(&mut self, name: &Name, pod: Option<Known>) {
        let namespace = self.namespaces.entry(name.namespace.clone()).or_default();
        let old = match pod {
            Some(mut new) => {
                if let Some(same) = self.labels.get(&new.pod.labels) {
                    new.pod.labels = same.clone();
                } else {
                    self.labels.insert(new.pod.labels.clone());
                }
                match new.pod.local {
                    true => namespace.local.insert(name.name.clone()),
                    false => namespace.local.remove(&name.name),
                };
                for address in &new.addresses {
                    let claims = self.claims.entry(*address).or_default();
                    if !claims.contains(name) {
                        claims.push(name.clone());
                    }
                }
                let kept = new.addresses.clone();
                let old = namespace.pods.insert(name.name.clone(), new);
                old.map(|o| {
                    (
                        o.pod.labels,
                        o.addresses
                            .into_iter()
                            .filter(|a| !kept.contains(a))
                            .collect(),
                    )
                })
            }
            None => {
                namespace.local.remove(&name.name);
                namespace
                    .pods
                    .remove(&name.name)
                    .map(|o| (o.pod.labels, o.addresses))
            }
        };
        if let Some((labels, addresses)) = old {
            self.unclaim(name, addresses);
            self.unshare(labels);
        }
        self.tidy(&name.namespace);
    }

    fn unclaim(&mut self, name: &Name, addresses: Vec<IpAddr>) {
        for address in addresses {
            if let Some(claims) = self.claims.get_mut(&address) {
                claims.retain(|n| n != name);
                if claims.is_empty() {
                    self.claims.remove(&address);
                }
            }
        }
    }

    /// Labels that no pod has any more are forgotten: two hold them, the pool and this call.
    fn unshare(&mut self, labels: Arc<Labels>) {
        if Arc::strong_count(&labels) == 2 {
            self.labels.remove(&labels);
        }
    }

    /// Forgets a namespace of which nothing is known any more.
    pub(super) fn tidy(&mut self, namespace: &str) {
        if self
            .namespaces
            .get(namespace)
            .is_some_and(Namespace::is_empty)
        {
            self.namespaces.remove(namespace);
        }
    }

    /// Who says to have an address.
    pub(super) fn claimants(&self, address: IpAddr) -> &[Name] {
        self.claims
            .get(&address)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Whose an address is. While one pod's end and another's start are told in the wrong order two say to have it: it
    /// is that one's which isn't being deleted, then the younger one's.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&Name> {
        match self.claimants(address) {
            [name] => Some(name),
            several => several.iter().max_by_key(|name| {
                let pod = self.pod(name).map(|k| &k.pod);
                (pod.map(|p| (!p.ending, p.created)), *name)
            }),
        }
    }

    /// What a pod adds to a set, if it is selected.
    pub(super) fn elements(&self, name: &Name, known: &Known, key: &SetKey) -> Vec<Element> {
        if !key.pods.matches(&known.pod.labels) {
            return Vec::new();
        }
        let addresses = known
            .addresses
            .iter()
            .filter(|a| self.owner(**a) == Some(name));
        match &key.port {
            None => addresses
                .map(|address| Element {
                    address: *address,
                    port: None,
                })
                .collect(),
            Some(port) => {
                let numbers = || known.pod.ports.iter().filter(|p| p.name == *port);
                let at = |address| {
                    numbers().map(move |p| Element {
                        address,
                        port: Some((p.name.protocol, p.port)),
                    })
                };
                addresses.flat_map(|a| at(*a)).collect()
            }
        }
    }

    /// The namespaces in a scope, as far as they are known.
    pub(super) fn in_scope(&self, scope: &Scope) -> Vec<Arc<str>> {
        match scope {
            Scope::One(namespace) => vec![namespace.clone()],
            Scope::Matching(selector) => {
                let all = self.namespaces.iter();
                all.filter(|(_, n)| selects_namespace(selector, n.labels.as_ref()))
                    .map(|(name, _)| name.clone())
                    .collect()
            }
        }
    }

    /// The pods of a namespace.
    pub(super) fn pods_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = (Name, &Known)> {
        let pods = self
            .namespaces
            .get(namespace)
            .into_iter()
            .flat_map(|n| &n.pods);
        pods.map(|(pod, known)| {
            let name = Name {
                namespace: namespace.clone(),
                name: pod.clone(),
            };
            (name, known)
        })
    }

    /// All of a set.
    pub(super) fn build(&self, id: Id, key: &SetKey) -> BTreeSet<Element> {
        let namespaces = self.namespaces.iter().filter(|(_, n)| n.sets.contains(&id));
        let pods = namespaces.flat_map(|(namespace, _)| self.pods_of(namespace));
        pods.flat_map(|(name, known)| self.elements(&name, known, key))
            .collect()
    }
}
