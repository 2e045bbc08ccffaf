//! `watch`: what happened to the objects of a row, as a stream of JSON lines.
//!
//! An event of the store becomes an event of the watch by what the watcher's selectors say of the state
//! before and after: an object that enters is ADDED, one that leaves is DELETED.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{HeaderValue, Response, header};
use keelson_api::{Resource, Status};
use keelson_store::{Error as StoreError, Event, KeyValue, Range, Revision, Watch, WatchMessage};
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Ctx;
use super::filter::Filter;
use super::list;
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
    let plan = Plan::of(ctx)?;
    let mut watcher = Watcher {
        ctx: ctx.clone(),
        filter: Filter::of(ctx)?,
        bookmarks: plan.bookmarks,
        columns_sent: false,
    };
    let prefix = list::prefix(ctx);
    let (first, from) = match plan.from {
        Some(revision) => {
            list::not_future(&ctx.server, revision).await?;
            (Vec::new(), revision)
        }
        None if plan.initial => watcher.initial(&prefix, plan.mark_end).await?,
        None => {
            let revision = ctx.server.store.revision().await.map_err(store_error)?;
            (Vec::new(), revision)
        }
    };
    let live = match ctx.server.store.watch(&prefix, from).await {
        Ok(live) => live,
        Err(error @ StoreError::Compacted { .. }) => stream::iter([Err(error)]).boxed(),
        Err(error) => return Err(store_error(error)),
    };
    Ok(stream_response(events(watcher, plan.lasts, first, live)))
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
            return Err(list::forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if send_initial.is_none() && matching.is_some() {
            return Err(list::forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
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

struct Watcher {
    ctx: Ctx,
    filter: Filter,
    bookmarks: bool,
    columns_sent: bool,
}

impl Watcher {
    /// The lines of the state as it is when the watch begins, and its revision.
    async fn initial(
        &mut self,
        prefix: &str,
        mark_end: bool,
    ) -> Result<(Vec<Bytes>, Revision), Status> {
        let server = self.ctx.server.clone();
        let range = Range {
            prefix: prefix.to_owned(),
            ..Range::default()
        };
        let listed = list::read(&server, true, range, None, |kv| self.first(kv)).await?;
        let (mut lines, revision) = (listed.items, listed.revision);
        if mark_end {
            lines.push(self.bookmark(revision, true));
        }
        Ok((lines, revision))
    }

    fn first(&mut self, kv: &KeyValue) -> Result<Option<Bytes>, Status> {
        let row = self.ctx.row.clone();
        if self.ctx.form == Form::Plain && self.filter.is_empty() {
            let object = object::encoded(&row, kv, kv.mod_revision)?;
            return Ok(Some(framed("ADDED", &object)));
        }
        let object = Some(object::load(&row, kv)?).filter(|o| self.filter.matches(&row, o));
        Ok(object.map(|object| self.line("ADDED", object)))
    }

    /// The line of a store event, if the watcher is to see it.
    fn event(&mut self, event: &Event) -> Result<Option<Bytes>, Status> {
        let row = self.ctx.row.clone();
        let lines = &self.ctx.server.lines;
        let plain = self.ctx.form == Form::Plain;
        if plain && self.filter.is_empty() {
            let Some((kind, kv, revision)) = unfiltered(event) else {
                return Ok(None);
            };
            let make = || Ok(framed(kind, &object::encoded(&row, kv, revision)?));
            return lines.get(&row, kind, event, make).map(Some);
        }
        let Some((kind, object)) = transform(&row, &self.filter, event)? else {
            return Ok(None);
        };
        if plain {
            return lines
                .get(&row, kind, event, || Ok(encode(kind, &object)))
                .map(Some);
        }
        Ok(Some(self.line(kind, object)))
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
    framed(kind, object.to_string().as_bytes())
}

fn framed(kind: &str, object: &[u8]) -> Bytes {
    let mut line = format!("{{\"type\":\"{kind}\",\"object\":").into_bytes();
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    Bytes::from(line)
}

/// What a watcher that sees everything sees of an event, without parsing it.
fn unfiltered(event: &Event) -> Option<(&'static str, &KeyValue, Revision)> {
    match (&event.current, &event.previous) {
        (Some(kv), Some(_)) => Some(("MODIFIED", kv, kv.mod_revision)),
        (Some(kv), None) => Some(("ADDED", kv, kv.mod_revision)),
        (None, Some(kv)) => Some(("DELETED", kv, event.revision)),
        (None, None) => None,
    }
}

/// Lines of recent events in the plain form, made once for all watchers of a version.
#[derive(Default)]
pub(crate) struct Lines {
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    lines: HashMap<(Revision, String, String, &'static str), Bytes>,
    bytes: usize,
}

/// How many bytes of lines are kept. Watchers take an event at about the same time, so a few are enough.
const LINES_BYTES: usize = 4 * 1024 * 1024;

impl Lines {
    fn get(
        &self,
        row: &Resource,
        kind: &'static str,
        event: &Event,
        make: impl FnOnce() -> Result<Bytes, Status>,
    ) -> Result<Bytes, Status> {
        let id = (event.revision, event.key.clone(), row.api_version(), kind);
        let made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = made().lines.get(&id) {
            return Ok(line.clone());
        }
        let line = make()?;
        let mut made = made();
        if made.bytes + line.len() > LINES_BYTES {
            *made = Made::default();
        }
        if made.lines.insert(id, line.clone()).is_none() {
            made.bytes += line.len();
        }
        Ok(line)
    }
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
    watcher: Watcher,
    lasts: Duration,
    first: Vec<Bytes>,
    live: Watch,
) -> BoxStream<'static, Bytes> {
    let ends = Instant::now() + lasts;
    let server = watcher.ctx.server.clone();
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
