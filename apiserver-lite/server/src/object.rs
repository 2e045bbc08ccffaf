//! Objects between the store and the wire. Stored: JSON without type and `resourceVersion`, metadata first,
//! in the form of the row's storage. Served: the row's own version, with the revision of the last write.

use bytes::Bytes;
use keelson_api::{Resource, Scope, Status};
use keelson_store::{KeyValue, Revision};
use serde_json::{Map, Value, json};

/// The root of all keys of objects.
pub(crate) const ROOT: &str = "/registry/";

/// The key of an object.
pub(crate) fn key(row: &Resource, namespace: &str, name: &str) -> String {
    format!("{}{name}", prefix(row, namespace))
}

/// The prefix of a row's keys, of one namespace if it is not empty.
pub(crate) fn prefix(row: &Resource, namespace: &str) -> String {
    if namespace.is_empty() || row.scope == Scope::Cluster {
        format!("{ROOT}{}/", row.storage)
    } else {
        format!("{ROOT}{}/{namespace}/", row.storage)
    }
}

/// Reads a stored value as the row serves it.
pub(crate) fn load(row: &Resource, kv: &KeyValue) -> Result<Value, Status> {
    load_at(row, &kv.value, kv.mod_revision)
        .map_err(|e| Status::internal(format!("decode {}: {e}", kv.key)))
}

fn load_at(row: &Resource, bytes: &[u8], revision: Revision) -> Result<Value, serde_json::Error> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    if let Some(convert) = row.convert {
        (convert.from_stored)(&mut value);
    }
    set_type(row, &mut value);
    set_revision(&mut value, revision);
    Ok(value)
}

/// The bytes to store for an object of a row.
pub(crate) fn save(row: &Resource, object: &Value) -> Bytes {
    let mut value = object.clone();
    if let Some(convert) = row.convert {
        (convert.to_stored)(&mut value);
    }
    let map = as_map(&mut value);
    let mut meta = map.remove("metadata").unwrap_or_else(|| json!({}));
    let inner = as_map(&mut meta);
    inner.remove("resourceVersion");
    inner.remove("selfLink");
    map.remove("apiVersion");
    map.remove("kind");
    let rest = value.to_string();
    let rest = rest.strip_prefix('{').filter(|rest| *rest != "}");
    Bytes::from(match rest {
        Some(rest) => format!("{STORED}{},{rest}", meta),
        None => format!("{STORED}{}}}", meta),
    })
}

/// What stored objects begin with: metadata, so that type and revision can be put in without parsing.
const STORED: &str = "{\"metadata\":";

/// A stored value as the row serves it, in JSON. It is only parsed where the row converts it.
pub(crate) fn encoded(
    row: &Resource,
    kv: &KeyValue,
    revision: Revision,
) -> Result<Vec<u8>, Status> {
    if let Some(spliced) = splice(row, &kv.value, revision) {
        return Ok(spliced);
    }
    let mut object = load(row, kv)?;
    set_revision(&mut object, revision);
    serde_json::to_vec(&object).map_err(Status::internal)
}

fn splice(row: &Resource, stored: &[u8], revision: Revision) -> Option<Vec<u8>> {
    let fields = stored.strip_prefix(STORED.as_bytes())?.strip_prefix(b"{")?;
    if row.convert.is_some() || fields.starts_with(b"}") {
        return None;
    }
    let (version, kind) = (json!(row.api_version()), json!(row.kind));
    let mut out = format!(
        "{{\"apiVersion\":{version},\"kind\":{kind},\"metadata\":{{\"resourceVersion\":\"{revision}\","
    )
    .into_bytes();
    out.extend_from_slice(fields);
    Some(out)
}

/// Writes `apiVersion` and `kind`.
pub(crate) fn set_type(row: &Resource, object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), json!(row.api_version()));
        map.insert("kind".into(), json!(row.kind));
    }
}

/// Writes `metadata.resourceVersion`.
pub(crate) fn set_revision(object: &mut Value, revision: Revision) {
    meta_mut(object).insert("resourceVersion".into(), json!(revision.to_string()));
}

/// `metadata`, made if it is not there or not an object.
pub(crate) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// A child object, made if it is not there or not an object.
pub(crate) fn child_mut<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    let map = as_map(object);
    as_map(map.entry(name).or_insert_with(|| json!({})))
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("an object was just put there"),
    }
}

/// The text at a JSON pointer, or empty.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// `metadata.name`.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// `metadata.namespace`.
pub(crate) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// `metadata.resourceVersion` as a number; 0 when it is absent. `Err`: not a number.
pub(crate) fn revision(object: &Value) -> Result<Revision, Status> {
    match text(object, "/metadata/resourceVersion") {
        "" => Ok(0),
        rv => rv.parse().map_err(|_| {
            Status::bad_request(format!(
                "metadata.resourceVersion: Invalid value: {rv:?}: must be a number"
            ))
        }),
    }
}

/// The list at a pointer, or an empty one.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    items(object, "/metadata/finalizers")
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether deletion has begun.
pub(crate) fn deleting(object: &Value) -> bool {
    object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|t| !t.is_null())
}

/// A time as the API writes it: RFC 3339 in UTC, whole seconds.
pub(crate) fn timestamp(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spliced_is_what_is_loaded() {
        let table = keelson_api::builtin();
        for (group, version, plural, object) in [
            (
                "",
                "v1",
                "configmaps",
                json!({"metadata": {"name": "a", "resourceVersion": "3"}}),
            ),
            (
                "",
                "v1",
                "configmaps",
                json!({"metadata": {"name": "a"}, "data": {"\"metadata\":{": "\u{1f600}\n"}}),
            ),
            (
                "apps",
                "v1",
                "deployments",
                json!({"spec": {"template": {"metadata": {"name": "x"}}}, "metadata": {"uid": "u"}}),
            ),
            (
                "autoscaling",
                "v1",
                "horizontalpodautoscalers",
                json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3}}),
            ),
            ("", "v1", "configmaps", json!({"metadata": {}})),
        ] {
            let row = table.get(group, version, plural).expect(plural);
            let kv = KeyValue {
                key: "k".into(),
                value: save(row, &object),
                create_revision: 1,
                mod_revision: 7,
            };
            let loaded = load(row, &kv).expect("loads");
            assert_eq!(
                loaded.pointer("/metadata/resourceVersion"),
                Some(&json!("7"))
            );
            let spliced: Value =
                serde_json::from_slice(&encoded(row, &kv, 7).expect("encodes")).expect("JSON");
            assert_eq!(spliced, loaded);
        }
    }
}
