//! The rows of the built-in kinds, as Kubernetes 1.36 serves them.

use std::sync::Arc;

use crate::columns::{self, Col};
use crate::resource::{Convert, Resource, Scope, Strategy, Sub, Table};
use crate::{convert, strategy};

/// Verbs of kinds that are stored.
const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// Verbs of Namespaces, which go one by one.
const NO_COLLECTION: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
/// Verbs of reviews and bindings, which are answered and not stored.
const CREATE: &[&str] = &["create"];
/// Verbs of what is computed.
const READ: &[&str] = &["get", "list"];

const STATUS: &[Sub] = &[Sub::Status];
const SCALE: &[Sub] = &[Sub::Status, Sub::Scale];

/// A row before it is given its group and version.
#[derive(Clone, Copy)]
struct Row {
    kind: &'static str,
    plural: &'static str,
    scope: Scope,
    short: &'static [&'static str],
    category: &'static str,
    verbs: &'static [&'static str],
    subs: &'static [Sub],
    columns: &'static [Col],
    strategy: Strategy,
    convert: Option<Convert>,
}

const fn cluster(kind: &'static str, plural: &'static str, strategy: Strategy) -> Row {
    Row {
        kind,
        plural,
        scope: Scope::Cluster,
        short: &[],
        category: "",
        verbs: ALL,
        subs: &[],
        columns: columns::DEFAULT,
        strategy,
        convert: None,
    }
}

const fn namespaced(kind: &'static str, plural: &'static str, strategy: Strategy) -> Row {
    Row {
        scope: Scope::Namespaced,
        ..cluster(kind, plural, strategy)
    }
}

impl Row {
    const fn short(self, short: &'static [&'static str]) -> Row {
        Row { short, ..self }
    }

    const fn category(self, category: &'static str) -> Row {
        Row { category, ..self }
    }

    const fn verbs(self, verbs: &'static [&'static str]) -> Row {
        Row { verbs, ..self }
    }

    const fn subs(self, subs: &'static [Sub]) -> Row {
        Row { subs, ..self }
    }

    const fn shows(self, columns: &'static [Col]) -> Row {
        Row { columns, ..self }
    }

    const fn converts(
        self,
        from_stored: fn(&mut serde_json::Value),
        to_stored: fn(&mut serde_json::Value),
    ) -> Row {
        Row {
            convert: Some(Convert {
                from_stored,
                to_stored,
            }),
            ..self
        }
    }

    fn resource(&self, group: &'static str, version: &'static str) -> Resource {
        Resource {
            group: group.into(),
            version: version.into(),
            kind: self.kind.into(),
            list_kind: format!("{}List", self.kind).into(),
            plural: self.plural.into(),
            singular: self.kind.to_lowercase().into(),
            short_names: self.short.iter().map(|s| (*s).into()).collect(),
            categories: Some(self.category)
                .filter(|c| !c.is_empty())
                .map(Into::into)
                .into_iter()
                .collect(),
            scope: self.scope,
            verbs: self.verbs,
            subresources: self.subs.to_vec(),
            columns: Arc::from(columns::build(self.columns)),
            strategy: self.strategy,
            // What is measured shares no keys with what it is measured of.
            storage: match group {
                "metrics.k8s.io" => format!("{group}/{}", self.plural).into(),
                _ => self.plural.into(),
            },
            convert: self.convert,
        }
    }
}

/// All built-in rows.
pub fn builtin() -> Table {
    let mut table = Table::default();
    for (group, version, rows) in GROUPS {
        for row in *rows {
            table.insert(row.resource(group, version));
        }
    }
    table
}

const GROUPS: &[(&str, &str, &[Row])] = &[
    ("", "v1", CORE),
    ("admissionregistration.k8s.io", "v1", ADMISSION),
    ("apiextensions.k8s.io", "v1", EXTENSIONS),
    ("apiregistration.k8s.io", "v1", REGISTRATION),
    ("apps", "v1", APPS),
    ("authentication.k8s.io", "v1", AUTHENTICATION),
    ("authorization.k8s.io", "v1", AUTHORIZATION),
    ("autoscaling", "v1", AUTOSCALING_V1),
    ("autoscaling", "v2", AUTOSCALING_V2),
    ("batch", "v1", BATCH),
    ("certificates.k8s.io", "v1", CERTIFICATES),
    ("certificates.k8s.io", "v1beta1", TRUST_BUNDLES),
    ("coordination.k8s.io", "v1", COORDINATION),
    ("discovery.k8s.io", "v1", DISCOVERY),
    ("events.k8s.io", "v1", EVENTS),
    ("metrics.k8s.io", "v1beta1", METRICS),
    ("networking.k8s.io", "v1", NETWORKING),
    ("node.k8s.io", "v1", NODE),
    ("policy", "v1", POLICY),
    ("rbac.authorization.k8s.io", "v1", RBAC),
    ("scheduling.k8s.io", "v1", SCHEDULING),
    ("storage.k8s.io", "v1", STORAGE),
];

