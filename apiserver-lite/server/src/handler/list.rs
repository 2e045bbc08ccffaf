//! `list`: pages of one revision.

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use keelson_api::{Cause, Resource, Scope, Status};
use keelson_store::{KeyValue, Range, Revision};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Ctx;
use super::filter::Filter;
use crate::object;
use crate::state::{Server, store_error};

/// Keys read from the store at once when a selector thins out what a page holds.
const CHUNK: usize = 500;

/// Where a list goes on: opaque to clients.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Continue {
    /// Marks the token as one of ours.
    v: String,
    /// The revision of the first page; 0: that is gone, and the list goes on with what is there now.
    rv: Revision,
    /// The last key looked at.
    after: String,
    /// How many keys come after it, where that is told: at one revision they need no second count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
}

const TOKEN_VERSION: &str = "keelson/v1";

/// A page of objects.
pub(crate) struct Listed<T = Value> {
    /// The objects, as the row serves them.
    pub(crate) items: Vec<T>,
    /// The revision they show.
    pub(crate) revision: Revision,
    token: String,
    remaining: Option<u64>,
}

impl<T> Listed<T> {
    /// The list's metadata.
    fn meta(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if !self.token.is_empty() {
            meta["continue"] = json!(self.token);
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = json!(remaining);
        }
        meta
    }
}

/// Answers a list.
pub(crate) async fn run(ctx: &Ctx) -> Result<Response<Body>, Status> {
    let filter = Filter::of(ctx)?;
    let (range, left) = range(ctx).await?;
    let after = range.after.clone();
    let row = &ctx.row;
    let answered = if ctx.verbatim() && filter.is_empty() {
        let encoded = |kv: &KeyValue| object::encoded(row, kv, kv.mod_revision).map(Some);
        let listed = read(&ctx.server, true, range, left, encoded).await;
        listed.map(|listed| ctx.json(joined(row, &listed)))
    } else {
        let listed = pages(&ctx.server, row, &filter, range, left).await;
        listed.map(|listed| ctx.answer(200, list(row, &listed.meta(), listed.items)))
    };
    match (answered, after) {
        (Err(status), Some(after)) if status.code == 410 => Ok(go_on(ctx, after)),
        (answered, _) => answered,
    }
}

fn list(row: &Resource, meta: &Value, items: Vec<Value>) -> Value {
    json!({
        "apiVersion": row.api_version(),
        "kind": row.list_kind,
        "metadata": meta,
        "items": items,
    })
}

/// A list of items that are encoded already.
fn joined(row: &Resource, listed: &Listed<Vec<u8>>) -> Vec<u8> {
    let (version, kind) = (json!(row.api_version()), json!(row.list_kind));
    let meta = listed.meta();
    let mut out =
        format!("{{\"apiVersion\":{version},\"kind\":{kind},\"metadata\":{meta},\"items\":[")
            .into_bytes();
    out.extend(listed.items.join(&b','));
    out.extend(b"]}");
    out
}

/// 410 for a page of a revision that is gone, with a token that goes on in what is there now.
fn go_on(ctx: &Ctx, after: String) -> Response<Body> {
    let status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let mut value = status.to_value();
    let on = Continue {
        v: TOKEN_VERSION.to_owned(),
        rv: 0,
        after,
        left: None,
    };
    value["metadata"] = json!({"continue": token(&on)});
    ctx.plain(status.code, &value)
}

/// All objects of a row, now.
pub(crate) async fn all(
    server: &Server,
    row: &Resource,
    namespace: &str,
) -> Result<Listed, Status> {
    let range = Range {
        prefix: object::prefix(row, namespace),
        ..Range::default()
    };
    pages(server, row, &Filter::default(), range, None).await
}

/// Reads until the page is full, leaving out what the filter does not match. `left`: as [`read`] has it.
pub(crate) async fn pages(
    server: &Server,
    row: &Resource,
    filter: &Filter,
    range: Range,
    left: Option<u64>,
) -> Result<Listed, Status> {
    let matching = |kv: &KeyValue| {
        let object = object::load(row, kv)?;
        Ok(Some(object).filter(|o| filter.matches(row, o)))
    };
    read(server, filter.is_empty(), range, left, matching).await
}

/// Reads until the page is full of what `take` makes of the keys. `whole` says that it takes every key: only then is it
/// told how many come after the page. `left`: how many come after `range.after`, if that is known.
pub(crate) async fn read<T>(
    server: &Server,
    whole: bool,
    range: Range,
    left: Option<u64>,
    mut take: impl FnMut(&KeyValue) -> Result<Option<T>, Status>,
) -> Result<Listed<T>, Status> {
    let mut items = Vec::new();
    let mut after = range.after.clone();
    let mut revision = range.revision;
    let chunk = if whole || range.limit == 0 {
        range.limit
    } else {
        range.limit.max(CHUNK)
    };
    loop {
        let ask = Range {
            prefix: range.prefix.clone(),
            after: after.clone(),
            limit: chunk,
            revision,
            uncounted: !whole || left.is_some(),
        };
        let page = server.store.list(ask).await.map_err(list_error)?;
        revision = Some(page.revision);
        let count = page.items.len();
        let behind = match left {
            Some(left) if page.remaining > 0 => left.saturating_sub(count as u64).max(1),
            _ => page.remaining,
        };
        for (index, kv) in page.items.into_iter().enumerate() {
            items.extend(take(&kv)?);
            after = Some(kv.key);
            if range.limit > 0 && items.len() == range.limit {
                let remaining = behind + (count - index - 1) as u64;
                return Ok(listed(whole, items, page.revision, after, remaining));
            }
        }
        if page.remaining == 0 {
            return Ok(listed(whole, items, page.revision, after, 0));
        }
    }
}

