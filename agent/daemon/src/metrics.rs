//! The agent's own counters under upstream's names, as far as they are measured: `/metrics` and `/metrics/probes`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use keelson_agent_io::endpoint::figures::text::{Histogram, Kind, Text};
use keelson_agent_plan::{AttemptState, probe, static_pod};

use crate::shared::Shared;

/// Seconds, as upstream's.
const POD_START: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0,
    300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
const PULL: &[f64] = &[
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0,
    1200.0, 1800.0, 2700.0, 3600.0,
];
const PROBE: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Upper bounds of images' sizes and how they are called.
const SIZES: [(u64, &str); 12] = [
    (10 * MIB, "0-10MB"),
    (100 * MIB, "10MB-100MB"),
    (500 * MIB, "100MB-500MB"),
    (GIB, "500MB-1GB"),
    (5 * GIB, "1GB-5GB"),
    (10 * GIB, "5GB-10GB"),
    (20 * GIB, "10GB-20GB"),
    (30 * GIB, "20GB-30GB"),
    (40 * GIB, "30GB-40GB"),
    (60 * GIB, "40GB-60GB"),
    (100 * GIB, "60GB-100GB"),
    (u64::MAX, "GT100GB"),
];

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// One of the pod's main ones.
    Main,
    /// One that runs before them, sidecars too.
    Init,
    /// One that was added for debugging.
    Ephemeral,
}

impl Role {
    /// The role of a pod's container.
    pub(crate) fn of(pod: &k8s_openapi::api::core::v1::Pod, name: &str) -> Role {
        let Some(spec) = &pod.spec else {
            return Role::Main;
        };
        let init = spec.init_containers.iter().flatten();
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        match () {
            () if init.into_iter().any(|c| c.name == name) => Role::Init,
            () if ephemeral.into_iter().any(|c| c.name == name) => Role::Ephemeral,
            () => Role::Main,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Role::Main => "container",
            Role::Init => "init_container",
            Role::Ephemeral => "ephemeral_container",
        }
    }
}

/// All counters.
pub(crate) struct Metrics {
    began: Instant,
    /// Milliseconds after `began`.
    turned: AtomicU64,
    pub(crate) pods_started: AtomicU64,
    pub(crate) pod_start: Histogram,
    containers: Mutex<BTreeMap<Role, u64>>,
    refused: Mutex<BTreeMap<(Role, &'static str), u64>>,
    pulls: Mutex<BTreeMap<usize, Histogram>>,
    probes: Mutex<Vec<Weak<Outcomes>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            turned: AtomicU64::new(0),
            pods_started: AtomicU64::new(0),
            pod_start: Histogram::new(POD_START),
            containers: Mutex::default(),
            refused: Mutex::default(),
            pulls: Mutex::default(),
            probes: Mutex::default(),
        }
    }
}

impl Metrics {
    /// The node's loop went around.
    pub(crate) fn turn(&self) {
        let ms = self.began.elapsed().as_millis();
        self.turned
            .store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long ago the node's loop went around.
    pub(crate) fn since_turn(&self) -> Duration {
        let turned = Duration::from_millis(self.turned.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(turned)
    }

    /// A container was started.
    pub(crate) fn container_started(&self, role: Role) {
        let mut all = self
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *all.entry(role).or_default() += 1;
    }

    /// A container could not be made or started; `code` is upstream's.
    pub(crate) fn container_refused(&self, role: Role, code: &'static str) {
        let mut all = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry((role, code)).or_default() += 1;
    }

    /// An image was pulled.
    pub(crate) fn pulled(&self, bytes: u64, took: Duration) {
        let at = SIZES.iter().position(|(bound, _)| bytes < *bound);
        let mut all = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(at.unwrap_or(SIZES.len() - 1))
            .or_insert_with(|| Histogram::new(PULL))
            .observe(took);
    }

    /// A probe whose outcomes are counted as long as somebody holds them.
    pub(crate) fn probe(&self, of: Probed) -> Arc<Outcomes> {
        let made = Arc::new(Outcomes {
            of,
            counts: Default::default(),
            took: Histogram::new(PROBE),
        });
        let mut all = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&made));
        made
    }

    /// `/metrics/probes`.
    pub(crate) fn probes_text(&self) -> String {
        let all = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<Arc<Outcomes>> = all.iter().filter_map(Weak::upgrade).collect();
        let mut out = Text::default();
        let name = "prober_probe_duration_seconds";
        let help = "[ALPHA] Duration in seconds for a probe response.";
        out.family(name, help, Kind::Histogram);
        for o in &all {
            out.histogram(name, &o.of.labels(false, None), &o.took);
        }
        let name = "prober_probe_total";
        let help = "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
        out.family(name, help, Kind::Counter);
        for o in &all {
            for (result, count) in RESULTS.iter().zip(&o.counts) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    out.sample(name, &o.of.labels(true, Some(result)), count);
                }
            }
        }
        out.finish()
    }
}

