//! `delete` and `deletecollection`.
//!
//! An object goes away at once, unless a finalizer or a grace period holds it: then it gets a
//! `deletionTimestamp`, and goes when the last finalizer is removed and the grace period is 0.

use axum::body::Body;
use futures::future::try_join_all;
use http::Response;
use jiff::{SignedDuration, Timestamp};
use keelson_admission::Operation;
use keelson_api::{Resource, Status};
use keelson_store::Range;
use serde_json::{Value, json};

use super::filter::Filter;
use super::write::{self, Lost};
use super::{Ctx, get, list};
use crate::{decode, object};

/// How often a deletion that lost a race is computed anew.
const RACES: usize = 64;
/// How many objects of a collection are deleted at once: the store commits them together.
const AT_ONCE: usize = 16;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Kinds whose deletion answers with the object, not with a `Status`.
const ANSWERS_OBJECT: &[&str] = &[
    "csidrivers",
    "csinodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
    "storageclasses",
    "volumeattachments",
];

/// `meta/v1 DeleteOptions`, from the body and the query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Seconds asked for.
    pub(crate) grace: Option<i64>,
    /// `Orphan`, `Foreground` or `Background`.
    pub(crate) propagation: Option<String>,
    /// The UID the object must have.
    pub(crate) uid: Option<String>,
    /// The revision the object must be at.
    pub(crate) revision: Option<String>,
    /// Whether nothing is to be written.
    pub(crate) dry_run: bool,
}

/// What became of an object.
pub(crate) enum Deleted {
    /// It is gone.
    Gone(Value),
    /// It is held, with a `deletionTimestamp`.
    Held(Value),
}

/// Answers `DELETE` of an object.
pub(crate) async fn run(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    let options = options(ctx, body).await?;
    let ctx = with_dry_run(ctx, &options);
    Ok(match delete(&ctx, &ctx.info.name, &options).await? {
        Deleted::Held(object) => ctx.answer(200, object),
        Deleted::Gone(object) if ANSWERS_OBJECT.contains(&&*ctx.row.plural) => {
            ctx.answer(200, object)
        }
        Deleted::Gone(object) => ctx.plain(200, &success(&ctx.row, &object)),
    })
}

