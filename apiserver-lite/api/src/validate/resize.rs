//! What a resize may change (KEP-1287), resize policies, restart rules (KEP-5307) and the pod's own resources
//! (KEP-2837).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::field::{At, Errors};
use super::{check_update, container};
use crate::json;
use crate::quantity::Quantity;
use crate::status::Cause;
use crate::strategy::qos;

/// Most rules of a container, and most exit codes of a rule.
const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;
/// Annotation of the mirrors of static pods.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A container's own restart policy and rules.
pub(super) fn restart(c: &At<'_>, errs: &mut Errors) {
    let (policy, rules) = (c.child("restartPolicy"), c.child("restartPolicyRules"));
    let count = rules.value.as_array().map_or(0, Vec::len);
    if !policy.is_set() {
        if count > 0 {
            let says = "must specify restartPolicy when restart rules are used";
            errs.required(&policy, says);
        }
        return;
    }
    supported(&policy, &["Always", "Never", "OnFailure"], errs);
    if count > MOST_RULES {
        errs.too_many(&rules.path, count, MOST_RULES);
    }
    for rule in c.items("restartPolicyRules") {
        supported(
            &rule.child("action"),
            &["Restart", "RestartAllContainers"],
            errs,
        );
        let codes = rule.child("exitCodes");
        if !codes.is_set() {
            errs.required(&codes, "must be specified");
            continue;
        }
        supported(&codes.child("operator"), &["In", "NotIn"], errs);
        let values = codes.child("values");
        let count = values.value.as_array().map_or(0, Vec::len);
        if count > MOST_CODES {
            errs.too_many(&values.path, count, MOST_CODES);
        }
    }
}

/// One of a list; the empty text is not.
fn supported(at: &At<'_>, all: &[&str], errs: &mut Errors) {
    if !all.contains(&at.text()) {
        errs.unsupported(&At::new(&json!(at.text()), at.path.clone()), all);
    }
}

/// `resizePolicy`.
pub(super) fn policies(c: &At<'_>, never: bool, errs: &mut Errors) {
    let mut seen = BTreeSet::new();
    for p in c.items("resizePolicy") {
        let (name, policy) = (p.child("resourceName"), p.child("restartPolicy"));
        if !seen.insert(name.text()) {
            errs.duplicate(&At::new(&json!(name.text()), p.path.clone()));
        }
        errs.required_one_of(&name, &["cpu", "memory"], "");
        errs.required_one_of(&policy, &["NotRequired", "RestartContainer"], "");
        if never && policy.text() == "RestartContainer" {
            errs.invalid(
                &policy,
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            );
        }
    }
}

/// `spec.resources` beside its containers'.
pub(super) fn pod_level(spec: &At<'_>, errs: &mut Errors) {
    let own = spec.child("resources");
    if !own.is_set() {
        return;
    }
    if own.items("claims").next().is_some() {
        let path = own.child("claims").path;
        errs.forbidden(&path, "claims cannot be set for Resources at pod-level");
    }
    for (name, q) in own.entries("requests").chain(own.entries("limits")) {
        if !matches!(name, "cpu" | "memory") && !name.starts_with("hugepages-") {
            let supported = ["cpu", "hugepages-", "memory"];
            return errs.unsupported(&At::new(&json!(name), q.path), &supported);
        }
    }
    container::resources(&own, errs);
    for (name, at) in own.entries("requests") {
        let (Ok(asked), sum) = (Quantity::from_value(at.value), aggregate(spec.value, name)) else {
            continue;
        };
        if sum > asked {
            errs.invalid_value(
                &at.path,
                asked.to_string(),
                &format!("must be greater than or equal to aggregate container requests of {sum}"),
            );
        }
    }
    for (i, c) in spec.items("containers").enumerate() {
        for (name, at) in c.entries("resources.limits") {
            let whole = own.child("limits");
            let (Ok(limit), Some(Ok(whole))) = (
                Quantity::from_value(at.value),
                whole.value.get(name).map(Quantity::from_value),
            ) else {
                continue;
            };
            if limit > whole {
                errs.invalid_value(
                    &format!("{}.containers[{i}][{name}].limits", own.path),
                    limit.to_string(),
                    &format!("must be less than or equal to pod limits of {whole}"),
                );
            }
        }
    }
}

