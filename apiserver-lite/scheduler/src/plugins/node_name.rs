//! A pod that names its node goes nowhere else.

use crate::framework::{Cycle, Refusal};
use crate::snapshot::NodeState;

/// Refuses nodes of another name.
pub fn check(cycle: &Cycle, state: &NodeState) -> Result<(), Refusal> {
    match &cycle.pod.node {
        Some(name) if *name != state.node.name => Err(Refusal::final_(
            "node(s) didn't match the requested node name",
        )),
        _ => Ok(()),
    }
}
