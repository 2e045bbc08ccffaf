//! Subresources: the real exceptions to the generic handler.

mod binding;
mod eviction;
mod parts;
mod scale;
mod token;

use axum::body::Body;
use http::{Request, Response};
use keelson_api::resource::Sub;
use keelson_api::{Resource, Status};

use crate::connect;
use crate::handler::write::Part;
use crate::handler::{Ctx, get, method_not_allowed, patch, update};
use crate::object;
use crate::state::no_such_resource;

/// Whether a subresource answers with something else than an object.
pub(crate) fn streams(name: &str) -> bool {
    matches!(name, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Whether a row is that of Bindings, which are carried out and not kept.
pub(crate) fn is_binding(row: &Resource) -> bool {
    row.group.is_empty() && row.plural == "bindings"
}

/// Answers a Binding that was posted to its namespace: the same as one posted to its pod.
pub(crate) async fn bind(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    if ctx.info.verb != "create" || !ctx.info.name.is_empty() {
        return Err(method_not_allowed(ctx));
    }
    ctx.query.dry_run()?;
    let binding = binding::read(ctx, body).await?;
    let mut of_pod = ctx.clone();
    of_pod.row = ctx.server.row("", "v1", "pods")?;
    of_pod.info.name = object::name(&binding).to_owned();
    binding::carry_out(&of_pod, &binding).await
}

/// Runs a request for a subresource.
pub(crate) async fn run(ctx: &Ctx, request: Request<Body>) -> Result<Response<Body>, Status> {
    let name = ctx.info.subresource.as_str();
    let Some(sub) = ctx
        .row
        .subresources
        .iter()
        .copied()
        .find(|s| s.name() == name)
    else {
        return Err(no_such_resource());
    };
    if sub != Sub::Proxy && !ctx.info.tail.is_empty() {
        return Err(no_such_resource());
    }
    ctx.query.dry_run()?;
    let verb = ctx.info.verb.as_str();
    match (sub, verb) {
        (Sub::Status | Sub::Approval | Sub::EphemeralContainers | Sub::Resize, "get") => {
            get::run(ctx).await
        }
        (Sub::Status | Sub::Approval, "update") => {
            let object = ctx.object(request.into_body()).await?;
            update::replace(ctx, object, Part::Status, name).await
        }
        (Sub::Status | Sub::Approval, "patch") => {
            patch::part(ctx, request.into_body(), Part::Status, name).await
        }
        (Sub::EphemeralContainers | Sub::Resize, "update" | "patch") => {
            parts::write_pod(ctx, request.into_body(), sub).await
        }
        (Sub::Finalize, "update") => parts::finalize(ctx, request.into_body()).await,
        (Sub::Scale, "get") => scale::read(ctx).await,
        (Sub::Scale, "update" | "patch") => scale::write(ctx, request.into_body()).await,
        (Sub::Binding, "create") => binding::run(ctx, request.into_body()).await,
        (Sub::Eviction, "create") => eviction::run(ctx, request.into_body()).await,
        (Sub::Token, "create") => token::run(ctx, request.into_body()).await,
        (Sub::Log, "get") => connect::run(ctx, sub, request).await,
        (Sub::Exec | Sub::Attach | Sub::PortForward, "get" | "create") => {
            connect::run(ctx, sub, request).await
        }
        (Sub::Proxy, _) => connect::run(ctx, sub, request).await,
        _ => Err(method_not_allowed(ctx)),
    }
}
