//! The routes.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query as UrlQuery, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router, middleware};
use futures::StreamExt;
use http::header;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::auth::{self, Guard};
use super::lines::{Query, Selection};
use super::upgrade::{self, Agreed, Upgrade};
use super::{Config, ExecOptions, Refusal, exec, forward, logs, looks, websocket};

type App = State<Arc<Config>>;
type Names = Path<(String, String, String)>;

/// The endpoint as a tower service, to be served over TLS by `keelson_serving::serve`, which puts the
/// client's [`keelson_serving::Identity`] on each request.
pub fn router(config: Config) -> Router {
    let guard = Guard::new(config.node_name.clone(), config.client.clone());
    let config = Arc::new(config);
    Router::new()
        .route("/pods", get(pods))
        .route("/pods/", get(pods))
        .route("/runningpods", get(running_pods))
        .route("/runningpods/", get(running_pods))
        .route(
            "/containerLogs/{namespace}/{pod}/{container}",
            get(container_logs),
        )
        .route("/exec/{namespace}/{pod}/{container}", any(exec_in))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(exec_uid))
        .route("/attach/{namespace}/{pod}/{container}", any(attach))
        .route(
            "/attach/{namespace}/{pod}/{uid}/{container}",
            any(attach_uid),
        )
        .route(
            "/run/{namespace}/{pod}/{container}",
            axum::routing::post(run),
        )
        .route("/portForward/{namespace}/{pod}", any(port_forward))
        .route(
            "/portForward/{namespace}/{pod}/{uid}",
            any(port_forward_uid),
        )
        .route("/configz", get(configz))
        .route(
            "/keelson/storage/{name}",
            axum::routing::delete(remove_storage),
        )
        .fallback(|| async { Refusal::not_found("404 page not found") })
        .with_state(config.clone())
        .merge(looks::router(config))
        .layer(middleware::from_fn_with_state(guard, auth::check))
}

async fn pods(State(app): App) -> Json<Value> {
    Json(pod_list(app.pods.pods().await))
}

async fn running_pods(State(app): App) -> Json<Value> {
    let running = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    Json(pod_list(
        app.pods.pods().await.into_iter().filter(running).collect(),
    ))
}

fn pod_list(pods: Vec<Pod>) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods})
}

async fn container_logs(
    State(app): App,
    Path((ns, pod, name)): Names,
    UrlQuery(query): UrlQuery<Query>,
    request: Request,
) -> Result<Response, Refusal> {
    let selection = Selection::new(&query, jiff::Timestamp::now())?;
    let container = app.pods.container(&ns, &pod, &name, query.previous).await?;
    let follow = query.follow && container.running;
    let alive = follow.then(|| exec::log::alive(app.pods.clone(), ns, pod, name, container.id));
    let path = container.log_path;
    let log = logs::Log::open(path.clone(), selection, alive).await;
    let log =
        log.map_err(|e| Refusal::internal(format!("failed to open log file {path:?}: {e}")))?;
    let (send, receive) = mpsc::channel(8);
    tokio::spawn(async move {
        if let Err(e) = log.send(send).await {
            tracing::warn!(log = %path.display(), error = %e, "endpoint: container log");
        }
    });
    if upgrade::is_websocket(request.headers()) {
        let upgrade = Upgrade::new(request, &upgrade::LOG)?;
        return Ok(upgrade.spawn(|agreed, io| async move {
            if let Agreed::WebSocket(protocol) = agreed {
                websocket::send_all(io, protocol, receive).await;
            }
        }));
    }
    let body =
        ReceiverStream::new(receive).map(|(_, bytes)| Ok::<_, std::convert::Infallible>(bytes));
    Ok((
        [(header::CONTENT_TYPE, "text/plain")],
        Body::from_stream(body),
    )
        .into_response())
}

async fn exec_in(
    State(app): App,
    Path((ns, pod, name)): Names,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let options = options(query.as_deref().unwrap_or_default())?;
    if options.command.is_empty() {
        return Err(Refusal::bad_request(
            "you must specify at least 1 command for the container",
        ));
    }
    let id = running(&app, &ns, &pod, &name).await?.id;
    let upgrade = Upgrade::new(request, &upgrade::EXEC)?;
    let asked = options.clone();
    let session = async move { app.pods.exec(&id, asked).await };
    Ok(upgrade.spawn(|agreed, io| exec::serve(agreed, io, options, session)))
}

async fn exec_uid(
    app: App,
    Path((ns, pod, _, name)): Path<(String, String, String, String)>,
    query: RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    exec_in(app, Path((ns, pod, name)), query, request).await
}

