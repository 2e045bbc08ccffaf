//! A node whose API server is away: its pods go on, and nobody is evicted when it is back.

use std::time::Duration;

use keelson_tests::images::ECHO;
use keelson_tests::wait::{is_long, secs};
use keelson_tests::{Bed, eventually};

/// Longer than a node may be silent (40 s) before it counts as lost; a quarter of an hour by `scripts/test --long`.
fn long() -> Duration {
    secs(if is_long() { 900 } else { 45 })
}

#[test]
fn the_api_server_is_away() {
    let bed = Bed::split(&[]);
    let (server, node) = (bed.server(), &bed.nodes[1]);
    // It goes at the first sign of trouble with its node.
    let yaml = format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 0}}
      - {{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 0}}
      containers:
      - {{name: echo, image: '{ECHO}', livenessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}}}
"
    );
    bed.apply(&yaml);
    bed.kubectl("rollout status deploy/web --timeout=60s");
    let uids = || bed.kubectl("get pods -l app=web -o jsonpath='{.items[*].metadata.uid}'");
    let (before, since) = (uids(), ready_since(&bed));
    let echoes = || node.sh("pgrep -x echo | sort -n");
    let running = echoes();

    server.kill();
    let away = std::time::Instant::now();
    // A container that ends is started again, a static pod that appears is started.
    let victim = running.lines().next().expect("three run").to_owned();
    node.sh(&format!("kill -9 {victim}"));
    eventually("it runs again", secs(30), || {
        let now = echoes();
        let (all, gone) = (now.lines().count(), !now.lines().any(|p| p == victim));
        anyhow::ensure!(all == 3 && gone, "{now}");
        Ok(())
    });
    node.sh(&format!(
        "mkdir -p /etc/keelson/static-pods; cat >/etc/keelson/static-pods/fixed.yaml <<'END'
apiVersion: v1
kind: Pod
metadata: {{name: fixed}}
spec: {{containers: [{{name: main, image: '{ECHO}', command: [/bin/busybox, sleep, '987654']}}]}}
END"
    ));
    let fixed = || {
        eventually("the static pod runs", secs(30), || {
            let pid = node.sh("(pgrep -f '[s]leep 987654' || true) | head -1");
            anyhow::ensure!(!pid.is_empty(), "none runs");
            Ok(pid)
        })
    };
    let pid = fixed();
    // Nor does the agent need it to begin again: what runs, runs on.
    let now = echoes();
    node.kill();
    node.start_again();
    std::thread::sleep(long().saturating_sub(away.elapsed()));
    assert_eq!(echoes(), now);
    assert_eq!(fixed(), pid);

    server.start_again();
    bed.wait_ready();
    bed.wait_contains("get pods", "fixed-n2");
    bed.wait_for(
        "get pods -l app=web -o jsonpath='{.items[*].status.containerStatuses[0].restartCount}' | tr ' ' '\\n' | sort | tr '\\n' ' '",
        "0 0 1",
    );
    // Whatever would be evicted has been when all controllers have looked twice.
    std::thread::sleep(secs(12));
    assert_eq!(uids(), before, "evicted");
    assert_eq!(echoes(), now);
    assert_eq!(ready_since(&bed), since, "Ready was false for a time");
    let taints = bed.kubectl("get node n2 -o jsonpath='{.spec.taints[*].key}'");
    assert_eq!(taints, "");
}

/// Since when the node has been Ready, or has not.
fn ready_since(bed: &Bed) -> String {
    let condition = "{.status.conditions[?(@.type==\"Ready\")]";
    bed.kubectl(&format!(
        "get node n2 -o jsonpath='{condition}.status}} {condition}.lastTransitionTime}}'"
    ))
}
