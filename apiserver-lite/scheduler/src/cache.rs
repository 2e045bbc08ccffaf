//! What the watches have told, and the pods that are assumed on a node until the watch shows their binding. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::{Budget, Group, Labels, Node, Pod};
use crate::snapshot::{NodeState, Snapshot};
use crate::storage::Storage;

/// The scheduler's picture of the cluster.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: BTreeMap<String, Arc<NodeState>>,
    /// On which node each pod takes room.
    placed: HashMap<String, Placed>,
    /// Pods that room was made for, with the node.
    nominated: BTreeMap<String, (Arc<Pod>, String)>,
    /// Labels of namespaces by name.
    pub namespaces: Arc<BTreeMap<String, Labels>>,
    /// What pods are spread by, by `kind/namespace/name`.
    pub groups: Arc<BTreeMap<String, Group>>,
    /// Disruption budgets by `namespace/name`.
    pub budgets: Arc<BTreeMap<String, Budget>>,
    /// Volumes, claims and classes.
    pub storage: Arc<Storage>,
}

#[derive(Debug)]
struct Placed {
    node: String,
    is_assumed: bool,
}

impl Cache {
    /// A node as the API shows it; gives what it was.
    pub fn set_node(&mut self, node: Node) -> Option<Arc<Node>> {
        let state = Arc::make_mut(self.nodes.entry(node.name.clone()).or_default());
        let was = state.exists.then(|| state.node.clone());
        state.exists = true;
        state.node = Arc::new(node);
        was
    }

