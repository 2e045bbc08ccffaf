//! `patch`: JSON patch, merge patch, strategic merge patch and server-side apply, of an object or a part of it.

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use json_patch::{AddOperation, PatchOperation};
use keelson_api::{Cause, Status};
use keelson_schema::apply::{self, ApplyError};
use keelson_schema::{PatchError, json_merge};
use serde_json::Value;

use super::create::{self, Managed};
use super::write::{self, Change, Part};
use super::{Ctx, fields, get};
use crate::decode::FieldValidation;
use crate::{decode, object};

/// Most operations in one JSON patch (upstream's limit).
const MAX_OPERATIONS: usize = 10_000;
/// How many bytes of JSON the `copy` operations of one patch may add up to (upstream's limit): each could double the
/// object.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// A patch in its form.
pub(crate) enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// Lists are merged by their keys.
    Strategic(Value),
    /// Server-side apply (KEP-555).
    Apply(Value),
}

impl Patch {
    /// Decodes a patch by its content type.
    pub(crate) fn parse(content_type: &str, body: &Bytes) -> Result<Patch, Status> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        Ok(match kind {
            "application/json-patch+json" => Patch::Json(json_patch(body)?),
            "application/merge-patch+json" => Patch::Merge(decode::parse(kind, body)?),
            "application/strategic-merge-patch+json" => {
                Patch::Strategic(decode::parse(kind, body)?)
            }
            "application/apply-patch+yaml" => Patch::Apply(decode::parse(kind, body)?),
            _ => {
                return Err(Status::new(
                    415,
                    "UnsupportedMediaType",
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json, application/apply-patch+yaml",
                ));
            }
        })
    }
}

fn json_patch(body: &[u8]) -> Result<json_patch::Patch, Status> {
    let patch: json_patch::Patch = serde_json::from_slice(body)
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    if patch.0.len() > MAX_OPERATIONS {
        return Err(Status::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                patch.0.len()
            ),
        ));
    }
    Ok(patch)
}

/// Answers `PATCH` of the main resource.
pub(crate) async fn run(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    part(ctx, body, Part::Main, "").await
}

/// Patches a part of an object.
pub(crate) async fn part(
    ctx: &Ctx,
    body: Body,
    part: Part,
    sub: &str,
) -> Result<Response<Body>, Status> {
    if ctx.info.name.is_empty() {
        return Err(super::method_not_allowed(ctx));
    }
    let body = decode::read(body).await?;
    check_duplicates(ctx, &body)?;
    match Patch::parse(&ctx.content_type, &body)? {
        Patch::Apply(applied) => server_side_apply(ctx, applied, part, sub).await,
        patch => {
            let change = Change {
                part,
                sub,
                managed: Managed::Record,
            };
            let done = write::update(ctx, change, |old| patched(ctx, &patch, old)).await?;
            Ok(ctx.answer(200, done))
        }
    }
}

/// Fields that stand twice in the patch itself.
fn check_duplicates(ctx: &Ctx, body: &[u8]) -> Result<(), Status> {
    let mode = ctx.field_validation()?;
    let twice = decode::duplicates(body, mode);
    if mode == FieldValidation::Strict && !twice.is_empty() {
        return Err(Status::bad_request(decode::strict(&twice)));
    }
    ctx.warn(twice);
    Ok(())
}

/// The live object with a patch applied, checked against the schema.
fn patched(ctx: &Ctx, patch: &Patch, old: &Value) -> Result<Value, Status> {
    let mut new = apply_patch(ctx, patch, old)?;
    ctx.conform(&mut new)?;
    Ok(new)
}

/// A patch onto any value.
pub(crate) fn apply_patch(ctx: &Ctx, patch: &Patch, old: &Value) -> Result<Value, Status> {
    let mut new = old.clone();
    match patch {
        Patch::Json(patch) => operate(&mut new, patch).map_err(|e| json_patch_error(ctx, e))?,
        Patch::Merge(patch) => {
            if !patch.is_object() {
                return Err(Status::bad_request("a merge patch must be an object"));
            }
            json_merge(&mut new, patch);
        }
        Patch::Strategic(patch) => {
            let Some(schema) = decode::schema(&ctx.row) else {
                return Err(Status::new(
                    415,
                    "UnsupportedMediaType",
                    "strategic merge patch is not supported for this kind; use a merge patch",
                ));
            };
            new = schema
                .strategic_merge(&new, patch)
                .map_err(|e| patch_error(ctx, e))?;
        }
        Patch::Apply(_) => return Err(Status::bad_request("an apply patch cannot be used here")),
    }
    Ok(new)
}

