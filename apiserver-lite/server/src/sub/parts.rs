//! Subresources that change one part of an object: ephemeral containers, resize, a namespace's finalizers.

use axum::body::Body;
use http::Response;
use keelson_api::resource::Sub;
use keelson_api::{Cause, Status};
use serde_json::Value;

use crate::decode;
use crate::handler::create::Managed;
use crate::handler::patch::{self, Patch};
use crate::handler::write::{self, Change, Part};
use crate::handler::{Ctx, method_not_allowed};
use crate::object;

/// `pods/ephemeralcontainers` and `pods/resize`: a whole Pod, of which only the part is taken.
pub(crate) async fn write_pod(ctx: &Ctx, body: Body, sub: Sub) -> Result<Response<Body>, Status> {
    let bytes = decode::read(body).await?;
    let patch = if ctx.info.verb == "patch" {
        Some(Patch::parse(&ctx.content_type, &bytes)?)
    } else {
        None
    };
    let put = match patch {
        Some(_) => Value::Null,
        None => {
            let mut object = decode::parse(&ctx.content_type, &bytes)?;
            ctx.conform(&mut object)?;
            object
        }
    };
    let change = Change {
        part: Part::Other,
        sub: sub.name(),
        managed: Managed::Record,
    };
    let done = write::update(ctx, change, |old| {
        let mut wanted = match &patch {
            Some(patch) => patch::apply_patch(ctx, patch, old)?,
            None => put.clone(),
        };
        ctx.conform(&mut wanted)?;
        match sub {
            Sub::Resize => resized(ctx, old, &wanted),
            _ => with_ephemeral(ctx, old, &wanted),
        }
    })
    .await?;
    Ok(ctx.answer(200, done))
}

/// Keeps what the caller says of identity, so that conflicts are found.
fn based_on(old: &Value, wanted: &Value) -> Value {
    let mut new = old.clone();
    for field in ["resourceVersion", "uid"] {
        if let Some(value) = wanted.pointer(&format!("/metadata/{field}")) {
            object::meta_mut(&mut new).insert(field.to_owned(), value.clone());
        }
    }
    new
}

fn with_ephemeral(ctx: &Ctx, old: &Value, wanted: &Value) -> Result<Value, Status> {
    let (before, after) = (
        object::items(old, "/spec/ephemeralContainers"),
        object::items(wanted, "/spec/ephemeralContainers"),
    );
    let name = |c: &Value| object::text(c, "/name").to_owned();
    let kept = before
        .iter()
        .all(|b| after.iter().any(|a| name(a) == name(b)));
    if !kept {
        let cause = Cause {
            reason: "FieldValueForbidden",
            field: "spec.ephemeralContainers".into(),
            message: "Forbidden: existing ephemeral containers may not be removed".into(),
        };
        return Err(Status::invalid("", "Pod", &ctx.info.name, vec![cause]));
    }
    let mut new = based_on(old, wanted);
    object::child_mut(&mut new, "spec").insert("ephemeralContainers".into(), after.into());
    Ok(new)
}

/// Resources and resize policies of containers and sidecars; all else stays as it is.
fn resized(ctx: &Ctx, old: &Value, wanted: &Value) -> Result<Value, Status> {
    let mut new = based_on(old, wanted);
    for list in ["containers", "initContainers"] {
        let asked = object::items(wanted, &format!("/spec/{list}")).to_vec();
        let Some(mine) = new
            .pointer_mut(&format!("/spec/{list}"))
            .and_then(Value::as_array_mut)
        else {
            continue;
        };
        for container in mine.iter_mut() {
            if list == "initContainers" && object::text(container, "/restartPolicy") != "Always" {
                continue;
            }
            let Some(with) = asked
                .iter()
                .find(|a| a.get("name") == container.get("name"))
            else {
                continue;
            };
            for field in ["resources", "resizePolicy"] {
                if let (Some(value), Some(map)) = (with.get(field), container.as_object_mut()) {
                    map.insert(field.to_owned(), value.clone());
                }
            }
        }
    }
    match keelson_api::validate::pod_resize(&new, old).as_slice() {
        [] => Ok(new),
        causes => Err(Status::invalid("", "Pod", &ctx.info.name, causes.to_vec())),
    }
}

/// `namespaces/finalize`: only `spec.finalizers`; the last one removed lets a deleted namespace go.
pub(crate) async fn finalize(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    if ctx.row.plural != "namespaces" {
        return Err(method_not_allowed(ctx));
    }
    let wanted = ctx.object(body).await?;
    let change = Change {
        part: Part::Other,
        sub: "finalize",
        managed: Managed::Record,
    };
    let done = write::update(ctx, change, |old| {
        let mut new = based_on(old, &wanted);
        let finalizers = wanted
            .pointer("/spec/finalizers")
            .cloned()
            .unwrap_or(Value::Array(Vec::new()));
        object::child_mut(&mut new, "spec").insert("finalizers".into(), finalizers);
        Ok(new)
    })
    .await?;
    Ok(ctx.answer(200, done))
}
