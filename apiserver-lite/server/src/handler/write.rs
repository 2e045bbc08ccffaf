//! What every write shares: admission, the checks of metadata, the update loop and the commit.

use keelson_admission::{Operation, Request};
use keelson_api::{Cause, Resource, Status};
use keelson_store::{Error as StoreError, KeyValue, Revision};
use serde_json::{Map, Value, json};

use super::create::Managed;
use super::{Ctx, fields, get, kind};
use crate::state::{Server, store_error};
use crate::{allocate, escalation, object, turns};

/// How often a write that lost a race is computed anew before the client hears of it.
const RACES: usize = 64;

/// Kinds whose updates must name the revision they are based on.
const CONDITIONAL_ONLY: &[(&str, &str)] = &[
    ("coordination.k8s.io", "leases"),
    ("policy", "poddisruptionbudgets"),
];

/// Why a commit did not happen.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Somebody else wrote the key; holds what is there.
    Race(Option<KeyValue>),
    /// Refused for good.
    Refused(Status),
}

/// What an update changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The object without its status.
    Main,
    /// Only `.status` (`status`, `approval`).
    Status,
    /// A named part through a subresource, already merged by the caller; the kind's rules for updates of
    /// the main resource do not apply, its checks do.
    Other,
}

/// An update to carry out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    /// What changes.
    pub(crate) part: Part,
    /// Subresource or empty.
    pub(crate) sub: &'a str,
    /// Whether managed fields are still to be recorded.
    pub(crate) managed: Managed,
}

/// Asks the mutating plugins.
pub(crate) async fn mutate(
    ctx: &Ctx,
    op: Operation,
    sub: &str,
    name: &str,
    old: Option<&Value>,
    new: &mut Value,
) -> Result<(), Status> {
    let warn = |text| ctx.warn([text]);
    let request = admission(ctx, op, sub, name, old, &warn);
    ctx.server
        .chain
        .mutate(&request, new, ctx.server.as_ref())
        .await
}

/// Asks the validating plugins.
pub(crate) async fn validate(
    ctx: &Ctx,
    op: Operation,
    sub: &str,
    name: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), Status> {
    let warn = |text| ctx.warn([text]);
    let request = admission(ctx, op, sub, name, old, &warn);
    ctx.server
        .chain
        .validate(&request, new, ctx.server.as_ref())
        .await
}

fn admission<'a>(
    ctx: &'a Ctx,
    op: Operation,
    sub: &'a str,
    name: &'a str,
    old: Option<&'a Value>,
    warn: &'a (dyn Fn(String) + Send + Sync),
) -> Request<'a> {
    Request {
        op,
        resource: &ctx.row,
        subresource: sub,
        namespace: &ctx.info.namespace,
        name,
        user: &ctx.user,
        old,
        dry_run: ctx.dry_run(),
        now: ctx.now,
        warn,
    }
}

/// Changes an object: `transform` makes the wanted object from the live one, and is called again when
/// somebody else was quicker.
pub(crate) async fn update<F>(ctx: &Ctx, change: Change<'_>, transform: F) -> Result<Value, Status>
where
    F: Fn(&Value) -> Result<Value, Status> + Send + Sync,
{
    let (mut kv, mut old) =
        get::load(&ctx.server, &ctx.row, &ctx.info.namespace, &ctx.info.name).await?;
    for _ in 0..RACES {
        let wanted = transform(&old)?;
        match attempt(ctx, change, &kv, &old, wanted).await {
            Ok(object) => return Ok(object),
            Err(Lost::Refused(status)) => return Err(status),
            Err(Lost::Race(None)) => return Err(ctx.not_found()),
            Err(Lost::Race(Some(now))) => {
                old = object::load(&ctx.row, &now)?;
                kv = now;
            }
        }
    }
    Err(modified(ctx))
}

/// 409 for an update that is based on an old revision.
pub(crate) fn modified(ctx: &Ctx) -> Status {
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    Status::conflict(&ctx.row.group, &ctx.row.plural, &ctx.info.name, why)
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        Lost::Refused(status)
    }
}

