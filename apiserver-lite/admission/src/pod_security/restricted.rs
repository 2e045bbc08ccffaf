//! What the restricted level asks beyond baseline.

use keelson_api::json::{at, int, items, text, texts};
use serde_json::Value;

use super::{Check, containers, offenders};

pub(super) const CHECKS: &[Check] = &[
    ("restricted volume types", volumes),
    ("allowPrivilegeEscalation != false", |pod| {
        offenders(
            pod,
            "must set securityContext.allowPrivilegeEscalation=false",
            |c| at(c, "/securityContext/allowPrivilegeEscalation") != &Value::Bool(false),
        )
    }),
    ("unrestricted capabilities", capabilities),
    ("runAsNonRoot != true", non_root),
    ("runAsUser=0", |pod| {
        let mut found = offenders(pod, "must not set runAsUser=0", |c| {
            int(c, "/securityContext/runAsUser") == Some(0)
        });
        if int(pod, "/spec/securityContext/runAsUser") == Some(0) {
            found.push("pod must not set runAsUser=0".to_owned());
        }
        found
    }),
    ("seccompProfile", seccomp),
];

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn volumes(pod: &Value) -> Vec<String> {
    let kind = |v: &Value| {
        let mut keys = v
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, v)| *k != "name" && !v.is_null());
        keys.next()
            .map_or("emptyDir".to_owned(), |(k, _)| k.clone())
    };
    let found = items(pod, "/spec/volumes")
        .iter()
        .map(|v| (text(v, "/name"), kind(v)));
    found
        .filter(|(_, kind)| !VOLUMES.contains(&kind.as_str()))
        .map(|(name, kind)| format!("volume {name:?} uses restricted volume type {kind:?}"))
        .collect()
}

fn capabilities(pod: &Value) -> Vec<String> {
    let mut found = offenders(
        pod,
        "must set securityContext.capabilities.drop=[\"ALL\"]",
        |c| !texts(c, "/securityContext/capabilities/drop").contains(&"ALL"),
    );
    for container in containers(pod) {
        let added = texts(container, "/securityContext/capabilities/add");
        let extra: Vec<String> = added
            .into_iter()
            .filter(|a| *a != "NET_BIND_SERVICE")
            .map(|a| format!("{a:?}"))
            .collect();
        if !extra.is_empty() {
            let (name, list) = (text(container, "/name"), extra.join(", "));
            found.push(format!(
                "container {name:?} must not include {list} in securityContext.capabilities.add"
            ));
        }
    }
    found
}

/// A container says so itself, or says nothing and the pod says so.
fn non_root(pod: &Value) -> Vec<String> {
    let of_pod = at(pod, "/spec/securityContext/runAsNonRoot").as_bool();
    let why = "must set securityContext.runAsNonRoot=true";
    containers(pod)
        .filter_map(|c| {
            let own = at(c, "/securityContext/runAsNonRoot").as_bool();
            match (own, of_pod) {
                (Some(true), _) | (None, Some(true)) => None,
                (Some(false), _) => Some(format!(
                    "container {:?} must not set securityContext.runAsNonRoot=false",
                    text(c, "/name")
                )),
                (None, _) => Some(format!("pod or container {:?} {why}", text(c, "/name"))),
            }
        })
        .collect()
}

fn seccomp(pod: &Value) -> Vec<String> {
    let kind = |v: &Value| text(v, "/securityContext/seccompProfile/type").to_owned();
    let good = |kind: &str| ["RuntimeDefault", "Localhost"].contains(&kind);
    let of_pod = kind(at(pod, "/spec"));
    let bad = containers(pod).filter(|c| match kind(c).as_str() {
        "" => !good(&of_pod),
        own => !good(own),
    });
    bad.map(|c| {
        let name = text(c, "/name");
        format!(
            "pod or container {name:?} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        )
    })
    .collect()
}
