//! `get`.

use axum::body::Body;
use http::Response;
use keelson_api::{Resource, Status};
use keelson_store::KeyValue;
use serde_json::Value;

use super::Ctx;
use crate::object;
use crate::state::{Server, store_error};

/// Answers with the newest state of an object.
pub(crate) async fn run(ctx: &Ctx) -> Result<Response<Body>, Status> {
    let (_, object) = load(&ctx.server, &ctx.row, &ctx.info.namespace, &ctx.info.name).await?;
    Ok(ctx.answer(200, object))
}

/// Reads an object; 404 if it is not there.
pub(crate) async fn load(
    server: &Server,
    row: &Resource,
    ns: &str,
    name: &str,
) -> Result<(KeyValue, Value), Status> {
    find(server, row, ns, name)
        .await?
        .ok_or_else(|| row.not_found(name))
}

/// Reads an object if it is there.
pub(crate) async fn find(
    server: &Server,
    row: &Resource,
    ns: &str,
    name: &str,
) -> Result<Option<(KeyValue, Value)>, Status> {
    if name.is_empty() || name.contains('/') {
        return Ok(None);
    }
    let Some(kv) = server
        .store
        .get(&object::key(row, ns, name))
        .await
        .map_err(store_error)?
    else {
        return Ok(None);
    };
    let object = object::load(row, &kv)?;
    Ok(Some((kv, object)))
}
