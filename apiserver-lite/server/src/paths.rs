//! Paths that are not resources: health, version, metrics, discovery, OpenAPI.

use axum::body::Body;
use http::{HeaderMap, Response};
use keelson_api::Status;
use keelson_auth::token::Keys;
use serde_json::{Value, json};

use crate::discovery;
use crate::query::Query;
use crate::request_info::RequestInfo;
use crate::respond::{self, Style};
use crate::router::is_discovery;
use crate::state::{Server, no_such_resource, store_error};

/// Kubernetes version this API is that of: the one of our types.
const MINOR: &str = "36";
/// What `kubectl version` shows.
const GIT_VERSION: &str = concat!("v1.36.0+keelson.", env!("CARGO_PKG_VERSION"));

/// Answers a path.
pub(crate) async fn answer(
    server: &Server,
    info: &RequestInfo,
    query: &Query,
    headers: &HeaderMap,
    style: Style,
) -> Result<Response<Body>, Status> {
    if !matches!(info.verb.as_str(), "get" | "head") {
        return Err(Status::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ));
    }
    let path = info.path.trim_end_matches('/');
    match path {
        "" => Ok(respond::value(200, &index(), style)),
        "/version" => Ok(respond::value(
            200,
            &version(),
            Style {
                pretty: true,
                ..style
            },
        )),
        "/metrics" => {
            let revision = server.store.revision().await.map_err(store_error)?;
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            Ok(respond::bytes(
                200,
                kind,
                server.metrics.render(revision).into(),
                style.gzip,
            ))
        }
        "/openid/v1/jwks" => Ok(respond::value(200, &server.pki.token_keys().jwks(), style)),
        "/.well-known/openid-configuration" => {
            let uri = format!("https://{}/openid/v1/jwks", server.config.advertised());
            Ok(respond::value(200, &Keys::discovery(&uri), style))
        }
        _ if path.starts_with("/openapi/") => discovery::openapi(server, path, headers, style),
        _ if is_discovery(path) => discovery::answer(server, path, headers, style),
        _ => health(server, path, query).await,
    }
}

fn index() -> Value {
    json!({"paths": [
        "/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version",
    ]})
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("linux/{}", arch()),
        "emulationMajor": "1",
        "emulationMinor": MINOR,
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
    })
}

/// `/healthz`, `/livez` and `/readyz`, and their single checks below them.
async fn health(server: &Server, path: &str, query: &Query) -> Result<Response<Body>, Status> {
    let (endpoint, single) = path
        .get(1..)
        .unwrap_or_default()
        .split_once('/')
        .unwrap_or((path.get(1..).unwrap_or_default(), ""));
    if !matches!(endpoint, "healthz" | "livez" | "readyz") {
        return Err(no_such_resource());
    }
    let mut checks = vec![("ping", Ok(()))];
    let stored = server
        .store
        .revision()
        .await
        .map(|_| ())
        .map_err(|e| e.to_string());
    checks.push(("store", stored));
    if endpoint == "readyz" {
        let stopping = server.stopping.is_cancelled();
        checks.push((
            "shutdown",
            if stopping {
                Err("the server is stopping".to_owned())
            } else {
                Ok(())
            },
        ));
    }
    if !single.is_empty() {
        checks.retain(|(name, _)| *name == single);
        if checks.is_empty() {
            return Err(no_such_resource());
        }
    }
    let excluded = |name: &str| query.all("exclude").any(|e| e == name);
    checks.retain(|(name, _)| !excluded(name));
    let failed = checks.iter().any(|(_, r)| r.is_err());
    let code = if failed { 500 } else { 200 };
    if !failed && query.all("verbose").next().is_none() {
        return Ok(respond::text(code, "ok"));
    }
    let mut lines = String::new();
    for (name, result) in &checks {
        lines += &match result {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(why) => format!("[-]{name} failed: {why}\n"),
        };
    }
    lines += &format!(
        "{endpoint} check {}\n",
        if failed { "failed" } else { "passed" }
    );
    Ok(respond::text(code, lines))
}

/// The machine's architecture as Go names it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
