//! The schemas of a document: k8s-openapi's, with the extensions of Kubernetes put in.

use super::Served;
use crate::facts::{self, Topology};
use crate::kinds::{self, Kind};
use crate::{Gvk, model};
use serde_json::{Map, Value, json};

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// Which document is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

impl Style {
    /// A reference to a definition.
    pub(super) fn reference(self, definition: &str) -> Value {
        let place = match self {
            Style::V2 => "#/definitions/",
            Style::V3 => "#/components/schemas/",
        };
        json!({ "$ref": format!("{place}{definition}") })
    }
}

/// The definition's name of a served kind.
pub(super) fn name(gvk: &Gvk) -> Option<String> {
    kinds::find(gvk).map(|kind| (kind.definition)())
}

/// All definitions that some kinds and their requests need, by name.
pub(super) fn all(served: &[&Served], style: Style) -> Map<String, Value> {
    let mut all = Map::new();
    let rows: Vec<&Kind> = served
        .iter()
        .filter_map(|kind| kinds::find(&kind.gvk))
        .collect();
    let scalable = served
        .iter()
        .any(|kind| kind.subresources.iter().any(|sub| sub == "scale"));
    let gvk = |group: &str, kind: &str| Gvk {
        group: group.into(),
        version: "v1".into(),
        kind: kind.into(),
    };
    let mut common = vec![gvk("", "DeleteOptions"), gvk("", "Status")];
    common.extend(scalable.then(|| gvk("autoscaling", "Scale")));
    let common = common.iter().filter_map(kinds::find);
    for row in rows.iter().copied().chain(common) {
        for (name, schema) in model::definitions(row) {
            all.entry(name).or_insert(schema);
        }
    }
    all.insert(LIST_META.into(), list_meta());
    for (name, schema) in &mut all {
        finish(facts::short(name), schema, style);
    }
    for row in &rows {
        let name = (row.definition)();
        if let Some(Value::Object(schema)) = all.get_mut(&name) {
            schema.insert(
                "x-kubernetes-group-version-kind".into(),
                json!([gvk_value(row.group, row.version, row.kind)]),
            );
            // Required in k8s-openapi's types, not in the API's documents.
            if let Some(Value::Array(required)) = schema.get_mut("required") {
                required.retain(|field| field != "metadata");
                if required.is_empty() {
                    schema.remove("required");
                }
            }
        }
    }
    for kind in served.iter().filter(|kind| kind.verb("list")) {
        if let Some(row) = kinds::find(&kind.gvk) {
            let name = (row.definition)();
            all.insert(format!("{name}List"), list(row, &name, style));
        }
    }
    for name in [DELETE_OPTIONS, STATUS] {
        if let Some(Value::Object(schema)) = all.get_mut(name) {
            let kind = name.rsplit('.').next().unwrap_or_default();
            schema.insert(
                "x-kubernetes-group-version-kind".into(),
                json!([gvk_value("", "v1", kind)]),
            );
        }
    }
    all
}

/// A group, version and kind as the extension has it.
pub(super) fn gvk_value(group: &str, version: &str, kind: &str) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

fn list_meta() -> Value {
    json!({
        "description": "ListMeta describes metadata that synthetic resources must have, including lists and various status objects.",
        "type": "object",
        "properties": {
            "continue": { "type": "string", "description": "Set when more items match than were returned; pass it to get the next ones." },
            "remainingItemCount": { "type": "integer", "format": "int64", "description": "How many further items there are, if known." },
            "resourceVersion": { "type": "string", "description": "The version of the collection the list was made from." },
            "selfLink": { "type": "string", "description": "Deprecated: no longer set." },
        },
    })
}

fn list(row: &Kind, item: &str, style: Style) -> Value {
    let text = json!({ "type": "string" });
    let items = json!({ "type": "array", "items": style.reference(item), "description": format!("Items is the list of {}.", row.kind) });
    json!({
        "description": format!("{}List is a collection of {}.", row.kind, row.kind),
        "type": "object",
        "required": ["items"],
        "properties": { "apiVersion": text, "kind": text, "metadata": style.reference(LIST_META), "items": items },
        "x-kubernetes-group-version-kind": [gvk_value(row.group, row.version, &format!("{}List", row.kind))],
    })
}

/// Turns a schemars schema into the document's dialect, with our facts.
fn finish(definition: &str, schema: &mut Value, style: Style) {
    // IntOrString and Quantity: a text to clients that know no better.
    if schema.get("x-kubernetes-int-or-string").is_some() {
        let description = schema.get("description").cloned().unwrap_or_default();
        let quantity = definition == "api.resource.Quantity";
        *schema = match (style, quantity) {
            (Style::V2, true) => json!({ "type": "string", "description": description }),
            (Style::V2, false) => {
                json!({ "type": "string", "format": "int-or-string", "description": description })
            }
            (Style::V3, true) => {
                json!({ "oneOf": [{ "type": "string" }, { "type": "number" }], "description": description })
            }
            (Style::V3, false) => {
                json!({ "oneOf": [{ "type": "integer" }, { "type": "string" }], "format": "int-or-string", "description": description })
            }
        };
        return;
    }
    let Value::Object(object) = schema else {
        return;
    };
    if facts::atomic_struct(definition) {
        object.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for (field, schema) in properties {
            extend(definition, field, schema);
            references(schema, style);
        }
    }
}

/// The extensions of a field.
fn extend(definition: &str, field: &str, schema: &mut Value) {
    let fact = facts::field(definition, field);
    let Value::Object(schema) = schema else {
        return;
    };
    let is_list = schema.get("type").is_some_and(|ty| ty == "array");
    match fact.topology {
        Topology::Atomic if is_list => drop(insert(schema, "list-type", "atomic".into())),
        Topology::Atomic => {}
        Topology::AtomicMap => drop(insert(schema, "map-type", "atomic".into())),
        Topology::Granular => drop(insert(schema, "map-type", "granular".into())),
        Topology::Set => drop(insert(schema, "list-type", "set".into())),
        Topology::Keys(keys) => {
            insert(schema, "list-type", "map".into());
            insert(schema, "list-map-keys", keys.into());
        }
    }
    let strategies = [
        (fact.patch.merge, "merge"),
        (fact.patch.replace, "replace"),
        (fact.patch.retain_keys, "retainKeys"),
    ];
    let strategies: Vec<&str> = strategies
        .into_iter()
        .filter_map(|(on, word)| on.then_some(word))
        .collect();
    if !strategies.is_empty() {
        insert(schema, "patch-strategy", strategies.join(",").into());
    }
    if let Some(key) = fact.patch.key {
        insert(schema, "patch-merge-key", key.into());
    }
}

fn insert(schema: &mut Map<String, Value>, name: &str, value: Value) -> Option<Value> {
    schema.insert(format!("x-kubernetes-{name}"), value)
}

/// References in the document's notation. OpenAPI 3.0 allows nothing beside `$ref`, so a described one is wrapped.
fn references(schema: &mut Value, style: Style) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| references(item, style)),
        Value::Object(object) => {
            if let Some(Value::String(target)) = object.get("$ref") {
                let name = target.rsplit('/').next().unwrap_or_default().to_owned();
                let reference = style.reference(&name);
                if object.len() == 1 || style == Style::V2 {
                    if let Value::Object(reference) = reference {
                        object.extend(reference);
                    }
                } else {
                    object.remove("$ref");
                    object.insert("allOf".into(), json!([reference]));
                }
                return;
            }
            object
                .values_mut()
                .for_each(|value| references(value, style));
        }
        _ => {}
    }
}
