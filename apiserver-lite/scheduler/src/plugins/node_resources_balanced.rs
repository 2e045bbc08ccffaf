//! CPU and memory used up evenly.

use super::MAX_SCORE;
use crate::framework::Cycle;
use crate::snapshot::NodeState;

/// The closer the used shares of CPU and memory are, the better. Says nothing on pods that ask for neither.
pub fn score(cycle: &Cycle, nodes: &[&NodeState]) -> Vec<i64> {
    let wanted = &cycle.pod.requests;
    if wanted.cpu == 0 && wanted.memory == 0 {
        return vec![0; nodes.len()];
    }
    let share = |used: i64, has: i64| {
        if has == 0 {
            1.0
        } else {
            (used as f64 / has as f64).min(1.0)
        }
    };
    let one = |state: &&NodeState| {
        let (used, has) = (&state.requested, &state.node.allocatable);
        let cpu = share(used.cpu + wanted.cpu, has.cpu);
        let memory = share(used.memory + wanted.memory, has.memory);
        // The standard deviation of two values is half their difference.
        ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
    };
    nodes.iter().map(one).collect()
}
