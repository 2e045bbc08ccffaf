//! Jobs select their pods by a label of their own UID, unless they say that they choose the selector.

use serde_json::{Value, json};

use crate::json::{at, flag, is_zero, object, remove, set};
use crate::meta;

const UID: &str = "batch.kubernetes.io/controller-uid";

/// Needs `metadata.uid` and `metadata.name`.
pub(super) fn prepare_create(v: &mut Value) {
    remove(v, "status");
    if flag(v, "/spec/manualSelector") {
        return;
    }
    let (uid, name) = (meta::uid(v).to_owned(), meta::name(v).to_owned());
    let no_selector = is_zero(at(v, "/spec/selector"));
    let Some(spec) = object(v, "spec") else {
        return;
    };
    let labels = object(spec, "template")
        .and_then(|t| object(t, "metadata"))
        .and_then(|m| object(m, "labels"));
    if let Some(labels) = labels {
        for (key, value) in [
            ("controller-uid", &uid),
            ("job-name", &name),
            (UID, &uid),
            ("batch.kubernetes.io/job-name", &name),
        ] {
            set(labels, key, value.as_str());
        }
    }
    if no_selector {
        set(spec, "selector", json!({"matchLabels": {UID: uid}}));
    }
}
