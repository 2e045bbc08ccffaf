//! Volumes that are on one node of several.

use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

fn user(bed: &Bed, name: &str, node: &str) {
    let selector = match node {
        "" => String::new(),
        node => format!("  nodeSelector: {{kubernetes.io/hostname: {node}}}\n"),
    };
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{selector}  containers: [{{name: c, image: {ECHO}, command: [/bin/sleep, infinity], volumeMounts: [{{name: v, mountPath: /v}}]}}]\n  volumes: [{{name: v, persistentVolumeClaim: {{claimName: data}}}}]\n"
    ));
}

pub(crate) fn follow(bed: &Bed) {
    bed.apply("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n");
    user(bed, "first", "n2");
    bed.kubectl("wait pod first --for=condition=Ready --timeout=60s");
    bed.kubectl("exec first -- sh -c 'echo kept >/v/file'");
    bed.kubectl("delete pod first");
    user(bed, "away", "n1");
    bed.wait_contains(
        "describe pod away",
        "1 node(s) had volume node affinity conflict",
    );
    user(bed, "second", "");
    bed.kubectl("wait pod second --for=condition=Ready --timeout=60s");
    let node = bed.kubectl("get pod second -o jsonpath={.spec.nodeName}");
    assert_eq!(node, "n2");
    assert_eq!(bed.kubectl("exec second -- cat /v/file").trim(), "kept");
    bed.kubectl("delete pod away second");
    bed.kubectl("delete pvc data");
    empty(bed);
}

/// Claims of a StatefulSet outlive its pods, and nothing outlives the claims.
pub(crate) fn sets(bed: &Bed) {
    bed.apply(&format!(
        r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: c, image: {ECHO}, command: [/bin/sh, -c, 'hostname >>/v/log; sleep infinity'], volumeMounts: [{{name: data, mountPath: /v}}]}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
"#
    ));
    bed.kubectl("rollout status statefulset db --timeout=90s");
    bed.kubectl("delete pod db-1");
    bed.kubectl("rollout status statefulset db --timeout=90s");
    let log = bed.kubectl("exec db-1 -- cat /v/log");
    assert_eq!(log, "db-1\ndb-1\n");
    assert_eq!(bed.kubectl("exec db-0 -- cat /v/log"), "db-0\n");
    bed.kubectl("delete statefulset db");
    bed.kubectl("delete pod -l app=db --ignore-not-found");
    bed.kubectl("delete pvc -l app=db");
    empty(bed);
}

fn empty(bed: &Bed) {
    eventually("volumes and directories are gone", secs(60), || {
        let left = bed.kubectl("get pv -o name");
        anyhow::ensure!(left.trim().is_empty(), "{left}");
        for node in &bed.nodes {
            let left = node.sh("ls /var/lib/keelson/storage 2>/dev/null || true");
            anyhow::ensure!(left.trim().is_empty(), "{}: {left}", node.name);
        }
        Ok(())
    });
}