/// Why a JSON patch was not carried out.
#[derive(Debug)]
enum Refused {
    Operation(json_patch::PatchError),
    /// So many bytes would have been copied.
    Copies(usize),
}

fn json_patch_error(ctx: &Ctx, refused: Refused) -> Status {
    match refused {
        Refused::Operation(e) => Status::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {e}"),
        )
        .about(&ctx.row.group, &ctx.row.kind, &ctx.info.name)
        .with_cause(&e.path.to_string()),
        Refused::Copies(size) => Status::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "Unable to complete the copy, the accumulated size increase of copy is {size}, exceeding the limit {MAX_COPIED}"
            ),
        ),
    }
}

/// Carries out the operations of a JSON patch. As upstream's, a `replace` of a member that is not there adds it
/// (RFC 6902 4.3 would refuse): `kubectl rollout undo` replaces annotations, which may be none.
fn operate(object: &mut Value, patch: &json_patch::Patch) -> Result<(), Refused> {
    let mut copied = 0;
    for operation in &patch.0 {
        let mut operation = operation.clone();
        match &operation {
            PatchOperation::Replace(replace) => {
                let parent = replace.path.as_str().rsplit_once('/').map(|(p, _)| p);
                let parent = parent.and_then(|p| object.pointer(p));
                if parent.is_some_and(Value::is_object) {
                    operation = PatchOperation::Add(AddOperation {
                        path: replace.path.clone(),
                        value: replace.value.clone(),
                    });
                }
            }
            PatchOperation::Copy(copy) => {
                copied += object
                    .pointer(copy.from.as_str())
                    .map_or(0, |value| value.to_string().len());
                if copied > MAX_COPIED {
                    return Err(Refused::Copies(copied));
                }
            }
            _ => {}
        }
        json_patch::patch(object, std::slice::from_ref(&operation)).map_err(Refused::Operation)?;
    }
    Ok(())
}

trait WithCause {
    fn with_cause(self, field: &str) -> Status;
}

impl WithCause for Status {
    fn with_cause(mut self, field: &str) -> Status {
        let message = self.message.clone();
        self.causes.push(Cause {
            reason: "FieldValueInvalid",
            field: field.to_owned(),
            message,
        });
        self
    }
}

fn patch_error(ctx: &Ctx, error: PatchError) -> Status {
    match error {
        PatchError::Malformed(why) => Status::bad_request(why),
        PatchError::Unprocessable(why) => {
            Status::new(422, "Invalid", why).about(&ctx.row.group, &ctx.row.kind, &ctx.info.name)
        }
    }
}

async fn server_side_apply(
    ctx: &Ctx,
    mut applied: Value,
    part: Part,
    sub: &str,
) -> Result<Response<Body>, Status> {
    if ctx.query.get("fieldManager").is_none() {
        let cause = Cause {
            reason: "FieldValueRequired",
            field: "fieldManager".into(),
            message: "Required value: is required for apply patch".into(),
        };
        return Err(Status::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            vec![cause],
        ));
    }
    for field in ["apiVersion", "kind"] {
        if object::text(&applied, &format!("/{field}")).is_empty() {
            return Err(Status::bad_request(format!(
                "invalid object type: {field} must be set for apply"
            )));
        }
    }
    ctx.conform(&mut applied)?;
    if !object::items(&applied, "/metadata/managedFields").is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    object::meta_mut(&mut applied)
        .entry("name")
        .or_insert_with(|| ctx.info.name.as_str().into());
    let found = get::find(&ctx.server, &ctx.row, &ctx.info.namespace, &ctx.info.name).await?;
    if found.is_none() && part == Part::Main && sub.is_empty() {
        return create_by_apply(ctx, &applied).await;
    }
    let change = Change {
        part,
        sub,
        managed: Managed::Applied,
    };
    let done = write::update(ctx, change, |old| merged(ctx, sub, Some(old), &applied)).await?;
    Ok(ctx.answer(200, done))
}

