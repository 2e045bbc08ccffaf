//! The table against an independent source: the kinds, plurals and scopes of k8s-openapi.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use k8s_openapi::Resource;
use k8s_openapi::api::{
    admissionregistration, apps, authentication, authorization, autoscaling, batch, certificates,
    coordination, core, discovery, events, networking, node, policy, rbac, scheduling, storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;

/// Group, version, kind, plural, namespaced.
type Fact = (&'static str, &'static str, &'static str, &'static str, bool);

fn fact<T: Resource>() -> Fact {
    let namespaced = std::any::type_name::<T::Scope>().ends_with("NamespaceResourceScope");
    (
        T::GROUP,
        T::VERSION,
        T::KIND,
        T::URL_PATH_SEGMENT,
        namespaced,
    )
}

macro_rules! facts {
    ($($group:ident :: $version:ident { $($kind:ident),* $(,)? })*) => { vec![$($(fact::<$group::$version::$kind>(),)*)*] };
}

#[test]
fn kinds_plurals_and_scopes() {
    let facts = facts! {
        core::v1 { ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolumeClaim, PersistentVolume, Pod,
            PodTemplate, ReplicationController, ResourceQuota, Secret, ServiceAccount, Service }
        admissionregistration::v1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration,
            ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration }
        apiextensions::v1 { CustomResourceDefinition }
        apiregistration::v1 { APIService }
        apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
        authentication::v1 { SelfSubjectReview, TokenReview }
        authorization::v1 { LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview }
        autoscaling::v1 { HorizontalPodAutoscaler }
        autoscaling::v2 { HorizontalPodAutoscaler }
        batch::v1 { CronJob, Job }
        certificates::v1 { CertificateSigningRequest }
        certificates::v1beta1 { ClusterTrustBundle }
        coordination::v1 { Lease }
        discovery::v1 { EndpointSlice }
        events::v1 { Event }
        networking::v1 { IngressClass, Ingress, IPAddress, NetworkPolicy, ServiceCIDR }
        node::v1 { RuntimeClass }
        policy::v1 { PodDisruptionBudget }
        rbac::v1 { ClusterRoleBinding, ClusterRole, RoleBinding, Role }
        scheduling::v1 { PriorityClass }
        storage::v1 { CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass }
    };
    let mut want: BTreeSet<String> = facts.iter().map(|f| format!("{f:?}")).collect();
    // No kinds of the library: computed, not stored.
    for (kind, plural, namespaced) in [
        ("NodeMetrics", "nodes", false),
        ("PodMetrics", "pods", true),
    ] {
        want.insert(format!(
            "{:?}",
            ("metrics.k8s.io", "v1beta1", kind, plural, namespaced)
        ));
    }
    // A subresource there, a resource of its own here.
    want.insert(format!("{:?}", ("", "v1", "Binding", "bindings", true)));
    let table = keelson_api::builtin();
    let have: BTreeSet<String> = table
        .rows()
        .map(|r| {
            let namespaced = r.scope == keelson_api::Scope::Namespaced;
            format!(
                "{:?}",
                (
                    r.group.as_ref(),
                    r.version.as_ref(),
                    r.kind.as_ref(),
                    r.plural.as_ref(),
                    namespaced
                )
            )
        })
        .collect();
    assert_eq!(have, want);
}
