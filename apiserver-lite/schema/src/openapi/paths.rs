//! The paths of a document: what can be asked of each resource.

use super::definitions::{self, Style, gvk_value};
use super::{Served, group_path};
use serde_json::{Map, Value, json};

const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// An HTTP method on a path.
struct Operation {
    method: &'static str,
    /// The verb a resource must have for it.
    verb: &'static str,
    /// `x-kubernetes-action`.
    action: &'static str,
    /// Names of the query parameters.
    query: &'static [&'static str],
    body: Body,
    answer: Answer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    None,
    Object,
    Patch,
    DeleteOptions,
}

#[derive(Clone, Copy)]
enum Answer {
    Object,
    List,
    Status,
}

const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const APPLY: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: &[&str] = &[
    "dryRun",
    "gracePeriodSeconds",
    "orphanDependents",
    "propagationPolicy",
];
const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];

#[rustfmt::skip]
const COLLECTION: [Operation; 3] = [
    Operation { method: "get", verb: "list", action: "list", query: LIST, body: Body::None, answer: Answer::List },
    Operation { method: "post", verb: "create", action: "post", query: WRITE, body: Body::Object, answer: Answer::Object },
    Operation { method: "delete", verb: "deletecollection", action: "deletecollection", query: LIST, body: Body::DeleteOptions, answer: Answer::Status },
];

#[rustfmt::skip]
const ITEM: [Operation; 4] = [
    Operation { method: "get", verb: "get", action: "get", query: &[], body: Body::None, answer: Answer::Object },
    Operation { method: "put", verb: "update", action: "put", query: WRITE, body: Body::Object, answer: Answer::Object },
    Operation { method: "patch", verb: "patch", action: "patch", query: APPLY, body: Body::Patch, answer: Answer::Object },
    Operation { method: "delete", verb: "delete", action: "delete", query: DELETE, body: Body::DeleteOptions, answer: Answer::Status },
];

/// The paths of all resources.
pub(super) fn all(served: &[&Served], style: Style) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in served {
        let Some(definition) = definitions::name(&kind.gvk) else {
            continue;
        };
        let base = format!("/{}", group_path(&kind.gvk.group, &kind.gvk.version));
        let scoped = if kind.namespaced {
            format!("{base}/namespaces/{{namespace}}/{}", kind.plural)
        } else {
            format!("{base}/{}", kind.plural)
        };
        let row = Row {
            kind,
            definition,
            style,
        };
        let mut add = |path: String, operations: &[Operation]| {
            let item = row.path(&path, operations);
            if item.len() > 1 {
                paths.insert(path, Value::Object(item));
            }
        };
        if kind.namespaced {
            add(format!("{base}/{}", kind.plural), &COLLECTION[..1]);
        }
        add(scoped.clone(), &COLLECTION);
        add(format!("{scoped}/{{name}}"), &ITEM);
        for sub in ["status", "scale"] {
            if kind.subresources.iter().any(|known| known == sub) {
                add(format!("{scoped}/{{name}}/{sub}"), &ITEM[..3]);
            }
        }
    }
    paths
}

struct Row<'a> {
    kind: &'a Served,
    definition: String,
    style: Style,
}

impl Row<'_> {
    fn path(&self, path: &str, operations: &[Operation]) -> Map<String, Value> {
        let mut item = Map::new();
        let places: Vec<Value> = ["namespace", "name"]
            .into_iter()
            .filter(|place| path.contains(&format!("{{{place}}}")))
            .map(|place| self.parameter(place, "path"))
            .collect();
        item.insert("parameters".into(), places.into());
        for operation in operations.iter().filter(|op| self.kind.verb(op.verb)) {
            item.insert(operation.method.into(), self.operation(path, operation));
        }
        item
    }

    fn operation(&self, path: &str, operation: &Operation) -> Value {
        let gvk = &self.kind.gvk;
        let mut parameters: Vec<Value> = operation
            .query
            .iter()
            .map(|name| self.parameter(name, "query"))
            .collect();
        let answer = self.style.reference(&match operation.answer {
            Answer::Object => self.subject(path),
            Answer::List => format!("{}List", self.definition),
            Answer::Status => STATUS.into(),
        });
        let body = match operation.body {
            Body::None => None,
            Body::Object => Some(self.style.reference(&self.subject(path))),
            Body::DeleteOptions => Some(self.style.reference(DELETE_OPTIONS)),
            Body::Patch => Some(json!({ "type": "object" })),
        };
        let mut value = Map::new();
        value.insert("operationId".into(), self.id(path, operation.action).into());
        value.insert("x-kubernetes-action".into(), operation.action.into());
        value.insert(
            "x-kubernetes-group-version-kind".into(),
            gvk_value(&gvk.group, &gvk.version, &gvk.kind),
        );
        let patch = operation.body == Body::Patch;
        let accepts: &[&str] = if patch {
            &PATCH_TYPES
        } else {
            &["application/json"]
        };
        match self.style {
            Style::V3 => {
                if let Some(schema) = body {
                    let content: Map<String, Value> = accepts
                        .iter()
                        .map(|media| ((*media).to_owned(), json!({ "schema": schema })))
                        .collect();
                    value.insert("requestBody".into(), json!({ "content": content }));
                }
                let content = json!({ "application/json": { "schema": answer } });
                value.insert(
                    "responses".into(),
                    json!({ "200": { "description": "OK", "content": content } }),
                );
            }
            Style::V2 => {
                if let Some(schema) = body {
                    parameters.push(json!({ "name": "body", "in": "body", "schema": schema }));
                }
                value.insert("consumes".into(), accepts.into());
                value.insert("produces".into(), json!(["application/json"]));
                value.insert(
                    "responses".into(),
                    json!({ "200": { "description": "OK", "schema": answer } }),
                );
            }
        }
        value.insert("parameters".into(), parameters.into());
        Value::Object(value)
    }

    /// What is read and written there: the kind, or the `Scale` of it.
    fn subject(&self, path: &str) -> String {
        if path.ends_with("/scale") {
            "io.k8s.api.autoscaling.v1.Scale".into()
        } else {
            self.definition.clone()
        }
    }

    /// Unique in the document: the action and the path's words.
    fn id(&self, path: &str, action: &str) -> String {
        let words = path
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty());
        words.fold(action.to_owned(), |mut id, word| {
            let (first, rest) = word.split_at(1);
            id.push_str(&first.to_ascii_uppercase());
            id.push_str(rest);
            id
        })
    }

    fn parameter(&self, name: &str, place: &str) -> Value {
        let ty = match name {
            "force"
            | "watch"
            | "allowWatchBookmarks"
            | "sendInitialEvents"
            | "orphanDependents" => "boolean",
            "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
            _ => "string",
        };
        let mut parameter =
            json!({ "name": name, "in": place, "required": place == "path", "uniqueItems": true });
        if let Value::Object(parameter) = &mut parameter {
            match self.style {
                Style::V2 => drop(parameter.insert("type".into(), ty.into())),
                Style::V3 => {
                    parameter.remove("uniqueItems");
                    parameter.insert("schema".into(), json!({ "type": ty }));
                }
            }
            if place == "query" {
                parameter.remove("required");
            }
        }
        parameter
    }
}
