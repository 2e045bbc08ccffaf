//! `postStart` and `preStop` hooks.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keelson_agent_io::probes::{Probe, ProbeResult};
use keelson_agent_plan::event::Event;

use crate::shared::{Shared, chain};
use crate::worker::Worker;

/// How long an HTTP hook may take; an exec hook is bounded by its container's life or the grace period.
const HTTP_LIMIT: Duration = Duration::from_secs(60);
const EXEC_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Whom an event of a task that outlives a turn of the worker is about.
pub(crate) struct Owner {
    pod: Arc<Pod>,
    orphan: bool,
}

impl Owner {
    pub(crate) fn new(worker: &Worker) -> Self {
        Self {
            pod: worker.pod.clone(),
            orphan: worker.observed.orphan,
        }
    }

    pub(crate) fn event(&self, shared: &Shared, event: Event) {
        if !self.orphan {
            shared.events.pod(&self.pod, event);
        }
    }
}

/// The container's `postStart` hook.
pub(crate) fn post_start(c: &Container) -> Option<&LifecycleHandler> {
    c.lifecycle.as_ref()?.post_start.as_ref()
}

/// A hook's target.
pub(crate) struct Hook {
    shared: Arc<Shared>,
    container: Container,
    id: String,
    ip: Option<IpAddr>,
}

impl Hook {
    pub(crate) fn new(worker: &Worker, c: &Container, id: &str) -> Self {
        let ip = worker
            .observed
            .sandbox
            .ready()
            .and_then(|s| s.ips.first().copied());
        Self {
            shared: worker.shared.clone(),
            container: c.clone(),
            id: id.to_owned(),
            ip,
        }
    }

    /// Runs a handler; the error says what it said.
    pub(crate) async fn run(&self, handler: &LifecycleHandler) -> Result<(), String> {
        if let Some(exec) = &handler.exec {
            let command = exec.command.clone().unwrap_or_default();
            let done = self
                .shared
                .runtime
                .exec_sync(&self.id, &command, EXEC_LIMIT)
                .await;
            let done = done.map_err(|e| chain(&e))?;
            let output = String::from_utf8_lossy(&done.output);
            return match done.code {
                0 => Ok(()),
                code => Err(format!(
                    "command '{}' exited with {code}: {}",
                    command.join(" "),
                    output.trim()
                )),
            };
        }
        if let Some(http) = &handler.http_get {
            let probe = http_probe(http, &self.container, self.ip)?;
            return match self.shared.prober.run(&probe, HTTP_LIMIT).await {
                ProbeResult::Success | ProbeResult::Warning(_) => Ok(()),
                ProbeResult::Failure(e) | ProbeResult::Unknown(e) => Err(e),
            };
        }
        if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(
                u64::try_from(sleep.seconds).unwrap_or(0),
            ))
            .await;
            return Ok(());
        }
        Err("invalid handler: it names no action this agent offers".to_owned())
    }
}

/// An HTTP action with its target filled in.
pub(crate) fn http_probe(
    http: &HTTPGetAction,
    c: &Container,
    ip: Option<IpAddr>,
) -> Result<Probe, String> {
    let headers = http
        .http_headers
        .iter()
        .flatten()
        .map(|h| (h.name.clone(), h.value.clone()));
    let path = http
        .path
        .clone()
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| "/".to_owned());
    Ok(Probe::Http {
        tls: http
            .scheme
            .as_deref()
            .is_some_and(|s| s.eq_ignore_ascii_case("https")),
        host: host(http.host.as_deref(), ip)?,
        port: port(&http.port, c)?,
        path: if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        },
        headers: headers.collect(),
    })
}

/// The action's own host, else the pod's address.
pub(crate) fn host(own: Option<&str>, ip: Option<IpAddr>) -> Result<String, String> {
    let own = own.filter(|h| !h.is_empty()).map(str::to_owned);
    own.or_else(|| ip.map(|ip| ip.to_string()))
        .ok_or_else(|| "pod has no address".to_owned())
}

/// A port by number or by the container's name for it.
pub(crate) fn port(port: &IntOrString, c: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(s) => s.parse().ok().or_else(|| {
            let named = c
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_deref() == Some(s));
            named.map(|p| p.container_port)
        }),
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("invalid port: {port:?}"))
}