/// What the containers of a `spec` ask for together, or more if an init container does (KEP-753).
pub(crate) fn aggregate(spec: &Value, name: &str) -> Quantity {
    let zero = Quantity::ZERO;
    let of = |c: &Value| {
        let asked = c.pointer("/resources/requests").and_then(|r| r.get(name));
        asked
            .and_then(|q| Quantity::from_value(q).ok())
            .unwrap_or(zero)
    };
    let (mut sidecars, mut peak) = (zero, zero);
    for c in json::items(spec, "/initContainers") {
        let with = sidecars.plus(of(c));
        if json::text(c, "/restartPolicy") == "Always" {
            sidecars = with;
        }
        peak = peak.max(with);
    }
    let containers = json::items(spec, "/containers").iter();
    peak.max(containers.fold(sidecars, |sum, c| sum.plus(of(c))))
}

/// `hostUsers: false` does not go with namespaces of the host.
pub(super) fn host_users(spec: &At<'_>, errs: &mut Errors) {
    if spec.child("hostUsers").value != false {
        return;
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        let at = spec.child(field);
        if at.flag() {
            errs.forbidden(&at.path, "when `pod.Spec.HostUsers` is false");
        }
    }
}

/// A resize of a pod.
pub fn pod_resize(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        let annotations = old.child("metadata.annotations");
        if annotations.value.get(MIRROR).is_some() {
            return errs.forbidden("", "static pods cannot be resized");
        }
        if old.child("spec.os.name").text() == "windows" {
            return errs.forbidden("", "windows pods cannot be resized");
        }
        let class = qos(new.value);
        let before = match old.child("status.qosClass").text() {
            "" => qos(old.value),
            given => given,
        };
        if class != before {
            let says = "Pod QOS Class may not change as a result of resizing";
            errs.invalid_value("spec", before, says);
        }
        let statuses = old.items("status.containerStatuses");
        let deaf = |s: &At<'_>| s.child("state.running").is_set() && !s.child("resources").is_set();
        if statuses.into_iter().any(|s| deaf(&s)) {
            errs.forbidden("spec", "Pod running on node without support for resize");
        }
        for list in ["containers", "initContainers"] {
            let (new, old) = (new.child("spec"), old.child("spec"));
            for (new, old) in new.items(list).zip(old.items(list)) {
                kept(&new.child("resources"), &old.child("resources"), errs);
            }
        }
        if others(new.value) != others(old.value) {
            errs.forbidden("spec", "only cpu and memory resources are mutable");
        }
    })
}

/// What was asked for or limited can change, but not go.
fn kept(new: &At<'_>, old: &At<'_>, errs: &mut Errors) {
    for list in ["requests", "limits"] {
        let now = new.child(list);
        let gone = |name: &str| matches!(name, "cpu" | "memory") && now.value.get(name).is_none();
        if old.entries(list).any(|(name, _)| gone(name)) {
            errs.forbidden(&now.path, &format!("resource {list} cannot be removed"));
        }
    }
}

/// The `spec` without what a resize may change.
fn others(pod: &Value) -> Value {
    let mut spec = json::at(pod, "/spec").clone();
    for list in ["/containers", "/initContainers"] {
        json::each(&mut spec, list, |c| {
            json::remove(c, "resizePolicy");
            for figures in ["/resources/requests", "/resources/limits"] {
                if let Some(map) = json::object_at(c, figures) {
                    json::remove(map, "cpu");
                    json::remove(map, "memory");
                }
            }
            // An empty map is none.
            if let Some(resources) = json::object_at(c, "/resources") {
                for list in ["requests", "limits"] {
                    if resources.get(list).is_some_and(json::is_zero) {
                        json::remove(resources, list);
                    }
                }
            }
        });
    }
    spec
}
