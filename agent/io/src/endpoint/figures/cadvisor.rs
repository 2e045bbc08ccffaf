//! `/metrics/cadvisor`: the families of cAdvisor that dashboards and alerts go by, with its labels. A pod's cgroup has no
//! container, no name and no image; the network belongs to it, for there is no pause container.

use jiff::Timestamp;

use super::text::{Kind, Text};
use super::{Cpu, Interface, Limits, Memory, PodUse, Usage};
use crate::node::{Facts, Load};

const SECOND: f64 = 1e9;

/// A cgroup with cAdvisor's labels.
struct Series<'a> {
    labels: [(&'static str, &'a str); 6],
    whole: bool,
    started: Timestamp,
    usage: &'a Usage,
    network: &'a [Interface],
}

/// A metric of cgroups: name, help, kind, labels of its own, value.
type Row = (
    &'static str,
    &'static str,
    Kind,
    &'static [(&'static str, &'static str)],
    fn(&Usage) -> Option<f64>,
);

const fn counter(name: &'static str, help: &'static str, value: fn(&Usage) -> Option<f64>) -> Row {
    (name, help, Kind::Counter, &[], value)
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Usage) -> Option<f64>) -> Row {
    (name, help, Kind::Gauge, &[], value)
}

fn quota(limits: &Limits, value: Option<u64>) -> Option<f64> {
    limits.cpu_quota?;
    value.map(|n| n as f64)
}

const ROWS: [Row; 30] = [
    counter(
        "container_cpu_cfs_periods_total",
        "Number of elapsed enforcement period intervals.",
        |u| quota(&u.limits, Some(u.cpu.periods)),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Number of throttled period intervals.",
        |u| quota(&u.limits, Some(u.cpu.throttled_periods)),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        |u| u.limits.cpu_quota.map(|_| u.cpu.throttled as f64 / SECOND),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "Cumulative system cpu time consumed in seconds.",
        |u| Some(u.cpu.system as f64 / SECOND),
    ),
    (
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed in seconds.",
        Kind::Counter,
        &[("cpu", "total")],
        |u| Some(u.cpu.total as f64 / SECOND),
    ),
    counter(
        "container_cpu_user_seconds_total",
        "Cumulative user cpu time consumed in seconds.",
        |u| Some(u.cpu.user as f64 / SECOND),
    ),
    gauge(
        "container_memory_cache",
        "Number of bytes of page cache memory.",
        |u| Some(u.memory.cache as f64),
    ),
    counter(
        "container_memory_failcnt",
        "Number of memory usage hits limits",
        |u| Some(u.memory.failures as f64),
    ),
    (
        "container_memory_failures_total",
        "Cumulative count of memory allocation failures.",
        Kind::Counter,
        &[("failure_type", "pgfault"), ("scope", "hierarchy")],
        |u| Some(u.memory.page_faults as f64),
    ),
    (
        "container_memory_failures_total",
        "",
        Kind::Counter,
        &[("failure_type", "pgmajfault"), ("scope", "hierarchy")],
        |u| Some(u.memory.major_page_faults as f64),
    ),
    gauge(
        "container_memory_kernel_usage",
        "Size of kernel memory allocated in bytes.",
        |u| Some(u.memory.kernel as f64),
    ),
    gauge(
        "container_memory_mapped_file",
        "Size of memory mapped files in bytes.",
        |u| Some(u.memory.mapped_file as f64),
    ),
    gauge(
        "container_memory_max_usage_bytes",
        "Maximum memory usage recorded in bytes",
        |u| Some(u.memory.peak as f64).filter(|n| *n > 0.0),
    ),
    gauge("container_memory_rss", "Size of RSS in bytes.", |u| {
        Some(u.memory.rss as f64)
    }),
    gauge(
        "container_memory_swap",
        "Container swap usage in bytes.",
        |u| Some(u.memory.swap as f64),
    ),
    gauge(
        "container_memory_total_active_file_bytes",
        "Current total active file in bytes.",
        |u| Some(u.memory.active_file as f64),
    ),
    gauge(
        "container_memory_total_inactive_file_bytes",
        "Current total inactive file in bytes.",
        |u| Some(u.memory.inactive_file as f64),
    ),
    gauge(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |u| Some(u.memory.usage as f64),
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Current working set in bytes.",
        |u| Some(u.memory.working_set as f64),
    ),
    counter(
        "container_oom_events_total",
        "Count of out of memory events observed for the container",
        |u| Some(u.memory.oom_kills as f64),
    ),
    gauge(
        "container_processes",
        "Number of processes running inside the container.",
        |u| Some(u.processes as f64),
    ),
    gauge(
        "container_spec_cpu_period",
        "CPU period of the container.",
        |u| u.limits.cpu_period.map(|n| n as f64),
    ),
    gauge(
        "container_spec_cpu_quota",
        "CPU quota of the container.",
        |u| quota(&u.limits, u.limits.cpu_quota),
    ),
    gauge(
        "container_spec_cpu_shares",
        "CPU share of the container.",
        |u| u.limits.cpu_shares.map(|n| n as f64),
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "Memory limit for the container.",
        |u| Some(u.limits.memory.unwrap_or(0) as f64),
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory reservation limit for the container.",
        |u| Some(u.limits.memory_reservation.unwrap_or(0) as f64),
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Memory swap limit for the container.",
        |u| Some(u.limits.swap.unwrap_or(0) as f64),
    ),
    gauge(
        "container_threads",
        "Number of threads running inside the container",
        |u| Some(u.tasks as f64),
    ),
    gauge(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        |u| Some(u.limits.pids.unwrap_or(0) as f64),
    ),
    gauge(
        "container_last_seen",
        "Last time a container was seen by the exporter",
        |u| Some(u.at.as_second() as f64),
    ),
];

