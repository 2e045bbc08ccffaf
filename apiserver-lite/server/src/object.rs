//! Objects between the store and the wire. Stored: JSON without `resourceVersion`, in the form of the
//! row's storage. Served: the row's own version, with the revision of the last write.

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
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("resourceVersion");
        meta.remove("selfLink");
    }
    Bytes::from(value.to_string())
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
