//! OpenAPI documents, made on demand from the same facts and not kept: they are large and seldom asked for.

mod definitions;
mod paths;

#[cfg(test)]
mod tests;

use crate::Gvk;
use definitions::Style;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A served kind, as the documents need it.
#[derive(Clone, Debug)]
pub struct Served {
    /// Group, version, kind.
    pub gvk: Gvk,
    /// Plural.
    pub plural: String,
    /// Whether its path has a namespace.
    pub namespaced: bool,
    /// Verbs.
    pub verbs: Vec<String>,
    /// Subresource names.
    pub subresources: Vec<String>,
}

impl Served {
    fn verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }
}

/// `api/v1` or `apis/apps/v1`.
fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// `/openapi/v3`: one path a group version, each with a hash in its URL that changes when the document may.
#[must_use]
pub fn v3_index(served: &[Served]) -> Value {
    let versions: BTreeSet<(&str, &str)> = served
        .iter()
        .map(|kind| (kind.gvk.group.as_str(), kind.gvk.version.as_str()))
        .collect();
    let paths: Map<String, Value> = versions
        .into_iter()
        .map(|(group, version)| {
            let path = group_path(group, version);
            let hash = fingerprint(served, group, version);
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path, json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

/// What the document depends on: this build (which fixes every schema) and what is served. Making the document just
/// to hash it would cost more than serving it.
fn fingerprint(served: &[Served], group: &str, version: &str) -> String {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    for kind in of_version(served, group, version) {
        kind.gvk.hash(&mut hasher);
        (&kind.plural, kind.namespaced).hash(&mut hasher);
        (&kind.verbs, &kind.subresources).hash(&mut hasher);
    }
    format!("{:016X}", hasher.finish())
}

fn of_version<'a>(served: &'a [Served], group: &str, version: &str) -> Vec<&'a Served> {
    served
        .iter()
        .filter(|kind| kind.gvk.group == group && kind.gvk.version == version)
        .collect()
}

/// `/openapi/v3/apis/apps/v1` (or `api/v1`): `None` when nothing of that group version is served.
#[must_use]
pub fn v3(served: &[Served], group: &str, version: &str) -> Option<Value> {
    let kinds = of_version(served, group, version);
    if kinds.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths::all(&kinds, Style::V3),
        "components": { "schemas": definitions::all(&kinds, Style::V3) },
    }))
}

/// `/openapi/v2`, for clients that know nothing else.
#[must_use]
pub fn v2(served: &[Served]) -> Value {
    let kinds: Vec<&Served> = served.iter().collect();
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths::all(&kinds, Style::V2),
        "definitions": definitions::all(&kinds, Style::V2),
    })
}

fn info() -> Value {
    json!({ "title": "Kubernetes", "version": format!("keelson v{}", env!("CARGO_PKG_VERSION")) })
}
