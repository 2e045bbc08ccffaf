//! The built-in kinds: one row a kind, with the function that writes its JSON schema.

use crate::Gvk;
use k8s_openapi::api::{
    admissionregistration::v1 as admissionregistration, apps::v1 as apps,
    authentication::v1 as authentication, authorization::v1 as authorization, autoscaling,
    batch::v1 as batch, certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, flowcontrol::v1 as flowcontrol,
    networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
    resource::v1 as resource, scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use schemars::{JsonSchema, SchemaGenerator};

/// A row: what a kind is called and how its schema is written.
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    /// Name of the kind's definition, such as `io.k8s.api.core.v1.Pod`.
    pub(crate) definition: fn() -> String,
    /// Adds the kind and all it refers to.
    pub(crate) add: fn(&mut SchemaGenerator),
}

const fn row<T: JsonSchema>(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
) -> Kind {
    Kind {
        group,
        version,
        kind,
        definition: || T::schema_name().into_owned(),
        add: |generator| {
            generator.subschema_for::<T>();
        },
    }
}

const fn resource<T: JsonSchema + k8s_openapi::Resource>() -> Kind {
    row::<T>(T::GROUP, T::VERSION, T::KIND)
}

macro_rules! resources {
    ($($package:path { $($kind:ident),* $(,)? })*) => { &[
        $($({ use $package as package; resource::<package::$kind>() }),*,)*
        row::<meta::DeleteOptions>("", "v1", "DeleteOptions"),
    ] };
}

/// Every kind the API server can serve or take as a request's body.
pub(crate) static KINDS: &[Kind] = resources! {
    core {
        Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node,
        PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController,
        ResourceQuota, Secret, Service, ServiceAccount,
    }
    meta { Status }
    apps { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
    batch { CronJob, Job }
    discovery { EndpointSlice }
    coordination { Lease }
    rbac { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
    authentication { SelfSubjectReview, TokenRequest, TokenReview }
    authorization {
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview,
        SubjectAccessReview,
    }
    events { Event }
    scheduling { PriorityClass }
    networking { IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR }
    policy { Eviction, PodDisruptionBudget }
    storage {
        CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
        VolumeAttributesClass,
    }
    node { RuntimeClass }
    autoscaling::v1 { HorizontalPodAutoscaler, Scale }
    autoscaling::v2 { HorizontalPodAutoscaler }
    certificates::v1 { CertificateSigningRequest }
    certificates::v1beta1 { ClusterTrustBundle }
    apiextensions { CustomResourceDefinition }
    apiregistration { APIService }
    admissionregistration {
        MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration,
        ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
        ValidatingWebhookConfiguration,
    }
    flowcontrol { FlowSchema, PriorityLevelConfiguration }
    self::resource { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
};

/// The row of a kind. `DeleteOptions` and `Status` may carry any group and version, as upstream registers them.
pub(crate) fn find(gvk: &Gvk) -> Option<&'static Kind> {
    let everywhere = matches!(gvk.kind.as_str(), "DeleteOptions" | "Status");
    KINDS.iter().find(|row| {
        row.kind == gvk.kind
            && (everywhere || (row.group == gvk.group && row.version == gvk.version))
    })
}
