//! The plugins, a file each.

mod certificates;
mod default_tolerations;
mod ingress_class;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod priority;
pub(crate) mod resource_quota;
mod runtime_class;
mod service_account;
mod storage;
mod taint_nodes;

pub(crate) use certificates::{
    CertificateApproval, CertificateSigning, CertificateSubjectRestriction,
    ClusterTrustBundleAttest,
};
pub(crate) use default_tolerations::DefaultTolerationSeconds;
pub(crate) use ingress_class::DefaultIngressClass;
pub(crate) use limit_ranger::LimitRanger;
pub(crate) use namespace_lifecycle::NamespaceLifecycle;
pub(crate) use node_restriction::NodeRestriction;
pub(crate) use pod_security::PodSecurity;
pub(crate) use priority::Priority;
pub(crate) use resource_quota::ResourceQuota;
pub(crate) use runtime_class::RuntimeClass;
pub(crate) use service_account::ServiceAccount;
pub(crate) use storage::{
    DefaultStorageClass, PersistentVolumeClaimResize, StorageObjectInUseProtection,
};
pub(crate) use taint_nodes::TaintNodesByCondition;

use serde_json::{Value, json};

use crate::{Operation, Request};

/// Whether a request makes a pod.
fn makes_pod(req: &Request<'_>) -> bool {
    creates(req, "", "pods")
}

/// Whether a request makes an object of a resource.
fn creates(req: &Request<'_>, group: &str, plural: &str) -> bool {
    req.is(group, plural) && req.subresource.is_empty() && req.op == Operation::Create
}

/// The array at a key of a top-level field (such as `spec`; empty: of the object itself), both made if they are missing;
/// `None` when something else stands there.
fn array<'a>(object: &'a mut Value, field: &str, key: &str) -> Option<&'a mut Vec<Value>> {
    let parent = if field.is_empty() {
        object
    } else {
        keelson_api::json::object(object, field)?
    };
    let slot = parent.as_object_mut()?.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = json!([]);
    }
    slot.as_array_mut()
}
