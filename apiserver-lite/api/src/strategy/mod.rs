//! What each kind does beyond the generic: one `Strategy` a kind.

use serde_json::{Value, json};

use crate::json;
use crate::resource::Strategy;
use crate::validate::names;
use crate::{defaults, validate};

mod batch;
mod certificates;
mod namespace;
mod pod;
mod selectable;
mod service;

pub(crate) use pod::qos;

/// A kind whose `metadata.generation` counts changes of `spec`.
pub(crate) const GENERIC: Strategy = Strategy {
    default: None,
    prepare_create: None,
    prepare_update: None,
    validate: None,
    validate_update: None,
    prepare_status: None,
    status_keeps: &[],
    validate_status: None,
    selectable: &[],
    no_generation: false,
    grace: None,
    valid_name: None,
    orphans: false,
    create_on_update: false,
};

/// A kind without `metadata.generation`.
pub(crate) const PLAIN: Strategy = Strategy {
    no_generation: true,
    ..GENERIC
};

/// A kind with a status and `metadata.generation`.
pub(crate) const WITH_STATUS: Strategy = Strategy {
    prepare_create: Some(clear_status),
    prepare_update: Some(keep_status),
    ..GENERIC
};

/// A kind with a status only.
pub(crate) const STATUS_ONLY: Strategy = Strategy {
    no_generation: true,
    ..WITH_STATUS
};

/// All metadata that could be changed (upstream's `ResetObjectMetaForStatus`).
const ALL_METADATA: &[&str] = &["annotations", "finalizers", "labels", "ownerReferences"];

/// A kind whose status subresource takes the status and nothing else.
const STRICT_STATUS: Strategy = Strategy {
    status_keeps: ALL_METADATA,
    ..WITH_STATUS
};

fn clear_status(v: &mut Value) {
    json::remove(v, "status");
}

fn keep_status(new: &mut Value, old: &Value) {
    json::keep(new, old, "status");
}

macro_rules! name_check {
    ($name:ident, $check:path) => {
        fn $name(s: &str) -> Result<(), String> {
            $check(s).into_iter().next().map_or(Ok(()), Err)
        }
    };
}
name_check!(dns_label, names::dns_label);
name_check!(dns_label_1035, names::dns_label_1035);
name_check!(path_segment, names::path_segment);
name_check!(ip_name, names::ip);

pub(crate) const POD: Strategy = Strategy {
    default: Some(defaults::pod),
    prepare_create: Some(pod::prepare_create),
    prepare_update: Some(pod::prepare_update),
    validate: Some(validate::pod),
    validate_update: Some(validate::pod_update),
    selectable: selectable::POD,
    grace: Some(pod::grace),
    status_keeps: &["ownerReferences"],
    ..GENERIC
};
pub(crate) const POD_TEMPLATE: Strategy = Strategy {
    default: Some(defaults::pod_template),
    validate: Some(validate::pod_template),
    ..GENERIC
};

pub(crate) const NAMESPACE: Strategy = Strategy {
    default: Some(defaults::namespace),
    prepare_create: Some(namespace::prepare_create),
    prepare_update: Some(namespace::prepare_update),
    validate: Some(validate::namespace),
    valid_name: Some(dns_label),
    selectable: selectable::NAMESPACE,
    ..PLAIN
};
/// Nodes keep the status they are created with: the agent registers with it.
pub(crate) const NODE: Strategy = Strategy {
    default: Some(defaults::node),
    prepare_update: Some(keep_status),
    validate: Some(validate::node),
    validate_update: Some(validate::node_update),
    selectable: selectable::NODE,
    ..PLAIN
};
pub(crate) const SERVICE: Strategy = Strategy {
    default: Some(defaults::service),
    prepare_create: Some(service::prepare_create),
    prepare_update: Some(service::prepare_update),
    validate: Some(validate::service),
    validate_update: Some(validate::service_update),
    valid_name: Some(dns_label_1035),
    selectable: selectable::SERVICE,
    create_on_update: true,
    ..PLAIN
};
pub(crate) const ENDPOINTS: Strategy = Strategy {
    default: Some(defaults::endpoints),
    validate: Some(validate::endpoints),
    create_on_update: true,
    ..PLAIN
};
pub(crate) const CONFIG_MAP: Strategy = Strategy {
    validate: Some(validate::config_map),
    validate_update: Some(validate::config_map_update),
    ..PLAIN
};
pub(crate) const SECRET: Strategy = Strategy {
    default: Some(defaults::secret),
    validate: Some(validate::secret),
    validate_update: Some(validate::secret_update),
    selectable: selectable::SECRET,
    ..PLAIN
};
pub(crate) const SERVICE_ACCOUNT: Strategy = PLAIN;
pub(crate) const EVENT: Strategy = Strategy {
    validate: Some(validate::event),
    selectable: selectable::EVENT,
    create_on_update: true,
    ..PLAIN
};
/// The same objects in `events.k8s.io/v1`.
pub(crate) const EVENT_V1: Strategy = Strategy {
    validate: Some(validate::event_v1),
    selectable: selectable::EVENT_V1,
    ..EVENT
};
pub(crate) const LIMIT_RANGE: Strategy = Strategy {
    default: Some(defaults::limit_range),
    create_on_update: true,
    ..PLAIN
};
pub(crate) const RESOURCE_QUOTA: Strategy = Strategy {
    default: Some(defaults::resource_quota),
    validate: Some(validate::resource_quota),
    validate_update: Some(validate::resource_quota_update),
    ..STATUS_ONLY
};

