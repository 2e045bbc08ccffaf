//! The filters and scores, one file each; the tables name them in the order and with the weights of upstream's
//! default profile.

pub mod image_locality;
pub mod interpod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_balanced;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod pod_topology_spread;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

use crate::framework::{Change, Cycle, Refusal};
use crate::snapshot::NodeState;

/// The best score.
pub const MAX_SCORE: i64 = 100;

/// Says whether a node can take the pod.
#[derive(Debug)]
pub struct Filter {
    /// Upstream's name.
    pub name: &'static str,
    /// The check.
    pub check: fn(&Cycle, &NodeState) -> Result<(), Refusal>,
    /// What may lift its refusal.
    pub helps: Change,
}

/// Says how good a node is.
#[derive(Debug)]
pub struct Score {
    /// Upstream's name.
    pub name: &'static str,
    /// How much it counts.
    pub weight: i64,
    /// A score from 0 to [`MAX_SCORE`] for each of the nodes.
    pub score: fn(&Cycle, &[&NodeState]) -> Vec<i64>,
}

/// Every filter.
pub const FILTERS: &[Filter] = &[
    Filter {
        name: "NodeUnschedulable",
        check: node_unschedulable::check,
        helps: Change::NODE_ADDED.or(Change::NODE_TAINTS),
    },
    Filter {
        name: "NodeName",
        check: node_name::check,
        helps: Change::NODE_ADDED,
    },
    Filter {
        name: "TaintToleration",
        check: taint_toleration::check,
        helps: Change::NODE_ADDED.or(Change::NODE_TAINTS),
    },
    Filter {
        name: "NodeAffinity",
        check: node_affinity::check,
        helps: Change::NODE_ADDED.or(Change::NODE_LABELS),
    },
    Filter {
        name: "NodePorts",
        check: node_ports::check,
        helps: Change::NODE_ADDED.or(Change::POD_GONE),
    },
    Filter {
        name: "NodeResourcesFit",
        check: node_resources_fit::check,
        helps: Change::NODE_ADDED
            .or(Change::NODE_ALLOCATABLE)
            .or(Change::POD_GONE)
            .or(Change::POD_CHANGED),
    },
    Filter {
        name: "VolumeRestrictions",
        check: volume_restrictions::check,
        helps: Change::STORAGE.or(Change::POD_GONE),
    },
    Filter {
        name: "VolumeBinding",
        check: volume_binding::check,
        helps: Change::NODE_ADDED
            .or(Change::NODE_LABELS)
            .or(Change::STORAGE),
    },
    Filter {
        name: "VolumeZone",
        check: volume_zone::check,
        helps: Change::NODE_ADDED
            .or(Change::NODE_LABELS)
            .or(Change::STORAGE),
    },
    Filter {
        name: "PodTopologySpread",
        check: pod_topology_spread::check,
        helps: Change::NODE_ADDED
            .or(Change::NODE_GONE)
            .or(Change::NODE_LABELS)
            .or(Change::NODE_TAINTS)
            .or(Change::POD_BOUND)
            .or(Change::POD_GONE)
            .or(Change::POD_CHANGED),
    },
    Filter {
        name: "InterPodAffinity",
        check: interpod_affinity::check,
        helps: Change::NODE_ADDED
            .or(Change::NODE_LABELS)
            .or(Change::POD_BOUND)
            .or(Change::POD_GONE)
            .or(Change::POD_CHANGED)
            .or(Change::NAMESPACE),
    },
];

/// Every score.
pub const SCORES: &[Score] = &[
    Score {
        name: "TaintToleration",
        weight: 3,
        score: taint_toleration::score,
    },
    Score {
        name: "NodeAffinity",
        weight: 2,
        score: node_affinity::score,
    },
    Score {
        name: "NodeResourcesFit",
        weight: 1,
        score: node_resources_fit::score,
    },
    Score {
        name: "PodTopologySpread",
        weight: 2,
        score: pod_topology_spread::score,
    },
    Score {
        name: "InterPodAffinity",
        weight: 2,
        score: interpod_affinity::score,
    },
    Score {
        name: "NodeResourcesBalancedAllocation",
        weight: 1,
        score: node_resources_balanced::score,
    },
    Score {
        name: "ImageLocality",
        weight: 1,
        score: image_locality::score,
    },
];

/// Scales amounts so that the largest is the best score; `reverse`: the smallest amount is best.
pub(crate) fn normalise(amounts: Vec<i64>, reverse: bool) -> Vec<i64> {
    let max = amounts.iter().copied().max().unwrap_or_default();
    let scale = |amount: i64| {
        if max == 0 {
            0
        } else {
            amount * MAX_SCORE / max
        }
    };
    let turn = |score| if reverse { MAX_SCORE - score } else { score };
    amounts
        .into_iter()
        .map(|amount| turn(scale(amount)))
        .collect()
}

#[cfg(test)]
mod tests;
