//! Validation of volumes, claims and storage classes.

use serde_json::Value;

use super::field::{At, Errors};
use super::{check, check_update, label_selector, quantity};
use crate::json;
use crate::quantity::Quantity;
use crate::status::Cause;

/// A PersistentVolumeClaim.
pub(crate) fn persistent_volume_claim(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| claim_spec(&at.child("spec"), errs))
}

const MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

fn access_modes(spec: &At<'_>, errs: &mut Errors) {
    let all: Vec<At<'_>> = spec.items("accessModes").collect();
    all.iter().for_each(|mode| errs.one_of(mode, MODES));
    if all.len() > 1 && all.iter().any(|m| m.text() == "ReadWriteOncePod") {
        errs.forbidden(
            &spec.child("accessModes").path,
            "may not use ReadWriteOncePod with other access modes",
        );
    }
}

/// Fields of a volume's `spec` that are not its source.
const BESIDE: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn sources<'a>(spec: &At<'a>) -> Vec<&'a str> {
    let fields = spec.value.as_object().into_iter().flatten();
    fields
        .filter(|(k, v)| !BESIDE.contains(&k.as_str()) && !v.is_null())
        .map(|(k, _)| k.as_str())
        .collect()
}

/// A PersistentVolume.
pub(crate) fn persistent_volume(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        if spec.child("accessModes").is_zero() {
            errs.required(&spec.child("accessModes"), "");
        }
        access_modes(&spec, errs);
        capacity(&spec, errs);
        errs.one_of(
            &spec.child("persistentVolumeReclaimPolicy"),
            &["Delete", "Recycle", "Retain"],
        );
        errs.one_of(&spec.child("volumeMode"), &["Block", "Filesystem"]);
        match sources(&spec).as_slice() {
            [] => errs.required(&spec, "must specify a volume type"),
            [kind] => volume_source(kind, &spec, errs),
            [_, more @ ..] => more.iter().for_each(|kind| {
                errs.forbidden(
                    &spec.child(kind).path,
                    "may not specify more than 1 volume type",
                );
            }),
        }
    })
}

fn capacity(spec: &At<'_>, errs: &mut Errors) {
    let at = spec.child("capacity");
    let keys = at.value.as_object().into_iter().flatten();
    let keys: Vec<&str> = keys.map(|(k, _)| k.as_str()).collect();
    if keys.is_empty() {
        return errs.required(&at, "");
    }
    if keys != ["storage"] {
        return errs.unsupported(&at, &["storage"]);
    }
    let storage = At::new(&at.value["storage"], format!("{}[storage]", at.path));
    if quantity(&storage, errs).is_some_and(|q| q.signum() <= 0) {
        errs.invalid(&storage, "must be greater than zero");
    }
}

fn volume_source(kind: &str, spec: &At<'_>, errs: &mut Errors) {
    let at = spec.child(kind);
    super::volume::source(kind, &at, errs);
    match kind {
        "local" => {
            let path = at.child("path");
            if path.text().is_empty() {
                errs.required(&path, "");
            } else if path.text().split('/').any(|p| p == "..") {
                errs.invalid(&path, "must not contain '..'");
            }
            if !spec.child("nodeAffinity").is_set() {
                errs.required(
                    &At::new(&Value::Null, "metadata.annotations"),
                    "Local volume requires node affinity",
                );
            }
        }
        "hostPath" => {
            let recycles = spec.child("persistentVolumeReclaimPolicy").text() == "Recycle";
            if recycles && at.child("path").text().trim_end_matches('/').is_empty() {
                errs.forbidden(
                    &spec.child("persistentVolumeReclaimPolicy").path,
                    "may not be 'recycle' for a hostPath mount of '/'",
                );
            }
        }
        "csi" if at.child("volumeHandle").text().is_empty() => {
            errs.required(&at.child("volumeHandle"), "");
        }
        _ => {}
    }
}

/// A change of a volume: its source stays.
pub(crate) fn persistent_volume_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        let (new, old) = (new.child("spec"), old.child("spec"));
        let source = |spec: &At<'_>| -> Vec<(String, Value)> {
            let of = |kind: &&str| ((*kind).to_owned(), stable(kind, spec));
            sources(spec).iter().map(of).collect()
        };
        if source(&new) != source(&old) {
            errs.forbidden(
                "spec.persistentvolumesource",
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        errs.immutable(&new.child("volumeMode"), old.child("volumeMode").value);
        let (n, o) = (new.child("nodeAffinity"), old.child("nodeAffinity"));
        if o.is_set() && n.value != o.value {
            errs.invalid(&n, "field is immutable");
        }
    })
}

/// What must stay of a source: all but the Secrets that whoever resizes a volume may name later.
fn stable(kind: &str, spec: &At<'_>) -> Value {
    let mut source = spec.child(kind).value.clone();
    if kind == "csi" {
        for field in ["controllerExpandSecretRef", "nodeExpandSecretRef"] {
            json::remove(&mut source, field);
        }
    }
    source
}

/// The `spec` of a claim, also in templates.
pub(super) fn claim_spec(spec: &At<'_>, errs: &mut Errors) {
    if spec.child("accessModes").is_zero() {
        errs.required(
            &spec.child("accessModes"),
            "at least 1 access mode is required",
        );
    }
    access_modes(spec, errs);
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
        let bytes = |at: &At<'_>, field| Quantity::from_value(json::at(at.value, field)).ok();
        let size = |at| bytes(at, "/spec/resources/requests/storage").map(Quantity::milli);
        let has = bytes(old, "/status/capacity/storage").map(Quantity::milli);
        if size(new) < size(old) && size(new) < has {
            errs.forbidden(
                "spec.resources.requests.storage",
                "field can not be less than status.capacity",
            );
        }
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
