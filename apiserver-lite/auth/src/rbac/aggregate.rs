//! Aggregated ClusterRoles: their rules are those of the ClusterRoles that their selectors choose.

use serde_json::{Value, json};

use keelson_api::json::{items, text};
use keelson_api::selector::Labels;

/// The ClusterRoles whose aggregated rules are not what their selectors give now, with their rules put right: what a
/// controller has to write. Rules come in order of the roles' names, each once.
pub fn aggregate(cluster_roles: &[Value]) -> Vec<Value> {
    let mut sorted: Vec<&Value> = cluster_roles.iter().collect();
    sorted.sort_by_key(|r| text(r, "/metadata/name"));
    let aggregated = sorted
        .iter()
        .filter(|r| r.get("aggregationRule").is_some_and(|a| !a.is_null()));
    aggregated
        .filter_map(|role| {
            let rules = gather(role, &sorted);
            if items(role, "/rules") == rules {
                return None;
            }
            let mut next = (*role).clone();
            next.as_object_mut()?
                .insert("rules".to_owned(), json!(rules));
            Some(next)
        })
        .collect()
}

fn gather(role: &Value, sorted: &[&Value]) -> Vec<Value> {
    let selectors = items(role, "/aggregationRule/clusterRoleSelectors").iter();
    // What validation let through parses; the rest selects nothing.
    let selectors: Vec<Labels> = selectors
        .filter_map(|s| Labels::from_object(s).ok())
        .collect();
    let name = text(role, "/metadata/name");
    let mut rules: Vec<Value> = Vec::new();
    for other in sorted.iter().filter(|o| text(o, "/metadata/name") != name) {
        if selectors.iter().any(|s| s.matches(other)) {
            let new = items(other, "/rules").iter();
            for rule in new {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}