    /// A node is gone; its pods are remembered until they are gone too.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            Arc::make_mut(state).exists = false;
        }
        self.drop_if_empty(name);
    }

    /// Names of the nodes that exist.
    pub fn node_names(&self) -> Vec<String> {
        let nodes = self.nodes.iter().filter(|(_, state)| state.exists);
        nodes.map(|(name, _)| name.clone()).collect()
    }

    /// A pod that the API shows as bound.
    pub fn add_pod(&mut self, pod: Arc<Pod>) {
        if let Some(node) = pod.node.clone() {
            self.place(pod, node, false);
        }
    }

    /// Takes room for a pod that is about to be bound.
    pub fn assume(&mut self, pod: Arc<Pod>, node: &str) {
        self.nominated.remove(&pod.uid);
        self.place(pod, node.into(), true);
    }

    /// The binding failed: the room is free again.
    pub fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove_pod(uid);
        }
    }

    /// Whether a pod is assumed on a node without the API having shown it there.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|placed| placed.is_assumed)
    }

    /// A pod is gone or has finished; gives it if it took room.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<Pod>> {
        self.nominated.remove(uid);
        let placed = self.placed.remove(uid)?;
        let state = self.nodes.get_mut(&placed.node)?;
        let pod = Arc::make_mut(state).remove(uid);
        self.drop_if_empty(&placed.node);
        pod
    }

    /// A pod that takes room.
    pub fn pod(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.nodes.get(&self.placed.get(uid)?.node)?.pods.get(uid)
    }

    /// UIDs of the pods that take room.
    pub fn pod_uids(&self) -> Vec<String> {
        self.placed.keys().cloned().collect()
    }

    /// Room was made on a node for a pod that is still pending.
    pub fn nominate(&mut self, pod: Arc<Pod>, node: &str) {
        self.nominated.insert(pod.uid.clone(), (pod, node.into()));
    }

    /// The pending pods of lower priority that count on room on a node.
    pub fn nominated_below(&self, node: &str, priority: i32) -> Vec<Arc<Pod>> {
        let nominated = self.nominated.values();
        let below = nominated.filter(|(pod, on)| on == node && pod.priority < priority);
        below.map(|(pod, _)| pod.clone()).collect()
    }

    /// Takes back a nomination.
    pub fn denominate(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    /// The cluster as it is.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            nodes: self
                .nodes
                .values()
                .filter(|state| state.exists)
                .cloned()
                .collect(),
            namespaces: self.namespaces.clone(),
            groups: self.groups.clone(),
            budgets: self.budgets.clone(),
            storage: self.storage.clone(),
        }
    }

    /// The cluster as if those pods were placed already that room was made for and that go before `pod`.
    /// `None`: there are none.
    pub fn snapshot_with_nominated(&self, pod: &Pod) -> Option<Snapshot> {
        let before = self
            .nominated
            .values()
            .filter(|(other, _)| other.priority >= pod.priority && other.uid != pod.uid);
        let mut snapshot = None;
        for (other, node) in before {
            let snapshot = snapshot.get_or_insert_with(|| self.snapshot());
            let mut nodes = snapshot.nodes.iter_mut();
            if let Some(state) = nodes.find(|state| state.node.name == *node) {
                Arc::make_mut(state).add(other.clone());
            }
        }
        snapshot
    }

    fn place(&mut self, pod: Arc<Pod>, node: String, is_assumed: bool) {
        let uid = pod.uid.clone();
        if self
            .placed
            .get(&uid)
            .is_some_and(|placed| placed.node != node)
        {
            self.remove_pod(&uid);
        }
        self.nominated.remove(&uid);
        let state = self.nodes.entry(node.clone()).or_insert_with(|| {
            let node = Node {
                name: node.clone(),
                ..Node::default()
            };
            Arc::new(NodeState {
                node: Arc::new(node),
                ..NodeState::default()
            })
        });
        Arc::make_mut(state).add(pod);
        self.placed.insert(uid, Placed { node, is_assumed });
    }

    fn drop_if_empty(&mut self, name: &str) {
        if self
            .nodes
            .get(name)
            .is_some_and(|state| !state.exists && state.pods.is_empty())
        {
            self.nodes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Resources;

    fn node(name: &str) -> Node {
        Node {
            name: name.into(),
            ..Node::default()
        }
    }

    fn pod(uid: &str, on: Option<&str>, priority: i32) -> Arc<Pod> {
        let requests = Resources {
            cpu: 100,
            pods: 1,
            ..Resources::default()
        };
        let node = on.map(Into::into);
        Arc::new(Pod {
            uid: uid.into(),
            node,
            requests,
            priority,
            weight: (100, 0),
            ..Pod::default()
        })
    }

    fn cpu(cache: &Cache) -> Vec<(String, i64)> {
        let snapshot = cache.snapshot();
        snapshot
            .nodes
            .iter()
            .map(|s| (s.node.name.clone(), s.requested.cpu))
            .collect()
    }

    fn on(name: &str, cpu: i64) -> (String, i64) {
        (name.into(), cpu)
    }

    #[test]
    fn assumed_pods_take_room_until_bound_or_forgotten() {
        let mut cache = Cache::default();
        cache.set_node(node("a"));
        cache.set_node(node("b"));
        cache.assume(pod("1", None, 0), "a");
        cache.assume(pod("2", None, 0), "a");
        assert_eq!(cpu(&cache), [on("a", 200), on("b", 0)]);
        cache.forget("2");
        // The watch shows it: only now it can no longer be forgotten.
        cache.add_pod(pod("1", Some("a"), 0));
        assert!(!cache.is_assumed("1"));
        cache.forget("1");
        assert_eq!(cpu(&cache), [on("a", 100), on("b", 0)]);
        // Somebody else bound it elsewhere.
        cache.assume(pod("3", None, 0), "a");
        cache.add_pod(pod("3", Some("b"), 0));
        assert_eq!(cpu(&cache), [on("a", 100), on("b", 100)]);
        assert!(cache.remove_pod("3").is_some() && cache.remove_pod("3").is_none());
        assert_eq!(cpu(&cache), [on("a", 100), on("b", 0)]);
    }

    #[test]
    fn pods_may_come_before_their_node_and_outlive_it() {
        let mut cache = Cache::default();
        cache.add_pod(pod("1", Some("a"), 0));
        assert_eq!(cpu(&cache), []);
        assert!(cache.set_node(node("a")).is_none());
        assert_eq!(cpu(&cache), [on("a", 100)]);
        cache.remove_node("a");
        assert_eq!(cpu(&cache), []);
        cache.set_node(node("a"));
        assert_eq!(cpu(&cache), [on("a", 100)]);
        cache.remove_node("a");
        cache.remove_pod("1");
        assert!(cache.nodes.is_empty());
    }

    #[test]
    fn a_snapshot_does_not_change() {
        let mut cache = Cache::default();
        cache.set_node(node("a"));
        let before = cache.snapshot();
        cache.assume(pod("1", None, 0), "a");
        assert_eq!(before.nodes[0].requested.cpu, 0);
    }

    #[test]
    fn room_that_was_made_is_seen_by_those_who_come_after() {
        let mut cache = Cache::default();
        cache.set_node(node("a"));
        cache.nominate(pod("1", None, 10), "a");
        let seen = |cache: &Cache, priority| {
            let snapshot = cache.snapshot_with_nominated(&pod("2", None, priority));
            snapshot.map(|snapshot| snapshot.nodes[0].requested.cpu)
        };
        assert_eq!(seen(&cache, 10), Some(100));
        assert_eq!(seen(&cache, 11), None);
        assert_eq!(cache.nominated_below("a", 11).len(), 1);
        cache.assume(pod("1", None, 10), "a");
        assert_eq!(seen(&cache, 0), None);
    }
}
