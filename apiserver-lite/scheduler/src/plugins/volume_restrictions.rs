//! `ReadWriteOncePod`: one pod in the whole cluster has the claim.

use crate::framework::{Cycle, Refusal};
use crate::model::Pod;
use crate::snapshot::NodeState;
use crate::storage::key;

const MODE: &str = "ReadWriteOncePod";

/// Refuses all nodes while another pod has a claim that only one may have.
pub fn check(cycle: &Cycle, _state: &NodeState) -> Result<(), Refusal> {
    let pod = cycle.pod;
    let storage = &cycle.snapshot.storage;
    let alone = |name: &&String| {
        let claim = storage.claims.get(&key(&pod.namespace, name));
        claim.is_some_and(|c| c.modes.iter().any(|m| m == MODE))
    };
    let mut claims = pod.claims.iter().map(|(name, _)| name).filter(alone);
    let in_use = |name: &String| {
        let others = cycle.snapshot.nodes.iter().flat_map(|n| n.pods.values());
        others
            .filter(|p| p.uid != pod.uid && p.namespace == pod.namespace)
            .any(|p: &std::sync::Arc<Pod>| p.claims.iter().any(|(used, _)| used == name))
    };
    if claims.any(in_use) {
        return Err(Refusal::resolvable(
            "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
        ));
    }
    Ok(())
}
