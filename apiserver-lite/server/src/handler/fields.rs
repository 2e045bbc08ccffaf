//! Managed fields: who wrote what.

use keelson_api::Status;
use keelson_api::resource::Sub;
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

/// Records what this request changed, as the user sent it: what admission adds belongs to nobody. A write of the main
/// resource does not own the status, which has a subresource of its own.
pub(crate) fn record(
    ctx: &Ctx,
    subresource: &str,
    old: Option<&Value>,
    new: &mut Value,
) -> Result<(), Status> {
    let Some(schema) = decode::schema(&ctx.row) else {
        return Ok(());
    };
    let manager = manager(ctx, subresource)?;
    let separate = subresource.is_empty() && ctx.row.subresources.contains(&Sub::Status);
    let aside = new.as_object_mut().filter(|_| separate);
    let status = aside.and_then(|map| map.remove("status"));
    let stripped = old.filter(|_| separate).map(|old| {
        let mut old = old.clone();
        old.as_object_mut().map(|map| map.remove("status"));
        old
    });
    apply::record_update(&schema, stripped.as_ref().or(old), new, &manager);
    if let (Some(status), Some(map)) = (status, new.as_object_mut()) {
        map.insert("status".into(), status);
    }
    Ok(())
}
