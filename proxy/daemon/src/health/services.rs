//! Ports where load balancers ask whether this node has endpoints of a service (`healthCheckNodePort`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::State;
use axum::http::HeaderName;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use keelson_proxy_plan::state::HealthCheck;
use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;

use super::{Health, NO_SNIFF, status};
use crate::http;

/// How many endpoints here there are to share the load.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// A Service: namespace and name.
type Name = (Arc<str>, Arc<str>);

/// The ports of all services that have one. Dropped, they are closed.
#[derive(Debug)]
pub struct ServiceHealth {
    health: Health,
    addresses: Vec<IpAddr>,
    open: BTreeMap<Name, Open>,
}

#[derive(Debug)]
struct Open {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl ServiceHealth {
    /// None are open. They are opened on these addresses of the node, those that have node ports; empty: on all.
    pub fn new(health: Health, addresses: Vec<IpAddr>) -> Self {
        let all = vec![IpAddr::from(Ipv4Addr::UNSPECIFIED)];
        Self {
            health,
            addresses: if addresses.is_empty() { all } else { addresses },
            open: BTreeMap::new(),
        }
    }

    /// Makes these ports, and no others, tell this (`State::health_checks`). Gives those that could not be had (upstream: an event
    /// `FailedToStartServiceHealthcheck` of the Service); they are tried again at the next call.
    pub async fn sync(&mut self, wanted: &[HealthCheck]) -> Vec<(Name, std::io::Error)> {
        let name = |check: &HealthCheck| (check.namespace.clone(), check.service.clone());
        let wanted: BTreeMap<Name, &HealthCheck> = wanted.iter().map(|c| (name(c), c)).collect();
        let stays =
            |name: &Name, open: &Open| wanted.get(name).is_some_and(|w| w.port == open.port);
        let over = self.open.extract_if(.., |name, open| !stays(name, open));
        // Closed before others are opened: a port may pass from one service to another.
        for (_, open) in over.collect::<Vec<_>>() {
            for task in open.tasks {
                task.abort();
                // Only says that it was ended.
                _ = task.await;
            }
        }
        let mut failed = Vec::new();
        for (name, want) in &wanted {
            if !self.open.contains_key(name) {
                match self.start(name, want.port).await {
                    Ok(open) => _ = self.open.insert(name.clone(), open),
                    Err(error) => {
                        let (namespace, service) = (&name.0, &name.1);
                        tracing::warn!(%namespace, %service, port = want.port, %error, "no health check port");
                        failed.push((name.clone(), error));
                    }
                }
            }
            if let Some(open) = self.open.get(name) {
                open.endpoints
                    .store(want.local_endpoints, Ordering::Relaxed);
            }
        }
        failed
    }

    /// On all addresses or none.
    async fn start(&self, name: &Name, port: u16) -> std::io::Result<Open> {
        let endpoints = Arc::new(AtomicUsize::new(0));
        let teller = Teller {
            name: name.clone(),
            health: self.health.clone(),
            endpoints: endpoints.clone(),
        };
        let router = Router::new().fallback(get(tell)).with_state(teller);
        let mut listeners = Vec::new();
        for ip in &self.addresses {
            listeners.push(http::bind(SocketAddr::new(*ip, port)).await?);
        }
        let serve = |listener| {
            let serve = http::serve(listener, router.clone(), std::future::pending::<()>());
            AbortOnDropHandle::new(tokio::spawn(serve))
        };
        Ok(Open {
            port,
            endpoints,
            tasks: listeners.into_iter().map(serve).collect(),
        })
    }
}

#[derive(Clone)]
struct Teller {
    name: Name,
    health: Health,
    endpoints: Arc<AtomicUsize>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    service: Service,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Service {
    namespace: String,
    name: String,
}

async fn tell(State(teller): State<Teller>) -> impl IntoResponse {
    let local_endpoints = teller.endpoints.load(Ordering::Relaxed);
    let service_proxy_healthy = teller.health.is_healthy();
    let body = Body {
        service: Service {
            namespace: teller.name.0.to_string(),
            name: teller.name.1.to_string(),
        },
        local_endpoints,
        service_proxy_healthy,
    };
    let status = status(local_endpoints > 0 && service_proxy_healthy);
    let weight = [(WEIGHT, local_endpoints.to_string())];
    (status, [NO_SNIFF], weight, Json(body))
}
