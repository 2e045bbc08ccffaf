//! Columns of volumes, claims and storage classes.

use serde_json::{Value, json};

use super::{AGE, Col, NAME, UNSET, default_name, name, or, text_or_none};
use crate::json::{at, flag, has, text, texts};
use crate::meta;

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// Where the class stood before it was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

const CLASS: Col = Col::text("StorageClass", |v, _| {
    json!(meta::annotation(v, OLD_CLASS).unwrap_or_else(|| text(v, "/spec/storageClassName")))
});
const ATTRIBUTES: Col = Col::text("VolumeAttributesClass", |v, _| {
    json!(or(text(v, "/spec/volumeAttributesClassName"), UNSET))
});
const MODE: Col = Col::text("VolumeMode", |v, _| {
    json!(or(text(v, "/spec/volumeMode"), UNSET))
})
.wide();

pub(crate) const PERSISTENT_VOLUME: &[Col] = &[
    NAME,
    Col::text("Capacity", |v, _| json!(text(v, "/spec/capacity/storage"))),
    Col::text("Access Modes", |v, _| json!(modes(v, "/spec/accessModes"))),
    Col::text("Reclaim Policy", |v, _| {
        json!(text(v, "/spec/persistentVolumeReclaimPolicy"))
    }),
    Col::text("Status", |v, _| json!(phase(v))),
    Col::text("Claim", |v, _| {
        let c = at(v, "/spec/claimRef");
        json!(if c.is_null() {
            String::new()
        } else {
            format!("{}/{}", text(c, "/namespace"), text(c, "/name"))
        })
    }),
    CLASS,
    ATTRIBUTES,
    Col::text("Reason", |v, _| json!(text(v, "/status/reason"))),
    AGE,
    MODE,
];

pub(crate) const PERSISTENT_VOLUME_CLAIM: &[Col] = &[
    NAME,
    Col::text("Status", |v, _| json!(phase(v))),
    Col::text("Volume", |v, _| json!(text(v, "/spec/volumeName"))),
    Col::text("Capacity", |v, _| {
        json!(if bound(v) {
            text(v, "/status/capacity/storage")
        } else {
            ""
        })
    }),
    Col::text("Access Modes", |v, _| {
        json!(if bound(v) {
            modes(v, "/status/accessModes")
        } else {
            String::new()
        })
    }),
    CLASS,
    ATTRIBUTES,
    AGE,
    MODE,
];

pub(crate) const STORAGE_CLASS: &[Col] = &[
    name(|v, _| default_name(v, DEFAULT_CLASS)),
    Col::text("Provisioner", |v, _| json!(text(v, "/provisioner"))),
    Col::text("ReclaimPolicy", |v, _| {
        json!(or(text(v, "/reclaimPolicy"), "Delete"))
    }),
    Col::text("VolumeBindingMode", |v, _| {
        json!(or(text(v, "/volumeBindingMode"), UNSET))
    }),
    Col::text("AllowVolumeExpansion", |v, _| {
        json!(flag(v, "/allowVolumeExpansion"))
    }),
    AGE,
];

pub(crate) const VOLUME_ATTACHMENT: &[Col] = &[
    NAME,
    Col::text("Attacher", |v, _| json!(text(v, "/spec/attacher"))),
    Col::text("PV", |v, _| {
        json!(text(v, "/spec/source/persistentVolumeName"))
    }),
    Col::text("Node", |v, _| json!(text(v, "/spec/nodeName"))),
    Col::text("Attached", |v, _| json!(flag(v, "/status/attached"))),
    AGE,
];

pub(crate) const VOLUME_ATTRIBUTES_CLASS: &[Col] = &[
    NAME,
    Col::text("DriverName", |v, _| json!(text(v, "/driverName"))),
    AGE,
];

pub(crate) const CSI_STORAGE_CAPACITY: &[Col] = &[
    NAME,
    Col::text("StorageClass", |v, _| json!(text(v, "/storageClassName"))),
    Col::text("Capacity", |v, _| {
        if has(v, "/capacity") {
            text_or_none(v, "/capacity")
        } else {
            json!(UNSET)
        }
    }),
];

fn bound(v: &Value) -> bool {
    !text(v, "/spec/volumeName").is_empty()
}

fn phase(v: &Value) -> &str {
    if meta::is_deleting(v) {
        "Terminating"
    } else {
        text(v, "/status/phase")
    }
}

/// `RWO,ROX`: access modes in upstream's order.
fn modes(v: &Value, pointer: &str) -> String {
    let given = texts(v, pointer);
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    known
        .iter()
        .filter(|(m, _)| given.contains(m))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}
