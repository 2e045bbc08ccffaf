//! Defaults of namespaces, nodes, secrets and limits.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::quantities;
use crate::json::{
    at, each, fill, fill_text, has, is_zero, items, object, object_at, remove, set, text,
};
use crate::meta;

/// A Namespace carries its name as a label, so that selectors can name it (KEP-2161).
pub(crate) fn namespace(v: &mut Value) {
    let name = meta::name(v).to_owned();
    if !name.is_empty() {
        meta::set_label(v, "kubernetes.io/metadata.name", &name);
    }
}

/// A Node: `podCIDR` is the first of `podCIDRs`; what is not said to be reserved is allocatable.
pub(crate) fn node(v: &mut Value) {
    if let Some(spec) = object_at(v, "/spec") {
        let (one, many) = (at(spec, "/podCIDR").clone(), at(spec, "/podCIDRs").clone());
        if is_zero(&many) && !is_zero(&one) {
            set(spec, "podCIDRs", json!([one]));
        } else if let Some(first) = many.get(0) {
            set(spec, "podCIDR", first.clone());
        }
    }
    if let Some(status) = object_at(v, "/status") {
        quantities(status, "/capacity");
        quantities(status, "/allocatable");
        if !has(status, "/allocatable") && has(status, "/capacity") {
            let capacity = at(status, "/capacity").clone();
            set(status, "allocatable", capacity);
        }
    }
}

/// A Secret: `stringData` is written into `data` and never read back.
pub(crate) fn secret(v: &mut Value) {
    fill_text(v, "type", "Opaque");
    let Some(Value::Object(texts)) = remove(v, "stringData") else {
        return;
    };
    if texts.is_empty() {
        return;
    }
    let Some(data) = object(v, "data") else {
        return;
    };
    for (key, value) in texts {
        set(
            data,
            &key,
            STANDARD.encode(value.as_str().unwrap_or_default()),
        );
    }
}

/// A LimitRange: limits of containers fall back on each other.
pub(crate) fn limit_range(v: &mut Value) {
    each(v, "/spec/limits", |item| {
        for map in [
            "/max",
            "/min",
            "/default",
            "/defaultRequest",
            "/maxLimitRequestRatio",
        ] {
            quantities(item, map);
        }
        if text(item, "/type") != "Container" {
            return;
        }
        for (to, from) in [
            ("default", "/max"),
            ("defaultRequest", "/default"),
            ("defaultRequest", "/min"),
        ] {
            let Some(from) = at(item, from).as_object().cloned() else {
                continue;
            };
            let Some(to) = object(item, to) else { continue };
            for (resource, quantity) in from {
                fill(to, &resource, quantity);
            }
        }
    });
}

/// A CertificateSigningRequest: nothing may be asked for twice.
pub(crate) fn certificate_signing_request(v: &mut Value) {
    let mut usages: Vec<Value> = Vec::new();
    for usage in items(v, "/spec/usages") {
        if !usages.contains(usage) {
            usages.push(usage.clone());
        }
    }
    if let Some(spec) = object_at(v, "/spec").filter(|_| !usages.is_empty()) {
        set(spec, "usages", usages);
    }
}