/// What is known of the machine as a whole too.
const WHOLE: [&str; 10] = [
    "container_cpu_system_seconds_total",
    "container_cpu_usage_seconds_total",
    "container_cpu_user_seconds_total",
    "container_last_seen",
    "container_memory_cache",
    "container_memory_failures_total",
    "container_memory_rss",
    "container_memory_swap",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
];

/// A family of interfaces: name, help, and which counter of which direction.
type NetworkRow = (&'static str, &'static str, fn(&Interface) -> u64);

const NETWORK: [NetworkRow; 8] = [
    (
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received",
        |i| i.received[0],
    ),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |i| i.received[2],
    ),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |i| i.received[3],
    ),
    (
        "container_network_receive_packets_total",
        "Cumulative count of packets received",
        |i| i.received[1],
    ),
    (
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        |i| i.sent[0],
    ),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |i| i.sent[2],
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |i| i.sent[3],
    ),
    (
        "container_network_transmit_packets_total",
        "Cumulative count of packets transmitted",
        |i| i.sent[1],
    ),
];

/// A family of block devices.
type DeviceRow = (&'static str, &'static str, fn(&super::DeviceIo) -> u64);

const DEVICES: [DeviceRow; 4] = [
    (
        "container_fs_reads_bytes_total",
        "Cumulative count of bytes read",
        |d| d.read_bytes,
    ),
    (
        "container_fs_reads_total",
        "Cumulative count of reads completed",
        |d| d.reads,
    ),
    (
        "container_fs_writes_bytes_total",
        "Cumulative count of bytes written",
        |d| d.write_bytes,
    ),
    (
        "container_fs_writes_total",
        "Cumulative count of writes completed",
        |d| d.writes,
    ),
];

