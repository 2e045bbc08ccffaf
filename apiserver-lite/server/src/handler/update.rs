//! `update` (PUT).

use axum::body::Body;
use http::Response;
use keelson_api::Status;
use serde_json::Value;

use super::create::{self, Managed};
use super::write::{self, Change, Part};
use super::{Ctx, get};
use crate::object;

/// Replaces an object; kinds that allow it are created when they are not there.
pub(crate) async fn run(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    let object = ctx.object(body).await?;
    replace(ctx, object, Part::Main, "").await
}

/// Replaces a part of an object.
pub(crate) async fn replace(
    ctx: &Ctx,
    object: Value,
    part: Part,
    sub: &str,
) -> Result<Response<Body>, Status> {
    if ctx.info.name.is_empty() {
        return Err(super::method_not_allowed(ctx));
    }
    if object::name(&object).is_empty() {
        return Err(Status::bad_request(
            "the name of the object must be given: metadata.name is empty",
        ));
    }
    if part == Part::Main && ctx.row.strategy.create_on_update {
        let found = get::find(&ctx.server, &ctx.row, &ctx.info.namespace, &ctx.info.name).await?;
        if found.is_none() {
            return Ok(ctx.answer(201, create_instead(ctx, object).await?));
        }
    }
    let change = Change {
        part,
        sub,
        managed: Managed::Record,
    };
    let done = write::update(ctx, change, |_| Ok(object.clone())).await?;
    Ok(ctx.answer(200, done))
}

async fn create_instead(ctx: &Ctx, object: Value) -> Result<Value, Status> {
    if object::name(&object) != ctx.info.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object::name(&object),
            ctx.info.name
        )));
    }
    if object::revision(&object)? != 0 {
        return Err(ctx.not_found());
    }
    create::instead(ctx, object, Managed::Record).await
}
