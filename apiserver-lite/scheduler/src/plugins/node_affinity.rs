//! Node selector and node affinity.

use super::normalise;
use crate::framework::{Cycle, Refusal};
use crate::model::{Node, NodeTerm, Pod};
use crate::snapshot::NodeState;

/// Whether all of a term holds for a node; an empty one holds for none.
fn matches(term: &NodeTerm, node: &Node) -> bool {
    let label = |key: &str| node.labels.get(key).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then_some(node.name.as_str());
    !(term.labels.is_empty() && term.fields.is_empty())
        && term.labels.iter().all(|r| r.holds(label(&r.key)))
        && term.fields.iter().all(|r| r.holds(field(&r.key)))
}

/// Whether the pod's node selector and required affinity admit a node.
pub(crate) fn admits(pod: &Pod, node: &Node) -> bool {
    pod.node_selector.matches(&node.labels)
        && pod
            .required_nodes
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|t| matches(t, node)))
}

/// Refuses nodes that the selector or the required affinity does not admit.
pub fn check(cycle: &Cycle, state: &NodeState) -> Result<(), Refusal> {
    if admits(cycle.pod, &state.node) {
        return Ok(());
    }
    Err(Refusal::final_(
        "node(s) didn't match Pod's node affinity/selector",
    ))
}

/// The larger the weights of the preferred terms that hold, the better.
pub fn score(cycle: &Cycle, nodes: &[&NodeState]) -> Vec<i64> {
    let weight = |state: &&NodeState| {
        let preferred = cycle.pod.preferred_nodes.iter();
        preferred
            .filter(|(_, term)| matches(term, &state.node))
            .map(|(weight, _)| weight)
            .sum()
    };
    normalise(nodes.iter().map(weight).collect(), false)
}
