//! Figures for machines: `/stats/summary` (JSON) and Prometheus text for `/metrics/resource` and
//! `/metrics/cadvisor`. Pure: what is not measured is left out.

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::ContainerUse;
use crate::node::Facts;

/// The Summary API's answer.
pub(super) fn summary(node: &str, facts: &Facts, usage: &[ContainerUse], now: Timestamp) -> Value {
    let mut pods: BTreeMap<&str, Vec<&ContainerUse>> = BTreeMap::new();
    for u in usage {
        pods.entry(&u.pod_uid).or_default().push(u);
    }
    let booted = now
        .as_second()
        .saturating_sub(i64::try_from(facts.uptime).unwrap_or(0));
    json!({
        "node": {
            "nodeName": node,
            "startTime": time(booted),
            "cpu": {"time": now.to_string(), "usageCoreNanoSeconds": facts.cpu_nanoseconds},
            "memory": {
                "time": now.to_string(),
                "availableBytes": facts.memory_available,
                "workingSetBytes": facts.memory.saturating_sub(facts.memory_available),
            },
            "fs": {
                "time": now.to_string(),
                "capacityBytes": facts.disk, "availableBytes": facts.disk_available,
                "usedBytes": facts.disk.saturating_sub(facts.disk_available),
                "inodes": facts.inodes, "inodesFree": facts.inodes_free,
            },
            "rlimit": {"time": now.to_string(), "maxpid": facts.pids, "curproc": facts.pids_used},
        },
        "pods": pods.values().filter_map(|p| pod(p, now)).collect::<Vec<_>>(),
    })
}

fn pod(containers: &[&ContainerUse], now: Timestamp) -> Option<Value> {
    let first = containers.first()?;
    let sum = |f: fn(&ContainerUse) -> u64| containers.iter().map(|c| f(c)).sum::<u64>();
    let start = containers.iter().map(|c| c.started).min()?;
    Some(json!({
        "podRef": {"name": first.pod, "namespace": first.namespace, "uid": first.pod_uid},
        "startTime": time(start),
        "cpu": cpu(sum(|c| c.cpu_nanoseconds), now),
        "memory": memory(sum(|c| c.memory_working_set), now),
        "containers": containers.iter().map(|c| json!({
            "name": c.container, "startTime": time(c.started),
            "cpu": cpu(c.cpu_nanoseconds, now), "memory": memory(c.memory_working_set, now),
        })).collect::<Vec<_>>(),
    }))
}

fn cpu(nanoseconds: u64, now: Timestamp) -> Value {
    json!({"time": now.to_string(), "usageCoreNanoSeconds": nanoseconds})
}

fn memory(bytes: u64, now: Timestamp) -> Value {
    json!({"time": now.to_string(), "workingSetBytes": bytes})
}

fn time(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(|t| t.to_string())
}

/// A metric of containers: name, help, type and value.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    fn(&ContainerUse) -> f64,
);

const SECOND: f64 = 1e9;

const RESOURCE: [Row; 3] = [
    (
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the container in core-seconds",
        "counter",
        |u| u.cpu_nanoseconds as f64 / SECOND,
    ),
    (
        "container_memory_working_set_bytes",
        "Current working set of the container in bytes",
        "gauge",
        |u| u.memory_working_set as f64,
    ),
    (
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds",
        "gauge",
        |u| u.started as f64,
    ),
];

/// `/metrics/resource`: the node and its containers, for metrics-server and the like.
pub(super) fn resource(facts: &Facts, usage: &[ContainerUse]) -> String {
    let mut out = String::new();
    let node = [
        (
            "node_cpu_usage_seconds_total",
            "Cumulative cpu time consumed by the node in core-seconds",
            "counter",
            facts.cpu_nanoseconds as f64 / SECOND,
        ),
        (
            "node_memory_working_set_bytes",
            "Current working set of the node in bytes",
            "gauge",
            facts.memory.saturating_sub(facts.memory_available) as f64,
        ),
    ];
    for (name, help, kind, value) in node {
        head(&mut out, name, help, kind);
        _ = writeln!(out, "{name} {value}");
    }
    containers(&mut out, usage);
    out
}

/// `/metrics/cadvisor`: the containers' figures under cAdvisor's names, which are the same.
pub(super) fn cadvisor(usage: &[ContainerUse]) -> String {
    let mut out = String::new();
    containers(&mut out, usage);
    out
}

fn containers(out: &mut String, usage: &[ContainerUse]) {
    for (name, help, kind, value) in RESOURCE {
        head(out, name, help, kind);
        for u in usage {
            let ContainerUse {
                container,
                namespace,
                pod,
                ..
            } = u;
            _ = writeln!(
                out,
                "{name}{{container={container:?},namespace={namespace:?},pod={pod:?}}} {}",
                value(u)
            );
        }
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_the_sum_of_its_containers() {
        let used = |container: &str, started, cpu, memory| ContainerUse {
            pod_uid: "u".into(),
            namespace: "ns".into(),
            pod: "p".into(),
            container: container.into(),
            started,
            cpu_nanoseconds: cpu,
            memory_working_set: memory,
        };
        let usage = [
            used("a", 20, 1_500_000_000, 10),
            used("b", 10, 500_000_000, 5),
        ];
        let summary = summary("n", &Facts::default(), &usage, Timestamp::UNIX_EPOCH);
        let at = |pointer| summary.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!(at("/pods/0/cpu/usageCoreNanoSeconds"), 2_000_000_000u64);
        assert_eq!(at("/pods/0/memory/workingSetBytes"), 15);
        assert_eq!(at("/pods/0/startTime"), "1970-01-01T00:00:10Z");
        assert_eq!(at("/pods/0/podRef/uid"), "u");
        let text = cadvisor(&usage);
        let line =
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"p\"} 1.5\n";
        assert!(text.contains(line), "{text}");
    }
}
