//! Validation of claims and storage classes.

use serde_json::Value;

use super::field::{At, Errors};
use super::{check, check_update, label_selector, quantity};
use crate::json;
use crate::status::Cause;

/// A PersistentVolumeClaim.
pub(crate) fn persistent_volume_claim(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| claim_spec(&at.child("spec"), errs))
}

/// The `spec` of a claim, also in templates.
pub(super) fn claim_spec(spec: &At<'_>, errs: &mut Errors) {
    if spec.child("accessModes").is_zero() {
        errs.required(
            &spec.child("accessModes"),
            "at least 1 access mode is required",
        );
    }
    for mode in spec.items("accessModes") {
        errs.one_of(
            &mode,
            &[
                "ReadOnlyMany",
                "ReadWriteMany",
                "ReadWriteOnce",
                "ReadWriteOncePod",
            ],
        );
    }
    label_selector(&spec.child("selector"), errs);
    let storage = spec.child("resources.requests").value.get("storage");
    match storage {
        None => errs.required(
            &At::new(&Value::Null, format!("{}.resources[storage]", spec.path)),
            "",
        ),
        Some(q) => {
            let at = At::new(q, format!("{}.resources[storage]", spec.path));
            if quantity(&at, errs).is_some_and(|q| q.signum() == 0) {
                errs.invalid(&at, "must be greater than zero");
            }
        }
    }
    errs.one_of(&spec.child("volumeMode"), &["Block", "Filesystem"]);
}

/// A change of a claim: only its size, and what is unset once bound.
pub(crate) fn persistent_volume_claim_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        let fixed = |at: &At<'_>| {
            let mut spec = at.child("spec").value.clone();
            json::remove(&mut spec, "volumeName");
            // Only what is bound can grow.
            if old.child("status.phase").text() == "Bound" {
                json::remove(&mut spec, "resources");
                json::remove(&mut spec, "volumeAttributesClassName");
            }
            // A class may be filled in once, when a default class appears (KEP-3333).
            if old.child("spec.storageClassName").value.is_null() {
                json::remove(&mut spec, "storageClassName");
            }
            spec
        };
        let (volume, had) = (new.child("spec.volumeName"), old.child("spec.volumeName"));
        if fixed(new) != fixed(old) || (!had.is_zero() && volume.value != had.value) {
            errs.forbidden("spec", "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims");
        }
    })
}

/// A StorageClass.
pub(crate) fn storage_class(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        if at.child("provisioner").text().is_empty() {
            errs.required(&at.child("provisioner"), "");
        }
        errs.one_of(&at.child("reclaimPolicy"), &["Delete", "Retain"]);
        errs.required_one_of(
            &at.child("volumeBindingMode"),
            &["Immediate", "WaitForFirstConsumer"],
            "",
        );
    })
}

/// A change of a StorageClass: nothing of weight.
pub(crate) fn storage_class_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        for field in [
            "parameters",
            "provisioner",
            "reclaimPolicy",
            "volumeBindingMode",
        ] {
            let (n, o) = (new.child(field), old.child(field));
            if n.value != o.value && !(n.is_zero() && o.is_zero()) {
                errs.forbidden(field, "updates to parameters are forbidden.");
            }
        }
    })
}
