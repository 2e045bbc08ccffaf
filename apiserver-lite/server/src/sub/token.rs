//! `serviceaccounts/token`: bound tokens (TokenRequest).

use axum::body::Body;
use http::Response;
use keelson_admission::Operation;
use keelson_api::{Cause, Status};
use keelson_auth::token::{Grant, Ref};
use serde_json::{Value, json};

use crate::handler::{Ctx, get, write};
use crate::object::{self, text};

/// Shortest validity, in seconds (upstream's limit).
const SHORTEST: i64 = 600;
/// Longest validity, in seconds.
const LONGEST: i64 = 1 << 32;
/// Validity when none is asked for, in seconds.
const DEFAULT: i64 = 3600;

/// Answers a TokenRequest.
pub(crate) async fn run(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    let mut request = ctx
        .object_of(body, "authentication.k8s.io", "v1", "TokenRequest")
        .await?;
    let (_, account) =
        get::load(&ctx.server, &ctx.row, &ctx.info.namespace, &ctx.info.name).await?;
    write::validate(
        ctx,
        Operation::Create,
        "token",
        &ctx.info.name,
        None,
        &request,
    )
    .await?;
    let seconds = seconds(ctx, &request)?;
    let audiences: Vec<String> = object::items(&request, "/spec/audiences")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let mut grant = Grant {
        namespace: ctx.info.namespace.clone(),
        account: Ref::new(&ctx.info.name, text(&account, "/metadata/uid")),
        audiences: audiences.clone(),
        seconds,
        ..Grant::default()
    };
    bind(ctx, &request, &mut grant).await?;
    let signed = ctx
        .server
        .pki
        .token_keys()
        .sign(&grant, ctx.now)
        .map_err(Status::internal)?;
    let spec = object::child_mut(&mut request, "spec");
    if audiences.is_empty() {
        spec.insert("audiences".into(), json!([keelson_auth::token::ISSUER]));
    }
    spec.insert("expirationSeconds".into(), json!(seconds));
    let meta = object::meta_mut(&mut request);
    meta.insert("name".into(), json!(ctx.info.name));
    meta.insert("namespace".into(), json!(ctx.info.namespace));
    meta.insert(
        "creationTimestamp".into(),
        json!(object::timestamp(ctx.now)),
    );
    let status = object::child_mut(&mut request, "status");
    status.insert("token".into(), json!(signed.token));
    status.insert(
        "expirationTimestamp".into(),
        json!(object::timestamp(signed.expires)),
    );
    Ok(ctx.plain(201, &request))
}

fn seconds(ctx: &Ctx, request: &Value) -> Result<i64, Status> {
    let asked = request
        .pointer("/spec/expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT);
    let why = if asked < SHORTEST {
        "may not specify a duration less than 10 minutes"
    } else if asked > LONGEST {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(asked);
    };
    let cause = Cause {
        reason: "FieldValueInvalid",
        field: "spec.expirationSeconds".into(),
        message: format!("Invalid value: {asked}: {why}"),
    };
    Err(Status::invalid(
        "authentication.k8s.io",
        "TokenRequest",
        &ctx.info.name,
        vec![cause],
    ))
}

/// Binds the token to a live object of the account's namespace, or to a node.
async fn bind(ctx: &Ctx, request: &Value, grant: &mut Grant) -> Result<(), Status> {
    let Some(to) = request
        .pointer("/spec/boundObjectRef")
        .filter(|v| !v.is_null())
    else {
        return Ok(());
    };
    let (kind, name, uid) = (text(to, "/kind"), text(to, "/name"), text(to, "/uid"));
    let (plural, ns) = match kind {
        "Pod" => ("pods", ctx.info.namespace.as_str()),
        "Secret" => ("secrets", ctx.info.namespace.as_str()),
        "Node" => ("nodes", ""),
        _ => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount to object of kind {kind:?}"
            )));
        }
    };
    let row = ctx.server.row("", "v1", plural)?;
    let (_, live) = get::load(&ctx.server, &row, ns, name).await?;
    let live_uid = text(&live, "/metadata/uid");
    if !uid.is_empty() && uid != live_uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict("", plural, name, &why));
    }
    let reference = Some(Ref::new(name, live_uid));
    match kind {
        "Pod" => {
            if text(&live, "/spec/serviceAccountName") != ctx.info.name {
                let why = format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    ctx.info.name
                );
                return Err(Status::forbidden(
                    "",
                    "serviceaccounts",
                    &ctx.info.name,
                    &why,
                ));
            }
            grant.pod = reference;
            grant.node = node_of(ctx, &live).await?;
        }
        "Secret" => grant.secret = reference,
        _ => grant.node = reference,
    }
    Ok(())
}

async fn node_of(ctx: &Ctx, pod: &Value) -> Result<Option<Ref>, Status> {
    let name = text(pod, "/spec/nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    let row = ctx.server.row("", "v1", "nodes")?;
    let node = get::find(&ctx.server, &row, "", name).await?;
    Ok(Some(Ref::new(
        name,
        node.as_ref().map_or("", |(_, n)| text(n, "/metadata/uid")),
    )))
}
