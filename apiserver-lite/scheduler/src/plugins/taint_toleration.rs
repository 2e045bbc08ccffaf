//! Taints and tolerations.

use super::normalise;
use crate::framework::{Cycle, Refusal};
use crate::model::{Effect, Pod, Taint};
use crate::snapshot::NodeState;

/// Whether a pod tolerates a taint.
pub(crate) fn is_tolerated(pod: &Pod, taint: &Taint) -> bool {
    pod.tolerations
        .iter()
        .any(|toleration| toleration.tolerates(taint))
}

/// The first taint that keeps a pod away.
pub(crate) fn untolerated<'n>(pod: &Pod, taints: &'n [Taint]) -> Option<&'n Taint> {
    taints
        .iter()
        .find(|taint| taint.effect != Effect::PreferNoSchedule && !is_tolerated(pod, taint))
}

/// Refuses nodes with `NoSchedule` or `NoExecute` taints that the pod does not tolerate.
pub fn check(cycle: &Cycle, state: &NodeState) -> Result<(), Refusal> {
    untolerated(cycle.pod, &state.node.taints).map_or(Ok(()), |taint| {
        let reason = format!(
            "node(s) had untolerated taint {{{}: {}}}",
            taint.key, taint.value
        );
        Err(Refusal::final_(&reason))
    })
}

/// The fewer `PreferNoSchedule` taints that the pod does not tolerate, the better.
pub fn score(cycle: &Cycle, nodes: &[&NodeState]) -> Vec<i64> {
    let disliked = |state: &&NodeState| {
        let taints = state.node.taints.iter();
        let preferences = taints.filter(|taint| taint.effect == Effect::PreferNoSchedule);
        preferences
            .filter(|taint| !is_tolerated(cycle.pod, taint))
            .count() as i64
    };
    normalise(nodes.iter().map(disliked).collect(), true)
}
