//! Claims get the default class; claims and volumes in use are not lost.

use std::cmp::Reverse;

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::{at, has, set, text};
use serde_json::{Value, json};

use super::{array, creates};
use crate::{Lookup, Plugin, Request};

/// `DefaultStorageClass`.
pub(crate) struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn mutate(
        &self,
        req: &Request<'_>,
        claim: &mut Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        const OLD_FORM: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";
        // An empty name means: no class.
        let says = has(claim, "/spec/storageClassName") || has(claim, OLD_FORM);
        if !creates(req, "", "persistentvolumeclaims") || says {
            return Ok(());
        }
        let classes = lookup
            .list("storage.k8s.io", "v1", "storageclasses", "")
            .await?;
        let mut defaults: Vec<&Value> = classes.iter().filter(|c| is_default(c)).collect();
        // Of several the newest, then by name.
        defaults.sort_by_key(|c| {
            (
                Reverse(text(c, "/metadata/creationTimestamp")),
                text(c, "/metadata/name"),
            )
        });
        if let (Some(class), Some(spec)) = (defaults.first(), claim.get_mut("spec")) {
            set(spec, "storageClassName", text(class, "/metadata/name"));
        }
        Ok(())
    }
}

fn is_default(class: &Value) -> bool {
    let annotations = at(class, "/metadata/annotations");
    [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|key| annotations.get(*key).and_then(Value::as_str) == Some("true"))
}

/// `StorageObjectInUseProtection`.
pub(crate) struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn mutate(
        &self,
        req: &Request<'_>,
        object: &mut Value,
        _: &dyn Lookup,
    ) -> Result<(), Status> {
        const FINALIZERS: [(&str, &str); 2] = [
            ("persistentvolumes", "kubernetes.io/pv-protection"),
            ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
        ];
        let row = FINALIZERS
            .iter()
            .find(|(plural, _)| creates(req, "", plural));
        if let Some((_, finalizer)) = row
            && let Some(finalizers) = array(object, "metadata", "finalizers")
            && !finalizers.iter().any(|f| f == finalizer)
        {
            finalizers.push(json!(finalizer));
        }
        Ok(())
    }
}
