//! `watch`: what happened to the objects of a row, as a stream of JSON lines.
//!
//! An event of the store becomes an event of the watch by what the watcher's selectors say of the state
//! before and after: an object that enters is ADDED, one that leaves is DELETED.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{HeaderValue, Response, header};
use keelson_api::{Cause, Resource, Status};
use keelson_store::{Error as StoreError, Event, Range, Revision, Watch, WatchMessage};
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Ctx;
use super::filter::Filter;
use super::list::{self, Listed};
use crate::negotiate::Form;
use crate::object;
use crate::state::store_error;
use crate::table;

/// How long a watch lasts when the client does not say: between this and twice this.
const DEFAULT_SECONDS: u64 = 1800;
/// The longest a client may ask for.
const MAX_SECONDS: i64 = 24 * 3600;
/// The annotation of the bookmark that ends the initial events.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// Answers a watch.
pub(crate) async fn run(ctx: &Ctx) -> Result<Response<Body>, Status> {
    let filter = Filter::of(ctx)?;
    let plan = Plan::of(ctx)?;
    let prefix = object::prefix(&ctx.row, &ctx.info.namespace);
    let (initial, from) = match plan.from {
        Some(revision) => {
            list::not_future(&ctx.server, revision).await?;
            (None, revision)
        }
        None => {
            let range = Range {
                prefix: prefix.clone(),
                ..Range::default()
            };
            let listed = list::pages(&ctx.server, &ctx.row, &filter, range).await?;
            let revision = listed.revision;
            (Some(listed), revision)
        }
    };
    let live = match ctx.server.store.watch(&prefix, from).await {
        Ok(live) => live,
        Err(error @ StoreError::Compacted { .. }) => stream::iter([Err(error)]).boxed(),
        Err(error) => return Err(store_error(error)),
    };
    let watcher = Watcher {
        ctx: ctx.clone(),
        filter,
        bookmarks: plan.bookmarks,
        columns_sent: false,
    };
    Ok(stream_response(events(watcher, plan, initial, live)))
}

/// What a watch asks for.
struct Plan {
    /// Events after this revision; `None`: the state as it is, then what follows.
    from: Option<Revision>,
    bookmarks: bool,
    /// Whether the state as it is comes first.
    initial: bool,
    /// Whether its end is marked.
    mark_end: bool,
    lasts: Duration,
}

impl Plan {
    fn of(ctx: &Ctx) -> Result<Plan, Status> {
        let asked = list::asked_revision(ctx)?.filter(|rv| *rv != 0);
        let bookmarks = ctx.query.flag("allowWatchBookmarks");
        let send_initial = ctx
            .query
            .get("sendInitialEvents")
            .map(|_| ctx.query.flag("sendInitialEvents"));
        let matching = ctx.query.get("resourceVersionMatch");
        if send_initial.is_some() && matching != Some("NotOlderThan") {
            return Err(forbidden(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
                    .to_owned(),
            ));
        }
        if send_initial.is_none() && matching.is_some() {
            return Err(forbidden(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
                    .into(),
            ));
        }
        let lasts = match ctx.query.number("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => {
                Duration::from_secs(seconds.min(MAX_SECONDS).unsigned_abs())
            }
            _ => {
                Duration::from_secs(rand::rng().random_range(DEFAULT_SECONDS..2 * DEFAULT_SECONDS))
            }
        };
        let from = match send_initial {
            Some(true) => None,
            _ => asked,
        };
        Ok(Plan {
            from,
            bookmarks,
            initial: send_initial != Some(false) && from.is_none(),
            mark_end: send_initial == Some(true) && bookmarks,
            lasts,
        })
    }
}

fn forbidden(message: String) -> Status {
    let message = format!("Forbidden: {message}");
    let cause = Cause {
        reason: "FieldValueForbidden",
        field: "resourceVersionMatch".into(),
        message,
    };
    Status::invalid("meta.k8s.io", "ListOptions", "", vec![cause])
}

struct Watcher {
    ctx: Ctx,
    filter: Filter,
    bookmarks: bool,
    columns_sent: bool,
}

impl Watcher {
    /// The lines of the state as it was when the watch began.
    fn initial(&mut self, listed: Listed, plan: &Plan) -> Vec<Bytes> {
        let mut lines = Vec::new();
        if plan.initial {
            lines.extend(
                listed
                    .items
                    .into_iter()
                    .map(|item| self.line("ADDED", item)),
            );
        }
        if plan.mark_end {
            lines.push(self.bookmark(listed.revision, true));
        }
        lines
    }

    /// The line of a store event, if the watcher is to see it.
    fn event(&mut self, event: &Event) -> Result<Option<Bytes>, Status> {
        let row = self.ctx.row.clone();
        let seen = transform(&row, &self.filter, event)?;
        Ok(seen.map(|(kind, object)| self.line(kind, object)))
    }

