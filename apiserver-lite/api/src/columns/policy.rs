//! Columns of RBAC kinds and disruption budgets.

use serde_json::{Value, json};

use super::{AGE, CREATED, Col, NAME, number};
use crate::json::{at, items, text};

pub(crate) const ROLE: &[Col] = &[NAME, CREATED];

pub(crate) const ROLE_BINDING: &[Col] = &[
    NAME,
    Col::text("Role", |v, _| {
        json!(format!(
            "{}/{}",
            text(v, "/roleRef/kind"),
            text(v, "/roleRef/name")
        ))
    }),
    AGE,
    Col::text("Users", |v, _| json!(subjects(v, "User"))).wide(),
    Col::text("Groups", |v, _| json!(subjects(v, "Group"))).wide(),
    Col::text("ServiceAccounts", |v, _| {
        json!(subjects(v, "ServiceAccount"))
    })
    .wide(),
];

pub(crate) const POD_DISRUPTION_BUDGET: &[Col] = &[
    NAME,
    Col::text("Min Available", |v, _| {
        json!(int_or_text(at(v, "/spec/minAvailable")))
    }),
    Col::text("Max Unavailable", |v, _| {
        json!(int_or_text(at(v, "/spec/maxUnavailable")))
    }),
    Col::int("Allowed Disruptions", |v, _| {
        number(v, "/status/disruptionsAllowed")
    }),
    AGE,
];

fn subjects(v: &Value, kind: &str) -> String {
    let of_kind = items(v, "/subjects")
        .iter()
        .filter(|s| text(s, "/kind") == kind);
    let shown = of_kind.map(|s| match (kind, text(s, "/namespace"), text(s, "/name")) {
        ("ServiceAccount", ns, name) => format!("{ns}/{name}"),
        (_, _, name) => name.to_owned(),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn int_or_text(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        _ => "N/A".into(),
    }
}
