//! Printing columns, as `kubectl get` and `-o wide` show them (upstream's `pkg/printers/internalversion`).

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::json::{entries, int, text};
use crate::meta;
use crate::print::age_of as age;
use crate::resource::{Cell, Column};

mod cluster;
mod config;
mod metrics;
mod network;
mod pod;
mod policy;
mod storage;
mod workloads;

pub(crate) use cluster::*;
pub(crate) use config::*;
pub(crate) use metrics::METRICS;
pub(crate) use network::*;
pub(crate) use pod::POD;
pub(crate) use policy::*;
pub(crate) use storage::*;
pub(crate) use workloads::*;

/// A column of a built-in kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Col {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    priority: i32,
    cell: fn(&Value, Timestamp) -> Value,
}

impl Col {
    /// A text column.
    pub(crate) const fn text(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Col {
        Col {
            name,
            kind: "string",
            format: "",
            priority: 0,
            cell,
        }
    }

    /// An integer column.
    pub(crate) const fn int(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Col {
        Col {
            name,
            kind: "integer",
            format: "",
            priority: 0,
            cell,
        }
    }

    /// Only with `-o wide`.
    pub(crate) const fn wide(mut self) -> Col {
        self.priority = 1;
        self
    }

    fn column(self) -> Column {
        Column {
            name: self.name.into(),
            kind: self.kind.into(),
            format: self.format.into(),
            description: "".into(),
            priority: self.priority,
            cell: Cell::Fn(self.cell),
        }
    }
}

/// The name.
pub(crate) const NAME: Col = name(|v, _| json!(meta::name(v)));
/// A name with a mark.
const fn name(cell: fn(&Value, Timestamp) -> Value) -> Col {
    Col {
        format: "name",
        ..Col::text("Name", cell)
    }
}

/// Time since creation.
pub(crate) const AGE: Col = Col::text("Age", |v, now| {
    json!(age(text(v, "/metadata/creationTimestamp"), now))
});

/// What kinds show that have no columns of their own.
pub(crate) const DEFAULT: &[Col] = &[NAME, AGE];

/// The columns of a row.
pub(crate) fn build(cols: &[Col]) -> Vec<Column> {
    cols.iter().map(|c| c.column()).collect()
}

/// What upstream prints for nothing.
const NONE: &str = "<none>";
/// What upstream prints for nothing that should be known.
const UNKNOWN: &str = "<unknown>";
/// What upstream prints for a pointer to nothing.
const UNSET: &str = "<unset>";

/// The time of creation, as kinds print it that show no age.
pub(crate) const CREATED: Col = Col::text("Created At", |v, _| {
    json!(text(v, "/metadata/creationTimestamp"))
});

/// The text, or `<none>`.
fn or_none(s: &str) -> &str {
    or(s, NONE)
}

/// The text, or another.
fn or<'a>(s: &'a str, other: &'a str) -> &'a str {
    if s.is_empty() { other } else { s }
}

/// The text at a pointer, or `<none>`.
fn text_or_none(v: &Value, pointer: &str) -> Value {
    json!(or_none(text(v, pointer)))
}

/// The integer at a pointer, 0 for none.
fn number(v: &Value, pointer: &str) -> Value {
    json!(int(v, pointer).unwrap_or_default())
}

/// The age of the time at a pointer.
fn age_at(v: &Value, pointer: &str, now: Timestamp) -> Value {
    json!(age(text(v, pointer), now))
}

/// Texts joined by commas, or `<none>`.
fn join_or_none<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> Value {
    let list: Vec<String> = list.into_iter().map(|s| s.as_ref().to_owned()).collect();
    json!(or_none(&list.join(",")))
}

/// A map of labels as `a=b,c=d`, or `<none>`.
fn label_text(v: &Value, pointer: &str) -> Value {
    join_or_none(
        entries(v, pointer).map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())),
    )
}

/// A `LabelSelector` object as text, or `<none>`.
fn selector_text(v: &Value, pointer: &str) -> Value {
    let selector = crate::json::at(v, pointer);
    match crate::selector::Labels::from_object(selector) {
        Ok(labels) => json!(or_none(&labels.to_string())),
        Err(_) => json!("<error>"),
    }
}

/// The name, marked where an annotation says that it is the default of its kind.
fn default_name(v: &Value, annotation: &str) -> Value {
    let mark = if meta::annotation(v, annotation) == Some("true") {
        " (default)"
    } else {
        ""
    };
    json!(format!("{}{mark}", meta::name(v)))
}