    fn line(&mut self, kind: &str, object: Value) -> Bytes {
        let include = self.ctx.query.get("includeObject").map(str::to_owned);
        let now = jiff::Timestamp::now();
        let mut shaped = table::shape(
            &self.ctx.row,
            self.ctx.form,
            include.as_deref(),
            object,
            now,
        );
        if self.ctx.form == Form::Table {
            if self.columns_sent {
                shaped["columnDefinitions"] = Value::Null;
            }
            self.columns_sent = true;
        }
        encode(kind, &shaped)
    }

    fn bookmark(&mut self, revision: Revision, end: bool) -> Bytes {
        let mut object = json!({
            "apiVersion": self.ctx.row.api_version(),
            "kind": self.ctx.row.kind,
            "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null},
        });
        if end {
            object["metadata"]["annotations"] = json!({INITIAL_END: "true"});
        }
        match self.ctx.form {
            Form::Table => self.line("BOOKMARK", object),
            _ => encode("BOOKMARK", &object),
        }
    }

    /// The lines of one message; `Err` ends the watch with an ERROR event.
    fn message(&mut self, message: Result<WatchMessage, StoreError>) -> Result<Vec<Bytes>, Status> {
        match message {
            Ok(WatchMessage::Events(events)) => {
                let mut lines = Vec::with_capacity(events.len());
                for event in &events {
                    lines.extend(self.event(event)?);
                }
                Ok(lines)
            }
            Ok(WatchMessage::Progress(revision)) if self.bookmarks => {
                Ok(vec![self.bookmark(revision, false)])
            }
            Ok(WatchMessage::Progress(_)) => Ok(Vec::new()),
            Err(StoreError::Compacted { asked, oldest }) => Err(Status::expired(format!(
                "too old resource version: {asked} ({oldest})"
            ))),
            Err(StoreError::Slow) => Err(Status::expired(
                "the watch fell behind and must be started anew",
            )),
            Err(other) => Err(store_error(other)),
        }
    }
}

fn encode(kind: &str, object: &Value) -> Bytes {
    let mut line = format!("{{\"type\":\"{kind}\",\"object\":").into_bytes();
    if serde_json::to_writer(&mut line, object).is_err() {
        line.extend_from_slice(b"null");
    }
    line.extend_from_slice(b"}\n");
    Bytes::from(line)
}

/// What a watcher with this filter sees of an event. A deleted object is shown as it last was, at the
/// revision of its deletion.
fn transform(
    row: &Resource,
    filter: &Filter,
    event: &Event,
) -> Result<Option<(&'static str, Value)>, Status> {
    let current = event
        .current
        .as_ref()
        .map(|kv| object::load(row, kv))
        .transpose()?;
    let current = current.filter(|o| filter.matches(row, o));
    let needs_previous = current.is_none() || !filter.is_empty();
    let previous = match &event.previous {
        Some(kv) if needs_previous => {
            Some(object::load(row, kv)?).filter(|o| filter.matches(row, o))
        }
        _ => None,
    };
    let existed = if needs_previous {
        previous.is_some()
    } else {
        event.previous.is_some()
    };
    Ok(match (current, existed) {
        (Some(object), true) => Some(("MODIFIED", object)),
        (Some(object), false) => Some(("ADDED", object)),
        (None, _) => previous.map(|mut object| {
            object::set_revision(&mut object, event.revision);
            ("DELETED", object)
        }),
    })
}

enum Phase {
    Live(Watch),
    Over,
}

fn events(
    mut watcher: Watcher,
    plan: Plan,
    initial: Option<Listed>,
    live: Watch,
) -> BoxStream<'static, Bytes> {
    let ends = Instant::now() + plan.lasts;
    let server = watcher.ctx.server.clone();
    let first = initial
        .map(|listed| watcher.initial(listed, &plan))
        .unwrap_or_default();
    let gauge = server.metrics.watch_started(&watcher.ctx.row);
    let following = stream::unfold(
        (watcher, Phase::Live(live), gauge),
        move |(mut watcher, phase, gauge)| {
            let stop = server.stopping.clone();
            async move {
                let Phase::Live(mut live) = phase else {
                    return None;
                };
                let message = tokio::select! {
                    message = live.next() => message?,
                    () = tokio::time::sleep_until(ends) => return None,
                    () = stop.cancelled() => return None,
                };
                match watcher.message(message) {
                    Ok(lines) => Some((lines, (watcher, Phase::Live(live), gauge))),
                    Err(status) => Some((
                        vec![encode("ERROR", &status.to_value())],
                        (watcher, Phase::Over, gauge),
                    )),
                }
            }
        },
    );
    stream::iter(first)
        .chain(following.flat_map(stream::iter))
        .boxed()
}

fn stream_response(lines: BoxStream<'static, Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from_stream(
        lines.map(Ok::<_, std::convert::Infallible>),
    ));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}
