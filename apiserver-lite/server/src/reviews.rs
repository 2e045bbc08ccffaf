//! Reviews: questions that are answered, not stored.

use axum::body::Body;
use http::Response;
use keelson_api::selector::Fields;
use keelson_api::{Cause, Resource, Status};
use keelson_auth::{Attributes, Decision, User};
use serde_json::{Value, json};

use crate::authn;
use crate::handler::{Ctx, method_not_allowed};
use crate::object::{self, text};

/// Whether a row is a review: it can only be created, and is not kept.
pub(crate) fn is_review(row: &Resource) -> bool {
    matches!(
        &*row.group,
        "authentication.k8s.io" | "authorization.k8s.io"
    ) && row.verbs == ["create"]
}

/// Answers a review.
pub(crate) async fn run(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    if ctx.info.verb != "create" || !ctx.info.name.is_empty() {
        return Err(method_not_allowed(ctx));
    }
    let mut review = ctx.object(body).await?;
    let status = match &*ctx.row.plural {
        "tokenreviews" => token(ctx, &review).await?,
        "selfsubjectreviews" => json!({"userInfo": user_info(&ctx.user)}),
        "subjectaccessreviews" => access(ctx, &review, &subject(ctx, &review)?)?,
        "localsubjectaccessreviews" => local(ctx, &review)?,
        "selfsubjectaccessreviews" => access(ctx, &review, &ctx.user)?,
        "selfsubjectrulesreviews" => rules(ctx, &review)?,
        _ => return Err(method_not_allowed(ctx)),
    };
    object::meta_mut(&mut review)
        .entry("creationTimestamp")
        .or_insert(Value::Null);
    if let Some(map) = review.as_object_mut() {
        map.insert("status".into(), status);
    }
    Ok(ctx.answer(201, review))
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

async fn token(ctx: &Ctx, review: &Value) -> Result<Value, Status> {
    let token = text(review, "/spec/token");
    if token.is_empty() {
        return Err(Status::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let audiences: Vec<&str> = object::items(review, "/spec/audiences")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    Ok(
        match authn::user_from_token(&ctx.server, token, &audiences).await {
            Ok(valid) => json!({
                "authenticated": true,
                "user": user_info(&valid.user),
                "audiences": valid.audiences,
            }),
            Err(why) => json!({"user": {}, "error": why}),
        },
    )
}

/// The user a SubjectAccessReview is about.
fn subject(ctx: &Ctx, review: &Value) -> Result<User, Status> {
    let strings = |v: &Value| -> Vec<String> {
        v.as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let spec = review.get("spec").cloned().unwrap_or_default();
    let extra = spec.get("extra").and_then(Value::as_object);
    let user = User {
        name: text(&spec, "/user").to_owned(),
        uid: text(&spec, "/uid").to_owned(),
        groups: spec.get("groups").map(strings).unwrap_or_default(),
        extra: extra
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), strings(v)))
            .collect(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(invalid(
            ctx,
            "spec.user",
            "at least one of user or group must be specified",
        ));
    }
    Ok(user)
}

fn invalid(ctx: &Ctx, field: &str, why: &str) -> Status {
    let cause = Cause {
        reason: "FieldValueInvalid",
        field: field.to_owned(),
        message: format!("Invalid value: \"\": {why}"),
    };
    Status::invalid(&ctx.row.group, &ctx.row.kind, "", vec![cause])
}

fn local(ctx: &Ctx, review: &Value) -> Result<Value, Status> {
    let namespace = text(review, "/spec/resourceAttributes/namespace");
    if namespace != ctx.info.namespace {
        let why = format!("must match metadata.namespace: {}", ctx.info.namespace);
        return Err(invalid(ctx, "spec.resourceAttributes.namespace", &why));
    }
    access(ctx, review, &subject(ctx, review)?)
}

fn access(ctx: &Ctx, review: &Value, user: &User) -> Result<Value, Status> {
    let resource = review
        .pointer("/spec/resourceAttributes")
        .filter(|v| !v.is_null());
    let path = review
        .pointer("/spec/nonResourceAttributes")
        .filter(|v| !v.is_null());
    let asked = match (resource, path) {
        (Some(r), None) => Attributes {
            verb: text(r, "/verb").to_owned(),
            group: text(r, "/group").to_owned(),
            version: text(r, "/version").to_owned(),
            resource: text(r, "/resource").to_owned(),
            subresource: text(r, "/subresource").to_owned(),
            namespace: text(r, "/namespace").to_owned(),
            name: text(r, "/name").to_owned(),
            demands: demands(r),
            ..Attributes::default()
        },
        (None, Some(p)) => Attributes {
            verb: text(p, "/verb").to_owned(),
            path: text(p, "/path").to_owned(),
            ..Attributes::default()
        },
        _ => {
            let why =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(invalid(ctx, "spec.resourceAttributes", why));
        }
    };
    Ok(match ctx.server.authorize(user, &asked) {
        Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
        Decision::Deny(reason) => json!({"allowed": false, "denied": true, "reason": reason}),
        Decision::NoOpinion(reason) if reason.is_empty() => json!({"allowed": false}),
        Decision::NoOpinion(reason) => json!({"allowed": false, "reason": reason}),
    })
}

/// What a review's field selector demands.
fn demands(resource: &Value) -> Vec<(String, String)> {
    if let Ok(fields) = Fields::parse(text(resource, "/fieldSelector/rawSelector"))
        && fields != Fields::default()
    {
        return fields.demands();
    }
    let requirements = object::items(resource, "/fieldSelector/requirements");
    let demand = |r: &Value| match (text(r, "/operator"), object::items(r, "/values")) {
        ("In", [Value::String(value)]) => Some((text(r, "/key").to_owned(), value.clone())),
        _ => None,
    };
    requirements.iter().filter_map(demand).collect()
}

fn rules(ctx: &Ctx, review: &Value) -> Result<Value, Status> {
    let namespace = text(review, "/spec/namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let allowed = ctx
        .server
        .authority
        .read_rbac(|index| index.rules_for(&ctx.user, namespace));
    let (mut resource, mut path) = (Vec::new(), Vec::new());
    for rule in &allowed.rules {
        if !rule.resources.is_empty() {
            let mut r = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if !rule.resource_names.is_empty() {
                r["resourceNames"] = json!(rule.resource_names);
            }
            resource.push(r);
        }
        if !rule.non_resource_urls.is_empty() {
            path.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
        }
    }
    let mut status = json!({"resourceRules": resource, "nonResourceRules": path, "incomplete": !allowed.errors.is_empty()});
    if !allowed.errors.is_empty() {
        status["evaluationError"] = json!(allowed.errors.join(", "));
    }
    Ok(status)
}
