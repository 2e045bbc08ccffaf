//! Facts of the Kubernetes API that its JSON schemas in k8s-openapi lack: how patches merge a list, and which parts
//! server-side apply owns as a whole.
//!
//! Source: the API's published OpenAPI (`x-kubernetes-list-type`, `x-kubernetes-list-map-keys`,
//! `x-kubernetes-map-type`, `x-kubernetes-patch-merge-key`, `x-kubernetes-patch-strategy`). A test holds the table
//! against k8s-openapi's `DeepMerge`, which is generated from the same document.

/// How server-side apply sees a list or a map (`x-kubernetes-list-type`, `x-kubernetes-map-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Topology {
    /// The default: a list is one value, a map is one value a key.
    #[default]
    Atomic,
    /// A map that is one value.
    AtomicMap,
    /// Every item is a value of its own.
    Set,
    /// An object that is a whole elsewhere, but here every field of it is a value of its own.
    Granular,
    /// Items are told apart by these fields.
    Keys(&'static [&'static str]),
}

/// How strategic merge patch treats a field (`x-kubernetes-patch-strategy`, `x-kubernetes-patch-merge-key`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patch {
    /// Lists are merged, not replaced.
    pub(crate) merge: bool,
    /// Maps are replaced, not merged.
    pub(crate) replace: bool,
    /// The client may say which keys stay (`$retainKeys`).
    pub(crate) retain_keys: bool,
    /// The field that tells items apart; none in lists of plain values.
    pub(crate) key: Option<&'static str>,
}

/// All that is known of a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) topology: Topology,
    pub(crate) patch: Patch,
}

const fn merge_by(key: &'static str) -> Patch {
    Patch {
        merge: true,
        replace: false,
        retain_keys: false,
        key: Some(key),
    }
}

const fn retaining(patch: Patch) -> Patch {
    Patch {
        retain_keys: true,
        ..patch
    }
}

const PLAIN: Patch = Patch {
    merge: false,
    replace: false,
    retain_keys: false,
    key: None,
};
const MERGE: Patch = Patch {
    merge: true,
    ..PLAIN
};
const REPLACE: Patch = Patch {
    replace: true,
    ..PLAIN
};
const RETAIN: Patch = Patch {
    retain_keys: true,
    ..PLAIN
};

type Row = (&'static str, &'static str, Topology, Patch);

use Topology::{Atomic, AtomicMap, Granular, Keys, Set};

const NAME: (Topology, Patch) = (Keys(&["name"]), merge_by("name"));
const TYPE: (Topology, Patch) = (Keys(&["type"]), merge_by("type"));

const fn both(definition: &'static str, field: &'static str, fact: (Topology, Patch)) -> Row {
    (definition, field, fact.0, fact.1)
}

