//! What is served, made from the table: groups, versions, resources, plain and aggregated, and OpenAPI.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use keelson_api::resource::Sub;
use keelson_api::{Resource, Scope, Status, Table};
use keelson_schema::openapi::{self, Served};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::negotiate::{self, Discovery};
use crate::respond::{self, Style};
use crate::state::{Server, no_such_resource};
use crate::{decode, protobuf};

/// Documents that were made once; emptied when the table changes.
#[derive(Default)]
pub(crate) struct Documents {
    made: Mutex<BTreeMap<String, (Bytes, String)>>,
}

/// Documents larger than this are made anew each time instead of being kept in memory.
const KEEP_BELOW: usize = 256 * 1024;

impl Documents {
    fn get(&self, name: &str, make: impl FnOnce() -> Option<Vec<u8>>) -> Option<(Bytes, String)> {
        if let Some(found) = self
            .made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
        {
            return Some(found.clone());
        }
        let body = Bytes::from(make()?);
        let etag = hex::encode_upper(Sha256::digest(&body));
        if body.len() < KEEP_BELOW {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            made.insert(name.to_owned(), (body.clone(), etag.clone()));
        }
        Some((body, etag))
    }
}

/// Answers `/api`, `/apis` and what is below them.
pub(crate) fn answer(
    server: &Server,
    path: &str,
    headers: &HeaderMap,
    style: Style,
) -> Result<Response<Body>, Status> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    let table = server.table();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (name, kind) = match (parts.as_slice(), negotiate::discovery(accept)?) {
        (["api" | "apis"], Discovery::Aggregated(version)) => (
            format!("{path} {version}"),
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"),
        ),
        _ => (path.to_owned(), "application/json".to_owned()),
    };
    let aggregated = kind.rsplit_once("v2").map(|(_, rest)| {
        if rest.starts_with("beta1") {
            "v2beta1"
        } else {
            "v2"
        }
    });
    let made = server.documents.get(&name, || {
 match (parts.as_slice(), aggregated) {
        (["api"], Some(v)) => Some(aggregate(&table, true, v)),
        (["apis"], Some(v)) => Some(aggregate(&table, false, v)),
        (["api"], None) => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        (["apis"], None) => Some(groups(&table)),
        (["api", version], _) => resources(&table, "", version),
        (["apis", name], _) => group(&table, name),
        (["apis", name, version], _) => resources(&table, name, version),
        _ => None,
    }.map(|made: Value| made.to_string().into_bytes())
});
    let (body, etag) = made.ok_or_else(no_such_resource)?;
    Ok(tagged(headers, &kind, body, &etag, style))
}

fn tagged(
    headers: &HeaderMap,
    kind: &str,
    body: Bytes,
    etag: &str,
    style: Style,
) -> Response<Body> {
    let quoted = format!("\"{etag}\"");
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v == quoted);
    let mut response = respond::bytes(
        200,
        kind,
        if known { Bytes::new() } else { body },
        style.gzip,
    );
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// A group's versions with their rows.
type Versions<'a> = Vec<(&'a str, Vec<&'a Arc<Resource>>)>;

/// Rows by group and version, versions in order of preference.
fn by_group(table: &Table) -> BTreeMap<&str, Versions<'_>> {
    let mut groups: BTreeMap<&str, BTreeMap<&str, Vec<&Arc<Resource>>>> = BTreeMap::new();
    for row in table.rows() {
        groups
            .entry(&row.group)
            .or_default()
            .entry(&row.version)
            .or_default()
            .push(row);
    }
    let sorted = groups.into_iter().map(|(group, versions)| {
        let mut versions: Vec<_> = versions.into_iter().collect();
        versions.sort_by_key(|(v, _)| std::cmp::Reverse(rank(v)));
        (group, versions)
    });
    sorted.collect()
}