const POD_SUBS: &[Sub] = &[
    Sub::Status,
    Sub::Binding,
    Sub::Eviction,
    Sub::EphemeralContainers,
    Sub::Resize,
    Sub::Log,
    Sub::Exec,
    Sub::Attach,
    Sub::PortForward,
    Sub::Proxy,
];

const CORE: &[Row] = &[
    namespaced("Binding", "bindings", strategy::PLAIN).verbs(CREATE),
    cluster("ComponentStatus", "componentstatuses", strategy::PLAIN)
        .shows(columns::COMPONENT_STATUS)
        .short(&["cs"])
        .verbs(READ),
    namespaced("ConfigMap", "configmaps", strategy::CONFIG_MAP)
        .shows(columns::CONFIG_MAP)
        .short(&["cm"]),
    namespaced("Endpoints", "endpoints", strategy::ENDPOINTS)
        .shows(columns::ENDPOINTS)
        .short(&["ep"]),
    namespaced("Event", "events", strategy::EVENT)
        .shows(columns::EVENT)
        .short(&["ev"]),
    namespaced("LimitRange", "limitranges", strategy::LIMIT_RANGE)
        .shows(columns::LIMIT_RANGE)
        .short(&["limits"]),
    cluster("Namespace", "namespaces", strategy::NAMESPACE)
        .shows(columns::NAMESPACE)
        .short(&["ns"])
        .verbs(NO_COLLECTION)
        .subs(&[Sub::Status, Sub::Finalize]),
    cluster("Node", "nodes", strategy::NODE)
        .shows(columns::NODE)
        .short(&["no"])
        .subs(&[Sub::Status, Sub::Proxy]),
    namespaced(
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        strategy::PERSISTENT_VOLUME_CLAIM,
    )
    .shows(columns::PERSISTENT_VOLUME_CLAIM)
    .short(&["pvc"])
    .subs(STATUS),
    cluster(
        "PersistentVolume",
        "persistentvolumes",
        strategy::PERSISTENT_VOLUME,
    )
    .shows(columns::PERSISTENT_VOLUME)
    .short(&["pv"])
    .subs(STATUS),
    namespaced("Pod", "pods", strategy::POD)
        .shows(columns::POD)
        .short(&["po"])
        .category("all")
        .subs(POD_SUBS),
    namespaced("PodTemplate", "podtemplates", strategy::POD_TEMPLATE).shows(columns::POD_TEMPLATE),
    namespaced(
        "ReplicationController",
        "replicationcontrollers",
        strategy::REPLICATION_CONTROLLER,
    )
    .shows(columns::REPLICATION_CONTROLLER)
    .short(&["rc"])
    .category("all")
    .subs(SCALE),
    namespaced("ResourceQuota", "resourcequotas", strategy::RESOURCE_QUOTA)
        .shows(columns::RESOURCE_QUOTA)
        .short(&["quota"])
        .subs(STATUS),
    namespaced("Secret", "secrets", strategy::SECRET).shows(columns::SECRET),
    namespaced(
        "ServiceAccount",
        "serviceaccounts",
        strategy::SERVICE_ACCOUNT,
    )
    .shows(columns::SERVICE_ACCOUNT)
    .short(&["sa"])
    .subs(&[Sub::Token]),
    namespaced("Service", "services", strategy::SERVICE)
        .shows(columns::SERVICE)
        .short(&["svc"])
        .category("all")
        .subs(&[Sub::Status, Sub::Proxy]),
];

