//! The routes that only look: health, figures, metrics.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query as UrlQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header;
use serde_json::Value;

use super::figures::text::CONTENT_TYPE;
use super::figures::{self, Depth, Rates};
use super::{Config, Refusal};
use crate::node;

/// What the routes see.
struct Looks {
    config: Arc<Config>,
    rates: Rates,
}

type App = State<Arc<Looks>>;

/// The routes, without a guard.
pub(super) fn router(config: Arc<Config>) -> Router {
    let rates = Rates::default();
    Router::new()
        .route("/healthz", get(healthz))
        .route("/healthz/{check}", get(healthz))
        .route("/stats/summary", get(stats_summary))
        .route("/stats/summary/", get(stats_summary))
        .route("/metrics", get(metrics))
        .route("/metrics/resource", get(metrics_resource))
        .route("/metrics/cadvisor", get(metrics_cadvisor))
        .route("/metrics/probes", get(metrics_probes))
        .with_state(Arc::new(Looks { config, rates }))
}

/// Files of procfs, sysfs and cgroups: quick, but they block.
async fn read<T: Send + 'static>(
    app: &Config,
    read: fn(&node::Roots) -> Result<T, node::Error>,
) -> Result<T, Refusal> {
    let roots = app.roots.clone();
    let done = tokio::task::spawn_blocking(move || read(&roots)).await;
    done.map_err(Refusal::internal)?.map_err(Refusal::internal)
}

async fn stats_summary(
    State(app): App,
    UrlQuery(query): UrlQuery<HashMap<String, String>>,
) -> Result<Json<Value>, Refusal> {
    let little = query.get("only_cpu_and_memory");
    let depth = match little.is_some_and(|v| v == "true" || v == "1") {
        true => Depth::Resource,
        false => Depth::Disk,
    };
    let (facts, load) = (
        read(&app.config, node::read).await?,
        read(&app.config, node::load).await?,
    );
    let system = app.config.pods.system(depth).await;
    let pods = app.config.pods.usage(depth).await;
    let node = figures::Node {
        name: &app.config.node_name,
        facts: &facts,
        load: &load,
        system: &system,
    };
    Ok(Json(figures::summary(&node, &pods, &app.rates, depth)))
}

fn prometheus(text: String) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

async fn metrics(State(app): App) -> Response {
    prometheus((app.config.metrics)())
}

async fn metrics_probes(State(app): App) -> Response {
    prometheus(app.config.pods.probe_metrics())
}

async fn metrics_resource(State(app): App) -> Response {
    let node = read(&app.config, node::load).await.ok();
    let pods = app.config.pods.usage(Depth::Resource).await;
    prometheus(figures::resource(node.as_ref(), &pods))
}

async fn metrics_cadvisor(State(app): App) -> Result<Response, Refusal> {
    let facts = read(&app.config, node::read).await?;
    let load = read(&app.config, node::load).await?;
    let pods = app.config.pods.usage(Depth::Cgroups).await;
    Ok(prometheus(figures::cadvisor(&facts, &load, &pods)))
}

/// The checks of `/healthz`: each by itself, or all.
async fn healthz(State(app): App, check: Option<Path<String>>) -> Response {
    const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];
    let wanted: Vec<&str> = match &check {
        None => CHECKS.to_vec(),
        Some(Path(one)) => CHECKS.into_iter().filter(|c| c == one).collect(),
    };
    if wanted.is_empty() {
        return Refusal::not_found("404 page not found").into_response();
    }
    let failed = app.config.pods.unhealthy();
    match failed.filter(|_| wanted.contains(&"syncloop")) {
        None => "ok".into_response(),
        Some(why) if check.is_some() => {
            Refusal::internal(format!("internal server error: {why}")).into_response()
        }
        Some(why) => {
            let line = |c: &&str| match *c {
                "syncloop" => format!("[-]syncloop failed: {why}\n"),
                other => format!("[+]{other} ok\n"),
            };
            let lines: String = CHECKS.iter().map(line).collect();
            let text = format!("{lines}healthz check failed\n");
            (http::StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}
