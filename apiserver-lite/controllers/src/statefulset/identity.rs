//! What a pod of a StatefulSet is called and what belongs to it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use kube::ResourceExt;

use crate::pod::child;
use crate::revision::HASH;

/// The pod's number, if its name is one of the set's.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.name_any();
    let number = name.strip_prefix(&set.name_any())?.strip_prefix('-')?;
    number
        .parse()
        .ok()
        .filter(|n: &i32| *n >= 0 && n.to_string() == number)
}

/// A pod of a number and revision.
pub(super) fn pod(
    set: &StatefulSet,
    ordinal: i32,
    template: &PodTemplateSpec,
    revision: &str,
) -> Pod {
    let name = format!("{}-{ordinal}", set.name_any());
    let mut pod = child(set, Some(template));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.extend([
        (
            "statefulset.kubernetes.io/pod-name".to_owned(),
            name.clone(),
        ),
        (
            "apps.kubernetes.io/pod-index".to_owned(),
            ordinal.to_string(),
        ),
        (HASH.to_owned(), revision.to_owned()),
    ]);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set
        .spec
        .as_ref()
        .and_then(|s| s.service_name.clone())
        .filter(|s| !s.is_empty());
    let own: Vec<Volume> = claims(set, ordinal)
        .iter()
        .map(|(volume, claim)| Volume {
            name: volume.clone(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.name_any(),
                read_only: Some(false),
            }),
            ..Volume::default()
        })
        .collect();
    let volumes = spec.volumes.get_or_insert_default();
    volumes.retain(|v| !own.iter().any(|o| o.name == v.name));
    volumes.extend(own);
    pod
}

/// The claims of a pod, by the volume's name.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let spec = set.spec.as_ref();
    let templates = spec.and_then(|s| s.volume_claim_templates.as_ref());
    let labels: BTreeMap<String, String> = spec
        .and_then(|s| s.selector.match_labels.clone())
        .unwrap_or_default();
    let claim = |t: &PersistentVolumeClaim| {
        let volume = t.name_any();
        let mut claim = t.clone();
        claim.metadata.name = Some(format!("{volume}-{}-{ordinal}", set.name_any()));
        claim.metadata.namespace = set.namespace();
        claim
            .metadata
            .labels
            .get_or_insert_default()
            .extend(labels.clone());
        claim.status = None;
        (volume, claim)
    };
    templates.into_iter().flatten().map(claim).collect()
}
