//! Validation of RBAC kinds and disruption budgets.

use serde_json::Value;

use super::field::{At, Errors};
use super::{check, check_update, count_or_percent, label_selector, names};
use crate::status::Cause;

const RBAC: &str = "rbac.authorization.k8s.io";

/// A Role or ClusterRole.
pub(crate) fn role(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let cluster = at.child("metadata.namespace").text().is_empty();
        for rule in at.items("rules") {
            let set = |field: &str| !rule.child(field).is_zero();
            if !set("verbs") {
                errs.required(
                    &rule.child("verbs"),
                    "verbs must contain at least one value",
                );
            }
            if set("nonResourceURLs") {
                if !cluster {
                    errs.invalid(
                        &rule.child("nonResourceURLs"),
                        "namespaced rules cannot apply to non-resource URLs",
                    );
                }
                if set("apiGroups") || set("resources") || set("resourceNames") {
                    errs.invalid(
                        &rule.child("nonResourceURLs"),
                        "rules cannot apply to both regular resources and non-resource URLs",
                    );
                }
                continue;
            }
            if !set("apiGroups") {
                errs.required(
                    &rule.child("apiGroups"),
                    "resource rules must supply at least one api group",
                );
            }
            if !set("resources") {
                errs.required(
                    &rule.child("resources"),
                    "resource rules must supply at least one resource",
                );
            }
        }
        for selector in at.items("aggregationRule.clusterRoleSelectors") {
            label_selector(&selector, errs);
        }
    })
}

/// A RoleBinding or ClusterRoleBinding.
pub(crate) fn role_binding(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let namespaced = !at.child("metadata.namespace").text().is_empty();
        errs.one_of(&at.child("roleRef.apiGroup"), &[RBAC]);
        let kinds: &[&str] = if namespaced {
            &["Role", "ClusterRole"]
        } else {
            &["ClusterRole"]
        };
        let kind = at.child("roleRef.kind");
        if !kinds.contains(&kind.text()) {
            errs.unsupported(&kind, kinds);
        }
        let name = at.child("roleRef.name");
        if name.text().is_empty() {
            errs.required(&name, "");
        } else {
            errs.check(&name, names::path_segment(name.text()));
        }
        for s in at.items("subjects") {
            subject(&s, errs);
        }
    })
}

fn subject(s: &At<'_>, errs: &mut Errors) {
    let (kind, name, group) = (s.child("kind"), s.child("name"), s.child("apiGroup"));
    if name.text().is_empty() {
        errs.required(&name, "");
    }
    match kind.text() {
        "ServiceAccount" => {
            if !name.text().is_empty() {
                errs.check(&name, names::dns_subdomain(name.text()));
            }
            if !group.text().is_empty() {
                errs.unsupported(&group, &[""]);
            }
            if s.child("namespace").text().is_empty() {
                errs.required(&s.child("namespace"), "");
            }
        }
        "User" | "Group" => errs.one_of(&group, &[RBAC]),
        _ => errs.unsupported(&kind, &["ServiceAccount", "User", "Group"]),
    }
}

/// A change of a binding: the role stays.
pub(crate) fn role_binding_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        if new.child("roleRef").value != old.child("roleRef").value {
            errs.invalid(&new.child("roleRef"), "cannot change roleRef");
        }
    })
}

/// A PodDisruptionBudget.
pub(crate) fn pod_disruption_budget(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        let (min, max) = (spec.child("minAvailable"), spec.child("maxUnavailable"));
        if min.is_set() && max.is_set() {
            errs.invalid(&spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for figure in [min, max] {
            count_or_percent(&figure, errs);
        }
        label_selector(&spec.child("selector"), errs);
        errs.one_of(
            &spec.child("unhealthyPodEvictionPolicy"),
            &["AlwaysAllow", "IfHealthyBudget"],
        );
    })
}
