//! Tables of the volume controllers' plans, and what they are written with.

mod attached;
mod bound;
mod given;
mod kept;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use keelson_api::volume::Class;
use serde_json::{Value, from_value, json};

use super::{Around, Holder, attach, claim, ephemeral, local, protect, volume};
use crate::action::Action;

fn now() -> jiff::Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

/// Objects from a base and what differs; `null` takes away.
fn merged(mut base: Value, more: Value) -> Value {
    fn put(base: &mut Value, more: Value) {
        match (base.as_object_mut(), more) {
            (Some(into), Value::Object(more)) => {
                for (k, v) in more {
                    put(into.entry(k).or_insert(Value::Null), v);
                }
            }
            (_, more) => *base = more,
        }
    }
    put(&mut base, more);
    base
}

fn a_claim(more: Value) -> PersistentVolumeClaim {
    let base = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""},
        "status": {"phase": "Pending"}});
    from_value(merged(base, more)).expect("a claim")
}

fn a_volume(more: Value) -> PersistentVolume {
    let base = json!({"metadata": {"name": "v", "uid": "v"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"}},
        "status": {"phase": "Available"}});
    from_value(merged(base, more)).expect("a volume")
}

fn class(provisioner: &str, mode: &str) -> Class {
    Class::parse(
        &json!({"metadata": {"name": "x"}, "provisioner": provisioner, "volumeBindingMode": mode, "reclaimPolicy": "Delete"}),
    )
}

/// What actions do, a word or two each.
fn told(actions: &[Action]) -> String {
    let one = |a: &Action| match a {
        Action::Create { object, .. } => format!(
            "create {}",
            object["metadata"]["name"].as_str().unwrap_or("?")
        ),
        Action::Delete { target, .. } => format!("delete {}", target.key),
        Action::Event { reason, .. } => format!("!{reason}"),
        Action::Patch { target, patch, .. } => {
            let mut fields = Vec::new();
            let mut add = |path: &str, name: &str| match patch.pointer(path) {
                None => {}
                Some(Value::Null) => fields.push(format!("no {name}")),
                Some(v) => fields.push(match v.as_str() {
                    Some(text) => format!("{name}={text}"),
                    None => name.to_owned(),
                }),
            };
            add("/status/phase", "phase");
            add("/status/message", "message");
            add("/status/capacity/storage", "capacity");
            add("/spec/claimRef", "claimRef");
            add("/spec/claimRef/uid", "uid");
            add("/spec/volumeName", "volume");
            add("/spec/storageClassName", "class");
            add("/metadata/finalizers", "finalizers");
            add(
                "/metadata/annotations/pv.kubernetes.io~1bind-completed",
                "completed",
            );
            add(
                "/metadata/annotations/pv.kubernetes.io~1bound-by-controller",
                "ours",
            );
            add(
                "/metadata/annotations/volume.kubernetes.io~1storage-provisioner",
                "provisioner",
            );
            add(
                "/metadata/annotations/volume.kubernetes.io~1selected-node",
                "node",
            );
            fields.retain(|f| f != "no message");
            format!("{}: {}", target.key, fields.join(" "))
        }
        other => format!("{other:?}"),
    };
    actions.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn a_pod(more: Value) -> Pod {
    let base = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "pu"},
        "spec": {"containers": [], "nodeName": "n", "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]},
        "status": {"phase": "Running"}});
    from_value(merged(base, more)).expect("a pod")
}
