//! The forms of an answer: the object, a Table for people, or metadata alone.

use keelson_api::Resource;
use keelson_api::resource::{Cell, Column};
use serde_json::{Map, Value, json};

use crate::handler::kind;
use crate::negotiate::Form;
use crate::object;

/// Gives an object or list the wanted form. `include` is the query's `includeObject`.
pub(crate) fn shape(
    row: &Resource,
    form: Form,
    include: Option<&str>,
    value: Value,
    now: jiff::Timestamp,
) -> Value {
    if value.get("kind").and_then(Value::as_str) == Some("Status") {
        return value;
    }
    match form {
        Form::Plain => value,
        Form::Table => table(row, include.unwrap_or("Metadata"), value, now),
        Form::Metadata => metadata(row, value),
    }
}

fn is_list(row: &Resource, value: &Value) -> bool {
    value.get("items").is_some()
        && value.get("kind").and_then(Value::as_str) == Some(&*row.list_kind)
}

fn split(row: &Resource, mut value: Value) -> (Vec<Value>, Value) {
    if !is_list(row, &value) {
        let revision = object::text(&value, "/metadata/resourceVersion").to_owned();
        return (vec![value], json!({"resourceVersion": revision}));
    }
    let meta = value
        .get_mut("metadata")
        .map(Value::take)
        .unwrap_or_else(|| json!({}));
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => (items, meta),
        _ => (Vec::new(), meta),
    }
}

fn table(row: &Resource, include: &str, value: Value, now: jiff::Timestamp) -> Value {
    let (items, meta) = split(row, value);
    let bookmark = |item: &Value| object::name(item).is_empty();
    let rows: Vec<Value> = items
        .into_iter()
        .map(|item| {
            let cells: Vec<Value> = if bookmark(&item) {
                row.columns.iter().map(|_| json!("")).collect()
            } else {
                kind::stored(row, &item, |item| {
                    row.columns.iter().map(|c| cell(c, item, now)).collect()
                })
            };
            let mut line = json!({"cells": cells});
            match include {
                "None" => {}
                "Object" => line["object"] = item,
                _ => line["object"] = partial(item),
            }
            line
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": row.columns.iter().map(definition).collect::<Vec<_>>(),
        "rows": rows,
    })
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

fn cell(column: &Column, item: &Value, now: jiff::Timestamp) -> Value {
    match &column.cell {
        Cell::Fn(f) => f(item, now),
        Cell::Path(path) => at_path(item, path),
    }
}

/// A simple JSONPath (`.spec.replicas`), as custom resource columns use it.
fn at_path(item: &Value, path: &str) -> Value {
    let mut steps = path
        .trim_start_matches('.')
        .split('.')
        .filter(|s| !s.is_empty());
    let found = steps.try_fold(item, |at, step| at.get(step));
    found.cloned().unwrap_or(Value::Null)
}

fn partial(item: Value) -> Value {
    let mut out = Map::new();
    out.insert("kind".into(), json!("PartialObjectMetadata"));
    out.insert("apiVersion".into(), json!("meta.k8s.io/v1"));
    if let Value::Object(mut map) = item {
        out.insert(
            "metadata".into(),
            map.remove("metadata").unwrap_or_else(|| json!({})),
        );
    }
    Value::Object(out)
}

fn metadata(row: &Resource, value: Value) -> Value {
    if !is_list(row, &value) {
        return partial(value);
    }
    let (items, meta) = split(row, value);
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "items": items.into_iter().map(partial).collect::<Vec<_>>(),
    })
}
