//! Figures under CoreDNS's names, so that what people look at it with works.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// CoreDNS's name for the block of its configuration that takes all questions.
const ZONE: &str = ".";

/// Types that are counted by name; all others are `other`.
const TYPES: &[RecordType] = &[
    RecordType::A,
    RecordType::AAAA,
    RecordType::ANY,
    RecordType::CNAME,
    RecordType::DNSKEY,
    RecordType::DS,
    RecordType::HTTPS,
    RecordType::MX,
    RecordType::NS,
    RecordType::NSEC,
    RecordType::NSEC3,
    RecordType::PTR,
    RecordType::RRSIG,
    RecordType::SOA,
    RecordType::SRV,
    RecordType::TXT,
];

/// Codes that come up.
const CODES: &[ResponseCode] = &[
    ResponseCode::NoError,
    ResponseCode::NXDomain,
    ResponseCode::ServFail,
    ResponseCode::FormErr,
    ResponseCode::NotImp,
    ResponseCode::Refused,
    ResponseCode::BADVERS,
];

/// Who gave an answer, by the names of CoreDNS's plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The server itself: a message that was no question.
    Server,
    /// The cluster's zone.
    Zone,
    /// What was remembered.
    Cache,
    /// Another server.
    Upstream,
}

impl By {
    const ALL: usize = 4;

