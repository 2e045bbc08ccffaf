//! Room for what the pod asks for.

use super::MAX_SCORE;
use crate::framework::{Cycle, Refusal};
use crate::snapshot::NodeState;

/// Refuses nodes with too little left of something; names each.
pub fn check(cycle: &Cycle, state: &NodeState) -> Result<(), Refusal> {
    let allocatable = &state.node.allocatable;
    let mut refusal = Refusal {
        reasons: Vec::new(),
        is_resolvable: true,
    };
    for (name, wanted) in cycle.pod.requests.iter().filter(|(_, wanted)| *wanted > 0) {
        let has = allocatable.get(name);
        if wanted > has.saturating_sub(state.requested.get(name)) {
            let is_pods = name == "pods";
            refusal.reasons.push(if is_pods {
                "Too many pods".into()
            } else {
                format!("Insufficient {name}")
            });
            // More than the node has when empty: nobody's leaving helps.
            refusal.is_resolvable &= wanted <= has;
        }
    }
    if refusal.reasons.is_empty() {
        Ok(())
    } else {
        Err(refusal)
    }
}

/// The more of CPU and memory is left, the better (`LeastAllocated`).
pub fn score(cycle: &Cycle, nodes: &[&NodeState]) -> Vec<i64> {
    let left = |wanted: i64, has: i64| {
        if wanted > has || has == 0 {
            0
        } else {
            i128::from(has - wanted) * i128::from(MAX_SCORE) / i128::from(has)
        }
    };
    let one = |state: &&NodeState| {
        let has = &state.node.allocatable;
        let (cpu, memory) = cycle.pod.weight;
        let sum = left(state.weight.0 + cpu, has.cpu) + left(state.weight.1 + memory, has.memory);
        i64::try_from(sum / 2).unwrap_or_default()
    };
    nodes.iter().map(one).collect()
}
