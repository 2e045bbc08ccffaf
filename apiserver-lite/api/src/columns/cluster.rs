//! Columns of nodes, namespaces, events, leases, classes and what else runs the cluster.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    AGE, CREATED, Col, NAME, NONE, UNKNOWN, age_at, join_or_none, number, or, text_or_none,
};
use crate::json::{at, flag, has, int, items, text, texts};
use crate::meta;
use crate::print::human_duration;

pub(crate) const NODE: &[Col] = &[
    NAME,
    Col::text("Status", |v, _| json!(node_status(v))),
    Col::text("Roles", |v, _| roles(v)),
    AGE,
    Col::text("Version", |v, _| {
        json!(text(v, "/status/nodeInfo/kubeletVersion"))
    }),
    Col::text("Internal-IP", |v, _| json!(address(v, "InternalIP"))).wide(),
    Col::text("External-IP", |v, _| json!(address(v, "ExternalIP"))).wide(),
    Col::text("OS-Image", |v, _| or_unknown(v, "/status/nodeInfo/osImage")).wide(),
    Col::text("Kernel-Version", |v, _| {
        or_unknown(v, "/status/nodeInfo/kernelVersion")
    })
    .wide(),
    Col::text("Container-Runtime", |v, _| {
        or_unknown(v, "/status/nodeInfo/containerRuntimeVersion")
    })
    .wide(),
];

pub(crate) const NAMESPACE: &[Col] = &[
    NAME,
    Col::text("Status", |v, _| json!(text(v, "/status/phase"))),
    AGE,
];

pub(crate) const EVENT: &[Col] = &[
    Col::text("Last Seen", |v, now| json!(last_seen(v, now))),
    Col::text("Type", |v, _| json!(text(v, "/type"))),
    Col::text("Reason", |v, _| json!(text(v, "/reason"))),
    Col::text("Object", |v, _| json!(involved(v))),
    Col::text("Subobject", |v, _| {
        json!(text(v, "/involvedObject/fieldPath"))
    })
    .wide(),
    Col::text("Source", |v, _| json!(source(v))).wide(),
    Col::text("Message", |v, _| json!(text(v, "/message").trim())),
    Col::text("First Seen", |v, now| json!(first_seen(v, now))).wide(),
    Col::int("Count", |v, _| json!(count(v))).wide(),
    Col {
        priority: 1,
        ..NAME
    },
];

pub(crate) const COMPONENT_STATUS: &[Col] = &[
    NAME,
    Col::text("Status", |v, _| {
        let healthy = items(v, "/conditions")
            .iter()
            .find(|c| text(c, "/type") == "Healthy");
        json!(match healthy.map(|c| text(c, "/status")) {
            Some("True") => "Healthy",
            Some("False") => "Unhealthy",
            _ => "Unknown",
        })
    }),
    Col::text("Message", |v, _| json!(text(v, "/conditions/0/message"))),
    Col::text("Error", |v, _| json!(text(v, "/conditions/0/error"))),
];

pub(crate) const LEASE: &[Col] = &[
    NAME,
    Col::text("Holder", |v, _| json!(text(v, "/spec/holderIdentity"))),
    AGE,
];

pub(crate) const PRIORITY_CLASS: &[Col] = &[
    NAME,
    Col::int("Value", |v, _| number(v, "/value")),
    Col::text("Global-Default", |v, _| {
        json!(flag(v, "/globalDefault").to_string())
    }),
    Col::text("PreemptionPolicy", |v, _| {
        json!(text(v, "/preemptionPolicy"))
    }),
    AGE,
];

pub(crate) const RUNTIME_CLASS: &[Col] = &[
    NAME,
    Col::text("Handler", |v, _| json!(text(v, "/handler"))),
    AGE,
];

pub(crate) const CERTIFICATE_SIGNING_REQUEST: &[Col] = &[
    NAME,
    AGE,
    Col::text("SignerName", |v, _| text_or_none(v, "/spec/signerName")),
    Col::text("Requestor", |v, _| json!(text(v, "/spec/username"))),
    Col::text("RequestedDuration", |v, _| {
        json!(int(v, "/spec/expirationSeconds").map_or_else(|| NONE.into(), human_duration))
    }),
    Col::text("Condition", |v, _| json!(csr_condition(v))),
];

pub(crate) const CLUSTER_TRUST_BUNDLE: &[Col] = &[
    NAME,
    Col::text("SignerName", |v, _| text_or_none(v, "/spec/signerName")),
];

pub(crate) const CUSTOM_RESOURCE_DEFINITION: &[Col] = &[NAME, CREATED];

pub(crate) const API_SERVICE: &[Col] = &[
    NAME,
    Col::text("Service", |v, _| {
        let s = at(v, "/spec/service");
        json!(if s.is_null() {
            "Local".into()
        } else {
            format!("{}/{}", text(s, "/namespace"), text(s, "/name"))
        })
    }),
    Col::text("Available", |v, _| {
        let c = items(v, "/status/conditions")
            .iter()
            .find(|c| text(c, "/type") == "Available");
        json!(match c.map(|c| (text(c, "/status"), text(c, "/reason"))) {
            None => "Unknown".to_owned(),
            Some(("True", _)) => "True".to_owned(),
            Some((status, reason)) => format!("{status} ({reason})"),
        })
    }),
    AGE,
];

pub(crate) const WEBHOOKS: &[Col] = &[
    NAME,
    Col::int("Webhooks", |v, _| json!(items(v, "/webhooks").len())),
    AGE,
];

