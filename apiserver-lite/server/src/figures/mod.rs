//! metrics.k8s.io: what nodes and pods use, for `kubectl top` and autoscaling, with nothing installed.
//!
//! It is computed from two readings of the agents' `/metrics/resource`. They are asked when somebody asks here, and the
//! answer is kept for some seconds; what a node does not tell is left out, as metrics-server has it.

mod rate;
mod text;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use futures::{StreamExt, stream};
use http::Response;
use jiff::Timestamp;
use keelson_api::quantity::{Format, Quantity};
use keelson_api::{Resource, Scope, Status};
use serde_json::{Value, json};

use crate::connect;
use crate::handler::filter::Filter;
use crate::handler::{Ctx, list, method_not_allowed};
use crate::object;
use crate::state::Server;
use rate::{Known, Need, Use};
use text::Sample;

const PATH: &str = "/metrics/resource";
/// Between two readings when there is no earlier one.
const BETWEEN: Duration = Duration::from_secs(1);
/// How long one node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nodes asked at once.
const PARALLEL: usize = 32;
/// The largest answer of a node, bytes.
const LARGEST: usize = 32 << 20;

/// A node's readings; the lock is held while it is asked, so that many questions at once are one.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Known>>>>;

/// Readings of nodes that were asked about lately.
#[derive(Default)]
pub(crate) struct Samples(Mutex<HashMap<String, Slot>>);

impl Samples {
    /// The place of a node.
    fn slot(&self, node: &str) -> Slot {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(node.to_owned()).or_default().clone()
    }

    /// Forgets what is too old to be of use.
    fn sweep(&self, now: Timestamp) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, slot| match slot.try_lock() {
            Ok(known) => rate::need(known.as_deref(), now) != Need::Two,
            // It is being asked.
            Err(_) => true,
        });
    }
}

/// Whether a row is measured here.
pub(crate) fn are(row: &Resource) -> bool {
    row.group == "metrics.k8s.io"
}

/// Answers a get or a list.
pub(crate) async fn run(ctx: &Ctx) -> Result<Response<Body>, Status> {
    let named = match ctx.info.verb.as_str() {
        "get" => true,
        "list" => false,
        _ => return Err(method_not_allowed(ctx)),
    };
    let pods = ctx.row.scope == Scope::Namespaced;
    let subjects = subjects(ctx, pods).await?;
    if named && subjects.is_empty() {
        let plural = if pods { "pods" } else { "nodes" };
        return Err(Status::not_found("", plural, &full_name(ctx)));
    }
    let items = match pods {
        true => of_pods(ctx, &subjects).await?,
        false => of_nodes(ctx, &subjects).await,
    };
    ctx.server.figures.sweep(ctx.now);
    if !named {
        let list = json!({
            "kind": ctx.row.list_kind, "apiVersion": ctx.row.api_version(), "metadata": {}, "items": items,
        });
        return Ok(ctx.answer(200, list));
    }
    let singular = ctx.row.singular.to_string();
    let missing = || Status::not_found(&ctx.row.group, &singular, &full_name(ctx));
    let item = items.into_iter().next().ok_or_else(missing)?;
    Ok(ctx.answer(200, item))
}

fn full_name(ctx: &Ctx) -> String {
    match ctx.info.namespace.as_str() {
        "" => ctx.info.name.clone(),
        namespace => format!("{namespace}/{}", ctx.info.name),
    }
}

/// The nodes or pods that are asked about.
async fn subjects(ctx: &Ctx, pods: bool) -> Result<Vec<Value>, Status> {
    let row = ctx
        .server
        .row("", "v1", if pods { "pods" } else { "nodes" })?;
    let filter = Filter::of(ctx)?;
    let all = list::all(&ctx.server, &row, &ctx.info.namespace).await?;
    let items = all.items.into_iter();
    Ok(items.filter(|o| filter.matches(&row, o)).collect())
}

async fn of_nodes(ctx: &Ctx, nodes: &[Value]) -> Vec<Value> {
    let known = readings(&ctx.server, nodes).await;
    let item = |node: &Value| {
        let used = rate::of_node(known.get(object::name(node))?)?;
        let mut item = head(ctx, node, &used);
        item["usage"] = usage(&used);
        Some(item)
    };
    nodes.iter().filter_map(item).collect()
}

