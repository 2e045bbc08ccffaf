//! What `/metrics` tells: requests, their durations, watches, the store's revision.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use keelson_api::Resource;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::request_info::RequestInfo;

/// Upper bounds of the duration buckets, in seconds.
const BUCKETS: [f64; 12] = [
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0,
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    resource: String,
    subresource: String,
    code: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerbLabels {
    verb: String,
    resource: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WatchLabels {
    group: String,
    resource: String,
}

/// The counters.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter<u64, AtomicU64>>,
    durations: Family<VerbLabels, Histogram>,
    watches: Family<WatchLabels, Gauge>,
}

/// Counts a watch as long as it lives.
pub(crate) struct WatchGuard(Gauge);

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Counters at zero.
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter<u64, AtomicU64>>::default();
        let durations: Family<VerbLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let watches = Family::<WatchLabels, Gauge>::default();
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the first byte of an answer; watches and streams are not counted",
            durations.clone(),
        );
        registry.register(
            "apiserver_registered_watchers",
            "Open watches",
            watches.clone(),
        );
        Metrics {
            registry,
            requests,
            durations,
            watches,
        }
    }

    /// Counts an answered request. Only resources of the table are named, so that clients cannot grow the families.
    pub(crate) fn answered(&self, info: &RequestInfo, known: bool, code: u16, took: Duration) {
        let named = |text: &str| {
            if known {
                text.to_owned()
            } else {
                String::new()
            }
        };
        let (resource, subresource) = (named(&info.resource), named(&info.subresource));
        let long = info.verb == "watch"
            || matches!(
                subresource.as_str(),
                "log" | "exec" | "attach" | "portforward" | "proxy"
            );
        if !long {
            let labels = VerbLabels {
                verb: info.verb.clone(),
                resource: resource.clone(),
            };
            self.durations
                .get_or_create(&labels)
                .observe(took.as_secs_f64());
        }
        let labels = RequestLabels {
            verb: info.verb.clone(),
            group: named(&info.group),
            resource,
            subresource,
            code: u32::from(code),
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a watch until the guard is dropped.
    pub(crate) fn watch_started(&self, row: &Resource) -> WatchGuard {
        let labels = WatchLabels {
            group: row.group.to_string(),
            resource: row.plural.to_string(),
        };
        let gauge = self.watches.get_or_create(&labels).clone();
        gauge.inc();
        WatchGuard(gauge)
    }

    /// The text of `/metrics`.
    pub(crate) fn render(&self, revision: u64) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            return String::new();
        }
        let body = text.trim_end_matches("# EOF\n").len();
        text.truncate(body);
        let _ = write!(
            text,
            "# HELP keelson_store_revision Newest revision of the store.\n# TYPE keelson_store_revision gauge\n\
             keelson_store_revision {revision}\n# EOF\n"
        );
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
