//! The OpenAPI v2 document as `openapi.v2.Document` of gnostic: what older Go clients (helm, kubectl up to
//! 1.26) ask for, and nothing else.

use serde_json::{Map, Value};

/// Fields of a schema that hold text, by number.
const SCHEMA_TEXTS: &[(u32, &str)] =
    &[(1, "$ref"), (2, "format"), (3, "title"), (4, "description")];
/// Methods of a path.
const METHODS: &[(u32, &str)] = &[
    (2, "get"),
    (3, "put"),
    (4, "post"),
    (5, "delete"),
    (6, "options"),
    (7, "head"),
    (8, "patch"),
];

/// Encodes a document that is made of what ours has: info, paths and definitions.
pub(crate) fn document(v2: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, v2, "swagger");
    if let Some(info) = v2.get("info") {
        let mut inner = Message::default();
        inner.text(1, info, "title").text(2, info, "version");
        out.slice(2, &inner.0);
    }
    let mut paths = Message::default();
    for (name, item) in object(v2, "paths") {
        paths.slice(2, &named(name, &path(item)));
    }
    let mut definitions = Message::default();
    for (name, item) in object(v2, "definitions") {
        definitions.slice(1, &named(name, &schema(item)));
    }
    out.slice(8, &paths.0).slice(9, &definitions.0);
    out.0
}

fn path(item: &Value) -> Vec<u8> {
    let mut out = Message::default();
    for (number, method) in METHODS {
        if let Some(found) = item.get(method) {
            out.slice(*number, &operation(found));
        }
    }
    for one in list(item, "parameters") {
        out.slice(9, &parameter(one));
    }
    out.0
}

fn operation(item: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(2, item, "summary")
        .text(3, item, "description")
        .text(5, item, "operationId")
        .texts(6, item, "produces")
        .texts(7, item, "consumes");
    for one in list(item, "parameters") {
        out.slice(8, &parameter(one));
    }
    let mut responses = Message::default();
    for (code, response) in object(item, "responses") {
        let mut inner = Message::default();
        inner.text(1, response, "description");
        if let Some(found) = response.get("schema") {
            inner.nested(&[2, 1], &schema(found));
        }
        let mut value = Message::default();
        value.slice(1, &inner.0);
        responses.slice(1, &named(code, &value.0));
    }
    out.slice(9, &responses.0).extensions(13, item);
    out.0
}

/// A parameter: of the body with a schema, or of the query, the path or the headers with a type.
fn parameter(item: &Value) -> Vec<u8> {
    let place = item.get("in").and_then(Value::as_str).unwrap_or_default();
    let mut inner = Message::default();
    if place == "body" {
        inner
            .text(2, item, "name")
            .text(3, item, "in")
            .flag(4, item, "required");
        if let Some(found) = item.get("schema") {
            inner.slice(5, &schema(found));
        }
    } else {
        // Only parameters of the query may be empty: all that follows their flag is one further on.
        let (kind, of_type, of_unique) = match place {
            "path" => (4, 5, 19),
            "header" => (1, 5, 19),
            _ => (3, 6, 20),
        };
        inner
            .flag(1, item, "required")
            .text(2, item, "in")
            .text(3, item, "description")
            .text(4, item, "name")
            .text(of_type, item, "type")
            .flag(of_unique, item, "uniqueItems");
        let mut any = Message::default();
        any.slice(kind, &inner.0);
        inner = any;
    }
    let mut out = Message::default();
    out.nested(&[1, if place == "body" { 1 } else { 2 }], &inner.0);
    out.0
}

fn schema(item: &Value) -> Vec<u8> {
    let mut out = Message::default();
    for (number, name) in SCHEMA_TEXTS {
        out.text(*number, item, name);
    }
    if let Some(default) = item.get("default") {
        out.slice(5, &any(default));
    }
    out.texts(19, item, "required");
    for value in list(item, "enum") {
        out.slice(20, &any(value));
    }
    match item.get("additionalProperties") {
        Some(Value::Bool(yes)) => {
            let mut inner = Message::default();
            inner.number(2, u64::from(*yes));
            out.slice(21, &inner.0);
        }
        Some(found) => {
            out.nested(&[21, 1], &schema(found));
        }
        None => {}
    }
    if item.get("type").is_some() {
        let mut inner = Message::default();
        inner.text(1, item, "type");
        out.slice(22, &inner.0);
    }
    if let Some(items) = item.get("items") {
        out.nested(&[23, 1], &schema(items));
    }
    if item.get("properties").is_some() {
        let mut inner = Message::default();
        for (name, property) in object(item, "properties") {
            inner.slice(1, &named(name, &schema(property)));
        }
        out.slice(25, &inner.0);
    }
    out.extensions(31, item);
    out.0
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Message::default();
    out.slice(1, name.as_bytes()).slice(2, value);
    out.0
}

/// A free value: as YAML, of which JSON is a part.
fn any(value: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.slice(2, value.to_string().as_bytes());
    out.0
}

fn object<'a>(item: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    item.get(name)
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::iter)
}

fn list<'a>(item: &'a Value, name: &str) -> &'a [Value] {
    item.get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u32, value: u64) -> &mut Self {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    fn slice(&mut self, field: u32, bytes: &[u8]) -> &mut Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A slice in messages that hold nothing else, outermost first.
    fn nested(&mut self, fields: &[u32], bytes: &[u8]) -> &mut Self {
        match fields {
            [] => self,
            [last] => self.slice(*last, bytes),
            [first, rest @ ..] => {
                let mut inner = Message::default();
                inner.nested(rest, bytes);
                self.slice(*first, &inner.0)
            }
        }
    }

    fn text(&mut self, field: u32, item: &Value, name: &str) -> &mut Self {
        match item.get(name).and_then(Value::as_str) {
            Some(text) => self.slice(field, text.as_bytes()),
            None => self,
        }
    }

    fn texts(&mut self, field: u32, item: &Value, name: &str) -> &mut Self {
        for text in list(item, name).iter().filter_map(Value::as_str) {
            self.slice(field, text.as_bytes());
        }
        self
    }

    fn flag(&mut self, field: u32, item: &Value, name: &str) -> &mut Self {
        match item.get(name) {
            Some(Value::Bool(true)) => self.number(field, 1),
            _ => self,
        }
    }

    /// The `x-` fields of an item.
    fn extensions(&mut self, field: u32, item: &Value) -> &mut Self {
        for (name, value) in item.as_object().into_iter().flatten() {
            if name.starts_with("x-") {
                self.slice(field, &named(name, &any(value)));
            }
        }
        self
    }
}