/// Orders versions as upstream: general ones before beta before alpha, later ones first.
fn rank(version: &str) -> (u8, u32, u32) {
    let digits = |s: &str| {
        s.chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
    };
    let Some(rest) = version.strip_prefix('v') else {
        return (0, 0, 0);
    };
    let major = digits(rest);
    let tail = rest.get(major.len()..).unwrap_or_default();
    let major = major.parse().unwrap_or(0);
    match (tail, tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
        ("", _, _) => (3, major, 0),
        (_, Some(n), _) => (2, major, n.parse().unwrap_or(0)),
        (_, _, Some(n)) => (1, major, n.parse().unwrap_or(0)),
        _ => (0, 0, 0),
    }
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

fn group_entry(group: &str, versions: &[(&str, Vec<&Arc<Resource>>)]) -> Value {
    let list: Vec<Value> = versions
        .iter()
        .map(|(v, _)| json!({"groupVersion": api_version(group, v), "version": v}))
        .collect();
    json!({"name": group, "versions": list, "preferredVersion": list.first()})
}

fn groups(table: &Table) -> Value {
    let all = by_group(table);
    let list: Vec<Value> = all
        .iter()
        .filter(|(g, _)| !g.is_empty())
        .map(|(g, versions)| group_entry(g, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

fn group(table: &Table, name: &str) -> Option<Value> {
    let all = by_group(table);
    let mut entry = group_entry(name, all.get(name).filter(|_| !name.is_empty())?);
    entry["kind"] = json!("APIGroup");
    entry["apiVersion"] = json!("v1");
    Some(entry)
}

fn resources(table: &Table, group: &str, version: &str) -> Option<Value> {
    let rows: Vec<&Arc<Resource>> = table
        .rows()
        .filter(|r| r.group == group && r.version == version)
        .collect();
    if rows.is_empty() {
        return None;
    }
    let mut list = Vec::new();
    for row in rows {
        list.push(resource(row));
        list.extend(row.subresources.iter().map(|sub| subresource(row, *sub)));
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, version),
        "resources": list,
    }))
}

fn resource(row: &Resource) -> Value {
    let mut value = json!({
        "name": row.plural,
        "singularName": row.singular,
        "namespaced": row.scope == Scope::Namespaced,
        "kind": row.kind,
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        value["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        value["categories"] = json!(row.categories);
    }
    if row.allows("list") {
        let path = format!("{}/{}", row.api_version(), row.plural);
        let hash = Sha256::digest(path);
        value["storageVersionHash"] = json!(hex::encode(hash.get(..8).unwrap_or_default()));
    }
    value
}

/// The kind a subresource takes and gives, and its verbs.
pub(crate) fn sub_facts(
    row: &Resource,
    sub: Sub,
) -> (&'static str, &'static str, String, &'static [&'static str]) {
    let own = || row.kind.to_string();
    let grv = ["get", "patch", "update"].as_slice();
    let connect = ["create", "get"].as_slice();
    match sub {
        Sub::Status | Sub::EphemeralContainers | Sub::Resize | Sub::Approval => {
            ("", "", own(), grv)
        }
        Sub::Finalize => ("", "", own(), &["update"]),
        Sub::Scale => ("autoscaling", "v1", "Scale".into(), grv),
        Sub::Binding => ("", "v1", "Binding".into(), &["create"]),
        Sub::Eviction => ("policy", "v1", "Eviction".into(), &["create"]),
        Sub::Token => (
            "authentication.k8s.io",
            "v1",
            "TokenRequest".into(),
            &["create"],
        ),
        Sub::Log => ("", "", own(), &["get"]),
        Sub::Exec => ("", "", "PodExecOptions".into(), connect),
        Sub::Attach => ("", "", "PodAttachOptions".into(), connect),
        Sub::PortForward => ("", "", "PodPortForwardOptions".into(), connect),
        Sub::Proxy => {
            let verbs = ["create", "delete", "get", "patch", "update"].as_slice();
            ("", "", format!("{}ProxyOptions", row.kind), verbs)
        }
    }
}

fn subresource(row: &Resource, sub: Sub) -> Value {
    let (group, version, kind, verbs) = sub_facts(row, sub);
    let mut value = json!({
        "name": format!("{}/{}", row.plural, sub.name()),
        "singularName": "",
        "namespaced": row.scope == Scope::Namespaced,
        "kind": kind,
        "verbs": verbs,
    });
    if !version.is_empty() {
        value["group"] = json!(group);
        value["version"] = json!(version);
    }
    value
}

fn aggregate(table: &Table, core: bool, version: &str) -> Value {
    let all = by_group(table);
    let items: Vec<Value> = all
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|(v, rows)| aggregate_version(v, rows))
                .collect();
            let mut meta = json!({"creationTimestamp": null});
            if !group.is_empty() {
                meta["name"] = json!(group);
            }
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregate_version(version: &str, rows: &[&Arc<Resource>]) -> Value {
    let list: Vec<Value> = rows.iter().map(|row| aggregate_resource(row)).collect();
    json!({"version": version, "freshness": "Current", "resources": list})
}

fn aggregate_resource(row: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let subs: Vec<Value> = row
        .subresources
        .iter()
        .map(|sub| {
            let (group, version, name, verbs) = sub_facts(row, *sub);
            let (group, version) = if version.is_empty() { (&*row.group, &*row.version) } else { (group, version) };
            json!({"subresource": sub.name(), "responseKind": kind(group, version, &name), "verbs": verbs})
        })
        .collect();
    let mut value = json!({
        "resource": row.plural,
        "responseKind": kind(&row.group, &row.version, &row.kind),
        "scope": if row.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": row.verbs,
    });
    for (field, list) in [
        ("shortNames", json!(row.short_names)),
        ("categories", json!(row.categories)),
        ("subresources", json!(subs)),
    ] {
        if list.as_array().is_some_and(|l| !l.is_empty()) {
            value[field] = list;
        }
    }
    value
}

/// The served kinds as OpenAPI needs them.
pub(crate) fn served(table: &Table) -> Vec<Served> {
    table
        .rows()
        .map(|row| Served {
            gvk: decode::gvk(row),
            plural: row.plural.to_string(),
            namespaced: row.scope == Scope::Namespaced,
            verbs: row.verbs.iter().map(|v| (*v).to_owned()).collect(),
            subresources: row
                .subresources
                .iter()
                .map(|s| s.name().to_owned())
                .collect(),
        })
        .collect()
}

/// Answers `/openapi/v2` and `/openapi/v3` and what is below it.
pub(crate) fn openapi(
    server: &Server,
    path: &str,
    headers: &HeaderMap,
    style: Style,
) -> Result<Response<Body>, Status> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    let table = server.table();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let spec = spec(accept, parts.as_slice() == ["openapi", "v2"])?;
    let name = format!("{path} {spec:?}");
    let made = server.documents.get(&name, || {
        let document = match parts.as_slice() {
            ["openapi", "v2"] => openapi::v2(&served(&table)),
            ["openapi", "v3"] => openapi::v3_index(&served(&table)),
            ["openapi", "v3", "api", version] => openapi::v3(&served(&table), "", version)?,
            ["openapi", "v3", "apis", group, version] => {
                openapi::v3(&served(&table), group, version)?
            }
            _ => return None,
        };
        Some(match spec {
            Spec::Json => document.to_string().into_bytes(),
            Spec::Protobuf => protobuf::openapi::document(&document),
        })
    });
    let (body, etag) = made.ok_or_else(no_such_resource)?;
    let kind = match spec {
        Spec::Json => "application/json",
        Spec::Protobuf => SPEC_V2,
    };
    Ok(tagged(headers, kind, body, &etag, style))
}

/// How an OpenAPI document is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    Json,
    Protobuf,
}

