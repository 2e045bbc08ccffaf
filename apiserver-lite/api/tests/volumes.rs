//! Validation of volumes and claims, in upstream's words.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{wrong, wrong_update};

#[test]
fn persistent_volumes() {
    let with = |more: Value| {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}});
        for (k, v) in more.as_object().into_iter().flatten() {
            spec[k] = v.clone();
        }
        json!({"metadata": {"name": "v"}, "spec": spec})
    };
    let rows: &[(Value, &[&str])] = &[
        (json!({}), &[]),
        (
            json!({"accessModes": []}),
            &["spec.accessModes: Required value"],
        ),
        (
            json!({"accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]}),
            &["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"],
        ),
        (
            json!({"capacity": null}),
            &["spec.capacity: Required value"],
        ),
        (
            json!({"capacity": {"storage": "0"}}),
            &["spec.capacity[storage]: Invalid value: \"0\": must be greater than zero"],
        ),
        (
            json!({"hostPath": null}),
            &["spec: Required value: must specify a volume type"],
        ),
        (
            json!({"nfs": {"server": "s", "path": "/p"}}),
            &["spec.nfs: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            json!({"hostPath": {"path": "/a/../b"}}),
            &["spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"],
        ),
        (
            json!({"hostPath": null, "local": {"path": "/x"}}),
            &["metadata.annotations: Required value: Local volume requires node affinity"],
        ),
        (
            json!({"hostPath": null, "csi": {"driver": "d"}}),
            &["spec.csi.volumeHandle: Required value"],
        ),
        (
            json!({"persistentVolumeReclaimPolicy": "Keep"}),
            &[
                "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Keep\": supported values: \"Delete\", \"Recycle\", \"Retain\"",
            ],
        ),
    ];
    for (more, want) in rows {
        assert_eq!(
            wrong("persistentvolumes", &with(more.clone())),
            *want,
            "{more}"
        );
    }
    let changed = with(json!({"hostPath": {"path": "/y"}}));
    assert_eq!(
        wrong_update("persistentvolumes", &changed, &with(json!({}))),
        [
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"
        ]
    );
    let released = with(json!({"persistentVolumeReclaimPolicy": "Delete"}));
    assert!(wrong_update("persistentvolumes", &released, &with(json!({}))).is_empty());
}

#[test]
fn only_bound_claims_grow() {
    let claim = |size: &str, phase: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}, "status": {"phase": phase}});
    let mut bound = claim("3Gi", "Bound");
    bound["status"]["capacity"] = json!({"storage": "2Gi"});
    for (size, fine) in [("2Gi", true), ("1Gi", false)] {
        let says = wrong_update("persistentvolumeclaims", &claim(size, "Bound"), &bound);
        assert_eq!(says.is_empty(), fine, "{size}: {says:?}");
    }
    for (phase, fine) in [("Pending", false), ("Bound", true)] {
        let (new, old) = (claim("2Gi", phase), claim("1Gi", phase));
        let says = wrong_update("persistentvolumeclaims", &new, &old);
        assert_eq!(says.is_empty(), fine, "{phase}: {says:?}");
    }
}