fn success(row: &Resource, object: &Value) -> Value {
    let mut details = json!({
        "name": object::name(object),
        "kind": row.plural,
        "uid": object::text(object, "/metadata/uid"),
    });
    if !row.group.is_empty() {
        details["group"] = json!(row.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Answers `DELETE` of a collection with the list of what was deleted.
pub(crate) async fn run_collection(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    let options = options(ctx, body).await?;
    let ctx = with_dry_run(ctx, &options);
    let filter = Filter::of(&ctx)?;
    let range = Range {
        prefix: object::prefix(&ctx.row, &ctx.info.namespace),
        ..Range::default()
    };
    let listed = list::pages(&ctx.server, &ctx.row, &filter, range, None).await?;
    for together in listed.items.chunks(AT_ONCE) {
        let mut deletions = Vec::with_capacity(together.len());
        for item in together {
            deletions.push(one(&ctx, item, &options));
        }
        try_join_all(deletions).await?;
    }
    let list = json!({
        "apiVersion": ctx.row.api_version(),
        "kind": ctx.row.list_kind,
        "metadata": {"resourceVersion": listed.revision.to_string()},
        "items": listed.items,
    });
    Ok(ctx.answer(200, list))
}

/// Deletes an object of a collection, if it is still there.
async fn one(ctx: &Ctx, item: &Value, options: &Options) -> Result<(), Status> {
    let mut ctx = ctx.clone();
    ctx.info.namespace = object::namespace(item).to_owned();
    ctx.info.name = object::name(item).to_owned();
    let same = Options {
        uid: Some(object::text(item, "/metadata/uid").to_owned()),
        ..options.clone()
    };
    match delete(&ctx, object::name(item), &same).await {
        Err(status) if !matches!(status.reason, "NotFound" | "Conflict") => Err(status),
        _ => Ok(()),
    }
}

/// A dry run asked for in the body counts like one in the query.
fn with_dry_run(ctx: &Ctx, options: &Options) -> Ctx {
    let mut ctx = ctx.clone();
    if options.dry_run && !ctx.dry_run() {
        ctx.query = crate::query::Query::parse(&format!("{}&dryRun=All", ctx.query.raw()));
    }
    ctx
}

async fn options(ctx: &Ctx, body: Body) -> Result<Options, Status> {
    let bytes = decode::read(body).await?;
    let mut options = Options {
        grace: ctx.query.number("gracePeriodSeconds")?,
        propagation: ctx.query.get("propagationPolicy").map(str::to_owned),
        dry_run: ctx.dry_run(),
        ..Options::default()
    };
    if ctx.query.get("orphanDependents").is_some() {
        let policy = if ctx.query.flag("orphanDependents") {
            "Orphan"
        } else {
            "Background"
        };
        options.propagation.get_or_insert_with(|| policy.to_owned());
    }
    if !bytes.is_empty() {
        from_body(&mut options, &decode::parse(&ctx.content_type, &bytes)?)?;
    }
    check(&options)?;
    if ctx.row.strategy.orphans && options.propagation.is_none() {
        ctx.warn([format!(
            "child pods are preserved by default when {} are deleted; set propagationPolicy=Background to remove them \
             or set propagationPolicy=Orphan to suppress this warning",
            ctx.row.plural
        )]);
    }
    Ok(options)
}

fn from_body(options: &mut Options, body: &Value) -> Result<(), Status> {
    if body.is_null() {
        return Ok(());
    }
    if !body.is_object() {
        return Err(Status::bad_request(
            "the body of a deletion must be DeleteOptions",
        ));
    }
    let kind = object::text(body, "/kind");
    if !kind.is_empty() && kind != "DeleteOptions" {
        return Err(Status::bad_request(format!(
            "decoded object cannot be converted to DeleteOptions: it is a {kind}"
        )));
    }
    let owned = |pointer: &str| {
        Some(object::text(body, pointer))
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
    };
    if let Some(grace) = body.get("gracePeriodSeconds").filter(|g| !g.is_null()) {
        let wrong = || Status::bad_request("gracePeriodSeconds must be a whole number");
        options.grace = Some(grace.as_i64().ok_or_else(wrong)?);
    }
    if let Some(orphan) = body.get("orphanDependents").and_then(Value::as_bool) {
        options.propagation = Some(if orphan { "Orphan" } else { "Background" }.to_owned());
    }
    options.propagation = owned("/propagationPolicy").or_else(|| options.propagation.take());
    options.uid = owned("/preconditions/uid");
    options.revision = owned("/preconditions/resourceVersion");
    match object::items(body, "/dryRun") {
        [] => {}
        all if all.iter().all(|v| v == "All") => options.dry_run = true,
        _ => {
            return Err(Status::bad_request(
                "dryRun: Unsupported value: supported values: \"All\"",
            ));
        }
    }
    Ok(())
}

fn check(options: &Options) -> Result<(), Status> {
    if let Some(policy) = &options.propagation
        && !matches!(policy.as_str(), "Orphan" | "Foreground" | "Background")
    {
        let cause = keelson_api::Cause {
            reason: "FieldValueNotSupported",
            field: "propagationPolicy".into(),
            message: format!(
                "Unsupported value: {policy:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            ),
        };
        return Err(Status::invalid(
            "meta.k8s.io",
            "DeleteOptions",
            "",
            vec![cause],
        ));
    }
    Ok(())
}

/// Deletes an object, or begins to.
pub(crate) async fn delete(ctx: &Ctx, name: &str, options: &Options) -> Result<Deleted, Status> {
    for _ in 0..RACES {
        let (kv, old) = get::load(&ctx.server, &ctx.row, &ctx.info.namespace, name).await?;
        preconditions(ctx, &old, options)?;
        write::validate(ctx, Operation::Delete, "", name, Some(&old), &Value::Null).await?;
        let verdict = decide(&ctx.row, &old, options, ctx.now);
        let (outcome, result) = match verdict {
            Verdict::Keep => return Ok(Deleted::Held(old)),
            Verdict::Remove => {
                let result =
                    write::commit(ctx, &kv.key, Some(kv.mod_revision), Some(&old), None).await;
                (Deleted::Gone(old), result)
            }
            Verdict::Hold(mut new) => {
                let result = write::commit(
                    ctx,
                    &kv.key,
                    Some(kv.mod_revision),
                    Some(&old),
                    Some(&mut new),
                )
                .await;
                (Deleted::Held(*new), result)
            }
        };
        match (result, outcome) {
            (Ok(Some(revision)), Deleted::Held(mut object)) => {
                object::set_revision(&mut object, revision);
                return Ok(Deleted::Held(object));
            }
            (Ok(_), outcome) => return Ok(outcome),
            (Err(Lost::Refused(status)), _) => return Err(status),
            (Err(Lost::Race(_)), _) => {}
        }
    }
    Err(write::modified(ctx))
}

fn preconditions(ctx: &Ctx, old: &Value, options: &Options) -> Result<(), Status> {
    let pairs = [
        (
            "UID",
            options.uid.as_deref(),
            object::text(old, "/metadata/uid"),
        ),
        (
            "ResourceVersion",
            options.revision.as_deref(),
            object::text(old, "/metadata/resourceVersion"),
        ),
    ];
    for (what, asked, live) in pairs {
        if let Some(asked) = asked.filter(|a| *a != live) {
            let why = format!(
                "Precondition failed: {what} in precondition: {asked}, {what} in object meta: {live}"
            );
            return Err(Status::conflict(
                &ctx.row.group,
                &ctx.row.plural,
                object::name(old),
                &why,
            ));
        }
    }
    Ok(())
}

/// What a deletion does to an object.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Nothing: deletion goes on already.
    Keep,
    /// It goes at once.
    Remove,
    /// It is written with these marks.
    Hold(Box<Value>),
}

fn decide(row: &Resource, old: &Value, options: &Options, now: Timestamp) -> Verdict {
    let grace = row
        .strategy
        .grace
        .map_or(0, |f| f(old, options.grace))
        .max(0);
    let began = object::deleting(old);
    let current = old
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    let grace = if began { grace.min(current) } else { grace };
    let finalizers = wanted_finalizers(row, old, options);
    let namespace = row.group.is_empty() && row.plural == "namespaces";
    let held =
        !finalizers.is_empty() || (namespace && !object::items(old, "/spec/finalizers").is_empty());
    if grace == 0 && !held {
        return Verdict::Remove;
    }
    let mut new = old.clone();
    set_finalizers(&mut new, &finalizers);
    if !began || grace < current {
        mark(&mut new, old, began, grace, current, now);
    }
    if namespace && !began {
        object::child_mut(&mut new, "status").insert("phase".into(), json!("Terminating"));
    }
    if new == *old {
        Verdict::Keep
    } else {
        Verdict::Hold(Box::new(new))
    }
}

/// Sets the time of death: now and the grace period, or, when it is shortened, earlier than it was.
fn mark(new: &mut Value, old: &Value, began: bool, grace: i64, current: i64, now: Timestamp) {
    let set_before: Option<Timestamp> = object::text(old, "/metadata/deletionTimestamp")
        .parse()
        .ok();
    let seconds = SignedDuration::from_secs(grace);
    let at = match set_before {
        Some(at) if began => at
            .checked_sub(SignedDuration::from_secs(current - grace))
            .unwrap_or(now)
            .max(now.min(at)),
        _ => now.checked_add(seconds).unwrap_or(now),
    };
    let generation = old.pointer("/metadata/generation").and_then(Value::as_i64);
    let meta = object::meta_mut(new);
    meta.insert("deletionTimestamp".into(), json!(object::timestamp(at)));
    meta.insert("deletionGracePeriodSeconds".into(), json!(grace));
    if let (Some(generation), false) = (generation, began) {
        meta.insert("generation".into(), json!(generation + 1));
    }
}

fn wanted_finalizers(row: &Resource, old: &Value, options: &Options) -> Vec<String> {
    let mut list: Vec<String> = object::finalizers(old)
        .into_iter()
        .map(str::to_owned)
        .collect();
    let decided = list.iter().any(|f| f == ORPHAN || f == FOREGROUND);
    let policy = match options.propagation.as_deref() {
        Some(policy) => policy,
        None if row.strategy.orphans && !decided => "Orphan",
        None => return list,
    };
    list.retain(|f| f != ORPHAN && f != FOREGROUND);
    match policy {
        "Orphan" => list.push(ORPHAN.to_owned()),
        "Foreground" => list.push(FOREGROUND.to_owned()),
        _ => {}
    }
    list
}

fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let meta = object::meta_mut(object);
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".into(), json!(finalizers));
    }
}
