//! Aggregated ClusterRoles: keeps the rules of a role like `admin` at those of the roles that its selectors choose.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};
use serde_json::{Value, json};

use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::Key;
use crate::runner::{Controller, Outcome, Work};

/// The controller; it has a single key, as any role may count for any other.
pub struct Aggregation {
    caches: Arc<Caches>,
}

impl Aggregation {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .cluster_roles
            .subscribe(move |_| queue.add(Key::default()));
        let caches = caches.clone();
        (Self { caches }, work)
    }
}

#[async_trait]
impl Controller for Aggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    async fn reconcile(&self, _key: &Key) -> anyhow::Result<Outcome> {
        Ok(plan(&self.caches.cluster_roles.list("")).into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// Decides for all ClusterRoles.
pub fn plan(roles: &[Arc<ClusterRole>]) -> Vec<Action> {
    if roles.iter().all(|r| r.aggregation_rule.is_none()) {
        return Vec::new();
    }
    let values: Vec<Value> = roles
        .iter()
        .filter_map(|r| serde_json::to_value(r.as_ref()).ok())
        .collect();
    let write = |changed: Value| {
        let name = changed.pointer("/metadata/name")?.as_str()?;
        let role = roles.iter().find(|r| r.name_any() == name)?;
        let target = Target::of(role.as_ref()).unchanged(role.as_ref());
        Some(Action::patch(target, json!({"rules": changed["rules"]})))
    };
    let changed = keelson_auth::rbac::aggregate(&values);
    changed.into_iter().filter_map(write).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    #[test]
    fn rules_follow_the_chosen_roles() {
        let role =
            |name: &str, label: &str, rules: Value, selects: Option<&str>| -> Arc<ClusterRole> {
                let rule = selects
                    .map(|l| json!({"clusterRoleSelectors": [{"matchLabels": {(l): "true"}}]}));
                Arc::new(
                    from_value(
                        json!({"metadata": {"name": name, "labels": {(label): "true"}},
                "rules": rules, "aggregationRule": rule}),
                    )
                    .expect("role"),
                )
            };
        let rule = |r: &str| json!({"apiGroups": [""], "resources": [r], "verbs": ["get"]});
        let base = || {
            vec![
                role("a", "to-view", json!([rule("pods")]), None),
                role("b", "other", json!([rule("nodes")]), None),
            ]
        };
        let rows = [
            ("none aggregates", base(), None),
            (
                "to be gathered",
                [base(), vec![role("view", "x", json!([]), Some("to-view"))]].concat(),
                Some(json!([rule("pods")])),
            ),
            (
                "gathered",
                [
                    base(),
                    vec![role("view", "x", json!([rule("pods")]), Some("to-view"))],
                ]
                .concat(),
                None,
            ),
            (
                "one left",
                vec![role("view", "x", json!([rule("pods")]), Some("to-view"))],
                Some(json!([])),
            ),
        ];
        for (name, roles, want) in rows {
            let seen: Vec<Value> = plan(&roles)
                .iter()
                .map(|a| match a {
                    Action::Patch { patch, .. } => patch["rules"].clone(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(seen, want.into_iter().collect::<Vec<_>>(), "{name}");
        }
    }
}