async fn create_by_apply(ctx: &Ctx, applied: &Value) -> Result<Response<Body>, Status> {
    if object::revision(applied)? != 0 || !object::text(applied, "/metadata/uid").is_empty() {
        return Err(ctx.not_found());
    }
    if object::name(applied) != ctx.info.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object::name(applied),
            ctx.info.name
        )));
    }
    let new = merged(ctx, "", None, applied)?;
    match create::instead(ctx, new, Managed::Applied).await {
        Err(status) if status.reason == "AlreadyExists" => {
            let change = Change {
                part: Part::Main,
                sub: "",
                managed: Managed::Applied,
            };
            let done =
                write::update(ctx, change, |old| merged(ctx, "", Some(old), applied)).await?;
            Ok(ctx.answer(200, done))
        }
        done => Ok(ctx.answer(201, done?)),
    }
}

fn merged(ctx: &Ctx, sub: &str, live: Option<&Value>, applied: &Value) -> Result<Value, Status> {
    let Some(schema) = decode::schema(&ctx.row) else {
        return Err(Status::bad_request(format!(
            "apply is not supported for {}",
            ctx.row.kind
        )));
    };
    let manager = fields::manager(ctx, sub)?;
    let force = ctx.query.flag("force");
    apply::apply(&schema, live, applied, &manager, force).map_err(|e| apply_error(ctx, e))
}

fn apply_error(ctx: &Ctx, error: ApplyError) -> Status {
    let conflicts = match error {
        ApplyError::Malformed(why) => return Status::bad_request(why),
        ApplyError::Conflicts(conflicts) => conflicts,
    };
    let noun = if conflicts.len() == 1 {
        "conflict"
    } else {
        "conflicts"
    };
    let list: Vec<String> = match conflicts.as_slice() {
        [one] => vec![format!(" conflict with {}: {}", one.manager, one.field)],
        many => many
            .iter()
            .map(|c| format!("\nconflict with {}: {}", c.manager, c.field))
            .collect(),
    };
    let message = format!(
        "Apply failed with {} {noun}:{}",
        conflicts.len(),
        list.concat()
    );
    let mut status = Status::new(409, "Conflict", message).about(
        &ctx.row.group,
        &ctx.row.plural,
        &ctx.info.name,
    );
    status.causes = conflicts
        .into_iter()
        .map(|c| Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {}", c.manager),
            field: c.field,
        })
        .collect();
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn replacing_what_is_not_there() {
        for (object, path, want) in [
            (json!({"a": {}}), "/a/b", Some(json!({"a": {"b": 1}}))),
            (json!({"a": {"b": 2}}), "/a/b", Some(json!({"a": {"b": 1}}))),
            (json!({"a": [2]}), "/a/0", Some(json!({"a": [1]}))),
            (json!({"a": [2]}), "/a/1", None),
            (json!({}), "/a/b", None),
        ] {
            let patch = json!([{"op": "replace", "path": path, "value": 1}]);
            let patch = json_patch(patch.to_string().as_bytes()).expect("a patch");
            let mut new = object.clone();
            let done = operate(&mut new, &patch).is_ok().then_some(new);
            assert_eq!(done, want, "{object} {path}");
        }
    }

    #[test]
    fn copies_are_bounded() {
        let doubling = |times: usize| {
            let ops =
                (0..times).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/a/{i}")}));
            let patch = Value::Array(ops.collect());
            let patch = json_patch(patch.to_string().as_bytes()).expect("a patch");
            operate(&mut json!({"a": {"b": "x".repeat(100)}}), &patch)
        };
        assert!(doubling(10).is_ok());
        match doubling(60) {
            Err(Refused::Copies(size)) => assert!(size > MAX_COPIED),
            other => panic!("{other:?}"),
        }
    }
}
