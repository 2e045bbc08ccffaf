//! `get`.

use axum::body::Body;
use http::Response;
use keelson_api::{Resource, Status};
use keelson_store::KeyValue;
use serde_json::Value;

use super::{Ctx, list};
use crate::object;
use crate::state::{Server, store_error};

/// Answers with the newest state of an object.
pub(crate) async fn run(ctx: &Ctx) -> Result<Response<Body>, Status> {
    let (row, info) = (&ctx.row, &ctx.info);
    if let Some(revision) = list::asked_revision(ctx)? {
        list::not_future(&ctx.server, revision).await?;
    }
    if ctx.verbatim() {
        let kv = stored(&ctx.server, row, &info.namespace, &info.name).await?;
        let kv = kv.ok_or_else(|| ctx.not_found())?;
        return Ok(ctx.json(object::encoded(row, &kv, kv.mod_revision)?));
    }
    let (_, object) = load(&ctx.server, row, &info.namespace, &info.name).await?;
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
    let Some(kv) = stored(server, row, ns, name).await? else {
        return Ok(None);
    };
    let object = object::load(row, &kv)?;
    Ok(Some((kv, object)))
}

async fn stored(
    server: &Server,
    row: &Resource,
    ns: &str,
    name: &str,
) -> Result<Option<KeyValue>, Status> {
    if name.is_empty() || name.contains('/') {
        return Ok(None);
    }
    let key = object::key(row, ns, name);
    server.store.get(&key).await.map_err(store_error)
}
