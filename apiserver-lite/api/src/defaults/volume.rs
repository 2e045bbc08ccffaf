//! Defaults of volumes.

use serde_json::{Value, json};

use super::{pod, quantity};
use crate::json::{each, fill, fill_text, object_at, text};

/// Volume type, field, default: plain texts.
const TEXTS: &[(&str, &str, &str)] = &[
    ("iscsi", "iscsiInterface", "default"),
    ("rbd", "pool", "rbd"),
    ("rbd", "user", "admin"),
    ("rbd", "keyring", "/etc/ceph/keyring"),
    ("scaleIO", "storageMode", "ThinProvisioned"),
    ("scaleIO", "fsType", "xfs"),
    ("azureDisk", "cachingMode", "ReadWrite"),
    ("azureDisk", "fsType", "ext4"),
    ("azureDisk", "kind", "Shared"),
];

pub(super) fn volume(v: &mut Value) {
    if let Some(fields) = v.as_object_mut()
        && !fields
            .iter()
            .any(|(k, source)| k != "name" && !source.is_null())
    {
        fields.insert("emptyDir".into(), json!({}));
    }
    source(v);
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(s) = v.get_mut(kind) {
            fill(s, "defaultMode", 0o644);
        }
    }
    each(v, "/downwardAPI/items", item);
    each(v, "/projected/sources", |s| {
        if let Some(token) = object_at(s, "/serviceAccountToken") {
            fill(token, "expirationSeconds", 3600);
        }
        each(s, "/downwardAPI/items", item);
    });
    if let Some(limit) = v.pointer_mut("/emptyDir/sizeLimit") {
        quantity(limit);
    }
    if let Some(spec) = object_at(v, "/ephemeral/volumeClaimTemplate/spec") {
        fill(spec, "volumeMode", "Filesystem");
    }
    if let Some(image) = object_at(v, "/image") {
        let policy = pod::pull_policy(text(image, "/reference"));
        fill_text(image, "pullPolicy", policy);
    }
}

/// What volumes of pods and persistent volumes have in common.
pub(super) fn source(v: &mut Value) {
    if let Some(host_path) = object_at(v, "/hostPath") {
        fill(host_path, "type", "");
    }
    for (kind, field, default) in TEXTS {
        if let Some(s) = v.get_mut(*kind) {
            fill_text(s, field, default);
        }
    }
}

fn item(i: &mut Value) {
    if let Some(field) = object_at(i, "/fieldRef") {
        fill_text(field, "apiVersion", "v1");
    }
}