/// The document of version 2 as protobuf.
const SPEC_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What a client takes first; only the document of version 2 is to be had as protobuf.
fn spec(accept: Option<&str>, v2: bool) -> Result<Spec, Status> {
    let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else {
        return Ok(Spec::Json);
    };
    let of = |clause: &str| match clause.split(';').next().unwrap_or_default().trim() {
        "application/json" | "application/*" | "*/*" | "*" => Some(Spec::Json),
        // Clients write an `@` before the version, which a media type may not have.
        kind if v2 && kind.replace('@', ".") == SPEC_V2 => Some(Spec::Protobuf),
        _ => None,
    };
    accept
        .split(',')
        .find_map(of)
        .ok_or_else(negotiate::not_acceptable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        for (accept, v2, want) in [
            (None, true, Some(Spec::Json)),
            (Some("application/json"), false, Some(Spec::Json)),
            (
                Some("application/com.github.proto-openapi.spec.v2@v1.0+protobuf"),
                true,
                Some(Spec::Protobuf),
            ),
            (
                Some("application/com.github.proto-openapi.spec.v2.v1.0+protobuf, */*"),
                true,
                Some(Spec::Protobuf),
            ),
            (
                Some("application/com.github.proto-openapi.spec.v3@v1.0+protobuf"),
                false,
                None,
            ),
            (
                Some("application/com.github.proto-openapi.spec.v2@v1.0+protobuf"),
                false,
                None,
            ),
            (Some("text/html"), true, None),
        ] {
            assert_eq!(spec(accept, v2).ok(), want, "{accept:?}");
        }
    }

    #[test]
    fn versions_in_order() {
        let mut versions = [
            "v1alpha1", "v1beta1", "v2", "v1", "v1beta2", "foo", "v2alpha3",
        ];
        versions.sort_by_key(|v| std::cmp::Reverse(rank(v)));
        assert_eq!(
            versions,
            [
                "v2", "v1", "v1beta2", "v1beta1", "v2alpha3", "v1alpha1", "foo"
            ]
        );
    }
}
