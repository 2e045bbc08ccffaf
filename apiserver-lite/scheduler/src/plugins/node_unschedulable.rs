//! Cordoned nodes take only pods that tolerate that.

use crate::framework::{Cycle, Refusal};
use crate::model::{Effect, Taint};
use crate::snapshot::NodeState;

/// Refuses cordoned nodes.
pub fn check(cycle: &Cycle, state: &NodeState) -> Result<(), Refusal> {
    let cordoned = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        value: String::new(),
        effect: Effect::NoSchedule,
    };
    let is_tolerated = || cycle.pod.tolerations.iter().any(|t| t.tolerates(&cordoned));
    if state.node.is_unschedulable && !is_tolerated() {
        return Err(Refusal::final_("node(s) were unschedulable"));
    }
    Ok(())
}
