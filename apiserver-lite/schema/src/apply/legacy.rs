//! Living with client-side apply: `kubectl apply --server-side` takes over fields that the same user's client-side
//! apply wrote, and keeps the annotation that client-side apply reads.

use super::{Conflicts, Manager, Set, compare, fields};
use crate::decode::decode;
use crate::model::Type;
use serde_json::Value;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager name of `kubectl apply --server-side`; others opt out by having another.
const KUBECTL: &str = "kubectl";
/// All annotations of an object may take this many bytes together.
const MOST_BYTES: usize = 256 * 1024;

fn last_applied(object: &Value) -> Option<&str> {
    let annotations = object.pointer("/metadata/annotations")?;
    annotations
        .get(ANNOTATION)?
        .as_str()
        .filter(|text| !text.is_empty())
}

/// Whether all conflicts are about fields that the last client-side apply wrote and nobody changed since.
pub(super) fn allows(root: Type, live: &Value, conflicts: &Conflicts, manager: &Manager) -> bool {
    if manager.name != KUBECTL {
        return false;
    }
    let Some(mut last) =
        last_applied(live).and_then(|text| serde_json::from_str::<Value>(text).ok())
    else {
        return false;
    };
    // Into the stored form, so that 1024Mi is the 1Gi of the live object.
    if decode(root, &mut last).is_err() {
        return false;
    }
    let diff = compare(root, &last, live);
    let unchanged = fields(root, &last)
        .difference(&diff.changed())
        .difference(&diff.removed);
    let disputed = conflicts
        .values()
        .fold(Set::default(), |all, set| all.union(set));
    disputed.difference(&unchanged).is_empty()
}

/// Writes the configuration into the annotation, where there was one.
pub(super) fn refresh(object: &mut Value, applied: &Value, manager: &Manager) {
    if manager.name != KUBECTL || last_applied(object).is_none() {
        return;
    }
    let mut applied = applied.clone();
    if let Some(annotations) = applied
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    let text = applied.to_string();
    if let Some(annotations) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        let fits = text.len() < MOST_BYTES;
        annotations.insert(
            ANNOTATION.into(),
            if fits { text } else { String::new() }.into(),
        );
    }
}

#[cfg(test)]
pub(super) const LAST_APPLIED: &str = ANNOTATION;