/// The text. The machine as a whole is cAdvisor's root container.
pub(in crate::endpoint) fn cadvisor(machine: &Facts, load: &Load, pods: &[PodUse]) -> String {
    let mut out = Text::default();
    let node = whole(load);
    let all = series(machine, &node, &load.interfaces, pods);
    version(&mut out, machine);
    let mut last = "";
    for (name, help, kind, own, value) in ROWS {
        if name != last {
            out.family(name, help, kind);
        }
        last = name;
        for s in all.iter().filter(|s| !s.whole || WHOLE.contains(&name)) {
            if let Some(value) = value(s.usage) {
                out.sample_at(name, &labels(s, own), value, s.usage.at);
            }
        }
    }
    start_times(&mut out, &all);
    for (name, help, value) in NETWORK {
        out.family(name, help, Kind::Counter);
        for s in &all {
            for i in s.network {
                let labels = labels(s, &[("interface", &i.name)]);
                out.sample_at(name, &labels, value(i), s.usage.at);
            }
        }
    }
    for (name, help, value) in DEVICES {
        out.family(name, help, Kind::Counter);
        for s in &all {
            for d in &s.usage.io {
                let labels = labels(s, &[("device", &d.device)]);
                out.sample_at(name, &labels, value(d), s.usage.at);
            }
        }
    }
    of_machine(&mut out, machine);
    out.gauge(
        "container_scrape_error",
        "1 if there was an error while getting container metrics, 0 otherwise",
        0,
    );
    out.finish()
}

/// The machine's load as the usage of one cgroup.
fn whole(load: &Load) -> Usage {
    let usage = load.memory.saturating_sub(load.memory_free);
    Usage {
        at: load.at,
        cpu: Cpu {
            total: load.cpu_nanoseconds,
            user: load.cpu_user,
            system: load.cpu_nanoseconds.saturating_sub(load.cpu_user),
            ..Cpu::default()
        },
        memory: Memory {
            usage,
            working_set: load.working_set(),
            rss: load.rss,
            cache: load.cache,
            swap: load.swap.saturating_sub(load.swap_free),
            page_faults: load.page_faults,
            major_page_faults: load.major_page_faults,
            ..Memory::default()
        },
        ..Usage::default()
    }
}

fn series<'a>(
    machine: &Facts,
    node: &'a Usage,
    interfaces: &'a [Interface],
    pods: &'a [PodUse],
) -> Vec<Series<'a>> {
    let make = |container, id, image, name, namespace, pod| {
        [
            ("container", container),
            ("id", id),
            ("image", image),
            ("name", name),
            ("namespace", namespace),
            ("pod", pod),
        ]
    };
    let mut all = vec![Series {
        labels: make("", "/", "", "", "", ""),
        whole: true,
        started: machine.booted(node.at),
        usage: node,
        network: interfaces,
    }];
    for p in pods {
        if let Some(usage) = &p.usage {
            all.push(Series {
                labels: make("", &p.cgroup, "", "", &p.namespace, &p.name),
                whole: false,
                started: p.started,
                usage,
                network: &p.network,
            });
        }
        for c in &p.containers {
            let Some(usage) = &c.usage else { continue };
            all.push(Series {
                labels: make(&c.name, &c.cgroup, &c.image, &c.id, &p.namespace, &p.name),
                whole: false,
                started: c.started,
                usage,
                network: &[],
            });
        }
    }
    all
}

/// The labels in order of their names, as Prometheus' own library writes them.
fn labels<'a>(
    series: &Series<'a>,
    own: &[(&'static str, &'a str)],
) -> Vec<(&'static str, &'a str)> {
    let mut all: Vec<_> = series.labels.iter().chain(own).copied().collect();
    all.sort_by_key(|(name, _)| *name);
    all
}

fn start_times(out: &mut Text, all: &[Series<'_>]) {
    let name = "container_start_time_seconds";
    let help = "Start time of the container since unix epoch in seconds.";
    out.family(name, help, Kind::Gauge);
    for s in all {
        out.sample_at(
            name,
            &labels(s, &[]),
            s.started.as_nanosecond() as f64 / SECOND,
            s.usage.at,
        );
    }
}

fn version(out: &mut Text, machine: &Facts) {
    let name = "cadvisor_version_info";
    let help = "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.";
    out.family(name, help, Kind::Gauge);
    let labels = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", &*machine.kernel),
        ("osVersion", &*machine.os_image),
    ];
    out.sample(name, &labels, 1);
}

