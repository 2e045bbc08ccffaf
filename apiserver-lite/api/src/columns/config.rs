//! Columns of config maps, secrets, service accounts, quotas and limits.

use serde_json::{Value, json};

use super::{AGE, CREATED, Col, NAME};
use crate::json::{entries, items, text};

pub(crate) const CONFIG_MAP: &[Col] = &[
    NAME,
    Col::int("Data", |v, _| {
        json!(entries(v, "/data").count() + entries(v, "/binaryData").count())
    }),
    AGE,
];

pub(crate) const SECRET: &[Col] = &[
    NAME,
    Col::text("Type", |v, _| json!(text(v, "/type"))),
    Col::int("Data", |v, _| json!(entries(v, "/data").count())),
    AGE,
];

pub(crate) const SERVICE_ACCOUNT: &[Col] = &[
    NAME,
    Col::int("Secrets", |v, _| json!(items(v, "/secrets").len())),
    AGE,
];

pub(crate) const RESOURCE_QUOTA: &[Col] = &[
    NAME,
    Col::text("Request", |v, _| json!(used(v, false))),
    Col::text("Limit", |v, _| json!(used(v, true))),
    AGE,
];

pub(crate) const LIMIT_RANGE: &[Col] = &[NAME, CREATED];

/// `pods: 1/10, requests.cpu: 0/1`: what is used of what is allowed.
fn used(v: &Value, limits: bool) -> String {
    let hard = entries(v, "/status/hard").filter(|(k, _)| k.starts_with("limits.") == limits);
    let shown = |(k, h): (&str, &Value)| {
        let used = v
            .pointer("/status/used")
            .and_then(|u| u.get(k))
            .and_then(Value::as_str)
            .unwrap_or("0");
        format!("{k}: {used}/{}", h.as_str().unwrap_or_default())
    };
    hard.map(shown).collect::<Vec<_>>().join(", ")
}
