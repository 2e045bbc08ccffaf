//! Managed fields: who wrote what.

use keelson_api::Status;
use keelson_schema::apply::{self, Manager};
use serde_json::Value;

use super::Ctx;
use crate::{decode, object};

/// Longest name of a field manager (upstream's limit).
const MAX_MANAGER: usize = 128;

/// Who writes by this request.
pub(crate) fn manager(ctx: &Ctx, subresource: &str) -> Result<Manager, Status> {
    let name = match ctx.query.get("fieldManager") {
        Some(name) => {
            check(name)?;
            name
        }
        None => &ctx.agent,
    };
    Ok(Manager {
        name: name.to_owned(),
        api_version: ctx.row.api_version(),
        subresource: subresource.to_owned(),
        time: object::timestamp(ctx.now),
    })
}

fn check(name: &str) -> Result<(), Status> {
    let why = if name.len() > MAX_MANAGER {
        format!("Too long: may not be more than {MAX_MANAGER} bytes")
    } else if name.chars().any(char::is_control) {
        format!("Invalid value: {name:?}: should only contain printable characters")
    } else {
        return Ok(());
    };
    let cause = keelson_api::Cause {
        reason: "FieldValueInvalid",
        field: "fieldManager".into(),
        message: why,
    };
    Err(Status::invalid(
        "meta.k8s.io",
        "UpdateOptions",
        "",
        vec![cause],
    ))
}

/// The default manager of a user agent: what precedes the first `/`.
pub(crate) fn from_agent(agent: &str) -> String {
    let name: String = agent
        .split('/')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name.chars().take(MAX_MANAGER).collect()
    }
}

/// Records what this request changed.
pub(crate) fn record(
    ctx: &Ctx,
    subresource: &str,
    old: Option<&Value>,
    new: &mut Value,
) -> Result<(), Status> {
    if let Some(schema) = decode::schema(&ctx.row) {
        apply::record_update(&schema, old, new, &manager(ctx, subresource)?);
    }
    Ok(())
}
