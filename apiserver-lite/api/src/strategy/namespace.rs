//! Namespaces begin active and go through `Terminating`, held by the finalizer `kubernetes`.

use serde_json::{Value, json};

use crate::json::{at, is_zero, items, keep, object, set};

/// The namespace controller's finalizer, in `spec` for historical reasons.
const FINALIZER: &str = "kubernetes";

pub(super) fn prepare_create(v: &mut Value) {
    let mut list = items(v, "/spec/finalizers").to_vec();
    if !list.iter().any(|f| f == FINALIZER) {
        list.push(json!(FINALIZER));
    }
    if let Some(spec) = object(v, "spec") {
        set(spec, "finalizers", list);
    }
    set(v, "status", json!({"phase": "Active"}));
}

/// `spec.finalizers` change only through the subresource `finalize`.
pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    let finalizers = at(old, "/spec/finalizers");
    if let Some(spec) = object(new, "spec").filter(|_| !is_zero(finalizers)) {
        set(spec, "finalizers", finalizers.clone());
    }
    keep(new, old, "status");
}
