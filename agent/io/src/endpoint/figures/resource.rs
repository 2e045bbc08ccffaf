//! `/metrics/resource`: the little that `kubectl top` and autoscaling go by, under upstream's names (KEP-727).

use jiff::Timestamp;

use super::text::{Kind, Text};
use super::{ContainerUse, PodUse, Usage};
use crate::node::Load;

const SECOND: f64 = 1e9;

/// A metric: name, help, kind and value.
type Row = (&'static str, &'static str, Kind, fn(&Usage) -> Option<f64>);

const CONTAINER: [Row; 4] = [
    (
        "container_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        Kind::Counter,
        |u| Some(u.cpu.total as f64 / SECOND),
    ),
    (
        "container_memory_working_set_bytes",
        "[STABLE] Current working set of the container in bytes",
        Kind::Gauge,
        |u| Some(u.memory.working_set as f64),
    ),
    (
        "container_swap_limit_bytes",
        "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
        Kind::Gauge,
        |u| u.limits.swap.map(|n| n as f64),
    ),
    (
        "container_swap_usage_bytes",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        Kind::Gauge,
        |u| Some(u.memory.swap as f64),
    ),
];

const POD: [Row; 3] = [
    (
        "pod_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        Kind::Counter,
        |u| Some(u.cpu.total as f64 / SECOND),
    ),
    (
        "pod_memory_working_set_bytes",
        "[STABLE] Current working set of the pod in bytes",
        Kind::Gauge,
        |u| Some(u.memory.working_set as f64),
    ),
    (
        "pod_swap_usage_bytes",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
        Kind::Gauge,
        |u| Some(u.memory.swap as f64),
    ),
];

/// The text. Without the node's own figures only the error is told.
pub(in crate::endpoint) fn resource(node: Option<&Load>, pods: &[PodUse]) -> String {
    let mut out = Text::default();
    let incomplete =
        |p: &PodUse| p.usage.is_none() && p.containers.iter().any(|c| c.usage.is_some());
    let failed = node.is_none() || pods.iter().any(incomplete);
    if let Some(node) = node {
        containers(&mut out, pods);
        of_node(&mut out, node);
        of_pods(&mut out, pods);
    }
    out.gauge(
        "resource_scrape_error",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        u8::from(failed),
    );
    out.gauge(
        "scrape_error",
        "[ALPHA] (Deprecated since 1.29.0) 1 if there was an error while getting container metrics, 0 otherwise",
        u8::from(failed),
    );
    out.finish()
}

fn containers(out: &mut Text, pods: &[PodUse]) {
    let all = || {
        pods.iter()
            .flat_map(|p| p.containers.iter().map(move |c| (p, c)))
    };
    let labels =
        |p: &PodUse, c: &ContainerUse| [c.name.clone(), p.namespace.clone(), p.name.clone()];
    for (name, help, kind, value) in CONTAINER {
        out.family(name, help, kind);
        for (p, c) in all() {
            let Some((usage, value)) = c.usage.as_ref().and_then(|u| Some((u, value(u)?))) else {
                continue;
            };
            let [container, namespace, pod] = labels(p, c);
            let labels = [
                ("container", &*container),
                ("namespace", &*namespace),
                ("pod", &*pod),
            ];
            out.sample_at(name, &labels, value, usage.at);
        }
    }
    let name = "container_start_time_seconds";
    let help = "[STABLE] Start time of the container since unix epoch in seconds";
    out.family(name, help, Kind::Gauge);
    for (p, c) in all().filter(|(_, c)| c.started > Timestamp::UNIX_EPOCH) {
        let labels = [
            ("container", &*c.name),
            ("namespace", &*p.namespace),
            ("pod", &*p.name),
        ];
        out.sample(name, &labels, c.started.as_nanosecond() as f64 / SECOND);
    }
}

fn of_node(out: &mut Text, node: &Load) {
    let rows = [
        (
            "node_cpu_usage_seconds_total",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            Kind::Counter,
            node.cpu_nanoseconds as f64 / SECOND,
        ),
        (
            "node_memory_working_set_bytes",
            "[STABLE] Current working set of the node in bytes",
            Kind::Gauge,
            node.working_set() as f64,
        ),
        (
            "node_swap_usage_bytes",
            "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
            Kind::Gauge,
            node.swap.saturating_sub(node.swap_free) as f64,
        ),
    ];
    for (name, help, kind, value) in rows {
        out.family(name, help, kind);
        out.sample_at(name, &[], value, node.at);
    }
}

fn of_pods(out: &mut Text, pods: &[PodUse]) {
    for (name, help, kind, value) in POD {
        out.family(name, help, kind);
        for p in pods {
            let Some((usage, value)) = p.usage.as_ref().and_then(|u| Some((u, value(u)?))) else {
                continue;
            };
            let labels = [("namespace", &*p.namespace), ("pod", &*p.name)];
            out.sample_at(name, &labels, value, usage.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cpu, Memory};
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).expect("time")
    }

    fn usage(cpu: u64, memory: u64) -> Option<Usage> {
        Some(Usage {
            at: at(60_000),
            cpu: Cpu {
                total: cpu,
                ..Cpu::default()
            },
            memory: Memory {
                working_set: memory,
                ..Memory::default()
            },
            ..Usage::default()
        })
    }

    #[test]
    fn names_labels_and_times_are_upstreams() {
        let container = ContainerUse {
            name: "c".into(),
            started: at(1_500),
            usage: usage(1_500_000_000, 10),
            ..ContainerUse::default()
        };
        let pod = PodUse {
            name: "p".into(),
            namespace: "ns".into(),
            usage: usage(2_000_000_000, 20),
            containers: vec![container],
            ..PodUse::default()
        };
        let node = Load {
            at: at(61_000),
            cpu_nanoseconds: 3_000_000_000,
            memory: 100,
            memory_available: 60,
            ..Load::default()
        };
        let text = resource(Some(&node), std::slice::from_ref(&pod));
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5 60000",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 10 60000",
            "container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5",
            "node_cpu_usage_seconds_total 3 61000",
            "node_memory_working_set_bytes 40 61000",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 2 60000",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 20 60000",
            "resource_scrape_error 0",
            "scrape_error 0",
            "# TYPE container_cpu_usage_seconds_total counter",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let without = PodUse { usage: None, ..pod };
        for (name, node, pods) in [
            ("no node", None, &[][..]),
            ("half a pod", Some(&node), &[without]),
        ] {
            let text = resource(node, pods);
            assert!(
                text.contains("\nresource_scrape_error 1\n"),
                "{name}: {text}"
            );
        }
    }
}