pub(crate) const DEPLOYMENT: Strategy = Strategy {
    default: Some(defaults::deployment),
    validate: Some(validate::deployment),
    validate_update: Some(validate::selector_update),
    status_keeps: &["labels"],
    ..WITH_STATUS
};
pub(crate) const REPLICA_SET: Strategy = Strategy {
    default: Some(defaults::replica_set),
    prepare_create: Some(|v| json::set(v, "status", json!({"replicas": 0}))),
    validate: Some(validate::replica_set),
    validate_update: Some(validate::selector_update),
    selectable: selectable::REPLICAS,
    ..WITH_STATUS
};
pub(crate) const REPLICATION_CONTROLLER: Strategy = Strategy {
    orphans: true,
    default: Some(defaults::replication_controller),
    prepare_create: Some(|v| json::set(v, "status", json!({"replicas": 0}))),
    validate: Some(validate::replication_controller),
    selectable: selectable::REPLICAS,
    ..WITH_STATUS
};
pub(crate) const STATEFUL_SET: Strategy = Strategy {
    default: Some(defaults::stateful_set),
    prepare_create: Some(|v| {
        json::set(v, "status", json!({"replicas": 0, "availableReplicas": 0}))
    }),
    validate: Some(validate::stateful_set),
    validate_update: Some(validate::stateful_set_update),
    valid_name: Some(dns_label),
    ..WITH_STATUS
};
pub(crate) const DAEMON_SET: Strategy = Strategy {
    default: Some(defaults::daemon_set),
    prepare_create: Some(|v| {
        let none = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
        json::set(v, "status", none);
    }),
    validate: Some(validate::daemon_set),
    validate_update: Some(validate::selector_update),
    ..WITH_STATUS
};
pub(crate) const CONTROLLER_REVISION: Strategy = Strategy {
    validate_update: Some(validate::controller_revision_update),
    ..PLAIN
};
pub(crate) const JOB: Strategy = Strategy {
    orphans: true,
    default: Some(defaults::job),
    prepare_create: Some(batch::prepare_create),
    validate: Some(validate::job),
    validate_update: Some(validate::job_update),
    selectable: selectable::JOB,
    ..WITH_STATUS
};
pub(crate) const CRON_JOB: Strategy = Strategy {
    default: Some(defaults::cron_job),
    validate: Some(validate::cron_job),
    ..WITH_STATUS
};
pub(crate) const HORIZONTAL_POD_AUTOSCALER: Strategy = Strategy {
    default: Some(defaults::horizontal_pod_autoscaler),
    validate: Some(validate::horizontal_pod_autoscaler),
    ..STATUS_ONLY
};

pub(crate) const LEASE: Strategy = Strategy {
    validate: Some(validate::lease),
    create_on_update: true,
    ..PLAIN
};
pub(crate) const ENDPOINT_SLICE: Strategy = Strategy {
    default: Some(defaults::endpoint_slice),
    validate: Some(validate::endpoint_slice),
    validate_update: Some(validate::endpoint_slice_update),
    ..GENERIC
};
pub(crate) const INGRESS: Strategy = Strategy {
    prepare_create: Some(service::prepare_create),
    validate: Some(validate::ingress),
    ..WITH_STATUS
};
pub(crate) const INGRESS_CLASS: Strategy = Strategy {
    default: Some(defaults::ingress_class),
    validate: Some(validate::ingress_class),
    validate_update: Some(validate::ingress_class_update),
    ..GENERIC
};
pub(crate) const IP_ADDRESS: Strategy = Strategy {
    valid_name: Some(ip_name),
    ..PLAIN
};
pub(crate) const NETWORK_POLICY: Strategy = Strategy {
    default: Some(defaults::network_policy),
    validate: Some(validate::network_policy),
    ..GENERIC
};
pub(crate) const SERVICE_CIDR: Strategy = Strategy {
    validate: Some(validate::service_cidr),
    ..STATUS_ONLY
};

