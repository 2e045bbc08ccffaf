//! `create`: from a decoded object to a stored one.

use axum::body::Body;
use http::Response;
use keelson_admission::Operation;
use keelson_api::{Cause, Scope, Status};
use rand::Rng;
use serde_json::{Value, json};

use super::write::{self, Lost};
use super::{Ctx, fields, kind};
use crate::{authz, escalation, object, turns};

/// The letters of generated names: no vowels, nothing that reads like another letter.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Random letters at the end of a generated name.
const NAME_RANDOM: usize = 5;
/// Longest base of a generated name, so that the whole is a DNS label.
const NAME_BASE: usize = 63 - NAME_RANDOM;
/// How often a generated name that is taken is made anew.
const NAME_TRIES: usize = 8;

/// Answers `POST` to a collection.
pub(crate) async fn run(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    if !ctx.info.name.is_empty() {
        return Err(super::method_not_allowed(ctx));
    }
    let object = ctx.object(body).await?;
    Ok(ctx.answer(201, create(ctx, object, Managed::Record).await?))
}

/// Whether managed fields are still to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Managed {
    /// A create, update or patch: what changed is recorded.
    Record,
    /// An apply recorded them.
    Applied,
}

/// Creates the object of a PUT or apply, which named one that is not there. Who may change objects may not therefore
/// make them: that is asked for too.
pub(crate) async fn instead(ctx: &Ctx, object: Value, managed: Managed) -> Result<Value, Status> {
    let mut info = ctx.info.clone();
    info.verb = "create".to_owned();
    authz::check(&ctx.server, &ctx.user, &info)?;
    create(ctx, object, managed).await
}

/// Creates an object; generated names are tried again when they are taken.
pub(crate) async fn create(ctx: &Ctx, object: Value, managed: Managed) -> Result<Value, Status> {
    let generated = object::name(&object).is_empty()
        && !object::text(&object, "/metadata/generateName").is_empty();
    let mut last = None;
    for _ in 0..if generated { NAME_TRIES } else { 1 } {
        match create_once(ctx, object.clone(), managed).await {
            Err(status) if generated && status.reason == "AlreadyExists" => last = Some(status),
            other => return other,
        }
    }
    Err(last.unwrap_or_else(|| Status::internal("no name could be generated")))
}

async fn create_once(ctx: &Ctx, mut object: Value, managed: Managed) -> Result<Value, Status> {
    let row = &ctx.row;
    set_namespace(ctx, &mut object)?;
    set_name(ctx, &mut object)?;
    set_system_fields(ctx, &mut object, managed)?;
    let name = object::name(&object).to_owned();

    kind::default(row, &mut object);
    if managed == Managed::Record {
        fields::record(ctx, "", None, &mut object)?;
    }
    write::mutate(ctx, Operation::Create, "", &name, None, &mut object).await?;
    kind::default(row, &mut object);
    kind::prepare_create(row, &mut object);
    set_requester(ctx, &mut object);
    let mut causes = write::validate_meta(row, &object);
    causes.extend(kind::validate(row, &object));
    if !causes.is_empty() {
        return Err(Status::invalid(&row.group, &row.kind, &name, causes));
    }
    let _turn = turns::take(ctx, object::namespace(&object)).await?;
    write::validate(ctx, Operation::Create, "", &name, None, &object).await?;
    escalation::check(ctx, None, &object)?;

    let key = object::key(row, object::namespace(&object), &name);
    match write::commit(ctx, &key, None, None, Some(&mut object)).await {
        Ok(revision) => {
            if let Some(revision) = revision {
                object::set_revision(&mut object, revision);
            }
            Ok(object)
        }
        Err(Lost::Race(_)) => Err(Status::already_exists(&row.group, &row.plural, &name)),
        Err(Lost::Refused(status)) => Err(status),
    }
}

/// A certificate signing request says who asks, and that is the server's to say: approvers go by it.
fn set_requester(ctx: &Ctx, object: &mut Value) {
    if (&*ctx.row.group, &*ctx.row.plural) != ("certificates.k8s.io", "certificatesigningrequests")
    {
        return;
    }
    let user = &ctx.user;
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        for (field, value, known) in [
            ("username", json!(user.name), !user.name.is_empty()),
            ("uid", json!(user.uid), !user.uid.is_empty()),
            ("groups", json!(user.groups), !user.groups.is_empty()),
            ("extra", json!(user.extra), !user.extra.is_empty()),
        ] {
            spec.remove(field);
            if known {
                spec.insert(field.to_owned(), value);
            }
        }
    }
}

fn set_namespace(ctx: &Ctx, object: &mut Value) -> Result<(), Status> {
    let wanted = ctx.info.namespace.as_str();
    match ctx.row.scope {
        Scope::Cluster => {
            object::meta_mut(object).remove("namespace");
        }
        Scope::Namespaced if wanted.is_empty() => {
            return Err(Status::bad_request(
                "an empty namespace may not be set during creation",
            ));
        }
        Scope::Namespaced => {
            let have = object::namespace(object);
            if !have.is_empty() && have != wanted {
                return Err(Status::bad_request(format!(
                    "the namespace of the provided object does not match the namespace sent on the request: \
                     {have:?} != {wanted:?}"
                )));
            }
            object::meta_mut(object).insert("namespace".into(), json!(wanted));
        }
    }
    Ok(())
}

fn set_name(ctx: &Ctx, object: &mut Value) -> Result<(), Status> {
    if !object::name(object).is_empty() {
        return Ok(());
    }
    let base = object::text(object, "/metadata/generateName");
    if base.is_empty() {
        let cause = Cause {
            reason: "FieldValueRequired",
            field: "metadata.name".into(),
            message: "Required value: name or generateName is required".into(),
        };
        return Err(Status::invalid(
            &ctx.row.group,
            &ctx.row.kind,
            "",
            vec![cause],
        ));
    }
    let name = generate_name(base, &mut rand::rng());
    object::meta_mut(object).insert("name".into(), json!(name));
    Ok(())
}

fn generate_name(base: &str, random: &mut impl Rng) -> String {
    let mut name: String = base.chars().take(NAME_BASE).collect();
    for _ in 0..NAME_RANDOM {
        let letter = NAME_LETTERS
            .get(random.random_range(0..NAME_LETTERS.len()))
            .copied()
            .unwrap_or(b'x');
        name.push(char::from(letter));
    }
    name
}

fn set_system_fields(ctx: &Ctx, object: &mut Value, managed: Managed) -> Result<(), Status> {
    if !object::text(object, "/metadata/resourceVersion").is_empty() {
        return Err(Status::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let generation = !ctx.row.strategy.no_generation;
    let meta = object::meta_mut(object);
    for gone in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
        "resourceVersion",
    ] {
        meta.remove(gone);
    }
    if managed == Managed::Record {
        meta.remove("managedFields");
    }
    meta.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
    meta.insert(
        "creationTimestamp".into(),
        json!(object::timestamp(ctx.now)),
    );
    if generation {
        meta.insert("generation".into(), json!(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_labels() {
        let name = generate_name(&"a".repeat(100), &mut rand::rng());
        assert_eq!(name.len(), 63);
        let other = generate_name("web-", &mut rand::rng());
        assert!(other.starts_with("web-") && other.len() == 9);
    }
}