async fn attempt(
    ctx: &Ctx,
    change: Change<'_>,
    kv: &KeyValue,
    old: &Value,
    wanted: Value,
) -> Result<Value, Lost> {
    check_identity(ctx, old, &wanted)?;
    let mut new = merge(&ctx.row, change.part, old, wanted);
    if change.part == Part::Main && allocate::concerns(&ctx.row) {
        allocate::carry_over(&mut new, old);
    }
    kind::default(&ctx.row, &mut new);
    if change.part == Part::Status {
        kind::prepare_status(&ctx.row, &mut new, old, change.sub, ctx.now);
    }
    if change.managed == Managed::Record {
        fields::record(ctx, change.sub, Some(old), &mut new)?;
    }
    mutate(
        ctx,
        Operation::Update,
        change.sub,
        &ctx.info.name,
        Some(old),
        &mut new,
    )
    .await?;
    kind::default(&ctx.row, &mut new);
    if change.part == Part::Main {
        kind::prepare_update(&ctx.row, &mut new, old);
    }
    bump_generation(&ctx.row, change.part, old, &mut new);
    check(ctx, change.part, old, &new)?;
    let _turn = match change.part {
        Part::Status => None,
        _ => turns::take(ctx, object::namespace(&new)).await?,
    };
    validate(
        ctx,
        Operation::Update,
        change.sub,
        &ctx.info.name,
        Some(old),
        &new,
    )
    .await?;
    escalation::check(ctx, Some(old), &new)?;
    finish(ctx, kv, old, new).await
}

async fn finish(ctx: &Ctx, kv: &KeyValue, old: &Value, mut new: Value) -> Result<Value, Lost> {
    if same(old, &new) {
        return Ok(old.clone());
    }
    if released(&new) {
        commit(ctx, &kv.key, Some(kv.mod_revision), Some(old), None).await?;
        return Ok(new);
    }
    if let Some(revision) = commit(
        ctx,
        &kv.key,
        Some(kv.mod_revision),
        Some(old),
        Some(&mut new),
    )
    .await?
    {
        object::set_revision(&mut new, revision);
    }
    Ok(new)
}

/// Name, UID and revision, as far as the caller gave them, must be those of the live object.
fn check_identity(ctx: &Ctx, old: &Value, wanted: &Value) -> Result<(), Lost> {
    let (name, url) = (object::name(wanted), ctx.info.name.as_str());
    if !name.is_empty() && name != url {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({url})"
        ))
        .into());
    }
    let (ns, url) = (object::namespace(wanted), object::namespace(old));
    if !ns.is_empty() && ns != url {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({ns}) does not match the namespace on the URL ({url})"
        ))
        .into());
    }
    let (uid, live) = (
        object::text(wanted, "/metadata/uid"),
        object::text(old, "/metadata/uid"),
    );
    if !uid.is_empty() && uid != live {
        let why =
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {live}");
        return Err(Status::conflict(&ctx.row.group, &ctx.row.plural, &ctx.info.name, &why).into());
    }
    match object::revision(wanted)? {
        0 if CONDITIONAL_ONLY.contains(&(&ctx.row.group, &ctx.row.plural)) => {
            let cause = Cause {
                reason: "FieldValueInvalid",
                field: "metadata.resourceVersion".into(),
                message: "Invalid value: 0: must be specified for an update".into(),
            };
            Err(Status::invalid(&ctx.row.group, &ctx.row.kind, &ctx.info.name, vec![cause]).into())
        }
        0 => Ok(()),
        asked if asked == object::revision(old)? => Ok(()),
        _ => Err(modified(ctx).into()),
    }
}

/// The new object: the wanted part from the caller, everything else from the live object.
fn merge(row: &Resource, part: Part, old: &Value, mut wanted: Value) -> Value {
    if part == Part::Status {
        return merge_status(row, old, wanted);
    }
    let live = old.get("metadata").cloned().unwrap_or_default();
    let meta = object::meta_mut(&mut wanted);
    for field in KEPT_METADATA {
        match live.get(field) {
            Some(value) => meta.insert((*field).to_owned(), value.clone()),
            None => meta.remove(*field),
        };
    }
    keep_managed(meta, live.as_object());
    object::set_type(row, &mut wanted);
    wanted
}

/// Metadata the API server alone writes.
const KEPT_METADATA: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generateName",
    "generation",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The live object with the wanted status, and with the wanted metadata that the kind lets a status bring along.
