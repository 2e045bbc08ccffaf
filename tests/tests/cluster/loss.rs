//! A node that is cut off.

use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

fn yaml() -> String {
    format!(
        r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: moves}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: moves}}}}
  template:
    metadata: {{labels: {{app: moves}}}}
    spec:
      affinity: {{nodeAffinity: {{preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 100, preference: {{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [n2]}}]}}}}]}}}}
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}
      - {{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}
      containers: [{{name: echo, image: {ECHO}}}]
"
    )
}

pub(crate) fn node(bed: &mut Bed) {
    bed.apply(&yaml());
    bed.kubectl("rollout status deploy/moves --timeout=60s");
    let on = "get pods -l app=moves -o jsonpath='{.items[*].spec.nodeName}'";
    assert!(
        bed.kubectl(on).contains("n2"),
        "{}",
        bed.kubectl("get pods -o wide")
    );
    bed.cut("n2").unwrap();
    bed.nodes[1].lose();
    eventually("all pods run on n1", secs(180), || {
        let path = "jsonpath='{range .items[*]}{.spec.nodeName} {.status.conditions[?(@.type==\"Ready\")].status} {.metadata.deletionTimestamp}{\"\\n\"}{end}'";
        let pods = bed.kubectl(&format!("get pods -l app=moves -o {path}"));
        anyhow::ensure!(
            pods.lines().filter(|l| l.trim() == "n1 True").count() == 2,
            "{pods}"
        );
        Ok(())
    });
    assert!(bed.kubectl("get node n2").contains("NotReady"));
    let taints = bed.kubectl("get node n2 -o jsonpath='{.spec.taints[*].key}'");
    assert!(
        taints.contains("node.kubernetes.io/unreachable"),
        "{taints}"
    );
    // A node object that is deleted takes its pods along.
    bed.kubectl("delete node n2");
    eventually("the lost pods are gone", secs(120), || {
        let left = bed.kubectl("get pods -A --field-selector spec.nodeName=n2 -o name");
        anyhow::ensure!(left.is_empty(), "{left}");
        Ok(())
    });
}
