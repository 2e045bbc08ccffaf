//! Many pods come and go; what is counted afterwards is as before.

use keelson_tests::images::ECHO;
use keelson_tests::node::Node;
use keelson_tests::snapshot::Snapshot;
use keelson_tests::wait::{is_long, secs};
use keelson_tests::{Bed, eventually};

/// What the agent's heap may keep of them all: what is forgotten of 2,000 pods, were it a KiB each, shows.
const SLACK_KIB: i64 = 2048;

/// Batches, and pods in one: 2,000 pods by `scripts/test --long`, as many at once as a node takes.
fn size() -> (usize, usize) {
    if is_long() { (20, 100) } else { (2, 24) }
}

#[test]
fn pods_come_and_go() {
    let bed = Bed::split(&[]);
    let node = &bed.nodes[1];
    // What pods need once, and what the allocator keeps for the next.
    let (rounds, pods) = size();
    batch(&bed, pods);
    let before = Counts::of(node);
    for round in 0..rounds {
        batch(&bed, pods);
        eprintln!(
            "{} pods: {:?}",
            (round + 1) * pods,
            Counts::of(node).of_agent
        );
    }
    eventually("all is as before", secs(60), || {
        let after = Counts::of(node);
        let diff = before.machine.diff(&after.machine, &[]);
        anyhow::ensure!(diff.is_empty(), "{diff}");
        anyhow::ensure!(
            before.containerd == after.containerd,
            "{before:?}\n{after:?}"
        );
        let ((files, memory), (files_now, memory_now)) = (before.of_agent, after.of_agent);
        anyhow::ensure!(files_now <= files, "{files} descriptors, now {files_now}");
        anyhow::ensure!(
            memory_now <= memory + SLACK_KIB,
            "{memory} KiB, now {memory_now} KiB"
        );
        Ok(())
    });
}

/// Starts so many pods of three kinds, waits until each has come as far as it can, and deletes them.
fn batch(bed: &Bed, pods: usize) {
    let node = &bed.nodes[1].name;
    let yaml: String = (0..pods).map(|n| pod(n, node)).collect();
    bed.apply(&yaml);
    bed.kubectl("wait pods -l soak=stays --for=condition=Ready --timeout=300s");
    bed.kubectl("wait pods -l soak=ends --for=jsonpath='{.status.phase}'=Succeeded --timeout=300s");
    bed.kubectl("delete pods -l soak --timeout=300s");
}

/// Every fourth ends by itself; every other has volumes and a first container.
fn pod(n: usize, node: &str) -> String {
    let (kind, command) = match n % 4 {
        0 => ("ends", "command: [/bin/busybox, 'true'], "),
        _ => ("stays", ""),
    };
    let extra = match n % 2 {
        0 => "",
        _ => "
  initContainers: [{name: first, image: IMAGE, command: [/bin/busybox, 'true']}]
  volumes: [{name: data, emptyDir: {medium: Memory}}, {name: ca, configMap: {name: kube-root-ca.crt}}]",
    };
    let mounts = match n % 2 {
        0 => "",
        _ => "volumeMounts: [{name: data, mountPath: /data}, {name: ca, mountPath: /ca}], ",
    };
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: soak-{n}, labels: {{soak: {kind}}}}}
spec:
  nodeName: {node}
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: IMAGE, {command}{mounts}env: [{{name: NUMBER, value: '{n}'}}]}}]{extra}
"
    )
    .replace("IMAGE", &format!("'{ECHO}'"))
}

/// What could be left over.
#[derive(Debug)]
struct Counts {
    machine: Snapshot,
    /// Snapshots, leases, blobs.
    containerd: String,
    /// Descriptors, and KiB of its own memory.
    of_agent: (i64, i64),
}

impl Counts {
    fn of(node: &Node) -> Self {
        let containerd = "for what in snapshots leases content; do echo $what $(ctr -n k8s.io $what ls -q 2>/dev/null | wc -l); done; ctr -n k8s.io snapshots ls | wc -l";
        let pid = node.pid();
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the agent lives");
        let memory =
            std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it lives");
        let line = memory.lines().find_map(|l| l.strip_prefix("Pss_Anon:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
        Self {
            machine: Snapshot::of(node),
            containerd: node.sh(containerd),
            of_agent: (files.count() as i64, kib.expect("a number")),
        }
    }
}
