//! Which ReplicaSet is which: templates compared, hashed, numbered.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;

/// Label that tells the pods of one ReplicaSet from those of the next.
pub(super) const HASH: &str = "pod-template-hash";
/// Annotation with the revision's number.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation with the numbers that a ReplicaSet had before a roll-back to it.
pub(super) const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Annotations that a proportional scaling reads.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that are the Deployment's own affair, or the ReplicaSet's.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// Whether two templates are the same but for the hash label.
pub(super) fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    without_hash(a) == without_hash(b)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut t = template.clone();
    let meta = t.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH);
    }
    meta.labels = meta.labels.take().filter(|l| !l.is_empty());
    meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
    t
}

/// A hash of a template in ten letters at most, safe in names: upstream's alphabet, over our own digest.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    // Object keys are ordered: equal templates have equal text.
    let text = serde_json::to_string(&without_hash(template)).unwrap_or_default();
    let bytes = text.bytes().chain(collisions.to_le_bytes());
    let sum = bytes.fold(0x811c_9dc5_u32, |h, b| {
        (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    sum.to_string()
        .bytes()
        .map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()]))
        .collect()
}

/// The ReplicaSet of the Deployment's present template: the oldest, should there be two.
pub(super) fn find_new<'a>(
    deployment: &Deployment,
    sets: &[&'a ReplicaSet],
) -> Option<&'a ReplicaSet> {
    let template = deployment.spec.as_ref().map(|s| &s.template)?;
    let equal = sets.iter().filter(|s| {
        s.spec
            .as_ref()
            .and_then(|s| s.template.as_ref())
            .is_some_and(|t| same(t, template))
    });
    equal
        .min_by_key(|s| (s.creation_timestamp().map(|t| t.0), s.name_any()))
        .copied()
}

/// A ReplicaSet's revision; 0 when it has none.
pub(super) fn revision(annotations: &BTreeMap<String, String>) -> u64 {
    annotations
        .get(REVISION)
        .and_then(|r| r.parse().ok())
        .unwrap_or(0)
}

/// Annotations that note how far a ReplicaSet was scaled, for a later proportional scaling.
pub(super) fn sizes(replicas: i32, most: i32) -> [(String, String); 2] {
    [
        (DESIRED.to_owned(), replicas.to_string()),
        (MAX.to_owned(), most.to_string()),
    ]
}

/// Annotations that the new ReplicaSet is to have, beside those it has already.
pub(super) fn annotations(
    deployment: &Deployment,
    set: Option<&ReplicaSet>,
    number: u64,
) -> BTreeMap<String, String> {
    let copied = deployment
        .annotations()
        .iter()
        .filter(|(k, _)| !NOT_COPIED.contains(&k.as_str()));
    let mut all: BTreeMap<String, String> = copied.map(|(k, v)| (k.clone(), v.clone())).collect();
    all.insert(REVISION.into(), number.to_string());
    if let Some(set) = set {
        let (old, history) = (revision(set.annotations()), set.annotations().get(HISTORY));
        if old != 0 && old != number {
            let text = history.map_or(old.to_string(), |h| format!("{h},{old}"));
            all.insert(HISTORY.into(), text);
        }
    }
    all
}