async fn attach(
    State(app): App,
    Path((ns, pod, name)): Names,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let options = options(query.as_deref().unwrap_or_default())?;
    let container = running(&app, &ns, &pod, &name).await?;
    let session = match app.pods.attach(&container, options.clone()).await? {
        Some(session) => session,
        None if options.stdin => {
            let message = format!(
                "container {name} has no standard input to attach to on this node; use exec, or attach without stdin"
            );
            return Err(Refusal::bad_request(message));
        }
        None => {
            let alive = exec::log::alive(app.pods.clone(), ns, pod, name, container.id.clone());
            exec::log::from_log(&container, alive, options.stderr).await?
        }
    };
    let upgrade = Upgrade::new(request, &upgrade::EXEC)?;
    Ok(upgrade.spawn(|agreed, io| exec::serve(agreed, io, options, async { Ok(session) })))
}

async fn attach_uid(
    app: App,
    Path((ns, pod, _, name)): Path<(String, String, String, String)>,
    query: RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    attach(app, Path((ns, pod, name)), query, request).await
}

async fn running(
    app: &Config,
    ns: &str,
    pod: &str,
    name: &str,
) -> Result<super::ContainerRef, Refusal> {
    let container = app.pods.container(ns, pod, name, false).await?;
    if container.running {
        return Ok(container);
    }
    Err(Refusal::internal(format!(
        "container not found (\"{name}\")"
    )))
}

async fn run(
    State(app): App,
    Path((ns, pod, name)): Names,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let query = query.unwrap_or_default();
    let cmd = parameters(&query)
        .find(|(k, _)| k == "cmd")
        .map(|(_, v)| v)
        .unwrap_or_default();
    let command: Vec<String> = cmd
        .split(' ')
        .filter(|a| !a.is_empty())
        .map(str::to_owned)
        .collect();
    if command.is_empty() {
        return Err(Refusal::bad_request("cmd: must name a command"));
    }
    let id = running(&app, &ns, &pod, &name).await?.id;
    let options = ExecOptions {
        command,
        stdout: true,
        stderr: true,
        ..ExecOptions::default()
    };
    let (output, code) = exec::collect(app.pods.exec(&id, options).await?).await?;
    if code == 0 {
        return Ok(output.into_response());
    }
    Err(Refusal::internal(format!(
        "command exited with {code}: {}",
        String::from_utf8_lossy(&output).trim_end()
    )))
}

/// `command` may come many times, and flags are `1` or `true`; kubectl's API server and the kubelet's own
/// clients name the streams differently.
fn options(query: &str) -> Result<ExecOptions, Refusal> {
    let mut options = ExecOptions::default();
    for (key, value) in parameters(query) {
        let on = matches!(value.as_str(), "1" | "true" | "True" | "TRUE" | "t" | "T");
        match key.as_str() {
            "command" => options.command.push(value),
            "tty" => options.tty = on,
            "stdin" | "input" => options.stdin = on,
            "stdout" | "output" => options.stdout = on,
            "stderr" | "error" => options.stderr = on,
            _ => {}
        }
    }
    // A terminal has one output.
    options.stderr &= !options.tty;
    if !(options.stdin || options.stdout || options.stderr) {
        return Err(Refusal::bad_request(
            "you must specify at least 1 of stdin, stdout, stderr",
        ));
    }
    Ok(options)
}

fn parameters(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let pairs = query.split('&').filter(|p| !p.is_empty());
    pairs
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(k, v)| (decode(k), decode(v)))
}

/// Undoes `%41` and `+`.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let digits = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|d| std::str::from_utf8(d).ok());
        match (first, digits.and_then(|d| u8::from_str_radix(d, 16).ok())) {
            (_, Some(byte)) => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', None) => out.push(b' '),
            (b, None) => out.push(*b),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn port_forward(
    app: App,
    Path((ns, pod)): Path<(String, String)>,
    query: UrlQuery<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Refusal> {
    port_forward_uid(app, Path((ns, pod, String::new())), query, request).await
}

async fn port_forward_uid(
    State(app): App,
    Path((ns, pod, uid)): Names,
    UrlQuery(query): UrlQuery<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Refusal> {
    let ports = query.get("ports").or_else(|| query.get("port"));
    let ports = ports.map(String::as_str).unwrap_or_default().split(',');
    let ports: Vec<u16> = ports.map_while(|p| p.parse().ok()).collect();
    let upgrade = Upgrade::new(request, &upgrade::FORWARD)?;
    if matches!(upgrade.agreed, Agreed::WebSocket(_)) && ports.is_empty() {
        return Err(Refusal::bad_request("query parameter \"port\" is required"));
    }
    let netns = app.pods.netns(&ns, &pod).await?;
    let target = forward::Target { pod, uid, netns };
    Ok(upgrade.spawn(|agreed, io| forward::serve(agreed, io, target, ports)))
}

async fn remove_storage(State(app): App, Path(name): Path<String>) -> Result<Json<Value>, Refusal> {
    app.pods.remove_storage(&name).await?;
    Ok(Json(
        json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
    ))
}

async fn configz(State(app): App) -> Json<Value> {
    Json(json!({"kubeletconfig": app.pods.config()}))
}
