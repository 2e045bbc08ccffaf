//! What a new cluster has before anybody asks: roles and bindings (upstream's bootstrap policy for the resources and
//! controllers that are here), namespaces, priority classes. As objects to create if they are missing; roles and
//! bindings are reconciled by adding what they lack, unless `rbac.authorization.kubernetes.io/autoupdate` is `false`.

mod bindings;
mod controllers;
mod roles;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use crate::rbac::Rule;

/// A role by name with its rules, one a line: see [`parse_rules`].
pub(crate) type Row = (&'static str, &'static [&'static str]);

/// Rules from lines `verbs groups resources [names]`, or `verbs /paths`; lists are separated by commas, `core` is the
/// core group.
pub(crate) fn parse_rules(lines: &[&str]) -> Vec<Rule> {
    lines.iter().map(|line| parse_rule(line)).collect()
}

fn parse_rule(line: &str) -> Rule {
    let mut words = line.split_whitespace();
    let mut next = || -> Vec<String> {
        words
            .next()
            .into_iter()
            .flat_map(|w| w.split(','))
            .map(str::to_owned)
            .collect()
    };
    let (verbs, second) = (next(), next());
    let (resources, resource_names) = (next(), next());
    if resources.is_empty() {
        return Rule {
            verbs,
            non_resource_urls: second,
            ..Rule::default()
        };
    }
    let core = |group: String| {
        if group == "core" {
            String::new()
        } else {
            group
        }
    };
    let api_groups = second.into_iter().map(core).collect();
    Rule {
        verbs,
        api_groups,
        resources,
        resource_names,
        ..Rule::default()
    }
}

/// `{"kubernetes.io/bootstrapping": "rbac-defaults"}` and more.
fn metadata(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Value {
    let mut all = json!({ "kubernetes.io/bootstrapping": "rbac-defaults" });
    for (key, value) in labels {
        all[*key] = json!(value);
    }
    let mut metadata = json!({
        "name": name,
        "labels": all,
        "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
    });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

fn role(namespace: &str, name: &str, labels: &[(&str, &str)], rules: &[Rule]) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": if namespace.is_empty() { "ClusterRole" } else { "Role" },
        "metadata": metadata(namespace, name, labels),
        "rules": rules,
    })
}

/// `User:x`, `Group:x`, or `ServiceAccount:namespace:name`.
fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("ServiceAccount", rest)) => {
            let (namespace, name) = rest.split_once(':').unwrap_or_default();
            json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
        }
        Some((kind, name)) => {
            json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name })
        }
        None => Value::Null,
    }
}

fn binding(namespace: &str, name: &str, role_kind: &str, role: &str, subjects: &[&str]) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" },
        "metadata": metadata(namespace, name, &[]),
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role },
        "subjects": subjects.iter().map(|s| subject(s)).collect::<Vec<_>>(),
    })
}

/// Every object, in an order in which they can be created.
pub fn objects() -> Vec<Value> {
    [
        namespaces(),
        priority_classes(),
        cluster_roles(),
        roles(),
        cluster_role_bindings(),
        role_bindings(),
    ]
    .concat()
}

/// `default`, `kube-system`, `kube-public`, `kube-node-lease`.
pub fn namespaces() -> Vec<Value> {
    let names = ["default", "kube-system", "kube-public", "kube-node-lease"];
    names
        .map(
            |name| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
        )
        .to_vec()
}

/// The two classes of the system's own pods.
pub fn priority_classes() -> Vec<Value> {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": { "name": name },
            "value": value,
            "preemptionPolicy": "PreemptLowerPriority",
            "description": description,
        })
    };
    vec![
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ]
}

/// ClusterRoles, the aggregated ones with their rules already in place.
pub fn cluster_roles() -> Vec<Value> {
    let mut all: Vec<Value> = roles::CLUSTER
        .iter()
        .map(|(name, rules)| role("", name, &[], &parse_rules(rules)))
        .collect();
    for (name, target, rules) in roles::AGGREGATED_PARTS {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{target}");
        all.push(role("", name, &[(&label, "true")], &parse_rules(rules)));
    }
    for (name, label_of) in roles::AGGREGATES {
        let mut aggregate = match label_of {
            // `edit` is part of `admin`, and `view` of `edit`.
            Some(target) => {
                let label = format!("rbac.authorization.k8s.io/aggregate-to-{target}");
                role("", name, &[(&label, "true")], &[])
            }
            None => role("", name, &[], &[]),
        };
        let chosen = json!({ format!("rbac.authorization.k8s.io/aggregate-to-{name}"): "true" });
        aggregate["aggregationRule"] =
            json!({ "clusterRoleSelectors": [{ "matchLabels": chosen }] });
        all.push(aggregate);
    }
    for (name, rules) in controllers::CONTROLLERS {
        all.push(role(
            "",
            &format!("system:controller:{name}"),
            &[],
            &parse_rules(rules),
        ));
    }
    settle(all)
}

/// Aggregates until nothing changes: `view` goes into `edit`, and that into `admin`.
fn settle(mut roles: Vec<Value>) -> Vec<Value> {
    for _ in 0..roles::AGGREGATES.len() {
        for next in crate::rbac::aggregate(&roles) {
            if let Some(old) = roles
                .iter_mut()
                .find(|r| r["metadata"]["name"] == next["metadata"]["name"])
            {
                *old = next;
            }
        }
    }
    roles
}

/// Roles in namespaces.
pub fn roles() -> Vec<Value> {
    let all = bindings::NAMESPACED.iter();
    all.map(|(namespace, name, rules, _)| role(namespace, name, &[], &parse_rules(rules)))
        .collect()
}

/// ClusterRoleBindings; a controller's role goes to the ServiceAccount of the same name in kube-system.
pub fn cluster_role_bindings() -> Vec<Value> {
    let fixed = bindings::CLUSTER.iter();
    let fixed =
        fixed.map(|(name, role, subjects)| binding("", name, "ClusterRole", role, subjects));
    let controllers = controllers::CONTROLLERS.iter().map(|(name, _)| {
        let (role, account) = (
            format!("system:controller:{name}"),
            format!("ServiceAccount:kube-system:{name}"),
        );
        binding("", &role, "ClusterRole", &role, &[&account])
    });
    fixed.chain(controllers).collect()
}

/// RoleBindings.
pub fn role_bindings() -> Vec<Value> {
    let all = bindings::NAMESPACED
        .iter()
        .filter(|(_, _, _, subjects)| !subjects.is_empty());
    all.map(|(namespace, name, _, subjects)| binding(namespace, name, "Role", name, subjects))
        .collect()
}