async fn of_pods(ctx: &Ctx, pods: &[Value]) -> Result<Vec<Value>, Status> {
    let node_of = |pod: &Value| object::text(pod, "/spec/nodeName").to_owned();
    let wanted: BTreeSet<String> = pods.iter().filter(|p| runs(p)).map(node_of).collect();
    let row = ctx.server.row("", "v1", "nodes")?;
    let nodes = list::all(&ctx.server, &row, "").await?.items;
    let nodes: Vec<Value> = nodes
        .into_iter()
        .filter(|n| wanted.contains(object::name(n)))
        .collect();
    let known = readings(&ctx.server, &nodes).await;
    let item = |pod: &Value| {
        let known = known.get(&node_of(pod))?;
        let used = containers(pod, known)?;
        // All were read within a moment; the pod's time is that of the oldest.
        let (_, oldest) = used.iter().min_by_key(|(_, u)| u.at)?;
        let mut item = head(ctx, pod, oldest);
        let told = |(name, used): &(String, Use)| json!({"name": name, "usage": usage(used)});
        item["containers"] = used.iter().map(told).collect();
        Some(item)
    };
    Ok(pods.iter().filter(|p| runs(p)).filter_map(item).collect())
}

fn runs(pod: &Value) -> bool {
    object::text(pod, "/status/phase") == "Running"
}

/// What the running containers of a pod use; `None` when one is not measured yet: half a pod would mislead.
fn containers(pod: &Value, known: &Known) -> Option<Vec<(String, Use)>> {
    let namespace = object::text(pod, "/metadata/namespace");
    let mut all = Vec::new();
    for list in ["containerStatuses", "initContainerStatuses"] {
        for status in object::items(pod, &format!("/status/{list}")) {
            if status.pointer("/state/running").is_none() {
                continue;
            }
            let name = object::text(status, "/name").to_owned();
            let key = (
                namespace.to_owned(),
                object::name(pod).to_owned(),
                name.clone(),
            );
            all.push((name, rate::of_container(known, &key)?));
        }
    }
    Some(all).filter(|all| !all.is_empty())
}

/// Kind, name, labels and time of an item.
fn head(ctx: &Ctx, of: &Value, used: &Use) -> Value {
    let mut metadata = json!({"name": object::name(of), "creationTimestamp": seconds(ctx.now)});
    for field in ["namespace", "labels"] {
        if let Some(value) = of.pointer(&format!("/metadata/{field}")) {
            metadata[field] = value.clone();
        }
    }
    json!({
        "kind": ctx.row.kind, "apiVersion": ctx.row.api_version(), "metadata": metadata,
        "timestamp": seconds(used.at), "window": rate::go(used.window),
    })
}

fn usage(used: &Use) -> Value {
    // Whole KiB, as metrics-server tells them.
    let memory = Quantity::new(used.memory / 1024 * 1024, Format::Binary);
    json!({"cpu": Quantity::from_nano(used.cpu).to_string(), "memory": memory.to_string()})
}

fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}

/// What is known of each node now; those that do not answer are not in it.
async fn readings(server: &Server, nodes: &[Value]) -> HashMap<String, Arc<Known>> {
    let read = |node: &Value| {
        let node = node.clone();
        async move {
            let name = object::name(&node).to_owned();
            match reading(server, &node, &name).await {
                Ok(known) => Some((name, known)),
                Err(error) => {
                    tracing::debug!(node = name, error, "figures cannot be had");
                    None
                }
            }
        }
    };
    let all = stream::iter(nodes.iter().map(read).collect::<Vec<_>>());
    all.buffer_unordered(PARALLEL)
        .filter_map(std::future::ready)
        .collect()
        .await
}

async fn reading(server: &Server, node: &Value, name: &str) -> Result<Arc<Known>, String> {
    let slot = server.figures.slot(name);
    let mut slot = slot.lock().await;
    let before = match (rate::need(slot.as_deref(), Timestamp::now()), slot.take()) {
        (Need::Nothing, Some(known)) => {
            *slot = Some(known.clone());
            return Ok(known);
        }
        (Need::One, Some(known)) => Arc::unwrap_or_clone(known).last,
        _ => {
            let first = ask(server, node).await?;
            tokio::time::sleep(BETWEEN).await;
            first
        }
    };
    let last = ask(server, node).await?;
    let known = Arc::new(Known { before, last });
    *slot = Some(known.clone());
    Ok(known)
}

async fn ask(server: &Server, node: &Value) -> Result<Sample, String> {
    let asked = connect::ask(&server.dialer, node, PATH, LARGEST);
    let timed = tokio::time::timeout(PATIENCE, asked).await;
    let body = timed.map_err(|_| "the agent does not answer".to_owned())??;
    let text = std::str::from_utf8(&body).map_err(|e| e.to_string())?;
    Ok(text::read(text, Timestamp::now()))
}
