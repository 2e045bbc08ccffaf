//! What a pod stands on fails it: runc that never answers, a disk without room. Others go on, and when it is well
//! again the pod is too.

use keelson_tests::images::ECHO;
use keelson_tests::node::CALM;
use keelson_tests::snapshot::Snapshot;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

/// A runc that hangs in every call whose file is there.
const RUNC: &str = r#"
mkdir -p /var/lib/stuck
cat >/var/lib/stuck/runc <<'END'
#!/bin/sh
for word in "$@"; do
  case $word in create | start | kill | delete | state) [ -e "/var/lib/stuck/$word" ] && exec sleep 1234567 ;; esac
done
exec runc "$@"
END
chmod +x /var/lib/stuck/runc
"#;
const HANDLER: &str = "runtimeRequestTimeout: 2s\nruntimeHandlers: {stuck: {runtimeType: io.containerd.runc.v2, binaryName: /var/lib/stuck/runc}}\n";

/// `more` of the pod's spec.
fn pod(bed: &Bed, name: &str, more: &str) {
    bed.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: n2
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: '{ECHO}'}}]
  {more}
"
    ));
}

fn ready(bed: &Bed, name: &str) {
    bed.kubectl(&format!(
        "wait pod {name} --for=condition=Ready --timeout=90s"
    ));
}

/// A pod comes and goes as if nothing were.
fn another(bed: &Bed) {
    pod(bed, "another", "");
    ready(bed, "another");
    bed.kubectl("delete pod another --timeout=60s");
}

fn nothing_left(bed: &Bed, before: &Snapshot) {
    eventually("nothing is left", secs(60), || {
        let diff = before.diff(&Snapshot::of(&bed.nodes[1]), &[]);
        anyhow::ensure!(diff.is_empty(), "{diff}");
        Ok(())
    });
}

#[test]
fn runc_hangs() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("config.yaml");
    std::fs::write(&config, format!("{CALM}{HANDLER}")).expect("a file");
    let bed = Bed::split(&["--config", &config.display().to_string()]);
    let node = &bed.nodes[1];
    node.sh(RUNC);
    bed.apply(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: stuck}\nhandler: stuck\n",
    );
    another(&bed);
    let before = Snapshot::of(node);
    let hang = |calls: &str| {
        node.sh(&format!(
            "cd /var/lib/stuck; rm -f create kill delete state; touch {calls}"
        ))
    };
    let release = || {
        node.sh(
            "cd /var/lib/stuck; rm -f create kill delete state; pkill -f '[s]leep 1234567' || true",
        )
    };

    hang("create");
    pod(&bed, "waits", "runtimeClassName: stuck");
    let reason = "get pod waits -o jsonpath='{.status.containerStatuses[0]}'";
    bed.wait_contains(reason, "Error");
    another(&bed);
    // It can be given up: nothing of it stays.
    bed.kubectl("delete pod waits --timeout=90s");
    release();
    nothing_left(&bed, &before);

    hang("create");
    pod(&bed, "waits", "runtimeClassName: stuck");
    bed.wait_contains(reason, "Error");
    release();
    ready(&bed, "waits");

    hang("kill delete state");
    bed.kubectl("delete pod waits --wait=false");
    another(&bed);
    let still = bed.kubectl("get pod waits -o jsonpath='{.metadata.deletionTimestamp}'");
    assert!(!still.is_empty());
    release();
    bed.kubectl("wait pod waits --for=delete --timeout=90s");
    nothing_left(&bed, &before);
}

#[test]
fn the_disk_is_full() {
    // Volumes, images and containers; pods are not evicted for it.
    let bed = Bed::split_on(|node| node.small_disk("96m"), &[]);
    let node = &bed.nodes[1];
    another(&bed);
    let before = Snapshot::of(node);
    let volume = "volumes: [{name: ca, configMap: {name: kube-root-ca.crt}}]";
    pod(&bed, "old", volume);
    ready(&bed, "old");
    let pid = || node.sh("pgrep -x echo");
    let first = pid();

    node.sh("dd if=/dev/zero of=/var/lib/keelson/fill bs=64k 2>/dev/null || true");
    pod(&bed, "new", volume);
    bed.wait_contains(
        "get events --field-selector involvedObject.name=new",
        "No space left on device",
    );
    // Nor does the agent need room to begin again.
    node.kill();
    node.start_again();
    bed.wait_node_ready(node);
    assert_eq!(pid(), first, "what runs, runs on");
    bed.kubectl("delete pod old --timeout=60s");

    node.sh("rm /var/lib/keelson/fill");
    ready(&bed, "new");
    bed.kubectl("delete pod new --timeout=60s");
    nothing_left(&bed, &before);
}
