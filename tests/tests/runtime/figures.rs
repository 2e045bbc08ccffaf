//! What is measured: `kubectl top` with nothing installed, and the agent's own pages.

use keelson_tests::bed::json;
use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};
use serde_json::Value;

use crate::life::pod;

/// A container writes more than a log's file may hold; who follows gets every line.
pub(crate) fn rotation(bed: &Bed) {
    const LINES: usize = 1700;
    // 12 MB at once, and some lines after the agent has looked.
    let script = format!(
        "b=$(printf %07000d 0); i=0; while [ $i -lt {LINES} ]; do echo $i $b; i=$((i+1)); done; sleep 12; while [ $i -lt {} ]; do echo $i; i=$((i+1)); done",
        LINES + 50
    );
    let spec = format!(
        "restartPolicy: Never, containers: [{{name: c, image: '{ECHO}', command: [/bin/sh, -c, '{script}']}}]"
    );
    pod(bed, "talker", &spec);
    bed.wait_for("get pod talker -o jsonpath='{.status.phase}'", "Running");
    let all = bed.kubectl("logs -f talker");
    let numbers = all
        .lines()
        .filter_map(|l| l.split(' ').next()?.parse().ok());
    let numbers: Vec<usize> = numbers.collect();
    assert_eq!(numbers, (0..LINES + 50).collect::<Vec<_>>());
    let files = bed.server().sh("ls /var/log/pods/default_talker_*/c");
    assert!(files.lines().any(|f| f.starts_with("0.log.2")), "{files}");
    let rest = bed.kubectl("logs talker");
    assert_eq!(
        rest.lines().next(),
        Some("1700"),
        "the file that is written"
    );
    bed.kubectl("delete pod talker --now");
}

/// Asks the agent through the API server.
fn page(bed: &Bed, path: &str) -> String {
    bed.kubectl(&format!("get --raw /api/v1/nodes/n1/proxy{path}"))
}

pub(crate) fn top(bed: &Bed) {
    let busy = format!(
        "containers: [{{name: busy, image: '{ECHO}', command: [/bin/sh, -c, 'while :; do :; done'], resources: {{limits: {{cpu: 200m, memory: 64Mi}}}}, volumeMounts: [{{name: v, mountPath: /v}}],\n\
         readinessProbe: {{exec: {{command: [/bin/true]}}, periodSeconds: 1}}, livenessProbe: {{tcpSocket: {{port: 9}}, periodSeconds: 1, failureThreshold: 1000}}}},\n\
         {{name: idle, image: '{ECHO}', command: [/bin/sh, -c, 'dd if=/dev/zero of=/v/file bs=1M count=3 2>/dev/null; sleep 1000']}}], volumes: [{{name: v, emptyDir: {{}}}}]"
    )
    .replace("sleep 1000']}]", "sleep 1000'], volumeMounts: [{name: v, mountPath: /v}]}]");
    pod(bed, "busy", &busy);
    bed.kubectl("label pod busy what=figures");
    bed.kubectl("wait pod busy --for=condition=Ready --timeout=60s");
    // A share of 200m over some seconds: far from nothing, and from a whole core.
    eventually("the busy container's figures", secs(60), || {
        let out = bed.kubectl("top pods -l what=figures --containers --no-headers");
        let rows: Vec<Vec<&str>> = out
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        let of = |name: &str| rows.iter().find(|r| r.get(1) == Some(&name));
        let (Some(busy), Some(_)) = (of("busy"), of("idle")) else {
            anyhow::bail!("{out}");
        };
        let milli: u32 = busy[2].strip_suffix('m').unwrap_or_default().parse()?;
        anyhow::ensure!((100..400).contains(&milli), "{out}");
        Ok(())
    });
    let nodes = bed.kubectl("top nodes --no-headers");
    assert!(nodes.starts_with("n1 ") && nodes.contains("Mi "), "{nodes}");
    api(bed);
    pages(bed);
    summary(bed);
    bed.kubectl("delete pod busy --now");
}

