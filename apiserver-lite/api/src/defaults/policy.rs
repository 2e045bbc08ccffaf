//! Defaults of RBAC bindings, webhooks and admission policies.

use serde_json::{Value, json};

use crate::json::{each, fill, fill_text, object_at, text};

const RBAC: &str = "rbac.authorization.k8s.io";

/// A RoleBinding or ClusterRoleBinding.
pub(crate) fn role_binding(v: &mut Value) {
    if let Some(role) = object_at(v, "/roleRef") {
        fill_text(role, "apiGroup", RBAC);
    }
    each(v, "/subjects", |s| {
        if matches!(text(s, "/kind"), "User" | "Group") {
            fill_text(s, "apiGroup", RBAC);
        }
    });
}

/// A PriorityClass.
pub(crate) fn priority_class(v: &mut Value) {
    fill(v, "preemptionPolicy", "PreemptLowerPriority");
}

/// A ValidatingWebhookConfiguration.
pub(crate) fn validating_webhooks(v: &mut Value) {
    each(v, "/webhooks", webhook);
}

/// A MutatingWebhookConfiguration.
pub(crate) fn mutating_webhooks(v: &mut Value) {
    each(v, "/webhooks", |w| {
        webhook(w);
        fill(w, "reinvocationPolicy", "Never");
    });
}

fn webhook(w: &mut Value) {
    fill(w, "failurePolicy", "Fail");
    fill(w, "timeoutSeconds", 10);
    matching(w, "/rules");
    if let Some(service) = object_at(w, "/clientConfig/service") {
        fill(service, "port", 443);
    }
}

/// An admission policy.
pub(crate) fn admission_policy(v: &mut Value) {
    let Some(spec) = object_at(v, "/spec") else {
        return;
    };
    fill(spec, "failurePolicy", "Fail");
    if let Some(m) = object_at(spec, "/matchConstraints") {
        matching(m, "/resourceRules");
        each(m, "/excludeResourceRules", |r| fill(r, "scope", "*"));
    }
}

fn matching(v: &mut Value, rules: &str) {
    fill(v, "matchPolicy", "Equivalent");
    fill(v, "namespaceSelector", json!({}));
    fill(v, "objectSelector", json!({}));
    each(v, rules, |r| fill(r, "scope", "*"));
}

/// An APIService.
pub(crate) fn api_service(v: &mut Value) {
    if let Some(service) = object_at(v, "/spec/service") {
        fill(service, "port", 443);
    }
}