/// How a probe can end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// Healthy.
    Successful,
    /// Not healthy.
    Failed,
    /// It could not be made.
    Unknown,
}

const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];

/// Whose probe it is.
pub(crate) struct Probed {
    pub(crate) kind: probe::Kind,
    pub(crate) container: String,
    pub(crate) pod: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
}

impl Probed {
    fn labels<'a>(&'a self, uid: bool, result: Option<&'a str>) -> Vec<(&'static str, &'a str)> {
        let mut all = vec![
            ("container", &*self.container),
            ("namespace", &*self.namespace),
            ("pod", &*self.pod),
        ];
        if uid {
            all.push(("pod_uid", &*self.uid));
        }
        all.push(("probe_type", self.kind.word()));
        all.extend(result.map(|r| ("result", r)));
        all
    }
}

/// Counted outcomes of one probe.
pub(crate) struct Outcomes {
    of: Probed,
    counts: [AtomicU64; 3],
    took: Histogram,
}

impl Outcomes {
    /// Counts one try.
    pub(crate) fn count(&self, outcome: Outcome, took: Duration) {
        let [successful, failed, unknown] = &self.counts;
        let count = match outcome {
            Outcome::Successful => successful,
            Outcome::Failed => failed,
            Outcome::Unknown => unknown,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.took.observe(took);
    }
}

/// `/metrics`.
pub(crate) fn text(shared: &Shared) -> String {
    let mut out = Text::default();
    present(&mut out, shared);
    counted(&mut out, &shared.metrics);
    process(&mut out);
    out.finish()
}

/// What is there now.
fn present(out: &mut Text, shared: &Shared) {
    let (mut active, mut running) = ([0u64; 2], 0u64);
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in shared.entries().values() {
        active[usize::from(static_pod::is_static(&entry.pod))] += 1;
        let runs = || entry.containers.values().flatten();
        running += u64::from(runs().any(|a| a.is_running()));
        for run in runs() {
            let state = match run.state {
                AttemptState::Created => "created",
                AttemptState::Running { .. } => "running",
                AttemptState::Exited { .. } => "exited",
            };
            *states.entry(state).or_default() += 1;
        }
    }
    let name = "kubelet_active_pods";
    let help = "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.";
    out.family(name, help, Kind::Gauge);
    for (which, count) in ["", "true"].iter().zip(active) {
        out.sample(name, &[("static", which)], count);
    }
    let name = "kubelet_node_name";
    out.family(
        name,
        "[ALPHA] The node's name. The count is always 1.",
        Kind::Gauge,
    );
    out.sample(name, &[("node", &shared.config.node_name)], 1);
    let name = "kubelet_running_containers";
    out.family(
        name,
        "[ALPHA] Number of containers currently running",
        Kind::Gauge,
    );
    for (state, count) in states {
        out.sample(name, &[("container_state", state)], count);
    }
    let help = "[ALPHA] Number of pods that have a running pod sandbox";
    out.gauge("kubelet_running_pods", help, running);
    let name = "kubernetes_build_info";
    let help = "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
    out.family(name, help, Kind::Gauge);
    out.sample(name, &[("git_version", &shared.config.version)], 1);
}

/// What has happened since the agent started.
fn counted(out: &mut Text, metrics: &Metrics) {
    let help = "[ALPHA] Cumulative number of pods started";
    let pods = metrics.pods_started.load(Ordering::Relaxed);
    out.counter("kubelet_started_pods_total", help, pods);
    let name = "kubelet_started_containers_total";
    out.family(
        name,
        "[ALPHA] Cumulative number of containers started",
        Kind::Counter,
    );
    let started = metrics
        .containers
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for (role, count) in started.iter() {
        out.sample(name, &[("container_type", role.word())], count);
    }
    let name = "kubelet_started_containers_errors_total";
    let help = "[ALPHA] Cumulative number of errors when starting containers";
    out.family(name, help, Kind::Counter);
    let refused = metrics
        .refused
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for ((role, code), count) in refused.iter() {
        let labels = [("code", *code), ("container_type", role.word())];
        out.sample(name, &labels, count);
    }
    let name = "kubelet_pod_start_duration_seconds";
    let help = "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run";
    out.family(name, help, Kind::Histogram);
    out.histogram(name, &[], &metrics.pod_start);
    let name = "kubelet_image_pull_duration_seconds";
    let help = "[ALPHA] Duration in seconds to pull an image.";
    out.family(name, help, Kind::Histogram);
    let pulls = metrics.pulls.lock().unwrap_or_else(PoisonError::into_inner);
    for (at, took) in pulls.iter() {
        let size = SIZES.get(*at).map_or("", |(_, name)| name);
        out.histogram(name, &[("image_size_in_bytes", size)], took);
    }
}

/// This process, as every Prometheus client tells of its own.
fn process(out: &mut Text) {
    let Some(own) = Process::read() else { return };
    out.counter(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        own.cpu_seconds,
    );
    let gauges = [
        (
            "process_max_fds",
            "Maximum number of open file descriptors.",
            own.max_files,
        ),
        (
            "process_open_fds",
            "Number of open file descriptors.",
            own.open_files,
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            own.resident,
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            own.virtual_size,
        ),
    ];
    for (name, help, value) in gauges {
        out.gauge(name, help, value);
    }
    let help = "Start time of the process since unix epoch in seconds.";
    out.gauge("process_start_time_seconds", help, own.started);
}

struct Process {
    cpu_seconds: f64,
    resident: u64,
    virtual_size: u64,
    open_files: u64,
    max_files: u64,
    started: f64,
}

/// The kernel's ticks a second, as user space sees them on every architecture we run on.
const TICKS: f64 = 100.0;

impl Process {
    fn read() -> Option<Process> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{name}")).ok();
        let limits = read("self/limits")?;
        let max = limits
            .lines()
            .find_map(|l| l.strip_prefix("Max open files"))?;
        let boot = read("stat")?;
        let boot = boot.lines().find_map(|l| l.strip_prefix("btime "))?;
        let mut own = Process::parse(&read("self/stat")?, boot.trim().parse().ok()?)?;
        own.open_files = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        own.max_files = max.split_whitespace().next()?.parse().unwrap_or(u64::MAX);
        let status = read("self/status")?;
        let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        own.resident = resident.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024;
        Some(own)
    }

