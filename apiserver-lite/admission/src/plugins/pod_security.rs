//! Pod Security Standards by a namespace's `pod-security.kubernetes.io/enforce` and `warn` labels (KEP-2579). Pods are
//! held to the one, and what makes pods is warned about by the other. `audit` has nowhere to go: there is no audit log.

use std::collections::BTreeMap;

use async_trait::async_trait;
use keelson_api::json::{at, text};
use keelson_api::{Cause, Status};
use serde_json::Value;

use crate::pod_security::{Level, violations};
use crate::{Lookup, Operation, Plugin, Request};

/// `PodSecurity`.
pub(crate) struct PodSecurity;

const LABELS: &str = "pod-security.kubernetes.io";
/// Where the kinds that make pods have the pod.
const TEMPLATES: &[(&str, &str, &str)] = &[
    ("", "pods", ""),
    ("", "podtemplates", "/template"),
    ("", "replicationcontrollers", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
    ("batch", "jobs", "/spec/template"),
];

/// A level and the version it is shown with. The checks are always those of the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policy {
    level: Level,
    version: String,
}

impl Policy {
    fn of(namespace: &Value, mode: &str) -> Policy {
        let version = label(namespace, &format!("{mode}-version"));
        Policy {
            level: Level::parse(label(namespace, mode)),
            version: Some(version)
                .filter(|v| !v.is_empty())
                .unwrap_or("latest")
                .to_owned(),
        }
    }

    /// What is warned about: at least what is enforced, if nothing else is said. One that is not understood warns of
    /// nothing.
    fn warned(namespace: &Value) -> Policy {
        let mut policy = match label(namespace, "warn") {
            "" => return Policy::of(namespace, "enforce"),
            _ => Policy::of(namespace, "warn"),
        };
        if !known(label(namespace, "warn")) {
            policy.level = Level::Privileged;
        }
        policy
    }

    fn says(&self, verb: &str, broken: &[String]) -> String {
        let (level, version) = (self.level.name(), &self.version);
        format!(
            "{verb} PodSecurity \"{level}:{version}\": {}",
            broken.join(", ")
        )
    }
}

fn label<'a>(namespace: &'a Value, name: &str) -> &'a str {
    text(namespace, &format!("/metadata/labels/{LABELS}~1{name}"))
}

fn known(level: &str) -> bool {
    ["privileged", "baseline", "restricted"].contains(&level)
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(
        &self,
        req: &Request<'_>,
        object: &Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        let writes = match (req.op, req.subresource) {
            (Operation::Create | Operation::Update, "") => true,
            (Operation::Update, sub) => sub == "ephemeralcontainers",
            _ => false,
        };
        if !writes {
            return Ok(());
        }
        if req.is("", "namespaces") {
            let causes = wrong_labels(req.old, object);
            if !causes.is_empty() {
                return Err(Status::invalid("", "Namespace", req.name, causes));
            }
            return warn_of_pods(req, object, lookup).await;
        }
        let Some((_, plural, path)) = TEMPLATES.iter().find(|(g, p, _)| req.is(g, p)) else {
            return Ok(());
        };
        let pod = at(object, path);
        if req
            .old
            .is_some_and(|old| at(old, path).get("spec") == pod.get("spec"))
        {
            return Ok(());
        }
        let namespace = lookup
            .get("", "v1", "namespaces", "", req.namespace)
            .await?
            .unwrap_or_default();
        if *plural == "pods" {
            let enforced = Policy::of(&namespace, "enforce");
            let broken = violations(enforced.level, pod);
            if !broken.is_empty() {
                return Err(req.forbidden(&enforced.says("violates", &broken)));
            }
        }
        let warned = Policy::warned(&namespace);
        let broken = violations(warned.level, pod);
        if !broken.is_empty() {
            (req.warn)(warned.says("would violate", &broken));
        }
        Ok(())
    }
}

/// A new label must be understood, so that nobody believes to be protected by a typing error.
fn wrong_labels(old: Option<&Value>, namespace: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for mode in ["enforce", "audit", "warn"] {
        let value = label(namespace, mode);
        let before = old.map_or("", |old| label(old, mode));
        if !value.is_empty() && value != before && !known(value) {
            causes.push(Cause {
                reason: "FieldValueInvalid",
                field: format!("metadata.labels[{LABELS}/{mode}]"),
                message: format!(
                    "Invalid value: {value:?}: must be one of privileged, baseline, restricted"
                ),
            });
        }
    }
    causes
}

/// Pods that are there stay when a namespace becomes stricter; who makes it so is told which break the rules.
async fn warn_of_pods(
    req: &Request<'_>,
    namespace: &Value,
    lookup: &dyn Lookup,
) -> Result<(), Status> {
    let Some(old) = req.old else { return Ok(()) };
    let policy = Policy::of(namespace, "enforce");
    if policy.level <= Policy::of(old, "enforce").level {
        return Ok(());
    }
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in lookup.list("", "v1", "pods", req.name).await? {
        let broken = violations(policy.level, &pod);
        if !broken.is_empty() {
            let pods = found.entry(broken.join(", ")).or_default();
            pods.push(text(&pod, "/metadata/name").to_owned());
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let (level, version) = (policy.level.name(), &policy.version);
    (req.warn)(format!(
        "existing pods in namespace {:?} violate the new PodSecurity enforce level \"{level}:{version}\"",
        req.name
    ));
    for (why, mut pods) in found {
        pods.sort();
        let first = pods.first().map(String::as_str).unwrap_or_default();
        let others = match pods.len() {
            1 => String::new(),
            2 => " (and 1 other pod)".to_owned(),
            n => format!(" (and {} other pods)", n - 1),
        };
        (req.warn)(format!("{first}{others}: {why}"));
    }
    Ok(())
}