fn listed<T>(
    whole: bool,
    items: Vec<T>,
    revision: Revision,
    after: Option<String>,
    remaining: u64,
) -> Listed<T> {
    let told = (remaining > 0 && whole).then_some(remaining);
    let token = match after {
        Some(after) if remaining > 0 => token(&Continue {
            v: TOKEN_VERSION.to_owned(),
            rv: revision,
            after,
            left: told,
        }),
        _ => String::new(),
    };
    Listed {
        items,
        revision,
        token,
        remaining: told,
    }
}

fn token(at: &Continue) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(at).unwrap_or_default())
}

fn read_token(text: &str, prefix: &str) -> Result<Continue, Status> {
    let invalid = || Status::bad_request("continue key is not valid");
    let bytes = URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| invalid())?;
    let at: Continue = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
    if at.v != TOKEN_VERSION || !at.after.starts_with(prefix) {
        return Err(invalid());
    }
    Ok(at)
}

/// Where the keys are that a list or watch is about. One object's is all that is read when the selector names it; that
/// longer names begin the same is the filter's to see.
pub(crate) fn prefix(ctx: &Ctx) -> String {
    let (row, info) = (&ctx.row, &ctx.info);
    let all = object::prefix(row, &info.namespace);
    let whole = row.scope == Scope::Namespaced && info.namespace.is_empty();
    match info.one() {
        Some(name) if !whole => all + name,
        _ => all,
    }
}

/// What to read, from `limit`, `continue`, `resourceVersion` and `resourceVersionMatch`, and how many keys are left if
/// the page before knew.
async fn range(ctx: &Ctx) -> Result<(Range, Option<u64>), Status> {
    let prefix = prefix(ctx);
    let limit = ctx.query.number("limit")?.unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(0);
    let asked = asked_revision(ctx)?;
    let matching = ctx.query.get("resourceVersionMatch");
    if ctx.query.get("sendInitialEvents").is_some() {
        return Err(forbidden(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for list",
        ));
    }
    if let Some(text) = ctx.query.get("continue") {
        if matching.is_some() {
            return Err(forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if asked.is_some_and(|rv| rv != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let at = read_token(text, &prefix)?;
        let range = Range {
            prefix,
            after: Some(at.after),
            limit,
            revision: Some(at.rv).filter(|rv| *rv != 0),
            ..Range::default()
        };
        return Ok((range, at.left));
    }
    let exact = match matching {
        Some("Exact") => true,
        Some("NotOlderThan") => false,
        Some(other) => {
            let supported = "supported values: \"Exact\", \"NotOlderThan\"";
            return Err(invalid(
                "FieldValueNotSupported",
                "resourceVersionMatch",
                format!("Unsupported value: {other:?}: {supported}"),
            ));
        }
        None => limit > 0 && asked.is_some_and(|rv| rv != 0),
    };
    if matching.is_some() && asked.is_none() {
        return Err(forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ));
    }
    if exact && asked == Some(0) {
        return Err(forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
        ));
    }
    let Some(rv) = asked.filter(|rv| *rv != 0) else {
        let range = Range {
            prefix,
            limit,
            ..Range::default()
        };
        return Ok((range, None));
    };
    not_future(&ctx.server, rv).await?;
    let range = Range {
        prefix,
        limit,
        revision: exact.then_some(rv),
        ..Range::default()
    };
    Ok((range, None))
}

fn invalid(reason: &'static str, field: &str, message: String) -> Status {
    let field = field.to_owned();
    let cause = Cause {
        reason,
        field,
        message,
    };
    Status::invalid("meta.k8s.io", "ListOptions", "", vec![cause])
}

/// 422 for a parameter that may not stand here.
pub(crate) fn forbidden(field: &str, why: &str) -> Status {
    invalid("FieldValueForbidden", field, format!("Forbidden: {why}"))
}

/// `resourceVersion` of the query.
pub(crate) fn asked_revision(ctx: &Ctx) -> Result<Option<Revision>, Status> {
    let Some(text) = ctx.query.get("resourceVersion") else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        invalid(
            "FieldValueInvalid",
            "resourceVersion",
            format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"),
        )
    })
}

/// 504 for a revision that was not written yet, in the words clients look for.
pub(crate) async fn not_future(server: &Server, asked: Revision) -> Result<(), Status> {
    let now = server.store.revision().await.map_err(store_error)?;
    if asked <= now {
        Ok(())
    } else {
        Err(too_large(asked, now))
    }
}

/// 504 `Too large resource version`.
pub(crate) fn too_large(asked: Revision, now: Revision) -> Status {
    let mut status = Status::new(
        504,
        "Timeout",
        format!("Timeout: Too large resource version: {asked}, current: {now}"),
    );
    status.retry_after = Some(1);
    status.causes.push(Cause {
        reason: "ResourceVersionTooLarge",
        field: String::new(),
        message: "Too large resource version".into(),
    });
    status
}

fn list_error(error: keelson_store::Error) -> Status {
    match error {
        keelson_store::Error::Compacted { .. } => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        other => store_error(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_checked() {
        let at = Continue {
            v: TOKEN_VERSION.into(),
            rv: 7,
            after: "/registry/pods/a/b".into(),
            left: Some(3),
        };
        let text = token(&at);
        assert_eq!(read_token(&text, "/registry/pods/").expect("ours"), at);
        for (text, prefix) in [
            (text.as_str(), "/registry/secrets/"),
            ("%%%", "/registry/pods/"),
            ("e30", "/registry/pods/"),
            ("", "/registry/pods/"),
        ] {
            assert_eq!(read_token(text, prefix).expect_err(text).code, 400);
        }
    }
}
