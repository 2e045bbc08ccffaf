//! Host ports.

use crate::framework::{Cycle, Refusal};
use crate::snapshot::NodeState;

/// Refuses nodes where another pod has one of the pod's host ports.
pub fn check(cycle: &Cycle, state: &NodeState) -> Result<(), Refusal> {
    let wanted = &cycle.pod.ports;
    let is_taken = || {
        let others = state
            .pods
            .values()
            .filter(|other| other.uid != cycle.pod.uid);
        let taken = others.flat_map(|other| &other.ports);
        taken
            .into_iter()
            .any(|port| wanted.iter().any(|own| own.conflicts(port)))
    };
    if !wanted.is_empty() && is_taken() {
        return Err(Refusal::resolvable(
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    Ok(())
}