fn of_machine(out: &mut Text, machine: &Facts) {
    let labels = [
        ("boot_id", &*machine.boot_id),
        ("machine_id", &*machine.machine_id),
        ("system_uuid", &*machine.system_uuid),
    ];
    for (name, help, value) in [
        (
            "machine_cpu_cores",
            "Number of logical CPU cores.",
            machine.cpus,
        ),
        (
            "machine_memory_bytes",
            "Amount of memory installed on the machine.",
            machine.memory,
        ),
        (
            "machine_swap_bytes",
            "Amount of swap memory available on the machine.",
            machine.swap,
        ),
    ] {
        out.family(name, help, Kind::Gauge);
        out.sample(name, &labels, value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ContainerUse, DeviceIo};
    use super::*;

    #[test]
    fn series_have_cadvisors_labels() {
        let usage = |limits| Usage {
            at: Timestamp::from_second(60).expect("time"),
            cpu: Cpu {
                total: 1_500_000_000,
                periods: 4,
                ..Cpu::default()
            },
            memory: Memory {
                usage: 30,
                page_faults: 7,
                ..Memory::default()
            },
            limits,
            io: vec![DeviceIo {
                device: "8:0".into(),
                read_bytes: 5,
                ..DeviceIo::default()
            }],
            ..Usage::default()
        };
        let limited = Limits {
            cpu_quota: Some(5000),
            ..Limits::default()
        };
        let pod = PodUse {
            name: "p".into(),
            namespace: "ns".into(),
            cgroup: "/kubepods/podu".into(),
            usage: Some(usage(Limits::default())),
            network: vec![Interface {
                name: "eth0".into(),
                received: [11, 12, 13, 14],
                sent: [21, 22, 23, 24],
            }],
            containers: vec![ContainerUse {
                name: "c".into(),
                id: "x".into(),
                image: "i:1".into(),
                cgroup: "/kubepods/podu/x".into(),
                usage: Some(usage(limited)),
                ..ContainerUse::default()
            }],
            ..PodUse::default()
        };
        let text = cadvisor(&Facts::default(), &Load::default(), &[pod]);
        let of_pod = r#"container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p""#;
        let of_container =
            r#"container="c",id="/kubepods/podu/x",image="i:1",name="x",namespace="ns",pod="p""#;
        for line in [
            format!(r#"container_memory_usage_bytes{{{of_pod}}} 30 60000"#),
            format!(r#"container_memory_usage_bytes{{{of_container}}} 30 60000"#),
            format!(r#"container_cpu_cfs_periods_total{{{of_container}}} 4 60000"#),
            format!(r#"container_spec_cpu_quota{{{of_container}}} 5000 60000"#),
            r#"container_cpu_usage_seconds_total{container="c",cpu="total",id="/kubepods/podu/x",image="i:1",name="x",namespace="ns",pod="p"} 1.5 60000"#.into(),
            r#"container_network_transmit_packets_dropped_total{container="",id="/kubepods/podu",image="",interface="eth0",name="",namespace="ns",pod="p"} 24 60000"#.into(),
            r#"container_network_receive_errors_total{container="",id="/kubepods/podu",image="",interface="eth0",name="",namespace="ns",pod="p"} 13 60000"#.into(),
            r#"container_fs_reads_bytes_total{container="c",device="8:0",id="/kubepods/podu/x",image="i:1",name="x",namespace="ns",pod="p"} 5 60000"#.into(),
            r#"container_memory_failures_total{container="c",failure_type="pgfault",id="/kubepods/podu/x",image="i:1",name="x",namespace="ns",pod="p",scope="hierarchy"} 7 60000"#.into(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let unlimited = format!("container_cpu_cfs_periods_total{{{of_pod}}}");
        assert!(!text.contains(&unlimited), "{text}");
        let heads = text.lines().filter(|l| l.starts_with("# TYPE ")).count();
        let mut names: Vec<_> = text
            .lines()
            .filter_map(|l| l.strip_prefix("# TYPE "))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), heads, "a family begins once");
    }
}