fn merge_status(row: &Resource, old: &Value, wanted: Value) -> Value {
    let mut new = old.clone();
    let Some(map) = new.as_object_mut() else {
        return wanted;
    };
    match wanted.get("status") {
        Some(status) => map.insert("status".into(), status.clone()),
        None => map.remove("status"),
    };
    let live = old.get("metadata").and_then(Value::as_object);
    let mut meta = match wanted.get("metadata") {
        Some(Value::Object(asked)) => asked.clone(),
        _ => live.cloned().unwrap_or_default(),
    };
    let keeps = KEPT_METADATA.iter().chain(row.strategy.status_keeps);
    for field in keeps {
        match live.and_then(|m| m.get(*field)) {
            Some(value) => meta.insert((*field).to_owned(), value.clone()),
            None => meta.remove(*field),
        };
    }
    keep_managed(&mut meta, live);
    map.insert("metadata".into(), Value::Object(meta));
    new
}

/// Who writes without a word on managed fields leaves them as they are.
fn keep_managed(meta: &mut Map<String, Value>, live: Option<&Map<String, Value>>) {
    if !meta.contains_key("managedFields")
        && let Some(fields) = live.and_then(|m| m.get("managedFields"))
    {
        meta.insert("managedFields".into(), fields.clone());
    }
}

fn bump_generation(row: &Resource, part: Part, old: &Value, new: &mut Value) {
    if row.strategy.no_generation || part == Part::Status || old.get("spec") == new.get("spec") {
        return;
    }
    let before = old
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    object::meta_mut(new).insert("generation".into(), json!(before + 1));
}

fn check(ctx: &Ctx, part: Part, old: &Value, new: &Value) -> Result<(), Lost> {
    let (row, strategy) = (&ctx.row, &ctx.row.strategy);
    let mut causes = validate_meta(row, new);
    causes.extend(keelson_api::validate::object_meta_update(new, old));
    let change = match part {
        Part::Main => strategy.validate_update,
        Part::Status => strategy.validate_status,
        Part::Other => None,
    };
    if part != Part::Status {
        causes.extend(kind::validate(row, new));
    }
    causes.extend(kind::validate_change(row, change, new, old));
    if causes.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&ctx.row.group, &ctx.row.kind, &ctx.info.name, causes).into())
}

/// Whether nothing changed but the times in managed fields.
fn same(old: &Value, new: &Value) -> bool {
    let strip = |v: &Value| {
        let mut v = v.clone();
        if let Some(entries) = v
            .pointer_mut("/metadata/managedFields")
            .and_then(Value::as_array_mut)
        {
            entries
                .iter_mut()
                .filter_map(Value::as_object_mut)
                .for_each(|e| {
                    e.remove("time");
                });
        }
        v
    };
    old == new || strip(old) == strip(new)
}

/// Whether an object that is being deleted is held by nothing any more.
pub(crate) fn released(object: &Value) -> bool {
    let grace = object
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    let namespace = object.get("kind").and_then(Value::as_str) == Some("Namespace")
        && !object::items(object, "/spec/finalizers").is_empty();
    object::deleting(object) && grace == 0 && object::finalizers(object).is_empty() && !namespace
}

/// Checks of metadata that hold for every kind.
pub(crate) fn validate_meta(row: &Resource, object: &Value) -> Vec<Cause> {
    keelson_api::validate::object_meta(object, row)
}

/// Writes an object (`new` `None`: removes it), with what belongs to it in the same transaction. Gives the
/// revision, or `None` when the request is a dry run.
pub(crate) async fn commit(
    ctx: &Ctx,
    key: &str,
    expected: Option<Revision>,
    old: Option<&Value>,
    new: Option<&mut Value>,
) -> Result<Option<Revision>, Lost> {
    let dry_run = ctx.dry_run();
    if allocate::concerns(&ctx.row) {
        return allocate::commit(&ctx.server, &ctx.row, key, expected, old, new, dry_run).await;
    }
    if dry_run {
        return dry(&ctx.server, key, expected).await;
    }
    let bytes = new.map(|o| object::save(&ctx.row, o));
    ctx.server
        .store
        .swap(key, expected, bytes)
        .await
        .map(Some)
        .map_err(lost)
}

/// What a commit would have found.
pub(crate) async fn dry(
    server: &Server,
    key: &str,
    expected: Option<Revision>,
) -> Result<Option<Revision>, Lost> {
    let now = server.store.get(key).await.map_err(lost)?;
    if now.as_ref().map(|kv| kv.mod_revision) == expected {
        Ok(None)
    } else {
        Err(Lost::Race(now))
    }
}

/// A store's refusal of a single write.
pub(crate) fn lost(error: StoreError) -> Lost {
    match error {
        StoreError::Conflict { current, .. } => Lost::Race(current),
        other => Lost::Refused(store_error(other)),
    }
}