const ADMISSION: &[Row] = &[
    cluster(
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies",
        strategy::ADMISSION_POLICY,
    )
    .shows(columns::MUTATING_POLICY)
    .category("api-extensions"),
    cluster(
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
        strategy::GENERIC,
    )
    .shows(columns::ADMISSION_POLICY_BINDING)
    .category("api-extensions"),
    cluster(
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        strategy::MUTATING_WEBHOOKS,
    )
    .shows(columns::WEBHOOKS)
    .category("api-extensions"),
    cluster(
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        strategy::ADMISSION_POLICY,
    )
    .shows(columns::ADMISSION_POLICY)
    .category("api-extensions")
    .subs(STATUS),
    cluster(
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        strategy::GENERIC,
    )
    .shows(columns::ADMISSION_POLICY_BINDING)
    .category("api-extensions"),
    cluster(
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        strategy::VALIDATING_WEBHOOKS,
    )
    .shows(columns::WEBHOOKS)
    .category("api-extensions"),
];

const EXTENSIONS: &[Row] = &[cluster(
    "CustomResourceDefinition",
    "customresourcedefinitions",
    strategy::CUSTOM_RESOURCE_DEFINITION,
)
.shows(columns::CUSTOM_RESOURCE_DEFINITION)
.short(&["crd", "crds"])
.category("api-extensions")
.subs(STATUS)];

const REGISTRATION: &[Row] = &[cluster("APIService", "apiservices", strategy::API_SERVICE)
    .shows(columns::API_SERVICE)
    .category("api-extensions")
    .subs(STATUS)];

const APPS: &[Row] = &[
    namespaced(
        "ControllerRevision",
        "controllerrevisions",
        strategy::CONTROLLER_REVISION,
    )
    .shows(columns::CONTROLLER_REVISION),
    namespaced("DaemonSet", "daemonsets", strategy::DAEMON_SET)
        .shows(columns::DAEMON_SET)
        .short(&["ds"])
        .category("all")
        .subs(STATUS),
    namespaced("Deployment", "deployments", strategy::DEPLOYMENT)
        .shows(columns::DEPLOYMENT)
        .short(&["deploy"])
        .category("all")
        .subs(SCALE),
    namespaced("ReplicaSet", "replicasets", strategy::REPLICA_SET)
        .shows(columns::REPLICA_SET)
        .short(&["rs"])
        .category("all")
        .subs(SCALE),
    namespaced("StatefulSet", "statefulsets", strategy::STATEFUL_SET)
        .shows(columns::STATEFUL_SET)
        .short(&["sts"])
        .category("all")
        .subs(SCALE),
];

const AUTHENTICATION: &[Row] = &[
    cluster("SelfSubjectReview", "selfsubjectreviews", strategy::PLAIN).verbs(CREATE),
    cluster("TokenReview", "tokenreviews", strategy::PLAIN).verbs(CREATE),
];

const AUTHORIZATION: &[Row] = &[
    namespaced(
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        strategy::PLAIN,
    )
    .verbs(CREATE),
    cluster(
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        strategy::PLAIN,
    )
    .verbs(CREATE),
    cluster(
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        strategy::PLAIN,
    )
    .verbs(CREATE),
    cluster(
        "SubjectAccessReview",
        "subjectaccessreviews",
        strategy::PLAIN,
    )
    .verbs(CREATE),
];

const AUTOSCALING_V1: &[Row] = &[HPA.converts(convert::hpa::to_v1, convert::hpa::from_v1)];
const AUTOSCALING_V2: &[Row] = &[HPA];
const HPA: Row = namespaced(
    "HorizontalPodAutoscaler",
    "horizontalpodautoscalers",
    strategy::HORIZONTAL_POD_AUTOSCALER,
)
.shows(columns::HORIZONTAL_POD_AUTOSCALER)
.short(&["hpa"])
.category("all")
.subs(STATUS);

const BATCH: &[Row] = &[
    namespaced("CronJob", "cronjobs", strategy::CRON_JOB)
        .shows(columns::CRON_JOB)
        .short(&["cj"])
        .category("all")
        .subs(STATUS),
    namespaced("Job", "jobs", strategy::JOB)
        .shows(columns::JOB)
        .category("all")
        .subs(STATUS),
];

const CERTIFICATES: &[Row] = &[cluster(
    "CertificateSigningRequest",
    "certificatesigningrequests",
    strategy::CERTIFICATE_SIGNING_REQUEST,
)
.shows(columns::CERTIFICATE_SIGNING_REQUEST)
.short(&["csr"])
.subs(&[Sub::Status, Sub::Approval])];

