//! Columns of pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Col, NAME, NONE, text_or_none};
use crate::json::{at, flag, has, int, items, text};
use crate::meta;
use crate::print::human_duration;

pub(crate) const POD: &[Col] = &[
    NAME,
    Col::text("Ready", |v, _| json!(Summary::of(v).ready())),
    Col::text("Status", |v, _| json!(Summary::of(v).reason)),
    Col::text("Restarts", |v, now| {
        json!(Summary::of(v).restarts_text(now))
    }),
    AGE,
    Col::text("IP", |v, _| json!(ip(v))).wide(),
    Col::text("Node", |v, _| text_or_none(v, "/spec/nodeName")).wide(),
    Col::text("Nominated Node", |v, _| {
        text_or_none(v, "/status/nominatedNodeName")
    })
    .wide(),
    Col::text("Readiness Gates", |v, _| json!(gates(v))).wide(),
];

/// What the first columns need, gathered in one pass.
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Summary {
        let phase = text(pod, "/status/phase");
        let reason = match text(pod, "/status/reason") {
            "" => phase,
            reason => reason,
        };
        let inits = items(pod, "/spec/initContainers");
        let sidecars = inits.iter().filter(|c| restartable(c)).count();
        let mut s = Summary {
            reason: reason.to_owned(),
            ready: 0,
            total: items(pod, "/spec/containers").len() + sidecars,
            restarts: 0,
            last_restart: None,
        };
        if gated(pod) {
            s.reason = "SchedulingGated".into();
        }
        let initializing = s.init_containers(pod, inits);
        if !initializing || condition(pod, "Initialized") == "True" {
            s.containers(pod);
        }
        s.deleted(pod);
        s
    }

    /// Whether init containers are still at work; the reason says which.
    fn init_containers(&mut self, pod: &Value, inits: &[Value]) -> bool {
        let mut sidecar = (0, None);
        let mut initializing = false;
        for (i, status) in items(pod, "/status/initContainerStatuses")
            .iter()
            .enumerate()
        {
            let spec = inits
                .iter()
                .find(|c| text(c, "/name") == text(status, "/name"));
            let restartable = spec.is_some_and(restartable);
            let (count, last) = restarts(status);
            self.restarts += count;
            self.last_restart = self.last_restart.max(last);
            if restartable {
                sidecar = (sidecar.0 + count, sidecar.1.max(last));
            }
            let exit = int(status, "/state/terminated/exitCode");
            if exit == Some(0) {
                continue;
            }
            if restartable && flag(status, "/started") {
                self.ready += usize::from(flag(status, "/ready"));
                continue;
            }
            self.reason = init_reason(status, i, inits.len());
            initializing = true;
            break;
        }
        if !initializing || condition(pod, "Initialized") == "True" {
            // Those of init containers that are done do not count any more.
            (self.restarts, self.last_restart) = sidecar;
        }
        initializing
    }

    fn containers(&mut self, pod: &Value) {
        let mut running = false;
        for status in items(pod, "/status/containerStatuses").iter().rev() {
            let (count, last) = restarts(status);
            self.restarts += count;
            self.last_restart = self.last_restart.max(last);
            let waiting = text(status, "/state/waiting/reason");
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if has(status, "/state/terminated") {
                self.reason = terminated(status);
            } else if flag(status, "/ready") && has(status, "/state/running") {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            self.reason = if condition(pod, "Ready") == "True" {
                "Running"
            } else {
                "NotReady"
            }
            .into();
        }
    }

    fn deleted(&mut self, pod: &Value) {
        if !meta::is_deleting(pod) {
            return;
        }
        if text(pod, "/status/reason") == "NodeLost" {
            self.reason = "Unknown".into();
        } else if !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
            self.reason = "Terminating".into();
        }
    }

    fn ready(&self) -> String {
        format!("{}/{}", self.ready, self.total)
    }

    fn restarts_text(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(t) if self.restarts > 0 => {
                format!(
                    "{} ({} ago)",
                    self.restarts,
                    human_duration(now.as_second() - t.as_second())
                )
            }
            _ => self.restarts.to_string(),
        }
    }
}

fn restartable(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn restarts(status: &Value) -> (i64, Option<Timestamp>) {
    let count = int(status, "/restartCount").unwrap_or_default();
    (
        count,
        meta::time(status, "/lastState/terminated/finishedAt"),
    )
}

fn init_reason(status: &Value, i: usize, total: usize) -> String {
    if has(status, "/state/terminated") {
        return format!("Init:{}", terminated(status));
    }
    match text(status, "/state/waiting/reason") {
        "" | "PodInitializing" => format!("Init:{i}/{total}"),
        reason => format!("Init:{reason}"),
    }
}

/// Why a container ended: the reason, or the signal, or the exit code.
fn terminated(status: &Value) -> String {
    let state = at(status, "/state/terminated");
    match (
        text(state, "/reason"),
        int(state, "/signal").unwrap_or_default(),
    ) {
        ("", 0) => format!("ExitCode:{}", int(state, "/exitCode").unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let found = items(pod, "/status/conditions")
        .iter()
        .find(|c| text(c, "/type") == kind);
    found.map_or("", |c| text(c, "/status"))
}

fn gated(pod: &Value) -> bool {
    let scheduled = items(pod, "/status/conditions")
        .iter()
        .find(|c| text(c, "/type") == "PodScheduled");
    scheduled.is_some_and(|c| text(c, "/reason") == "SchedulingGated")
}

fn ip(v: &Value) -> &str {
    [
        text(v, "/status/podIPs/0/ip"),
        text(v, "/status/podIP"),
        NONE,
    ]
    .into_iter()
    .find(|s| !s.is_empty())
    .unwrap_or(NONE)
}

fn gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return NONE.into();
    }
    let met = gates
        .iter()
        .filter(|g| condition(pod, text(g, "/conditionType")) == "True")
        .count();
    format!("{met}/{}", gates.len())
}