pub(crate) const ADMISSION_POLICY: &[Col] = &[
    NAME,
    Col::int("Validations", |v, _| {
        json!(items(v, "/spec/validations").len())
    }),
    Col::text("ParamKind", |v, _| {
        let k = at(v, "/spec/paramKind");
        json!(if k.is_null() {
            "<unset>".into()
        } else {
            format!("{}/{}", text(k, "/apiVersion"), text(k, "/kind"))
        })
    }),
    AGE,
];

pub(crate) const MUTATING_POLICY: &[Col] = &[
    NAME,
    Col::int("Mutations", |v, _| json!(items(v, "/spec/mutations").len())),
    ADMISSION_POLICY_PARAMS,
    AGE,
];

const ADMISSION_POLICY_PARAMS: Col = match ADMISSION_POLICY {
    [_, _, params, ..] => *params,
    _ => AGE,
};

pub(crate) const ADMISSION_POLICY_BINDING: &[Col] = &[
    NAME,
    Col::text("PolicyName", |v, _| json!(text(v, "/spec/policyName"))),
    Col::text("ParamRef", |v, _| {
        let p = at(v, "/spec/paramRef");
        let (ns, name) = (text(p, "/namespace"), text(p, "/name"));
        json!(match (p.is_null(), ns, name) {
            (true, ..) => "<unset>".to_owned(),
            (_, "", "") => "<selector>".to_owned(),
            (_, "", name) => name.to_owned(),
            (_, ns, name) => format!("{ns}/{name}"),
        })
    }),
    AGE,
];

fn or_unknown(v: &Value, pointer: &str) -> Value {
    json!(or(text(v, pointer), UNKNOWN))
}

fn node_status(v: &Value) -> String {
    let ready = items(v, "/status/conditions")
        .iter()
        .find(|c| text(c, "/type") == "Ready");
    let mut status = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if flag(v, "/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(v: &Value) -> Value {
    let mut roles: Vec<&str> = meta::labels(v)
        .filter_map(
            |(k, value)| match k.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None => (k == "kubernetes.io/role").then_some(value),
            },
        )
        .filter(|r| !r.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    join_or_none(roles)
}

fn address<'a>(v: &'a Value, kind: &str) -> &'a str {
    let found = items(v, "/status/addresses")
        .iter()
        .find(|a| text(a, "/type") == kind);
    found.map_or(NONE, |a| text(a, "/address"))
}

fn last_seen(v: &Value, now: Timestamp) -> Value {
    let first = first_seen(v, now);
    if has(v, "/series") {
        return age_at(v, "/series/lastObservedTime", now);
    }
    if has(v, "/lastTimestamp") {
        age_at(v, "/lastTimestamp", now)
    } else {
        first
    }
}

fn first_seen(v: &Value, now: Timestamp) -> Value {
    let pointer = if has(v, "/firstTimestamp") {
        "/firstTimestamp"
    } else {
        "/eventTime"
    };
    age_at(v, pointer, now)
}

fn count(v: &Value) -> i64 {
    int(v, "/series/count")
        .or_else(|| int(v, "/count"))
        .unwrap_or(1)
        .max(1)
}

fn involved(v: &Value) -> String {
    let kind = text(v, "/involvedObject/kind").to_lowercase();
    let name = text(v, "/involvedObject/name");
    if kind.is_empty() {
        name.to_owned()
    } else {
        format!("{kind}/{name}")
    }
}

fn source(v: &Value) -> String {
    let component = or(text(v, "/source/component"), text(v, "/reportingComponent"));
    match or(text(v, "/source/host"), text(v, "/reportingInstance")) {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    }
}

fn csr_condition(v: &Value) -> String {
    let is = |kind: &str| {
        items(v, "/status/conditions")
            .iter()
            .any(|c| text(c, "/type") == kind)
    };
    let mut all: Vec<&str> = Vec::new();
    if is("Denied") {
        all.push("Denied");
    } else if is("Approved") {
        all.push("Approved");
    } else {
        all.push("Pending");
    }
    if is("Failed") {
        all.push("Failed");
    }
    if has(v, "/status/certificate") {
        all.push("Issued");
    }
    all.join(",")
}

/// Names of CSI drivers on a node, counted.
pub(crate) const CSI_NODE: &[Col] = &[
    NAME,
    Col::int("Drivers", |v, _| json!(items(v, "/spec/drivers").len())),
    AGE,
];

/// What a CSI driver can do.
pub(crate) const CSI_DRIVER: &[Col] = &[
    NAME,
    Col::text("AttachRequired", |v, _| {
        json!(at(v, "/spec/attachRequired").as_bool().unwrap_or(true))
    }),
    Col::text("PodInfoOnMount", |v, _| {
        json!(flag(v, "/spec/podInfoOnMount"))
    }),
    Col::text("StorageCapacity", |v, _| {
        json!(flag(v, "/spec/storageCapacity"))
    }),
    Col::text("TokenRequests", |v, _| {
        let list: Vec<&str> = items(v, "/spec/tokenRequests")
            .iter()
            .map(|t| text(t, "/audience"))
            .collect();
        json!(or(&list.join(","), "<unset>"))
    }),
    Col::text("RequiresRepublish", |v, _| {
        json!(flag(v, "/spec/requiresRepublish"))
    }),
    Col::text("Modes", |v, _| {
        join_or_none(texts(v, "/spec/volumeLifecycleModes"))
    }),
    AGE,
];
