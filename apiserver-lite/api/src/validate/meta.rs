//! Validation of `metadata`, the same for all kinds.

use serde_json::Value;

use super::field::{At, Errors};
use super::names;
use crate::resource::{Resource, Scope};
use crate::status::Cause;

/// All annotations of an object, keys and values, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// Finalizers without a prefix that Kubernetes itself uses.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

/// Checks `metadata` of an object of a row.
pub fn object_meta(v: &Value, row: &Resource) -> Vec<Cause> {
    let mut errs = Errors::default();
    let meta = At::root(v).child("metadata");
    let check = |name: &str| match row.strategy.valid_name {
        Some(f) => f(name).err().into_iter().collect(),
        None => names::dns_subdomain(name),
    };
    name(&meta, check, &mut errs);
    let namespace = meta.child("namespace");
    match (row.scope, namespace.text()) {
        (Scope::Namespaced, "") => errs.required(&namespace, ""),
        (Scope::Namespaced, ns) => errs.check(&namespace, names::dns_label(ns)),
        (Scope::Cluster, "") => {}
        (Scope::Cluster, _) => errs.forbidden(&namespace.path, "not allowed on this type"),
    }
    errs.non_negative(&meta.child("generation"));
    owners(&meta, &mut errs);
    labels(&meta.child("labels"), &mut errs);
    annotations(&meta.child("annotations"), &mut errs);
    finalizers(&meta, &mut errs);
    errs.0
}

/// Checks a change of `metadata`.
pub fn object_meta_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut errs = Errors::default();
    let (meta, was) = (
        At::root(new).child("metadata"),
        At::root(old).child("metadata"),
    );
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let at = meta.child(field);
        // The server keeps what an update leaves out.
        if at.is_set() {
            errs.immutable(&at, was.child(field).value);
        }
    }
    let generation = meta.child("generation");
    if generation.int().unwrap_or_default() < was.child("generation").int().unwrap_or_default() {
        errs.invalid(&generation, "must not be decremented");
    }
    if meta.child("resourceVersion").text().is_empty() {
        let version = meta.child("resourceVersion");
        errs.invalid_value(
            &version.path,
            version.text(),
            "must be specified for an update",
        );
    }
    if was.child("deletionTimestamp").is_set() {
        no_new_finalizers(&meta, &was, &mut errs);
    }
    errs.0
}

fn name(meta: &At<'_>, check: impl Fn(&str) -> Vec<String>, errs: &mut Errors) {
    let (name, generate) = (meta.child("name"), meta.child("generateName"));
    if !generate.text().is_empty() {
        // What follows the base is alphanumeric: a dash at the end is fine.
        let base = generate.text();
        let base = base
            .strip_suffix('-')
            .map_or_else(|| base.to_owned(), |b| format!("{b}a"));
        errs.check(&generate, check(&base));
    }
    if name.text().is_empty() {
        errs.required(&name, "name or generateName is required");
    } else {
        errs.check(&name, check(name.text()));
    }
}

fn owners(meta: &At<'_>, errs: &mut Errors) {
    let mut controller: Option<&str> = None;
    for owner in meta.items("ownerReferences") {
        let version = owner.child("apiVersion");
        if version
            .text()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .is_empty()
        {
            errs.invalid_value(&version.path, version.text(), "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            let at = owner.child(field);
            if at.text().is_empty() {
                errs.invalid_value(&at.path, "", &format!("{field} must not be empty"));
            }
        }
        if version.text() == "v1" && owner.child("kind").text() == "Event" {
            errs.invalid(&owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.child("controller").flag() {
            let name = owner.child("name").text();
            if let Some(first) = controller {
                let says = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                errs.invalid(&meta.child("ownerReferences"), &says);
            }
            controller = Some(name);
        }
    }
}

/// Checks a map of labels.
pub(super) fn labels(at: &At<'_>, errs: &mut Errors) {
    for (key, value) in at.value.as_object().into_iter().flatten() {
        for why in names::qualified_name(key) {
            errs.invalid_value(&at.path, key.as_str(), &why);
        }
        for why in names::label_value(value.as_str().unwrap_or_default()) {
            errs.invalid_value(&at.path, value.clone(), &why);
        }
    }
}

/// Checks a map of annotations.
pub(super) fn annotations(at: &At<'_>, errs: &mut Errors) {
    let mut size = 0;
    for (key, value) in at.value.as_object().into_iter().flatten() {
        for why in names::qualified_name(&key.to_lowercase()) {
            errs.invalid_value(&at.path, key.as_str(), &why);
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > MAX_ANNOTATIONS {
        errs.too_long(&at.path, MAX_ANNOTATIONS);
    }
}

fn finalizers(meta: &At<'_>, errs: &mut Errors) {
    let at = meta.child("finalizers");
    let mut list = Vec::new();
    for item in meta.items("finalizers") {
        let f = item.text();
        for why in names::qualified_name(f) {
            errs.invalid_value(&at.path, f, &why);
        }
        if !f.contains('/') && !STANDARD_FINALIZERS.contains(&f) {
            errs.invalid_value(
                &at.path,
                f,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
        list.push(f);
    }
    if list.contains(&"orphan") && list.contains(&"foregroundDeletion") {
        errs.invalid(
            &at,
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

fn no_new_finalizers(meta: &At<'_>, was: &At<'_>, errs: &mut Errors) {
    let old: Vec<&str> = was.items("finalizers").map(|f| f.text()).collect();
    let added: Vec<&str> = meta
        .items("finalizers")
        .map(|f| f.text())
        .filter(|f| !old.contains(f))
        .collect();
    if !added.is_empty() {
        let list = added
            .iter()
            .map(|f| format!("\"{f}\""))
            .collect::<Vec<_>>()
            .join(", ");
        let says = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"
        );
        errs.forbidden("metadata.finalizers", &says);
    }
}
