//! Which node a pod goes to: every filter must admit it, and of those left the best score wins. Pure.

use std::collections::BTreeMap;
use std::ops::BitOr;

use crate::model::Pod;
use crate::plugins::{
    self, FILTERS, SCORES, interpod_affinity, pod_topology_spread, volume_binding,
};
use crate::snapshot::{NodeState, Snapshot};

/// What changed in the cluster, as a set: what a filter's refusal may be lifted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change(u32);

impl Change {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A node came.
    pub const NODE_ADDED: Self = Self(1);
    /// A node offers more or other resources.
    pub const NODE_ALLOCATABLE: Self = Self(1 << 1);
    /// A node's labels.
    pub const NODE_LABELS: Self = Self(1 << 2);
    /// A node's taints, or it was cordoned or uncordoned.
    pub const NODE_TAINTS: Self = Self(1 << 3);
    /// A node went.
    pub const NODE_GONE: Self = Self(1 << 4);
    /// A pod was bound.
    pub const POD_BOUND: Self = Self(1 << 5);
    /// A bound pod went or finished.
    pub const POD_GONE: Self = Self(1 << 6);
    /// A bound pod's labels or requests.
    pub const POD_CHANGED: Self = Self(1 << 7);
    /// A namespace's labels.
    pub const NAMESPACE: Self = Self(1 << 8);
    /// The pending pod itself.
    pub const OWN: Self = Self(1 << 9);
    /// A volume, a claim or a class.
    pub const STORAGE: Self = Self(1 << 10);

    /// Several at once.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets have something in common.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Change {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.or(other)
    }
}

/// Why a node is not for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In upstream's words.
    pub reasons: Vec<String>,
    /// Whether other pods' leaving could change it.
    pub is_resolvable: bool,
}

impl Refusal {
    /// Could change when other pods leave.
    pub fn resolvable(reason: &str) -> Self {
        Self {
            reasons: vec![reason.into()],
            is_resolvable: true,
        }
    }

    /// Cannot, whichever pods leave.
    pub fn final_(reason: &str) -> Self {
        Self {
            reasons: vec![reason.into()],
            is_resolvable: false,
        }
    }
}

/// One pod's turn: the snapshot, and what was counted on it once for all nodes.
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// Counts for `PodTopologySpread`.
    pub spread: pod_topology_spread::Counts<'a>,
    /// Counts for `InterPodAffinity`.
    pub affinity: interpod_affinity::Counts<'a>,
    /// The pod's claims, or why no node will do.
    pub claims: Result<volume_binding::Claims<'a>, String>,
}

impl<'a> Cycle<'a> {
    /// Counts what the filters need.
    pub fn new(pod: &'a Pod, snapshot: &'a Snapshot) -> Self {
        Self {
            pod,
            snapshot,
            spread: pod_topology_spread::count(pod, snapshot),
            affinity: interpod_affinity::count(pod, snapshot),
            claims: volume_binding::claims(pod, snapshot),
        }
    }

    /// Whether a node is for the pod; the first filter that refuses it tells why.
    pub fn check(&self, node: &NodeState) -> Result<(), (&'static plugins::Filter, Refusal)> {
        FILTERS
            .iter()
            .try_for_each(|filter| (filter.check)(self, node).map_err(|refusal| (filter, refusal)))
    }
}

/// Where a pod goes, or why nowhere.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To this node.
    Node(String),
    /// Nowhere.
    Nowhere(Diagnosis),
}

/// Why no node is for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Refusals by node name.
    pub refusals: BTreeMap<String, Refusal>,
    /// Why no node will do, whichever it is.
    pub anywhere: Option<String>,
    /// Which changes may help.
    pub helps: Change,
}

impl Diagnosis {
    /// In upstream's words: `0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if self.refusals.is_empty() {
            return "no nodes available to schedule pods".into();
        }
        if let Some(why) = &self.anywhere {
            return format!("0/{} nodes are available: {why}.", self.refusals.len());
        }
        let reasons = self.refusals.values().flat_map(|refusal| &refusal.reasons);
        tally(self.refusals.len(), reasons)
    }
}

/// How many nodes gave which reason.
pub(crate) fn tally<'a>(nodes: usize, reasons: impl Iterator<Item = &'a String>) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    reasons.for_each(|reason| *counts.entry(reason).or_default() += 1);
    let mut counts: Vec<String> = counts
        .iter()
        .map(|(why, count)| format!("{count} {why}"))
        .collect();
    counts.sort();
    format!("0/{nodes} nodes are available: {}.", counts.join(", "))
}

/// Chooses a node. `nominated`: the cluster as it will be when the pods are placed that room was made for; a node
/// must do with them and without. `pick` is a random number that decides between equally good nodes.
pub fn schedule(
    pod: &Pod,
    snapshot: &Snapshot,
    nominated: Option<&Snapshot>,
    pick: usize,
) -> Outcome {
    let cycle = Cycle::new(pod, snapshot);
    let later = nominated.map(|snapshot| Cycle::new(pod, snapshot));
    let mut diagnosis = Diagnosis {
        refusals: BTreeMap::new(),
        anywhere: cycle.claims.as_ref().err().cloned(),
        helps: Change::NODE_ADDED,
    };
    let mut fit = Vec::new();
    for (index, node) in snapshot.nodes.iter().enumerate() {
        let also_later = || match &later {
            Some(later) => later
                .snapshot
                .nodes
                .get(index)
                .map_or(Ok(()), |node| later.check(node)),
            None => Ok(()),
        };
        match cycle.check(node).and_then(|()| also_later()) {
            Ok(()) => fit.push(node.as_ref()),
            Err((filter, refusal)) => {
                diagnosis.helps = diagnosis.helps | filter.helps;
                diagnosis.refusals.insert(node.node.name.clone(), refusal);
            }
        }
    }
    // The room that was made for it comes first (upstream's evaluateNominatedNode).
    let own = fit
        .iter()
        .find(|node| pod.nominated.as_ref() == Some(&node.node.name));
    match own.copied().or_else(|| best(&cycle, &fit, pick)) {
        Some(node) => Outcome::Node(node.node.name.clone()),
        None => Outcome::Nowhere(diagnosis),
    }
}

fn best<'n>(cycle: &Cycle, fit: &[&'n NodeState], pick: usize) -> Option<&'n NodeState> {
    if fit.len() < 2 {
        return fit.first().copied();
    }
    let totals = totals(cycle, fit);
    let top = totals.iter().max()?;
    let tops: Vec<_> = fit
        .iter()
        .zip(&totals)
        .filter(|(_, total)| *total == top)
        .collect();
    tops.get(pick % tops.len()).map(|(node, _)| **node)
}

/// The weighted sum of each node's scores.
pub fn totals(cycle: &Cycle, nodes: &[&NodeState]) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    for plugin in SCORES {
        let scores = (plugin.score)(cycle, nodes);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight;
        }
    }
    totals
}

#[cfg(test)]
#[path = "framework_tests.rs"]
mod tests;
