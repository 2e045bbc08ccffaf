//! Fields that field selectors may name, beyond `metadata.name` and `metadata.namespace`.

use serde_json::Value;

use crate::json::{at, flag, has, int, text};
use crate::resource::Selectable;

pub(super) const POD: &[Selectable] = &[
    ("spec.nodeName", |v| text(v, "/spec/nodeName").into()),
    ("spec.restartPolicy", |v| {
        text(v, "/spec/restartPolicy").into()
    }),
    ("spec.schedulerName", |v| {
        text(v, "/spec/schedulerName").into()
    }),
    ("spec.serviceAccountName", |v| {
        text(v, "/spec/serviceAccountName").into()
    }),
    ("spec.hostNetwork", |v| {
        flag(v, "/spec/hostNetwork").to_string()
    }),
    ("status.phase", |v| text(v, "/status/phase").into()),
    ("status.podIP", pod_ip),
    ("status.nominatedNodeName", |v| {
        text(v, "/status/nominatedNodeName").into()
    }),
];

fn pod_ip(v: &Value) -> String {
    let first = text(v, "/status/podIPs/0/ip");
    if first.is_empty() {
        text(v, "/status/podIP")
    } else {
        first
    }
    .into()
}

pub(super) const EVENT: &[Selectable] = &[
    ("involvedObject.kind", |v| involved(v, "/kind")),
    ("involvedObject.namespace", |v| involved(v, "/namespace")),
    ("involvedObject.name", |v| involved(v, "/name")),
    ("involvedObject.uid", |v| involved(v, "/uid")),
    ("involvedObject.apiVersion", |v| involved(v, "/apiVersion")),
    ("involvedObject.resourceVersion", |v| {
        involved(v, "/resourceVersion")
    }),
    ("involvedObject.fieldPath", |v| involved(v, "/fieldPath")),
    ("reason", |v| text(v, "/reason").into()),
    ("reportingComponent", reporting),
    ("source", source),
    ("type", |v| text(v, "/type").into()),
];

/// The same in the words of `events.k8s.io/v1`.
pub(super) const EVENT_V1: &[Selectable] = &[
    ("regarding.kind", |v| involved(v, "/kind")),
    ("regarding.namespace", |v| involved(v, "/namespace")),
    ("regarding.name", |v| involved(v, "/name")),
    ("regarding.uid", |v| involved(v, "/uid")),
    ("regarding.apiVersion", |v| involved(v, "/apiVersion")),
    ("regarding.resourceVersion", |v| {
        involved(v, "/resourceVersion")
    }),
    ("regarding.fieldPath", |v| involved(v, "/fieldPath")),
    ("reason", |v| text(v, "/reason").into()),
    ("reportingController", reporting),
    ("type", |v| text(v, "/type").into()),
];

/// A field of the object that an event is about, in either form of events.
fn involved(v: &Value, field: &str) -> String {
    let object = if has(v, "/regarding") {
        at(v, "/regarding")
    } else {
        at(v, "/involvedObject")
    };
    text(object, field).into()
}

fn reporting(v: &Value) -> String {
    or(
        text(v, "/reportingController"),
        text(v, "/reportingComponent"),
    )
    .into()
}

/// As upstream: newer clients leave `source` empty and name themselves in `reportingComponent`.
fn source(v: &Value) -> String {
    match text(v, "/source/component") {
        "" => reporting(v),
        component => component.into(),
    }
}

fn or<'a>(s: &'a str, other: &'a str) -> &'a str {
    if s.is_empty() { other } else { s }
}

pub(super) const SECRET: &[Selectable] = &[("type", |v| text(v, "/type").into())];
pub(super) const NODE: &[Selectable] = &[("spec.unschedulable", |v| {
    flag(v, "/spec/unschedulable").to_string()
})];
pub(super) const NAMESPACE: &[Selectable] = &[
    ("status.phase", |v| text(v, "/status/phase").into()),
    ("name", |v| text(v, "/metadata/name").into()),
];
pub(super) const SERVICE: &[Selectable] = &[
    ("spec.clusterIP", |v| text(v, "/spec/clusterIP").into()),
    ("spec.type", |v| text(v, "/spec/type").into()),
];
pub(super) const REPLICAS: &[Selectable] = &[("status.replicas", |v| {
    int(v, "/status/replicas").unwrap_or_default().to_string()
})];
pub(super) const JOB: &[Selectable] = &[("status.successful", |v| {
    int(v, "/status/succeeded").unwrap_or_default().to_string()
})];
pub(super) const CSR: &[Selectable] =
    &[("spec.signerName", |v| text(v, "/spec/signerName").into())];