    fn plugin(self) -> &'static str {
        match self {
            Self::Server => "",
            Self::Zone => "kubernetes",
            Self::Cache => "cache",
            Self::Upstream => "forward",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    server: String,
    zone: &'static str,
    proto: &'static str,
    family: u8,
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Response {
    server: String,
    zone: &'static str,
    rcode: String,
    plugin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Server {
    server: String,
    zone: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cached {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    to: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Proxied {
    proxy_name: &'static str,
    to: String,
    rcode: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All figures.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Family<Request, Counter>,
    responses: Family<Response, Counter>,
    durations: Histograms<Server>,
    hits: Family<Cached, Counter>,
    entries: Family<Cached, Gauge>,
    pub(crate) cache_requests: Counter,
    pub(crate) cache_misses: Counter,
    pub(crate) served_stale: Counter,
    pub(crate) evictions: Counter,
    forwarded: Family<To, Counter>,
    pub(crate) rejected: Counter,
    exchanges: Histograms<Proxied>,
}

impl Default for Metrics {
    fn default() -> Self {
        // CoreDNS's buckets: from a quarter of a millisecond to eight seconds.
        let histogram: fn() -> Histogram =
            || Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        Self {
            requests: Family::default(),
            responses: Family::default(),
            durations: Family::new_with_constructor(histogram),
            hits: Family::default(),
            entries: Family::default(),
            cache_requests: Counter::default(),
            cache_misses: Counter::default(),
            served_stale: Counter::default(),
            evictions: Counter::default(),
            forwarded: Family::default(),
            rejected: Counter::default(),
            exchanges: Family::new_with_constructor(histogram),
        }
    }
}

impl Metrics {
    /// Shows them in a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, metric: Shown| match metric {
            Shown::Counter(m) => registry.register(name, help, m),
            Shown::Requests(m) => registry.register(name, help, m),
            Shown::Responses(m) => registry.register(name, help, m),
            Shown::Durations(m) => registry.register(name, help, m),
            Shown::Hits(m) => registry.register(name, help, m),
            Shown::Entries(m) => registry.register(name, help, m),
            Shown::Forwarded(m) => registry.register(name, help, m),
            Shown::Exchanges(m) => registry.register(name, help, m),
        };
        add(
            "coredns_dns_requests",
            "Questions",
            Shown::Requests(self.requests.clone()),
        );
        add(
            "coredns_dns_responses",
            "Answers",
            Shown::Responses(self.responses.clone()),
        );
        add(
            "coredns_dns_request_duration_seconds",
            "Time to an answer",
            Shown::Durations(self.durations.clone()),
        );
        add(
            "coredns_cache_hits",
            "Questions answered from memory",
            Shown::Hits(self.hits.clone()),
        );
        add(
            "coredns_cache_misses",
            "Questions not answered from memory",
            Shown::Counter(self.cache_misses.clone()),
        );
        add(
            "coredns_cache_requests",
            "Questions to the memory",
            Shown::Counter(self.cache_requests.clone()),
        );
        add(
            "coredns_cache_served_stale",
            "Answers whose time was over",
            Shown::Counter(self.served_stale.clone()),
        );
        add(
            "coredns_cache_evictions",
            "Answers forgotten for others",
            Shown::Counter(self.evictions.clone()),
        );
        add(
            "coredns_cache_entries",
            "Answers remembered",
            Shown::Entries(self.entries.clone()),
        );
        add(
            "coredns_forward_requests",
            "Questions to other servers",
            Shown::Forwarded(self.forwarded.clone()),
        );
        add(
            "coredns_forward_max_concurrent_rejects",
            "Questions too many at once",
            Shown::Counter(self.rejected.clone()),
        );
        let help = "Time to another server's answer";
        add(
            "coredns_proxy_request_duration_seconds",
            help,
            Shown::Exchanges(self.exchanges.clone()),
        );
    }

    /// An answer from memory.
    pub(crate) fn hit(&self, denial: bool) {
        self.hits
            .get_or_create(&Cached {
                r#type: kind(denial),
            })
            .inc();
    }

    /// What is remembered: answers, and that there is nothing.
    pub(crate) fn remembered(&self, (answers, denials): (usize, usize)) {
        for (denial, count) in [(false, answers), (true, denials)] {
            self.entries
                .get_or_create(&Cached {
                    r#type: kind(denial),
                })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A question to another server, and its answer's code; `None` where none came.
    pub(crate) fn exchanged(&self, to: SocketAddr, code: Option<ResponseCode>, took: Duration) {
        let to = to.to_string();
        self.forwarded.get_or_create(&To { to: to.clone() }).inc();
        if let Some(code) = code {
            let labels = Proxied {
                proxy_name: "forward",
                to,
                rcode: code_name(code),
            };
            self.exchanges
                .get_or_create(&labels)
                .observe(took.as_secs_f64());
        }
    }
}

fn kind(denial: bool) -> &'static str {
    if denial { "denial" } else { "success" }
}

/// Names as BIND and CoreDNS have them: `NOERROR`, `NXDOMAIN`.
fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".into(),
        ResponseCode::NXDomain => "NXDOMAIN".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::Refused => "REFUSED".into(),
        ResponseCode::BADVERS => "BADVERS".into(),
        other => u16::from(other).to_string(),
    }
}

/// What can be shown.
enum Shown {
    Counter(Counter),
    Requests(Family<Request, Counter>),
    Responses(Family<Response, Counter>),
    Durations(Histograms<Server>),
    Hits(Family<Cached, Counter>),
    Entries(Family<Cached, Gauge>),
    Forwarded(Family<To, Counter>),
    Exchanges(Histograms<Proxied>),
}

/// Figures of one socket, found once and then only counted up.
#[derive(Debug)]
pub(crate) struct Recorder {
    metrics: Arc<Metrics>,
    server: String,
    family: u8,
    proto: &'static str,
    requests: Vec<OnceLock<Counter>>,
    responses: Vec<OnceLock<Counter>>,
    duration: Histogram,
}

impl Recorder {
    /// For a socket.
    pub(crate) fn new(metrics: &Arc<Metrics>, address: SocketAddr, proto: &'static str) -> Self {
        let server = format!("dns://{address}");
        let labels = Server {
            server: server.clone(),
            zone: ZONE,
        };
        Self {
            duration: metrics.durations.get_or_create(&labels).clone(),
            metrics: metrics.clone(),
            server,
            family: if address.is_ipv4() { 1 } else { 2 },
            proto,
            requests: (0..=TYPES.len()).map(|_| OnceLock::new()).collect(),
            responses: (0..CODES.len() * By::ALL)
                .map(|_| OnceLock::new())
                .collect(),
        }
    }

    /// A question. `None`: a message that was none.
    pub(crate) fn request(&self, kind: Option<RecordType>) {
        let at = kind
            .and_then(|k| TYPES.iter().position(|t| *t == k))
            .unwrap_or(TYPES.len());
        let Some(counter) = self.requests.get(at) else {
            return;
        };
        let create = || {
            let labels = Request {
                server: self.server.clone(),
                zone: ZONE,
                proto: self.proto,
                family: self.family,
                r#type: TYPES
                    .get(at)
                    .map_or_else(|| "other".into(), RecordType::to_string),
            };
            self.metrics.requests.get_or_create(&labels).clone()
        };
        counter.get_or_init(create).inc();
    }

    /// An answer.
    pub(crate) fn response(&self, code: ResponseCode, by: By, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        let create = || {
            let labels = Response {
                server: self.server.clone(),
                zone: ZONE,
                rcode: code_name(code),
                plugin: by.plugin(),
            };
            self.metrics.responses.get_or_create(&labels).clone()
        };
        let place = CODES
            .iter()
            .position(|c| *c == code)
            .map(|at| at * By::ALL + by as usize);
        match place.and_then(|at| self.responses.get(at)) {
            Some(counter) => counter.get_or_init(create).inc(),
            None => create().inc(),
        };
    }
}
