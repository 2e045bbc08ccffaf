//! The cluster at one moment, as decisions see it. Making one copies pointers only.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Budget, Group, Labels, Node, Pod, PodTerm, Resources};
use crate::storage::Storage;

/// A node with the pods that take its room: those bound to it and those assumed there.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    /// The node itself; a default one with the name only while the API has not shown it.
    pub node: Arc<Node>,
    /// Whether the API has shown it.
    pub exists: bool,
    /// Its pods by UID.
    pub pods: BTreeMap<String, Arc<Pod>>,
    /// What they ask for.
    pub requested: Resources,
    /// The same with defaults for containers that ask for nothing: (millicores, bytes).
    pub weight: (i64, i64),
    /// How many of them have affinity to other pods.
    pub with_terms: usize,
}

impl NodeState {
    /// Puts a pod on the node; a pod with the same UID is replaced.
    pub fn add(&mut self, pod: Arc<Pod>) {
        self.remove(&pod.uid);
        self.requested.add(&pod.requests);
        self.weight = (self.weight.0 + pod.weight.0, self.weight.1 + pod.weight.1);
        self.with_terms += usize::from(has_terms(&pod));
        self.pods.insert(pod.uid.clone(), pod);
    }

    /// Takes a pod off the node.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let pod = self.pods.remove(uid)?;
        self.requested.subtract(&pod.requests);
        self.weight = (self.weight.0 - pod.weight.0, self.weight.1 - pod.weight.1);
        self.with_terms -= usize::from(has_terms(&pod));
        Some(pod)
    }
}

fn has_terms(pod: &Pod) -> bool {
    !(pod.affinity.is_empty() && pod.anti_affinity.is_empty() && pod.preferred_pods.is_empty())
}

/// The cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The nodes, in order of their names.
    pub nodes: Vec<Arc<NodeState>>,
    /// Labels of namespaces by name.
    pub namespaces: Arc<BTreeMap<String, Labels>>,
    /// What pods are spread by.
    pub groups: Arc<BTreeMap<String, Group>>,
    /// Disruption budgets.
    pub budgets: Arc<BTreeMap<String, Budget>>,
    /// Volumes, claims and classes.
    pub storage: Arc<Storage>,
}

impl Snapshot {
    /// Whether a pod is meant by another one's affinity term.
    pub fn is_meant(&self, term: &PodTerm, pod: &Pod) -> bool {
        let in_namespace = term.namespaces.contains(&pod.namespace)
            || term.namespace_selector.as_ref().is_some_and(|selector| {
                let labels = self.namespaces.get(&pod.namespace);
                labels.map_or_else(|| selector.0.is_empty(), |labels| selector.matches(labels))
            });
        in_namespace && term.selector.matches(&pod.labels)
    }

    /// The same with a node replaced: what would be if.
    #[must_use]
    pub fn with(&self, state: NodeState) -> Self {
        let mut this = self.clone();
        let nodes = this.nodes.iter_mut();
        for node in nodes.filter(|node| node.node.name == state.node.name) {
            *node = Arc::new(state.clone());
        }
        this
    }
}