/// Definition, field, list type, patch strategy.
#[rustfmt::skip]
static FIELDS: &[Row] = &[
    ("meta.v1.ObjectMeta", "finalizers", Set, MERGE),
    ("meta.v1.ObjectMeta", "ownerReferences", Keys(&["uid"]), merge_by("uid")),

    both("core.v1.PodSpec", "containers", NAME),
    both("core.v1.PodSpec", "initContainers", NAME),
    both("core.v1.PodSpec", "ephemeralContainers", NAME),
    both("core.v1.PodSpec", "imagePullSecrets", NAME),
    both("core.v1.PodSpec", "schedulingGates", NAME),
    ("core.v1.PodSpec", "hostAliases", Keys(&["ip"]), merge_by("ip")),
    ("core.v1.PodSpec", "resourceClaims", Keys(&["name"]), retaining(merge_by("name"))),
    ("core.v1.PodSpec", "volumes", Keys(&["name"]), retaining(merge_by("name"))),
    ("core.v1.PodSpec", "topologySpreadConstraints", Keys(&["topologyKey", "whenUnsatisfiable"]), merge_by("topologyKey")),
    ("core.v1.PodSpec", "nodeSelector", AtomicMap, PLAIN),
    both("core.v1.PodStatus", "conditions", TYPE),
    ("core.v1.PodStatus", "podIPs", Keys(&["ip"]), merge_by("ip")),
    ("core.v1.PodStatus", "hostIPs", Keys(&["ip"]), merge_by("ip")),
    ("core.v1.PodStatus", "resourceClaimStatuses", Keys(&["name"]), retaining(merge_by("name"))),
    both("core.v1.Container", "env", NAME),
    ("core.v1.Container", "ports", Keys(&["containerPort", "protocol"]), merge_by("containerPort")),
    ("core.v1.Container", "volumeDevices", Keys(&["devicePath"]), merge_by("devicePath")),
    ("core.v1.Container", "volumeMounts", Keys(&["mountPath"]), merge_by("mountPath")),
    both("core.v1.EphemeralContainer", "env", NAME),
    ("core.v1.EphemeralContainer", "ports", Keys(&["containerPort", "protocol"]), merge_by("containerPort")),
    ("core.v1.EphemeralContainer", "volumeDevices", Keys(&["devicePath"]), merge_by("devicePath")),
    ("core.v1.EphemeralContainer", "volumeMounts", Keys(&["mountPath"]), merge_by("mountPath")),
    ("core.v1.ContainerRestartRuleOnExitCodes", "values", Set, PLAIN),
    both("core.v1.ContainerStatus", "allocatedResourcesStatus", NAME),
    ("core.v1.ContainerStatus", "volumeMounts", Keys(&["mountPath"]), merge_by("mountPath")),
    ("core.v1.ResourceStatus", "resources", Keys(&["resourceID"]), PLAIN),
    ("core.v1.ResourceRequirements", "claims", Keys(&["name"]), PLAIN),
    both("core.v1.ComponentStatus", "conditions", TYPE),
    both("core.v1.NamespaceStatus", "conditions", TYPE),
    ("core.v1.NodeSpec", "podCIDRs", Set, MERGE),
    both("core.v1.NodeStatus", "addresses", TYPE),
    both("core.v1.NodeStatus", "conditions", TYPE),
    ("core.v1.NodeAllocatableResourceClaimStatus", "containers", Set, PLAIN),
    both("core.v1.PersistentVolumeClaimStatus", "conditions", TYPE),
    ("core.v1.PersistentVolumeSpec", "claimRef", Granular, PLAIN),
    both("core.v1.ReplicationControllerStatus", "conditions", TYPE),
    ("core.v1.ReplicationControllerSpec", "selector", AtomicMap, PLAIN),
    both("core.v1.ServiceAccount", "secrets", NAME),
    ("core.v1.ServiceSpec", "ports", Keys(&["port", "protocol"]), merge_by("port")),
    ("core.v1.ServiceSpec", "selector", AtomicMap, PLAIN),
    both("core.v1.ServiceStatus", "conditions", TYPE),

    ("apps.v1.DeploymentSpec", "strategy", Atomic, RETAIN),
    both("apps.v1.DeploymentStatus", "conditions", TYPE),
    both("apps.v1.ReplicaSetStatus", "conditions", TYPE),
    both("apps.v1.DaemonSetStatus", "conditions", TYPE),
    both("apps.v1.StatefulSetStatus", "conditions", TYPE),
    ("batch.v1.JobStatus", "conditions", Atomic, merge_by("type")),
    ("batch.v1.UncountedTerminatedPods", "succeeded", Set, PLAIN),
    ("batch.v1.UncountedTerminatedPods", "failed", Set, PLAIN),
    ("batch.v1.PodFailurePolicyOnExitCodesRequirement", "values", Set, PLAIN),
    ("autoscaling.v2.HorizontalPodAutoscalerStatus", "conditions", Keys(&["type"]), merge_by("type")),
    ("certificates.v1.CertificateSigningRequestStatus", "conditions", Keys(&["type"]), PLAIN),
    ("discovery.v1.Endpoint", "addresses", Set, PLAIN),
    ("networking.v1.ServiceCIDRStatus", "conditions", Keys(&["type"]), merge_by("type")),
    ("node.v1.Scheduling", "nodeSelector", AtomicMap, PLAIN),
    ("policy.v1.PodDisruptionBudgetStatus", "conditions", Keys(&["type"]), merge_by("type")),
    ("policy.v1.PodDisruptionBudgetSpec", "selector", Atomic, REPLACE),
    ("storage.v1.CSIDriverSpec", "volumeLifecycleModes", Set, PLAIN),
    both("storage.v1.CSINodeSpec", "drivers", NAME),

    both("admissionregistration.v1.MutatingAdmissionPolicySpec", "matchConditions", NAME),
    both("admissionregistration.v1.MutatingWebhook", "matchConditions", NAME),
    both("admissionregistration.v1.MutatingWebhookConfiguration", "webhooks", NAME),
    ("admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec", "validationActions", Set, PLAIN),
    both("admissionregistration.v1.ValidatingAdmissionPolicySpec", "matchConditions", NAME),
    both("admissionregistration.v1.ValidatingAdmissionPolicySpec", "variables", NAME),
    ("admissionregistration.v1.ValidatingAdmissionPolicyStatus", "conditions", Keys(&["type"]), PLAIN),
    both("admissionregistration.v1.ValidatingWebhook", "matchConditions", NAME),
    both("admissionregistration.v1.ValidatingWebhookConfiguration", "webhooks", NAME),

    ("apiextensions.v1.CustomResourceDefinitionStatus", "conditions", Keys(&["type"]), PLAIN),
    ("apiextensions.v1.JSONSchemaProps", "x-kubernetes-validations", Keys(&["rule"]), merge_by("rule")),
    both("apiregistration.v1.APIServiceStatus", "conditions", TYPE),

    both("flowcontrol.v1.FlowSchemaStatus", "conditions", TYPE),
    both("flowcontrol.v1.PriorityLevelConfigurationStatus", "conditions", TYPE),
    ("flowcontrol.v1.NonResourcePolicyRule", "nonResourceURLs", Set, PLAIN),
    ("flowcontrol.v1.NonResourcePolicyRule", "verbs", Set, PLAIN),
    ("flowcontrol.v1.ResourcePolicyRule", "apiGroups", Set, PLAIN),
    ("flowcontrol.v1.ResourcePolicyRule", "namespaces", Set, PLAIN),
    ("flowcontrol.v1.ResourcePolicyRule", "resources", Set, PLAIN),
    ("flowcontrol.v1.ResourcePolicyRule", "verbs", Set, PLAIN),

    ("resource.v1.AllocatedDeviceStatus", "conditions", Keys(&["type"]), PLAIN),
    ("resource.v1.ResourceClaimStatus", "devices", Keys(&["driver", "device", "pool", "shareID"]), PLAIN),
    ("resource.v1.ResourceClaimStatus", "reservedFor", Keys(&["uid"]), merge_by("uid")),
];

