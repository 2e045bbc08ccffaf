//! Defaults of volumes, claims, storage classes and drivers.

use serde_json::{Value, json};

use super::{quantities, volume};
use crate::json::{fill, fill_text, items, object, set};

/// A PersistentVolume.
pub(crate) fn persistent_volume(v: &mut Value) {
    if let Some(spec) = object(v, "spec") {
        fill_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        fill(spec, "volumeMode", "Filesystem");
        volume::source(spec);
        quantities(spec, "/capacity");
    }
    if let Some(status) = object(v, "status") {
        fill_text(status, "phase", "Pending");
    }
}

/// A PersistentVolumeClaim.
pub(crate) fn persistent_volume_claim(v: &mut Value) {
    if let Some(spec) = object(v, "spec") {
        claim_spec(spec);
    }
    if let Some(status) = object(v, "status") {
        fill_text(status, "phase", "Pending");
        quantities(status, "/capacity");
        quantities(status, "/allocatedResources");
    }
}

/// The `spec` of a claim, also in templates.
pub(super) fn claim_spec(spec: &mut Value) {
    fill(spec, "volumeMode", "Filesystem");
    quantities(spec, "/resources/requests");
    quantities(spec, "/resources/limits");
}

/// A StorageClass.
pub(crate) fn storage_class(v: &mut Value) {
    fill(v, "reclaimPolicy", "Delete");
    fill(v, "volumeBindingMode", "Immediate");
}

/// A CSIDriver.
pub(crate) fn csi_driver(v: &mut Value) {
    let Some(spec) = object(v, "spec") else {
        return;
    };
    fill(spec, "attachRequired", true);
    for field in [
        "podInfoOnMount",
        "storageCapacity",
        "requiresRepublish",
        "seLinuxMount",
    ] {
        fill(spec, field, false);
    }
    fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if items(spec, "/volumeLifecycleModes").is_empty() {
        set(spec, "volumeLifecycleModes", json!(["Persistent"]));
    }
}