fn api(bed: &Bed) {
    let list = json(&bed.kubectl("get --raw '/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=what%3Dfigures'"));
    assert_eq!(list["kind"], "PodMetricsList", "{list}");
    let item = &list["items"][0];
    assert_eq!(item["metadata"]["labels"]["what"], "figures");
    assert_eq!(item["containers"].as_array().unwrap().len(), 2, "{item}");
    let other =
        bed.kubectl("get --raw '/apis/metrics.k8s.io/v1beta1/pods?labelSelector=what%3Dnothing'");
    assert_eq!(json(&other)["items"], Value::Array(Vec::new()));
    let one = json(&bed.kubectl("get --raw /apis/metrics.k8s.io/v1beta1/nodes/n1"));
    assert_eq!(
        (&one["kind"], &one["metadata"]["name"]),
        (&"NodeMetrics".into(), &"n1".into())
    );
    let table = bed.kubectl("get podmetrics.metrics.k8s.io busy --no-headers");
    assert!(
        table.starts_with("busy ") && table.contains("Ki"),
        "{table}"
    );
    for (line, error) in [
        (
            "get podmetrics.metrics.k8s.io none",
            "pods \"default/none\" not found",
        ),
        (
            "get nodemetrics.metrics.k8s.io none",
            "nodes \"none\" not found",
        ),
        (
            "get --raw /apis/metrics.k8s.io/v1beta1/nodes --as nobody",
            "nodes.metrics.k8s.io is forbidden",
        ),
        (
            "delete podmetrics.metrics.k8s.io busy",
            "does not allow this method",
        ),
    ] {
        let said = bed.refused(line, "");
        assert!(said.contains(error), "{line}: {said}");
    }
    bed.kubectl("create clusterrolebinding looker --clusterrole=view --user=looker");
    bed.kubectl("top pods --as looker -l what=figures");
    bed.kubectl("delete clusterrolebinding looker");
}

fn pages(bed: &Bed) {
    let of_pod = r#"namespace="default",pod="busy""#;
    let table = [
        (
            "/metrics/resource",
            vec![
                format!("container_cpu_usage_seconds_total{{container=\"busy\",{of_pod}}} "),
                format!("pod_memory_working_set_bytes{{{of_pod}}} "),
                "node_memory_working_set_bytes ".into(),
                "resource_scrape_error 0".into(),
            ],
        ),
        (
            "/metrics/cadvisor",
            vec![
                "container_spec_cpu_quota{container=\"busy\",".into(),
                "container_cpu_cfs_throttled_periods_total{container=\"busy\",".into(),
                "container_memory_failcnt{container=\"idle\",".into(),
                "container_network_receive_bytes_total{container=\"\",".into(),
                "machine_cpu_cores{".into(),
            ],
        ),
        (
            "/metrics/probes",
            vec![
                format!("prober_probe_total{{container=\"busy\",{of_pod},pod_uid="),
                format!(
                    "prober_probe_duration_seconds_count{{container=\"busy\",{of_pod},probe_type=\"Readiness\"}} "
                ),
            ],
        ),
        (
            "/metrics",
            vec![
                "kubelet_node_name{node=\"n1\"} 1".into(),
                "kubelet_running_containers{container_state=\"running\"} ".into(),
                "kubelet_pod_start_duration_seconds_count ".into(),
                "process_resident_memory_bytes ".into(),
            ],
        ),
        ("/healthz/syncloop", vec!["ok".into()]),
        ("/configz", vec!["{\"kubeletconfig\":{".into()]),
    ];
    for (path, lines) in table {
        let text = page(bed, path);
        for line in lines {
            assert!(
                text.lines().any(|l| l.starts_with(&line)),
                "{path}: {line}\n{text}"
            );
        }
    }
    let probes = page(bed, "/metrics/probes");
    for (kind, result) in [("Readiness", "successful"), ("Liveness", "failed")] {
        let end = format!("probe_type=\"{kind}\",result=\"{result}\"}}");
        assert!(probes.contains(&end), "{end}\n{probes}");
    }
    assert!(page(bed, "/pods").contains("\"name\":\"busy\""));
}

fn summary(bed: &Bed) {
    let summary = json(&page(bed, "/stats/summary"));
    let pods = summary["pods"].as_array().unwrap();
    let busy = pods.iter().find(|p| p["podRef"]["name"] == "busy").unwrap();
    let number = |pointer: &str| busy.pointer(pointer).and_then(Value::as_u64);
    let least = [
        ("/cpu/usageCoreNanoSeconds", 100_000_000),
        ("/memory/workingSetBytes", 4096),
        ("/network/rxBytes", 0),
        ("/ephemeral-storage/usedBytes", 3 << 20),
        ("/process_stats/process_count", 2),
        ("/containers/0/rootfs/usedBytes", 0),
        ("/containers/0/logs/inodesUsed", 1),
    ];
    for (pointer, least) in least {
        assert!(
            number(pointer).is_some_and(|n| n >= least),
            "{pointer}: {busy}"
        );
    }
    let volumes = busy["volume"].as_array().unwrap();
    let v = volumes.iter().find(|v| v["name"] == "v").unwrap();
    assert!(v["usedBytes"].as_u64().is_some_and(|n| n >= 3 << 20), "{v}");
    let node = &summary["node"];
    for pointer in [
        "/memory/rssBytes",
        "/fs/capacityBytes",
        "/rlimit/maxpid",
        "/network/interfaces/0/rxBytes",
    ] {
        assert!(node.pointer(pointer).is_some(), "{pointer}: {node}");
    }
    let parts = node["systemContainers"].to_string();
    assert!(parts.contains("\"pods\""), "{parts}");
}