const TRUST_BUNDLES: &[Row] = &[cluster(
    "ClusterTrustBundle",
    "clustertrustbundles",
    strategy::CLUSTER_TRUST_BUNDLE,
)
.shows(columns::CLUSTER_TRUST_BUNDLE)];

const COORDINATION: &[Row] =
    &[namespaced("Lease", "leases", strategy::LEASE).shows(columns::LEASE)];

const DISCOVERY: &[Row] =
    &[
        namespaced("EndpointSlice", "endpointslices", strategy::ENDPOINT_SLICE)
            .shows(columns::ENDPOINT_SLICE),
    ];

const EVENTS: &[Row] = &[namespaced("Event", "events", strategy::EVENT_V1)
    .shows(columns::EVENT)
    .short(&["ev"])
    .converts(convert::event::to_events_v1, convert::event::from_events_v1)];

/// What is measured, not stored: see the server's `figures`.
const METRICS: &[Row] = &[
    cluster("NodeMetrics", "nodes", strategy::PLAIN)
        .shows(columns::METRICS)
        .verbs(READ),
    namespaced("PodMetrics", "pods", strategy::PLAIN)
        .shows(columns::METRICS)
        .verbs(READ),
];

const NETWORKING: &[Row] = &[
    cluster("IngressClass", "ingressclasses", strategy::INGRESS_CLASS)
        .shows(columns::INGRESS_CLASS),
    namespaced("Ingress", "ingresses", strategy::INGRESS)
        .shows(columns::INGRESS)
        .short(&["ing"])
        .subs(STATUS),
    cluster("IPAddress", "ipaddresses", strategy::IP_ADDRESS)
        .shows(columns::IP_ADDRESS)
        .short(&["ip"]),
    namespaced("NetworkPolicy", "networkpolicies", strategy::NETWORK_POLICY)
        .shows(columns::NETWORK_POLICY)
        .short(&["netpol"]),
    cluster("ServiceCIDR", "servicecidrs", strategy::SERVICE_CIDR)
        .shows(columns::SERVICE_CIDR)
        .subs(STATUS),
];

const NODE: &[Row] = &[
    cluster("RuntimeClass", "runtimeclasses", strategy::RUNTIME_CLASS)
        .shows(columns::RUNTIME_CLASS),
];

const POLICY: &[Row] = &[namespaced(
    "PodDisruptionBudget",
    "poddisruptionbudgets",
    strategy::POD_DISRUPTION_BUDGET,
)
.shows(columns::POD_DISRUPTION_BUDGET)
.short(&["pdb"])
.subs(STATUS)];

const RBAC: &[Row] = &[
    cluster(
        "ClusterRoleBinding",
        "clusterrolebindings",
        strategy::ROLE_BINDING,
    )
    .shows(columns::ROLE_BINDING),
    cluster("ClusterRole", "clusterroles", strategy::ROLE).shows(columns::ROLE),
    namespaced("RoleBinding", "rolebindings", strategy::ROLE_BINDING).shows(columns::ROLE_BINDING),
    namespaced("Role", "roles", strategy::ROLE).shows(columns::ROLE),
];

const SCHEDULING: &[Row] = &[
    cluster("PriorityClass", "priorityclasses", strategy::PRIORITY_CLASS)
        .shows(columns::PRIORITY_CLASS)
        .short(&["pc"]),
];

const STORAGE: &[Row] = &[
    cluster("CSIDriver", "csidrivers", strategy::CSI_DRIVER).shows(columns::CSI_DRIVER),
    cluster("CSINode", "csinodes", strategy::PLAIN).shows(columns::CSI_NODE),
    namespaced(
        "CSIStorageCapacity",
        "csistoragecapacities",
        strategy::PLAIN,
    )
    .shows(columns::CSI_STORAGE_CAPACITY),
    cluster("StorageClass", "storageclasses", strategy::STORAGE_CLASS)
        .shows(columns::STORAGE_CLASS)
        .short(&["sc"]),
    cluster(
        "VolumeAttachment",
        "volumeattachments",
        strategy::VOLUME_ATTACHMENT,
    )
    .shows(columns::VOLUME_ATTACHMENT)
    .subs(STATUS),
    cluster(
        "VolumeAttributesClass",
        "volumeattributesclasses",
        strategy::PLAIN,
    )
    .shows(columns::VOLUME_ATTRIBUTES_CLASS)
    .short(&["vac"]),
];
