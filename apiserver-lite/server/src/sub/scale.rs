//! `scale`: an object's replicas as `autoscaling/v1 Scale`.

use axum::body::Body;
use http::Response;
use keelson_api::resource::{Cell, Column};
use keelson_api::selector::Labels;
use keelson_api::{Cause, Status};
use serde_json::{Value, json};

use crate::decode::{self, FieldValidation};
use crate::handler::create::Managed;
use crate::handler::patch::{self, Patch};
use crate::handler::write::{self, Change, Part};
use crate::handler::{Ctx, get};
use crate::{object, table};

fn gvk() -> keelson_schema::Gvk {
    keelson_schema::Gvk {
        group: "autoscaling".into(),
        version: "v1".into(),
        kind: "Scale".into(),
    }
}

/// Answers with the Scale of an object.
pub(crate) async fn read(ctx: &Ctx) -> Result<Response<Body>, Status> {
    let (_, object) = get::load(&ctx.server, &ctx.row, &ctx.info.namespace, &ctx.info.name).await?;
    Ok(answer(ctx, scale_of(&object)))
}

/// A Scale has columns of its own.
fn answer(ctx: &Ctx, scale: Value) -> Response<Body> {
    let mut row = (*ctx.row).clone();
    let count = |name: &'static str, description: &'static str, path: &str| Column {
        name: name.into(),
        kind: "integer".into(),
        format: "".into(),
        description: description.into(),
        priority: 0,
        cell: Cell::Path(path.to_owned()),
    };
    let of_object = |name: &str| row.columns.iter().find(|c| c.name == name).cloned();
    let own = [
        count("Desired", "Wanted instances.", ".spec.replicas"),
        count("Available", "Instances there are.", ".status.replicas"),
    ];
    let columns = of_object("Name").into_iter().chain(own);
    row.columns = columns.chain(of_object("Age")).collect();
    let include = ctx.query.get("includeObject");
    let value = table::shape(&row, ctx.form, include, scale, ctx.now);
    ctx.plain(200, &value)
}

/// Changes the replicas of an object.
pub(crate) async fn write(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    let bytes = decode::read(body).await?;
    let patch = if ctx.info.verb == "patch" {
        Some(Patch::parse(&ctx.content_type, &bytes)?)
    } else {
        None
    };
    let mode = FieldValidation::parse(ctx.query.get("fieldValidation"))?;
    let put = match patch {
        Some(_) => Value::Null,
        None => decode::parse(&ctx.content_type, &bytes)?,
    };
    let change = Change {
        part: Part::Main,
        sub: "scale",
        managed: Managed::Record,
    };
    let done = write::update(ctx, change, |old| {
        let mut scale = match &patch {
            Some(Patch::Apply(applied)) => applied.clone(),
            Some(Patch::Strategic(merge)) => {
                patch::apply_patch(ctx, &Patch::Merge(merge.clone()), &scale_of(old))?
            }
            Some(patch) => patch::apply_patch(ctx, patch, &scale_of(old))?,
            None => put.clone(),
        };
        decode::conform_as(&gvk(), &mut scale, Vec::new(), mode)?;
        scaled(ctx, old, &scale)
    })
    .await?;
    Ok(answer(ctx, scale_of(&done)))
}

fn scaled(ctx: &Ctx, old: &Value, scale: &Value) -> Result<Value, Status> {
    let replicas = scale
        .pointer("/spec/replicas")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if replicas < 0 {
        let cause = Cause {
            reason: "FieldValueInvalid",
            field: "spec.replicas".into(),
            message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
        };
        return Err(Status::invalid(
            "autoscaling",
            "Scale",
            &ctx.info.name,
            vec![cause],
        ));
    }
    let mut new = old.clone();
    let meta = object::meta_mut(&mut new);
    for field in ["resourceVersion", "uid", "name"] {
        if let Some(value) = scale.pointer(&format!("/metadata/{field}")) {
            meta.insert(field.to_owned(), value.clone());
        }
    }
    object::child_mut(&mut new, "spec").insert("replicas".into(), json!(replicas));
    Ok(new)
}

/// The Scale of an object. `status.selector` is the selector as text, for autoscalers.
fn scale_of(object: &Value) -> Value {
    let mut meta = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
            meta[field] = value.clone();
        }
    }
    let mut status = json!({"replicas": object.pointer("/status/replicas").and_then(Value::as_i64).unwrap_or(0)});
    if let Some(selector) = object.pointer("/spec/selector") {
        let modern =
            selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
        let labels = if modern {
            Labels::from_object(selector).ok()
        } else {
            Some(Labels::from_map(selector))
        };
        if let Some(labels) = labels {
            status["selector"] = json!(labels.to_string());
        }
    }
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64);
    let spec = replicas.map_or_else(|| json!({}), |r| json!({"replicas": r}));
    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta, "spec": spec, "status": status})
}