    /// From `/proc/self/stat`, whose second field may hold anything.
    fn parse(stat: &str, boot: f64) -> Option<Process> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<u64> = rest
            .split_whitespace()
            .skip(1)
            .map(|n| n.parse().unwrap_or_default())
            .collect();
        // The first of these is the fourth field of proc(5).
        let at = |field: usize| fields.get(field - 4).copied();
        Some(Process {
            cpu_seconds: (at(14)? + at(15)?) as f64 / TICKS,
            virtual_size: at(23)?,
            started: boot + at(22)? as f64 / TICKS,
            resident: 0,
            open_files: 0,
            max_files: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_told_of_as_long_as_it_is_held() {
        let metrics = Metrics::default();
        let probed = || Probed {
            kind: probe::Kind::Liveness,
            container: "c".into(),
            pod: "p".into(),
            namespace: "ns".into(),
            uid: "u".into(),
        };
        let held = metrics.probe(probed());
        held.count(Outcome::Successful, Duration::from_millis(7));
        held.count(Outcome::Failed, Duration::from_millis(1));
        drop(metrics.probe(probed()));
        let text = metrics.probes_text();
        for line in [
            r#"prober_probe_total{container="c",namespace="ns",pod="p",pod_uid="u",probe_type="Liveness",result="failed"} 1"#,
            r#"prober_probe_total{container="c",namespace="ns",pod="p",pod_uid="u",probe_type="Liveness",result="successful"} 1"#,
            r#"prober_probe_duration_seconds_bucket{container="c",namespace="ns",pod="p",probe_type="Liveness",le="0.01"} 2"#,
            r#"prober_probe_duration_seconds_count{container="c",namespace="ns",pod="p",probe_type="Liveness"} 2"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        drop(held);
        assert!(!metrics.probes_text().contains("namespace="));
    }

    #[test]
    fn pulls_are_counted_by_size() {
        let metrics = Metrics::default();
        for bytes in [0, 10 * MIB - 1, 10 * MIB, 200 * GIB, u64::MAX] {
            metrics.pulled(bytes, Duration::from_secs(2));
        }
        let mut out = Text::default();
        counted(&mut out, &metrics);
        let text = out.finish();
        for (size, count) in [("0-10MB", 2), ("10MB-100MB", 1), ("GT100GB", 2)] {
            let line = format!(
                "kubelet_image_pull_duration_seconds_count{{image_size_in_bytes=\"{size}\"}} {count}"
            );
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn this_process_is_measured() {
        let own = Process::read().expect("figures");
        assert!(own.resident > 0 && own.virtual_size > own.resident && own.open_files > 2);
        let now = jiff::Timestamp::now().as_second() as f64;
        assert!(
            (now - 3600.0..=now + 1.0).contains(&own.started),
            "{}",
            own.started
        );
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 1000 4096 11 x";
        let parsed = Process::parse(stat, 5.0).expect("stat");
        assert_eq!(
            (parsed.cpu_seconds, parsed.started, parsed.virtual_size),
            (2.0, 15.0, 4096)
        );
    }
}
