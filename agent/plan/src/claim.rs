//! Persistent volumes of a pod: which claim, which volume, and whether it is rightly the pod's on this node.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};

use crate::admit::{Node, term};

/// A pod's volume that is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The claim's name.
    pub claim: String,
    /// The pod's volume says so: whoever mounts it only reads.
    pub read_only: bool,
    /// The claim was made for the pod.
    is_own: bool,
}

/// The claim behind a volume, if there is one.
pub fn of(pod: &Pod, volume: &Volume) -> Option<Claimed> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some(Claimed {
            claim: claim.claim_name.clone(),
            read_only: claim.read_only == Some(true),
            is_own: false,
        });
    }
    volume.ephemeral.as_ref()?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(Claimed {
        claim: format!("{name}-{}", volume.name),
        read_only: false,
        is_own: true,
    })
}

/// Whether a claim may be used by the pod now; its volume's name.
///
/// # Errors
/// Why not, in upstream's words.
pub fn volume_of<'a>(
    pod: &Pod,
    claimed: &Claimed,
    claim: &'a PersistentVolumeClaim,
) -> Result<&'a str, String> {
    let name = &claimed.claim;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let wrong = |why: &str| Err(format!("error processing PVC {namespace}/{name}: {why}"));
    let mut owners = claim.metadata.owner_references.iter().flatten();
    let owned =
        owners.any(|o| o.controller == Some(true) && Some(&o.uid) == pod.metadata.uid.as_ref());
    if claimed.is_own && !owned {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        return wrong(&format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
        ));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return wrong("PVC is being deleted");
    }
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    if phase != Some("Bound") {
        return wrong("PVC is not bound");
    }
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
    match volume.filter(|v| !v.is_empty()) {
        Some(volume) => Ok(volume),
        None => wrong("PVC has empty pvc.Spec.VolumeName"),
    }
}

/// Whether a volume is the claim's, and can be used on this node.
///
/// # Errors
/// Why not.
pub fn check(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    node: &Node,
) -> Result<(), String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let spec = volume.spec.as_ref();
    let Some(reference) = spec.and_then(|s| s.claim_ref.as_ref()) else {
        return Err(format!(
            "found PV object \"{name}\" but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    if reference.uid != claim.metadata.uid {
        return Err(format!(
            "found PV object \"{name}\" but its pv.Spec.ClaimRef.UID {:?} does not point to claim.UID {:?}",
            reference.uid.as_deref().unwrap_or_default(),
            claim.metadata.uid.as_deref().unwrap_or_default()
        ));
    }
    let required = spec
        .and_then(|s| s.node_affinity.as_ref())
        .and_then(|a| a.required.as_ref());
    if required.is_some_and(|r| !r.node_selector_terms.iter().any(|t| term(t, node))) {
        return Err(format!(
            "storage node affinity check failed for volume \"{name}\": no matching NodeSelectorTerms"
        ));
    }
    Ok(())
}

/// Whether a volume is a device rather than a file system.
pub fn is_block(volume: &PersistentVolume) -> bool {
    let spec = volume.spec.as_ref();
    spec.and_then(|s| s.volume_mode.as_deref()) == Some("Block")
}

/// Whether the storage has grown and the file system has still to.
pub fn waits_to_grow(claim: &PersistentVolumeClaim) -> bool {
    let status = claim.status.iter();
    let mut conditions = status.flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|c| c.type_ == "FileSystemResizePending" && c.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn pod() -> Pod {
        from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "pu"}, "spec": {"containers": []}}))
            .expect("a pod")
    }

    fn volume(value: Value) -> Volume {
        from_value(value).expect("a volume")
    }

    #[test]
    fn claims_of_volumes() {
        let named = volume(
            json!({"name": "v", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}}),
        );
        let found = of(&pod(), &named).expect("a claim");
        assert_eq!(
            (found.claim.as_str(), found.read_only, found.is_own),
            ("c", true, false)
        );
        let own = volume(json!({"name": "v", "ephemeral": {}}));
        let found = of(&pod(), &own).expect("a claim");
        assert_eq!(
            (found.claim.as_str(), found.read_only, found.is_own),
            ("p-v", false, true)
        );
        assert_eq!(
            of(&pod(), &volume(json!({"name": "v", "emptyDir": {}}))),
            None
        );
    }

    #[test]
    fn claims_that_may_be_used() {
        let bound = || json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
        let with = |key: &str, value: Value| {
            let mut claim = bound();
            *claim.pointer_mut(key).expect("a place") = value;
            claim
        };
        let going = {
            let mut claim = bound();
            claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            claim
        };
        let owner = |uid: &str| {
            let mut claim = bound();
            claim["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]);
            claim
        };
        let (named, own) = (
            volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})),
            volume(json!({"name": "v", "ephemeral": {}})),
        );
        let table = [
            ("bound", &named, bound(), Ok("pv")),
            (
                "pending",
                &named,
                with("/status/phase", json!("Pending")),
                Err("error processing PVC ns/c: PVC is not bound"),
            ),
            (
                "lost",
                &named,
                with("/status/phase", json!("Lost")),
                Err("error processing PVC ns/c: PVC is not bound"),
            ),
            (
                "no volume",
                &named,
                with("/spec/volumeName", json!("")),
                Err("error processing PVC ns/c: PVC has empty pvc.Spec.VolumeName"),
            ),
            (
                "going",
                &named,
                going,
                Err("error processing PVC ns/c: PVC is being deleted"),
            ),
            ("its own", &own, owner("pu"), Ok("pv")),
            (
                "another pod's",
                &own,
                owner("other"),
                Err(
                    "error processing PVC ns/p-v: PVC ns/p-v was not created for pod ns/p (pod is not owner)",
                ),
            ),
        ];
        for (name, v, claim, want) in table {
            let claim: PersistentVolumeClaim = from_value(claim).expect("a claim");
            let claimed = of(&pod(), v).expect("claimed");
            let got = volume_of(&pod(), &claimed, &claim);
            assert_eq!(got, want.map_err(str::to_owned), "{name}");
        }
    }

    #[test]
    fn volumes_that_are_the_claims() {
        let claim: PersistentVolumeClaim =
            from_value(json!({"metadata": {"name": "c", "uid": "u"}})).expect("a claim");
        let node = Node {
            name: "n".into(),
            labels: [("kubernetes.io/hostname".to_owned(), "n".to_owned())].into(),
            ..Node::default()
        };
        let on = |host: &str| {
            json!({"claimRef": {"uid": "u"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}})
        };
        let table = [
            ("bound", json!({"claimRef": {"uid": "u"}}), None),
            ("here", on("n"), None),
            (
                "elsewhere",
                on("m"),
                Some(
                    "storage node affinity check failed for volume \"pv\": no matching NodeSelectorTerms",
                ),
            ),
            (
                "not bound",
                json!({}),
                Some(
                    "found PV object \"pv\" but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim",
                ),
            ),
            (
                "another's",
                json!({"claimRef": {"uid": "w"}}),
                Some(
                    "found PV object \"pv\" but its pv.Spec.ClaimRef.UID \"w\" does not point to claim.UID \"u\"",
                ),
            ),
        ];
        for (name, spec, want) in table {
            let volume: PersistentVolume =
                from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).expect("a volume");
            let got = check(&volume, &claim, &node).err();
            assert_eq!(got.as_deref(), want, "{name}");
        }
    }
}
