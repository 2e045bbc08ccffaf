//! The caches that all controllers share: one informer a kind.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass, VolumeAttachment};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher;
use kube::{Client, Resource};

use crate::informer::Informer;

macro_rules! caches {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $informer:expr,)*) => {
        /// One informer for each kind that a controller reads.
        pub struct Caches {
            $($(#[$doc])* pub $field: Arc<Informer<$kind>>,)*
        }

        impl Default for Caches {
            fn default() -> Self {
                Self { $($field: Arc::new($informer),)* }
            }
        }

        impl Caches {
            /// Watches for ever.
            pub async fn run(&self, client: &Client) {
                let all: Vec<futures::future::BoxFuture<'static, ()>> =
                    vec![$(Box::pin(self.$field.clone().run(client.clone())),)*];
                futures::future::join_all(all).await;
            }

            /// Waits until the first list of each kind is complete.
            pub async fn synced(&self) {
                $(self.$field.synced().await;)*
            }

            /// Takes what a write of our own gave back.
            pub fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
                $(if resource.kind == <$kind>::kind(&()) && resource.group == <$kind>::group(&()) {
                    return drop(object.try_parse().map(|o| self.$field.wrote(o)));
                })*
            }
        }
    };
}

caches! {
    /// Pods.
    pods: Pod = Informer::new(watcher::Config::default(), slim_pod),
    /// Nodes.
    nodes: Node = Informer::new(watcher::Config::default(), slim_node),
    /// Node leases.
    leases: Lease = Informer::default(),
    /// Namespaces.
    namespaces: Namespace = Informer::default(),
    /// Services.
    services: Service = Informer::default(),
    /// Endpoints.
    endpoints: Endpoints = Informer::default(),
    /// EndpointSlices.
    slices: EndpointSlice = Informer::default(),
    /// ServiceAccounts.
    accounts: ServiceAccount = Informer::default(),
    /// Token Secrets only.
    tokens: Secret = Informer::new(
        watcher::Config::default().fields("type=kubernetes.io/service-account-token"), |_| ()),
    /// `kube-root-ca.crt` only.
    roots: ConfigMap = Informer::new(
        watcher::Config::default().fields("metadata.name=kube-root-ca.crt"), |_| ()),
    /// Deployments.
    deployments: Deployment = Informer::default(),
    /// ReplicaSets.
    replica_sets: ReplicaSet = Informer::default(),
    /// ReplicationControllers.
    replication_controllers: ReplicationController = Informer::default(),
    /// StatefulSets.
    stateful_sets: StatefulSet = Informer::default(),
    /// DaemonSets.
    daemon_sets: DaemonSet = Informer::default(),
    /// Revisions of StatefulSets and DaemonSets.
    revisions: ControllerRevision = Informer::default(),
    /// Jobs.
    jobs: Job = Informer::default(),
    /// CronJobs.
    cron_jobs: CronJob = Informer::default(),
    /// PodDisruptionBudgets.
    budgets: PodDisruptionBudget = Informer::default(),
    /// ResourceQuotas.
    quotas: ResourceQuota = Informer::default(),
    /// Claims.
    claims: PersistentVolumeClaim = Informer::default(),
    /// Volumes.
    volumes: PersistentVolume = Informer::default(),
    /// Storage classes.
    classes: StorageClass = Informer::default(),
    /// CSI drivers.
    drivers: CSIDriver = Informer::default(),
    /// Volumes attached to nodes.
    attachments: VolumeAttachment = Informer::default(),
    /// CertificateSigningRequests.
    requests: CertificateSigningRequest = Informer::default(),
    /// ClusterRoles.
    cluster_roles: ClusterRole = Informer::default(),
}

/// Controllers read of a pod's spec where it runs, its ports, its claims, what it asks for and tolerates.
/// Environments, mounts, probes and other volumes are most of its size.
fn slim_pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    let mut claims = spec.volumes.take().unwrap_or_default();
    claims.retain(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some());
    spec.volumes = (!claims.is_empty()).then_some(claims);
    spec.ephemeral_containers = None;
    let slim = |c: &mut Container| {
        *c = Container {
            name: std::mem::take(&mut c.name),
            ports: c.ports.take(),
            resources: c.resources.take(),
            restart_policy: c.restart_policy.take(),
            ..Container::default()
        }
    };
    spec.containers.iter_mut().for_each(slim);
    spec.init_containers.iter_mut().flatten().for_each(slim);
}

/// A node lists all its images.
fn slim_node(node: &mut Node) {
    if let Some(status) = &mut node.status {
        status.images = None;
    }
}
