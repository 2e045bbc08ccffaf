//! The metrics port: `/metrics` with kube-proxy's names (those of Kubernetes 1.34), `/proxyMode`, `/configz` and
//! `/healthz`.

mod process;
mod table;
mod text;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_proxy_plan::model::Family;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use table::Metric;

use crate::config::Mode;
use crate::http;
use text::{Histogram, Text};

/// Said by the endpoints controller: when what a slice says had happened.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Changes whose time until they were written is still to be told, at most.
const MAX_TRIGGERS: usize = 10_000;

/// What is counted. Clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    mode: Mode,
    series: BTreeMap<(Metric, Labels), Series>,
    triggers: BTreeMap<Family, Vec<Timestamp>>,
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Series {
    Number(f64),
    Times(Histogram),
}

impl Metrics {
    /// Nothing was counted yet.
    pub fn new(mode: Mode) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            mode,
            series: BTreeMap::new(),
            triggers: BTreeMap::new(),
        })))
    }

    /// Another backend does the work now: `/proxyMode` and the metrics that only some modes have follow.
    pub fn set_mode(&self, mode: Mode) {
        self.lock().mode = mode;
    }

    /// A Service changed.
    pub fn service_change(&self) {
        self.add(Metric::ServiceChanges, &[], 1);
        self.add(Metric::ServiceChangesPending, &[], 1);
    }

    /// The endpoints of a family changed; `trigger` as [`trigger_time`] gives it.
    pub fn endpoint_change(&self, family: Family, trigger: Option<Timestamp>) {
        self.add(Metric::EndpointChanges, &[], 1);
        self.add(Metric::EndpointChangesPending, &[], 1);
        let mut inner = self.lock();
        let triggers = inner.triggers.entry(family).or_default();
        if triggers.len() < MAX_TRIGGERS {
            triggers.extend(trigger);
        }
    }

    /// A sync of a family is to come.
    pub fn queued(&self, family: Family) {
        let now = Timestamp::now();
        self.set(Metric::LastQueued, &[label(family)], seconds(now));
    }

    /// All that came was written: for each family, how long that took. `full`: all was compared, not only what had
    /// changed.
    pub fn synced(&self, families: &[(Family, Duration)], full: bool) {
        let now = Timestamp::now();
        let part = if full {
            Metric::SyncFull
        } else {
            Metric::SyncPartial
        };
        for (family, took) in families {
            let labels = [label(*family)];
            self.observe(Metric::Sync, &labels, *took);
            self.observe(part, &labels, *took);
            self.set(Metric::LastSynced, &labels, seconds(now));
            let triggers = self.lock().triggers.remove(family).unwrap_or_default();
            for trigger in triggers {
                // A clock that is ahead of this one: at once.
                let since = Duration::try_from(now.duration_since(trigger)).unwrap_or_default();
                self.observe(Metric::NetworkProgramming, &labels, since);
            }
        }
        self.set(Metric::ServiceChangesPending, &[], 0.0);
        self.set(Metric::EndpointChangesPending, &[], 0.0);
    }

    /// Rules of a family could not be written, in this mode.
    pub fn sync_failed(&self, family: Family) {
        let metric = match self.mode() {
            Mode::Nftables => Metric::NftablesSyncFailures,
            _ => Metric::IptablesRestoreFailures,
        };
        self.add(metric, &[label(family)], 1);
    }

    /// Services with policy Local and no endpoint here: by `internalTrafficPolicy`, and by the external one.
    pub fn no_local_endpoints(&self, family: Family, internal: usize, external: usize) {
        for (policy, count) in [("internal", internal), ("external", external)] {
            let labels = [label(family), ("traffic_policy", policy)];
            self.set(Metric::NoLocalEndpoints, &labels, count as f64);
        }
    }

    /// Rules of a family in a table (`filter`, `nat`): all, and how many of them the last sync wrote.
    pub fn iptables_rules(&self, family: Family, table: &str, all: usize, written: usize) {
        let labels = [label(family), ("table", table)];
        self.set(Metric::IptablesRules, &labels, all as f64);
        self.set(Metric::IptablesRulesWritten, &labels, written as f64);
    }

    /// The connection table of a family was gone through.
    pub fn conntrack(&self, family: Family, took: Duration, deleted: usize) {
        let labels = [label(family)];
        self.observe(Metric::ConntrackSync, &labels, took);
        self.add(Metric::ConntrackDeleted, &labels, deleted as u64);
    }

    /// Packets that conntrack could not place and a rule dropped, since the rule is there.
    pub fn invalid_dropped(&self, packets: u64) {
        self.set(Metric::InvalidDropped, &[], packets as f64);
    }

    /// Packets to node ports on 127.0.0.1, since the rule is there.
    pub fn localhost_node_ports(&self, packets: u64) {
        self.set(Metric::LocalhostNodePorts, &[], packets as f64);
    }

    /// Adds to a counter or gauge.
    pub fn add(&self, metric: Metric, labels: &[(&'static str, &str)], by: u64) {
        self.number(metric, labels, |n| n + by as f64);
    }

    /// Sets a gauge, or a counter that is counted elsewhere.
    pub fn set(&self, metric: Metric, labels: &[(&'static str, &str)], value: f64) {
        self.number(metric, labels, |_| value);
    }

    /// Counts a time in a histogram.
    pub fn observe(&self, metric: Metric, labels: &[(&'static str, &str)], took: Duration) {
        let Some(bounds) = metric.about().bounds() else {
            return;
        };
        let mut inner = self.lock();
        let series = inner.series.entry((metric, owned(labels)));
        let series = series.or_insert_with(|| Series::Times(Histogram::new(bounds)));
        if let Series::Times(histogram) = series {
            histogram.observe(took);
        }
    }

    fn number(
        &self,
        metric: Metric,
        labels: &[(&'static str, &str)],
        change: impl FnOnce(f64) -> f64,
    ) {
        if metric.about().bounds().is_some() {
            return;
        }
        let mut inner = self.lock();
        let series = inner.series.entry((metric, owned(labels)));
        if let Series::Number(number) = series.or_insert(Series::Number(0.0)) {
            *number = change(*number);
        }
    }

    /// Who does the work.
    pub fn mode(&self) -> Mode {
        self.lock().mode
    }

    /// What `/metrics` answers.
    pub fn render(&self) -> String {
        let mut text = Text::default();
        {
            let inner = self.lock();
            for metric in Metric::all().filter(|m| m.about().is_for(inner.mode)) {
                inner.write(metric, &mut text);
            }
        }
        process::write(&mut text);
        text.finish()
    }

    /// Answers on the metrics port until shutdown. A port that can't be had is tried again, or an error where
    /// `hard_fail` says so. `configz` as [`crate::config::Loaded::configz`] gives it.
    pub async fn serve(
        self,
        configz: Value,
        address: SocketAddr,
        hard_fail: bool,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let router = self.router(configz);
        http::run("serve /metrics", address, hard_fail, router, shutdown).await
    }

    fn router(self, configz: Value) -> Router {
        const PLAIN: &str = "text/plain; charset=utf-8";
        let no_sniff = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        let mode = |State(metrics): State<Self>| async move { metrics.mode().name() };
        let render = |State(metrics): State<Self>| async move {
            let kind = [(header::CONTENT_TYPE, text::CONTENT_TYPE)];
            (kind, metrics.render()).into_response()
        };
        Router::new()
            .route("/metrics", get(render))
            .route("/proxyMode", get(mode))
            .route(
                "/healthz",
                get(async move || ([(header::CONTENT_TYPE, PLAIN), no_sniff], "ok")),
            )
            .route("/configz", get(async move || Json(configz)))
            .with_state(self)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&self, metric: Metric, text: &mut Text) {
        let about = metric.about();
        let first = (metric, Labels::new());
        let series = self
            .series
            .range(first..)
            .take_while(|((m, _), _)| *m == metric);
        let mut series = series
            .map(|((_, labels), series)| (labels, series))
            .peekable();
        if series.peek().is_none() && about.lazy {
            return;
        }
        text.family(&about.name, about.help, about.kind.word());
        if series.peek().is_none() {
            text.sample(&about.name, &[], 0);
        }
        for (labels, series) in series {
            let labels: Vec<_> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
            match series {
                Series::Number(number) => text.sample(&about.name, &labels, number),
                Series::Times(histogram) => text.histogram(&about.name, &labels, histogram),
            }
        }
    }
}

/// When what a slice says had happened.
pub fn trigger_time(slice: &EndpointSlice) -> Option<Timestamp> {
    let annotations = slice.metadata.annotations.as_ref()?;
    annotations.get(TRIGGER_TIME)?.parse().ok()
}

fn owned(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect()
}

fn label(family: Family) -> (&'static str, &'static str) {
    let name = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    ("ip_family", name)
}

fn seconds(at: Timestamp) -> f64 {
    at.as_nanosecond() as f64 / 1e9
}

#[cfg(test)]
mod tests;
