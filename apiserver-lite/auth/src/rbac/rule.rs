//! A rule, and whether it allows a request.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Attributes;

/// `rbac.authorization.k8s.io/v1 PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Verbs; `*` is all.
    pub verbs: Vec<String>,
    /// API groups; `""` is core, `*` is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale` or `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Names; none is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths; a `*` at the end is any rest.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// The rules of a Role or ClusterRole; malformed ones, which validation keeps out, allow nothing.
pub fn rules_of(role: &Value) -> Vec<Rule> {
    let rules = role.get("rules").and_then(Value::as_array);
    rules
        .into_iter()
        .flatten()
        .filter_map(|r| Rule::deserialize(r).ok())
        .collect()
}

pub(super) fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|i| i == item)
}

pub(super) fn has_or_all(list: &[String], item: &str) -> bool {
    list.iter().any(|i| i == "*" || i == item)
}

impl Rule {
    /// Whether the rule allows the request. `pods` does not include `pods/log`; `*` includes everything, and
    /// `*/scale` every resource's `scale`, as upstream has it.
    pub fn allows(&self, a: &Attributes) -> bool {
        if !has_or_all(&self.verbs, &a.verb) {
            return false;
        }
        if a.resource.is_empty() {
            return self
                .non_resource_urls
                .iter()
                .any(|url| url_covers(url, &a.path));
        }
        has_or_all(&self.api_groups, &a.group)
            && self.allows_resource(&a.resource, &a.subresource)
            && (self.resource_names.is_empty() || has(&self.resource_names, &a.name))
    }

    fn allows_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|r| match r.split_once('/') {
            _ if r == "*" => true,
            None => subresource.is_empty() && r == resource,
            Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
            Some((res, sub)) => res == resource && !subresource.is_empty() && sub == subresource,
        })
    }
}

/// Whether a path of a rule includes a path.
pub(super) fn url_covers(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => rule == path,
    }
}

impl fmt::Display for Rule {
    /// As upstream prints it in refusals: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("NonResourceURLs", &self.non_resource_urls),
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let shown = parts.iter().filter(|(_, l)| !l.is_empty());
        let shown: Vec<String> = shown
            .map(|(name, list)| {
                let quoted: Vec<String> = list.iter().map(|i| format!("{i:?}")).collect();
                format!("{name}:[{}]", quoted.join(" "))
            })
            .collect();
        write!(f, "{{{}}}", shown.join(", "))
    }
}
