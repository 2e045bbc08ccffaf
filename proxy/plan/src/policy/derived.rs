//! From what is known to what is enforced: which policies apply to this node's pods, what these need, and which group
//! of rules each address goes to. Only what changed is looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::compiled::{Compiled, Group, Id, Membership};
use super::diff::Delta;
use super::model::{Direction, Name, Policy};
use super::part::Part;
use super::sets::Sets;
use super::world::World;

/// What follows from the world as it was at the last [`Derived::sync`].
#[derive(Clone, Debug, Default)]
pub(super) struct Derived {
    pub(super) compiled: Compiled,
    /// This node's pods that policies apply to, with these policies' names in order, and with their addresses.
    pods: BTreeMap<Name, (Vec<Arc<str>>, Vec<IpAddr>)>,
    /// How many of this node's pods a policy applies to.
    applied: BTreeMap<Name, usize>,
    /// Policies that apply to a pod of this node.
    active: BTreeMap<Name, Active>,
    /// How many memberships are in a group.
    groups: BTreeMap<Id, usize>,
    /// How many policies' directions name ranges.
    blocks: BTreeMap<Id, usize>,
}

#[derive(Clone, Debug)]
struct Active {
    policy: Arc<Policy>,
    egress: Option<Part>,
    ingress: Option<Part>,
}

impl Active {
    fn part(&self, direction: Direction) -> Option<&Part> {
        match direction {
            Direction::Egress => self.egress.as_ref(),
            Direction::Ingress => self.ingress.as_ref(),
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.egress.iter().chain(&self.ingress)
    }
}

/// What changed since the last time.
#[derive(Clone, Debug, Default)]
pub(super) struct Dirty {
    /// Pods, and which policies may now apply to them or not.
    pub(super) pods: BTreeMap<Name, Ask>,
    /// Policies that are new, others, or gone.
    pub(super) policies: BTreeSet<Name>,
}

/// Which policies of a pod's namespace have to be asked whether they apply to it.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// All: the pod is another.
    All,
    /// Those with these names: they are others.
    These(BTreeSet<Arc<str>>),
}

impl Dirty {
    /// A pod is new, another, or gone.
    pub(super) fn pod(&mut self, pod: Name) {
        self.pods.insert(pod, Ask::All);
    }

    /// A policy may now apply to a pod of its namespace, or not any more.
    pub(super) fn member(&mut self, pod: Name, policy: &Arc<str>) {
        let none = || Ask::These(BTreeSet::new());
        if let Ask::These(policies) = self.pods.entry(pod).or_insert_with(none) {
            policies.insert(policy.clone());
        }
    }
}

/// Groups of a pod, for egress and for ingress.
type Groups = [Option<(Id, Arc<Group>)>; 2];

impl Derived {
    #[cfg(test)]
    pub(super) fn is_bare(&self) -> bool {
        let users = self.applied.is_empty() && self.groups.is_empty() && self.blocks.is_empty();
        self.compiled == Compiled::default()
            && self.pods.is_empty()
            && self.active.is_empty()
            && users
    }

    /// Brings everything up to date and tells what that changed.
    pub(super) fn sync(&mut self, world: &mut World, sets: &mut Sets, mut dirty: Dirty) -> Delta {
        let mut delta = Delta::default();
        let addresses = self.select(world, &mut dirty);
        for name in &dirty.policies {
            self.activate(world, sets, &mut delta, name);
        }
        self.assign(world, &mut delta, addresses);
        sets.sync(world, &mut self.compiled, &mut delta);
        settle(
            &mut self.blocks,
            &mut self.compiled.blocks,
            &mut delta.blocks_removed,
        );
        settle(
            &mut self.groups,
            &mut self.compiled.groups,
            &mut delta.groups_removed,
        );
        delta
    }

    /// Finds the policies of changed pods. Gives all addresses that these pods have or had.
    fn select(&mut self, world: &World, dirty: &mut Dirty) -> BTreeSet<IpAddr> {
        let mut addresses = BTreeSet::new();
        for (name, ask) in &dirty.pods {
            let (mut policies, before) = self.pods.remove(name).unwrap_or_default();
            let (come, gone) = ask_policies(world, name, ask, &mut policies);
            let now = world.pod(name).filter(|_| !policies.is_empty());
            let now = now.map(|k| k.addresses.clone()).unwrap_or_default();
            addresses.extend(now.iter().chain(&before));
            for policy in &come {
                *self.applied.entry(policy.clone()).or_default() += 1;
            }
            for policy in &gone {
                less(&mut self.applied, policy);
            }
            dirty.policies.extend(come);
            dirty.policies.extend(gone);
            if !policies.is_empty() {
                self.pods.insert(name.clone(), (policies, now));
            }
        }
        addresses
    }

