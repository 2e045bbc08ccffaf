//! Volumes whose labels say in which zone or region they are.

use crate::framework::{Cycle, Refusal};
use crate::snapshot::NodeState;

const LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Refuses nodes outside the zones of the pod's volumes. A label may name several, joined by `__`; a node without any of
/// the labels is in a cluster without zones.
pub fn check(cycle: &Cycle, state: &NodeState) -> Result<(), Refusal> {
    let Ok(claims) = &cycle.claims else {
        return Ok(());
    };
    let labels = &state.node.labels;
    if !LABELS.iter().any(|l| labels.contains_key(*l)) {
        return Ok(());
    }
    let volumes = claims.bound.iter().filter_map(|(_, volume)| *volume);
    let mut rows = volumes.flat_map(|v| {
        let of = |l: &&'static str| Some((*l, v.labels.get(*l)?.clone()));
        LABELS.iter().filter_map(of).collect::<Vec<_>>()
    });
    let reaches = |(label, zones): &(&'static str, String)| {
        labels
            .get(*label)
            .is_some_and(|zone| zones.split("__").any(|z| z == zone))
    };
    if rows.all(|row| reaches(&row)) {
        return Ok(());
    }
    Err(Refusal::final_("node(s) had no available volume zone"))
}