pub(crate) const ROLE: Strategy = Strategy {
    validate: Some(validate::role),
    valid_name: Some(path_segment),
    create_on_update: true,
    ..PLAIN
};
pub(crate) const ROLE_BINDING: Strategy = Strategy {
    default: Some(defaults::role_binding),
    validate: Some(validate::role_binding),
    validate_update: Some(validate::role_binding_update),
    valid_name: Some(path_segment),
    create_on_update: true,
    ..PLAIN
};
pub(crate) const POD_DISRUPTION_BUDGET: Strategy = Strategy {
    validate: Some(validate::pod_disruption_budget),
    ..WITH_STATUS
};
pub(crate) const PRIORITY_CLASS: Strategy = Strategy {
    default: Some(defaults::priority_class),
    validate: Some(validate::priority_class),
    validate_update: Some(validate::priority_class_update),
    create_on_update: true,
    ..GENERIC
};
pub(crate) const RUNTIME_CLASS: Strategy = Strategy {
    validate: Some(validate::runtime_class),
    validate_update: Some(validate::runtime_class_update),
    ..PLAIN
};
pub(crate) const CERTIFICATE_SIGNING_REQUEST: Strategy = Strategy {
    default: Some(defaults::certificate_signing_request),
    validate: Some(validate::certificate_signing_request),
    selectable: selectable::CSR,
    prepare_status: Some(certificates::prepare_status),
    prepare_update: Some(|new, old| {
        json::keep(new, old, "spec");
        keep_status(new, old);
    }),
    ..STATUS_ONLY
};

pub(crate) const CLUSTER_TRUST_BUNDLE: Strategy = Strategy {
    validate: Some(validate::cluster_trust_bundle),
    validate_update: Some(validate::cluster_trust_bundle_update),
    selectable: selectable::CSR,
    valid_name: Some(path_segment),
    ..PLAIN
};

pub(crate) const PERSISTENT_VOLUME: Strategy = Strategy {
    default: Some(defaults::persistent_volume),
    prepare_create: Some(|v| json::set(v, "status", json!({"phase": "Pending"}))),
    validate: Some(validate::persistent_volume),
    validate_update: Some(validate::persistent_volume_update),
    ..STATUS_ONLY
};
pub(crate) const PERSISTENT_VOLUME_CLAIM: Strategy = Strategy {
    default: Some(defaults::persistent_volume_claim),
    prepare_create: Some(|v| json::set(v, "status", json!({"phase": "Pending"}))),
    validate: Some(validate::persistent_volume_claim),
    validate_update: Some(validate::persistent_volume_claim_update),
    ..STATUS_ONLY
};
pub(crate) const STORAGE_CLASS: Strategy = Strategy {
    default: Some(defaults::storage_class),
    validate: Some(validate::storage_class),
    validate_update: Some(validate::storage_class_update),
    ..PLAIN
};
pub(crate) const CSI_DRIVER: Strategy = Strategy {
    default: Some(defaults::csi_driver),
    ..PLAIN
};

pub(crate) const VALIDATING_WEBHOOKS: Strategy = Strategy {
    default: Some(defaults::validating_webhooks),
    ..GENERIC
};
pub(crate) const MUTATING_WEBHOOKS: Strategy = Strategy {
    default: Some(defaults::mutating_webhooks),
    ..GENERIC
};
pub(crate) const ADMISSION_POLICY: Strategy = Strategy {
    default: Some(defaults::admission_policy),
    ..STRICT_STATUS
};
pub(crate) const API_SERVICE: Strategy = Strategy {
    default: Some(defaults::api_service),
    status_keeps: ALL_METADATA,
    ..STATUS_ONLY
};
pub(crate) const CUSTOM_RESOURCE_DEFINITION: Strategy = STRICT_STATUS;
pub(crate) const VOLUME_ATTACHMENT: Strategy = Strategy {
    no_generation: true,
    ..STRICT_STATUS
};
