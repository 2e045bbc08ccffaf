use super::*;
use serde_json::json;

fn value(text: &str, series: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(series)?.strip_prefix(' '));
    line.map(|v| v.parse().expect("number"))
}

#[test]
fn what_a_sync_tells() {
    let metrics = Metrics::new(Mode::Iptables);
    metrics.service_change();
    let trigger = Timestamp::now() - Duration::from_millis(1500);
    for trigger in [
        None,
        Some(trigger),
        Some(Timestamp::now() + Duration::from_secs(60)),
    ] {
        metrics.endpoint_change(Family::V4, trigger);
    }
    metrics.queued(Family::V4);
    let text = metrics.render();
    for (series, want) in [
        ("service_changes_total", 1.0),
        ("service_changes_pending", 1.0),
        ("endpoint_changes_total", 3.0),
        ("endpoint_changes_pending", 3.0),
    ] {
        let series = format!("kubeproxy_sync_proxy_rules_{series}");
        assert_eq!(value(&text, &series), Some(want), "{series}");
    }
    metrics.synced(&[(Family::V4, Duration::from_millis(3))], false);
    metrics.sync_failed(Family::V6);
    metrics.no_local_endpoints(Family::V4, 2, 1);
    metrics.iptables_rules(Family::V4, "nat", 100, 4);
    metrics.conntrack(Family::V4, Duration::from_millis(20), 7);
    metrics.invalid_dropped(5);
    metrics.set(Metric::LastSynced, &[label(Family::V4)], 1.0);
    metrics.set(Metric::LastQueued, &[label(Family::V4)], 1.0);
    let text = metrics.render();
    let (kubeproxy, _) = text.split_once("# HELP process_").expect("process metrics");
    let wanted = |line: &&str| {
        !line.contains("_sum{ip_family=\"IPv4\"} 1.5")
            && !line.contains("network_programming_duration_seconds_bucket")
    };
    let shown: Vec<&str> = kubeproxy.lines().filter(wanted).collect();
    insta::assert_snapshot!(shown.join("\n"));
    let bucket = |le: &str| {
        value(
            &text,
            &format!(
                "kubeproxy_network_programming_duration_seconds_bucket{{ip_family=\"IPv4\",le=\"{le}\"}}"
            ),
        )
    };
    assert_eq!(
        (bucket("0"), bucket("1"), bucket("60")),
        (Some(1.0), Some(1.0), Some(2.0))
    );
    let count = text
        .matches("kubeproxy_network_programming_duration_seconds_bucket{")
        .count();
    assert_eq!(count, 82, "upstream's 81 bounds and infinity");
    for name in [
        "cpu_seconds_total",
        "resident_memory_bytes",
        "open_fds",
        "max_fds",
        "start_time_seconds",
    ] {
        let got = value(&text, &format!("process_{name}"));
        assert!(got.is_some_and(|v| v >= 0.0), "{name}: {got:?}");
    }
}

#[test]
fn modes_have_their_own() {
    let names = |mode| {
        let metrics = Metrics::new(mode);
        metrics.sync_failed(Family::V4);
        metrics.render()
    };
    let rows = [
        (
            Mode::Iptables,
            "iptables_restore_failures_total{",
            "nftables_",
        ),
        (
            Mode::Ipvs,
            "iptables_restore_failures_total{",
            "iptables_ct_state_invalid",
        ),
        (
            Mode::Userspace,
            "iptables_restore_failures_total{",
            "iptables_ct_state_invalid",
        ),
        (Mode::Nftables, "nftables_sync_failures_total{", "iptables_"),
    ];
    for (mode, has, not) in rows {
        let text = names(mode);
        assert!(
            text.contains(has) && !text.contains(not),
            "{}: {text}",
            mode.name()
        );
    }
}

#[test]
fn labels_are_escaped_and_kinds_kept_apart() {
    let metrics = Metrics::new(Mode::Ipvs);
    metrics.add(Metric::Healthz, &[("code", "a\"b\\c\nd")], 2);
    metrics.add(Metric::Sync, &[], 1);
    metrics.observe(Metric::Livez, &[], Duration::ZERO);
    let text = metrics.render();
    assert!(
        text.contains(r#"proxy_healthz_total{code="a\"b\\c\nd"} 2"#),
        "{text}"
    );
    assert!(
        !text.contains("rules_duration") && !text.contains("livez"),
        "{text}"
    );
}

#[test]
fn slices_say_when_it_happened() {
    let slice = |annotation: &str| -> EndpointSlice {
        serde_json::from_value(json!({"metadata": {"annotations": {TRIGGER_TIME: annotation}}, "addressType": "IPv4", "endpoints": []})).expect("slice")
    };
    let at = trigger_time(&slice("2026-11-22T07:00:00.5Z")).expect("time");
    assert_eq!(at.as_millisecond() % 1000, 500);
    assert_eq!(trigger_time(&slice("soon")), None);
}