/// Objects that server-side apply owns as a whole (`x-kubernetes-map-type: atomic`).
#[rustfmt::skip]
static ATOMIC_STRUCTS: &[&str] = &[
    "admissionregistration.v1.MatchResources",
    "admissionregistration.v1.NamedRuleWithOperations",
    "admissionregistration.v1.ParamKind",
    "admissionregistration.v1.ParamRef",
    "admissionregistration.v1.Variable",
    "autoscaling.v1.CrossVersionObjectReference",
    "core.v1.ConfigMapKeySelector",
    "core.v1.EndpointAddress",
    "core.v1.EndpointPort",
    "core.v1.FileKeySelector",
    "core.v1.LocalObjectReference",
    "core.v1.NodeSelector",
    "core.v1.NodeSelectorTerm",
    "core.v1.ObjectFieldSelector",
    "core.v1.ObjectReference",
    "core.v1.ResourceFieldSelector",
    "core.v1.ScopeSelector",
    "core.v1.ScopedResourceSelectorRequirement",
    "core.v1.SecretKeySelector",
    "core.v1.SecretReference",
    "core.v1.TopologySelectorTerm",
    "core.v1.TypedLocalObjectReference",
    "discovery.v1.EndpointPort",
    "meta.v1.LabelSelector",
    "meta.v1.OwnerReference",
    "networking.v1.ServiceBackendPort",
    "rbac.v1.RoleRef",
    "rbac.v1.Subject",
];

/// What a field used as a key is when an item leaves it out.
const KEY_DEFAULTS: &[(&str, &str)] = &[("protocol", "TCP")];

/// The last three parts of a definition's name, which tell it apart: `core.v1.PodSpec`.
pub(crate) fn short(definition: &str) -> &str {
    definition
        .rmatch_indices('.')
        .nth(2)
        .map_or(definition, |(at, _)| &definition[at + 1..])
}

/// The facts of a field of a definition (by short name).
pub(crate) fn field(definition: &str, field: &str) -> Fact {
    FIELDS
        .iter()
        .find(|row| row.0 == definition && row.1 == field)
        .map_or_else(Fact::default, |row| Fact {
            topology: row.2,
            patch: row.3,
        })
}

/// Whether an object is owned as a whole.
pub(crate) fn atomic_struct(definition: &str) -> bool {
    ATOMIC_STRUCTS.contains(&definition)
}

/// The default of a list key.
pub(crate) fn key_default(key: &str) -> Option<&'static str> {
    KEY_DEFAULTS
        .iter()
        .find(|row| row.0 == key)
        .map(|row| row.1)
}

/// Every definition and field the tables speak of.
#[cfg(test)]
pub(crate) fn subjects() -> Vec<(&'static str, Option<&'static str>)> {
    let fields = FIELDS.iter().map(|row| (row.0, Some(row.1)));
    let structs = ATOMIC_STRUCTS.iter().map(|name| (*name, None));
    fields.chain(structs).collect()
}