    /// Takes what a policy needs if it applies to a pod here, and leaves what it doesn't need any more.
    fn activate(&mut self, world: &mut World, sets: &mut Sets, delta: &mut Delta, name: &Name) {
        let namespace = world.namespaces.get(&name.namespace);
        let policy = namespace.and_then(|n| n.policies.get(&name.name)).cloned();
        if self.applied.get(name) == Some(&0) {
            self.applied.remove(name);
        }
        let policy = policy.filter(|_| self.applied.contains_key(name));
        if self.active.get(name).map(|a| &a.policy) == policy.as_ref() {
            return;
        }
        let new = policy.map(|policy| Active {
            egress: Part::new(&policy, Direction::Egress),
            ingress: Part::new(&policy, Direction::Ingress),
            policy,
        });
        for part in new.iter().flat_map(Active::parts) {
            part.sets
                .iter()
                .for_each(|(id, key)| sets.take(world, *id, key));
            for (id, blocks) in &part.blocks {
                *self.blocks.entry(*id).or_default() += 1;
                if self.compiled.blocks.insert(*id, blocks.clone()).is_none() {
                    delta.blocks_added.insert(*id, blocks.clone());
                }
            }
        }
        let old = match new {
            Some(new) => self.active.insert(name.clone(), new),
            None => self.active.remove(name),
        };
        for part in old.iter().flat_map(Active::parts) {
            part.sets.keys().for_each(|id| sets.release(*id));
            part.blocks.keys().for_each(|id| less(&mut self.blocks, id));
        }
    }

    /// Sends addresses to the groups of the pods that have them now.
    fn assign(&mut self, world: &World, delta: &mut Delta, addresses: BTreeSet<IpAddr>) {
        // Pods of one namespace that the same policies apply to have the same groups.
        let mut known = BTreeMap::<(Arc<str>, Vec<Arc<str>>), Groups>::new();
        for address in addresses {
            let pod = world
                .owner(address)
                .and_then(|name| Some((name, self.pods.get(name)?)));
            let groups = pod.map(|(name, (policies, _))| {
                let key = (name.namespace.clone(), policies.clone());
                known
                    .entry(key)
                    .or_insert_with(|| {
                        Direction::BOTH.map(|d| self.group(&name.namespace, policies, d))
                    })
                    .clone()
            });
            self.join(delta, address, groups.unwrap_or_default());
        }
    }

    /// The group of a direction; `None`: no policy is about it.
    fn group(
        &self,
        namespace: &Arc<str>,
        policies: &[Arc<str>],
        direction: Direction,
    ) -> Option<(Id, Arc<Group>)> {
        let active = policies.iter().filter_map(|policy| {
            let name = Name {
                namespace: namespace.clone(),
                name: policy.clone(),
            };
            self.active.get(&name)
        });
        let mut parts = active.filter_map(|a| a.part(direction)).peekable();
        parts.peek()?;
        let group = Group::new(direction, parts.flat_map(|p| &p.rules));
        Some((group.id(), Arc::new(group)))
    }

    fn join(&mut self, delta: &mut Delta, address: IpAddr, [egress, ingress]: Groups) {
        let id = |group: &Option<(Id, Arc<Group>)>| group.as_ref().map(|(id, _)| *id);
        let new = Membership {
            egress: id(&egress),
            ingress: id(&ingress),
        };
        let old = self
            .compiled
            .pods
            .get(&address)
            .copied()
            .unwrap_or_default();
        if new == old {
            return;
        }
        for (id, group) in egress.into_iter().chain(ingress) {
            *self.groups.entry(id).or_default() += 1;
            if self.compiled.groups.insert(id, group.clone()).is_none() {
                delta.groups_added.insert(id, group);
            }
        }
        old.egress
            .iter()
            .chain(&old.ingress)
            .for_each(|id| less(&mut self.groups, id));
        let new = (new != Membership::default()).then_some(new);
        match new {
            Some(new) => {
                self.compiled.pods.insert(address, new);
            }
            None => {
                self.compiled.pods.remove(&address);
            }
        }
        delta.pods.insert(address, new);
    }
}

/// Brings the list of the policies that apply to a pod up to date: in order, none for pods of other nodes. Gives those
/// that are new in it, and those that left it.
fn ask_policies(
    world: &World,
    pod: &Name,
    ask: &Ask,
    policies: &mut Vec<Arc<str>>,
) -> (Vec<Name>, Vec<Name>) {
    let labels = world.pod(pod).filter(|k| k.pod.local);
    let labels = labels.map(|k| &k.pod.labels);
    let all = world.namespaces.get(&pod.namespace).map(|n| &n.policies);
    let applies = |name: &Arc<str>| {
        let policy = all.and_then(|all| all.get(name));
        policy.zip(labels).is_some_and(|(p, l)| p.selects(l))
    };
    let asked: BTreeSet<Arc<str>> = match ask {
        Ask::These(names) => names.clone(),
        Ask::All => {
            let names = all.into_iter().flat_map(BTreeMap::keys);
            names.chain(policies.iter()).cloned().collect()
        }
    };
    let (mut come, mut gone) = (Vec::new(), Vec::new());
    for name in asked {
        let policy = Name {
            namespace: pod.namespace.clone(),
            name: name.clone(),
        };
        match (applies(&name), policies.binary_search(&name)) {
            (true, Err(at)) => {
                policies.insert(at, name);
                come.push(policy);
            }
            (false, Ok(at)) => {
                policies.remove(at);
                gone.push(policy);
            }
            (true, Ok(_)) | (false, Err(_)) => {}
        }
    }
    (come, gone)
}

fn less<K: Ord>(users: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(n) = users.get_mut(key) {
        *n = n.saturating_sub(1);
    }
}

/// Forgets what nobody uses.
fn settle<V>(
    users: &mut BTreeMap<Id, usize>,
    all: &mut BTreeMap<Id, V>,
    removed: &mut BTreeSet<Id>,
) {
    let unused = users.iter().filter(|(_, n)| **n == 0).map(|(id, _)| *id);
    for id in unused.collect::<Vec<_>>() {
        users.remove(&id);
        all.remove(&id);
        removed.insert(id);
    }
}
