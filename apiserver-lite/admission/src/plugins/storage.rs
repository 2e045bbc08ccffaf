//! Claims get the default class and grow only where volumes can; claims and volumes in use are not lost.

use std::cmp::Reverse;

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::{at, has, set, text};
use keelson_api::quantity::Quantity;
use keelson_api::volume::{is_default_class, may_grow};
use serde_json::{Value, json};

use super::{array, creates};
use crate::{Lookup, Operation, Plugin, Request};

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
        let mut defaults: Vec<&Value> = classes.iter().filter(|c| is_default_class(c)).collect();
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

/// `PersistentVolumeClaimResize`.
pub(crate) struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(
        &self,
        req: &Request<'_>,
        claim: &Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        let (Operation::Update, Some(old)) = (req.op, req.old) else {
            return Ok(());
        };
        let is_claim = req.is("", "persistentvolumeclaims") && req.subresource.is_empty();
        let size = |v| Quantity::from_value(at(v, "/spec/resources/requests/storage"));
        let (Ok(new), Ok(old)) = (size(claim), size(old)) else {
            return Ok(());
        };
        if !is_claim || new.milli() <= old.milli() {
            return Ok(());
        }
        let class = text(claim, "/spec/storageClassName");
        let class = match class.is_empty() {
            true => None,
            false => {
                lookup
                    .get("storage.k8s.io", "v1", "storageclasses", "", class)
                    .await?
            }
        };
        if class.as_ref().is_some_and(may_grow) {
            return Ok(());
        }
        Err(Status::forbidden(
            "",
            "persistentvolumeclaims",
            req.name,
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
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
