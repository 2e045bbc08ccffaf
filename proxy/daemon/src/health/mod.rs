//! The health port: `/healthz` for load balancers (the proxy does its work, and the node is to get traffic) and
//! `/livez` (it does its work). [`ServiceHealth`] has the ports of services with a `healthCheckNodePort`.

mod services;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use keelson_proxy_plan::health::{Progress, Verdict, eligible};
use keelson_proxy_plan::model::Family;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use services::ServiceHealth;

use crate::http;
use crate::metrics::{Metric, Metrics};

/// What the proxy knows of its own health. Clones are the same.
#[derive(Clone, Debug)]
pub struct Health {
    began: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    progress: Progress,
    node_eligible: bool,
}

/// Header of all answers: what they are is not to be guessed.
const NO_SNIFF: (HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");

impl Health {
    /// Healthy, as it is starting. A change that isn't written within `timeout` makes it unhealthy (upstream: twice
    /// the sync period).
    pub fn new(timeout: Duration) -> Self {
        Self {
            began: Instant::now(),
            inner: Arc::new(Mutex::new(Inner {
                progress: Progress::new(timeout),
                node_eligible: true,
            })),
        }
    }

    /// A change came that must be written for a family.
    pub fn queued(&self, family: Family) {
        let now = self.began.elapsed();
        self.lock().progress.queued(family, now);
    }

    /// All that came was written for a family.
    pub fn updated(&self, family: Family) {
        let now = self.began.elapsed();
        self.lock().progress.updated(family, now);
    }

    /// What the node is now; `None`: it was deleted. Before the first call it is taken for eligible.
    pub fn set_node(&self, node: Option<&Node>) {
        self.lock().node_eligible = node.is_some_and(eligible);
    }

    /// Whether the proxy does its work, whatever the node's state is.
    pub fn is_healthy(&self) -> bool {
        self.verdict().healthy
    }

    /// Answers on the health port until shutdown. A port that can't be had is tried again, or an error where
    /// `hard_fail` says so.
    pub async fn serve(
        self,
        metrics: Metrics,
        address: SocketAddr,
        hard_fail: bool,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let router = self.router(metrics);
        http::run("serve /healthz", address, hard_fail, router, shutdown).await
    }

    fn router(self, metrics: Metrics) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/livez", get(livez))
            .with_state((self, metrics))
    }

    fn verdict(&self) -> Verdict {
        self.lock().progress.verdict(self.began.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body, of which `nodeEligible` is in that of `/healthz` only.
    fn body(&self, healthy: bool, verdict: &Verdict, node_eligible: Option<bool>) -> Body {
        let now = Timestamp::now();
        let elapsed = self.began.elapsed();
        let at = |at: Duration| now - elapsed.saturating_sub(at);
        let status = verdict.families.iter().map(|(family, (healthy, updated))| {
            let name = match family {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            };
            let status = Status {
                last_updated: at(*updated),
                healthy: *healthy,
            };
            (name, status)
        });
        // Whoever reads it takes an old time for a proxy that hangs: one that has nothing to do is up to date.
        let never = Timestamp::from_second(GO_ZERO).unwrap_or_default();
        let updated = verdict.updated.map_or(never, at);
        Body {
            last_updated: if healthy { now } else { updated },
            current_time: now,
            node_eligible,
            healthy: verdict.healthy,
            status: status.collect(),
        }
    }
}

/// 0001-01-01T00:00:00Z, Go's time that is none.
const GO_ZERO: i64 = -62_135_596_800;

/// As of Kubernetes 1.34.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: Timestamp,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, Status>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    last_updated: Timestamp,
    healthy: bool,
}

async fn healthz(State((health, metrics)): State<(Health, Metrics)>) -> impl IntoResponse {
    let node_eligible = health.lock().node_eligible;
    let verdict = health.verdict();
    let healthy = verdict.healthy && node_eligible;
    let body = health.body(healthy, &verdict, Some(node_eligible));
    answer(Metric::Healthz, &metrics, healthy, body)
}

async fn livez(State((health, metrics)): State<(Health, Metrics)>) -> impl IntoResponse {
    let verdict = health.verdict();
    let body = health.body(verdict.healthy, &verdict, None);
    answer(Metric::Livez, &metrics, verdict.healthy, body)
}

fn answer(
    metric: Metric,
    metrics: &Metrics,
    healthy: bool,
    body: Body,
) -> impl IntoResponse + use<> {
    let status = status(healthy);
    metrics.add(metric, &[("code", status.as_str())], 1);
    (status, [NO_SNIFF], Json(body))
}

fn status(healthy: bool) -> StatusCode {
    if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}
