//! A node without power: the disk is as it was, all else is new.

use keelson_tests::images::ECHO;
use keelson_tests::snapshot::Snapshot;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

const STATIC: &str = "/etc/keelson/static-pods/fixed.yaml";

#[test]
fn power_is_cut() {
    let mut bed = Bed::split(&[]);
    let name = bed.nodes[1].name.clone();
    // What is there once for all pods is there before.
    bed.kubectl(&format!("run first --image={ECHO}"));
    bed.kubectl("wait pod first --for=condition=Ready --timeout=60s");
    bed.kubectl("exec first -- /bin/busybox true");
    bed.kubectl("delete pod first --timeout=60s");
    bed.nodes[1].sh("mkdir -p /etc/keelson/static-pods");
    let before = Snapshot::of(&bed.nodes[1]);
    deploy(&bed, &name);
    let pods = "get pods -o jsonpath='{range .items[*]}{.metadata.name}={.metadata.uid} {end}'";
    let same = bed.kubectl(pods);
    bed.kubectl(
        "exec stays -c main -- /bin/busybox sh -c 'echo kept >/data/file; echo lost >/shm/file'",
    );

    bed.reboot(1);
    bed.wait_node_ready(&bed.nodes[1]);
    let restarts = "get pod stays -o jsonpath='{.status.containerStatuses[0].restartCount} {.status.initContainerStatuses[0].restartCount}'";
    bed.wait_for(restarts, "1 1");
    bed.kubectl("wait pods stays fixed-n2 --for=condition=Ready --timeout=60s");
    assert_eq!(bed.kubectl(pods), same, "the same pods");
    // The disk's data is there, memory's is not; what had ended is not run again, its log can be read.
    let data = "exec stays -c main -- /bin/busybox sh -c 'cat /data/file; ls /shm'";
    assert_eq!(bed.kubectl(data), "kept\n");
    assert_eq!(
        bed.kubectl("get pod ended -o jsonpath='{.status.phase} {.status.containerStatuses[0].restartCount}'"),
        "Succeeded 0"
    );
    assert_eq!(bed.kubectl("logs ended"), "the end\n");
    assert_eq!(
        bed.kubectl("logs stays -c main --previous --tail=1 | wc -l")
            .trim(),
        "1"
    );

    bed.nodes[1].sh(&format!("rm {STATIC}"));
    bed.kubectl("delete pods stays ended --timeout=60s");
    eventually("nothing is left of them", secs(60), || {
        let diff = before.diff(&Snapshot::of(&bed.nodes[1]), &[]);
        anyhow::ensure!(diff.is_empty(), "{diff}");
        Ok(())
    });
}

fn deploy(bed: &Bed, node: &str) {
    bed.nodes[1].sh(&format!(
        "cat >{STATIC} <<'END'
apiVersion: v1
kind: Pod
metadata: {{name: fixed}}
spec: {{containers: [{{name: main, image: '{ECHO}'}}]}}
END"
    ));
    bed.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: stays}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  initContainers: [{{name: first, image: '{ECHO}', command: [/bin/busybox, 'true']}}]
  containers:
  - name: main
    image: '{ECHO}'
    command: [/bin/busybox, sh, -c, 'echo begin; exec sleep 1000000']
    volumeMounts: [{{name: data, mountPath: /data}}, {{name: shm, mountPath: /shm}}, {{name: ca, mountPath: /ca}}]
  volumes: [{{name: data, emptyDir: {{}}}}, {{name: shm, emptyDir: {{medium: Memory}}}}, {{name: ca, configMap: {{name: kube-root-ca.crt}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: ended}}
spec:
  nodeName: {node}
  restartPolicy: Never
  containers: [{{name: main, image: '{ECHO}', command: [/bin/busybox, echo, the end]}}]
"
    ));
    bed.kubectl("wait pod ended --for=jsonpath='{.status.phase}'=Succeeded --timeout=60s");
    bed.kubectl("wait pod stays --for=condition=Ready --timeout=60s");
    bed.wait_contains("get pods", "fixed-n2");
    bed.kubectl("wait pod fixed-n2 --for=condition=Ready --timeout=60s");
}
