//! `pods/binding`: the scheduler gives a pod its node.

use axum::body::Body;
use http::Response;
use keelson_api::{Cause, Status};
use serde_json::{Value, json};

use crate::handler::Ctx;
use crate::handler::create::Managed;
use crate::handler::write::{self, Change, Part};
use crate::object::{self, text};

/// Answers a Binding.
pub(crate) async fn run(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    let binding = read(ctx, body).await?;
    carry_out(ctx, &binding).await
}

/// Reads a Binding.
pub(super) async fn read(ctx: &Ctx, body: Body) -> Result<Value, Status> {
    ctx.object_of(body, "", "v1", "Binding").await
}

/// Binds the pod that the request is about.
pub(super) async fn carry_out(ctx: &Ctx, binding: &Value) -> Result<Response<Body>, Status> {
    let node = target(ctx, binding)?;
    let change = Change {
        part: Part::Other,
        sub: "binding",
        managed: Managed::Record,
    };
    write::update(ctx, change, |old| bound(ctx, old, binding, &node)).await?;
    Ok(ctx.plain(201, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})))
}

fn target(ctx: &Ctx, binding: &Value) -> Result<String, Status> {
    let kind = text(binding, "/target/kind");
    let name = text(binding, "/target/name");
    let cause = |reason, field: &str, message: String| Cause {
        reason,
        field: field.to_owned(),
        message,
    };
    let mut causes = Vec::new();
    if !kind.is_empty() && kind != "Node" {
        let message =
            format!("Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\"");
        causes.push(cause("FieldValueNotSupported", "target.kind", message));
    }
    if name.is_empty() {
        causes.push(cause(
            "FieldValueRequired",
            "target.name",
            "Required value".into(),
        ));
    }
    if causes.is_empty() {
        Ok(name.to_owned())
    } else {
        Err(Status::invalid("", "Binding", &ctx.info.name, causes))
    }
}

fn bound(ctx: &Ctx, old: &Value, binding: &Value, node: &str) -> Result<Value, Status> {
    let refuse = |why: &str| Err(Status::conflict("", "pods/binding", &ctx.info.name, why));
    if object::deleting(old) {
        return refuse(&format!(
            "pod {} is being deleted, cannot be assigned to a host",
            ctx.info.name
        ));
    }
    let assigned = text(old, "/spec/nodeName");
    if !assigned.is_empty() {
        return refuse(&format!(
            "pod {} is already assigned to node {assigned:?}",
            ctx.info.name
        ));
    }
    if !object::items(old, "/spec/schedulingGates").is_empty() {
        return refuse(&format!(
            "pod {} has non-empty .spec.schedulingGates",
            ctx.info.name
        ));
    }
    let mut new = old.clone();
    for field in ["uid", "resourceVersion"] {
        let given = text(binding, &format!("/metadata/{field}"));
        if !given.is_empty() {
            object::meta_mut(&mut new).insert(field.to_owned(), json!(given));
        }
    }
    object::child_mut(&mut new, "spec").insert("nodeName".into(), json!(node));
    if let Some(Value::Object(given)) = binding.pointer("/metadata/annotations") {
        let annotations = object::meta_mut(&mut new)
            .entry("annotations")
            .or_insert_with(|| json!({}));
        if let Some(map) = annotations.as_object_mut() {
            map.extend(given.clone());
        }
    }
    set_scheduled(&mut new, &object::timestamp(ctx.now));
    Ok(new)
}

fn set_scheduled(pod: &mut Value, now: &str) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let status = object::child_mut(pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else {
        return;
    };
    match list
        .iter_mut()
        .find(|c| c.get("type") == Some(&json!("PodScheduled")))
    {
        Some(found) => *found = condition,
        None => list.push(condition),
    }
}
