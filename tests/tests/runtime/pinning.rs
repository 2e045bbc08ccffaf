//! CPUs and memory of their own, on a node with the static policies.

use std::fs;

use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

use crate::life::{pod, status, until};

/// On a node of its own, of whose CPUs the first is the system's.
pub(crate) fn all() {
    let bed = bed();
    let all = bed.server().sh("cat /sys/devices/system/cpu/online");
    let all = all.trim();
    sleeper(&bed, "shared", "");
    has(&bed, "shared", all);
    // The last one, on machines with two: others get the lowest but the first.
    sleeper(&bed, "own", "resources: {limits: {cpu: 1, memory: 64Mi}}");
    assert_eq!(status(&bed, "own", "qosClass"), "Guaranteed");
    has(&bed, "own", "1");
    let rest = rest(all);
    has(&bed, "shared", &rest);
    unbounded(&bed, "own");
    let uid = bed.kubectl("get pod own -o jsonpath={.metadata.uid}");
    let entry = format!("\"entries\":{{\"{uid}\":{{\"c\":\"1\"}}}}");
    assert!(
        state(&bed, "cpu").contains(&entry),
        "{}",
        state(&bed, "cpu")
    );
    let block = format!(
        "\"{uid}\":{{\"c\":[{{\"numaAffinity\":[0],\"type\":\"memory\",\"size\":67108864}}]}}"
    );
    assert!(
        state(&bed, "memory").contains(&block),
        "{}",
        state(&bed, "memory")
    );
    let why = "Resize is infeasible for Guaranteed Pods alongside Memory Manager policy \"Static\"";
    let body = "{\"spec\":{\"containers\":[{\"name\":\"c\",\"resources\":{\"requests\":{\"memory\":\"32Mi\"},\"limits\":{\"memory\":\"32Mi\"}}}]}}";
    bed.kubectl(&format!(
        "patch pod own --subresource resize --patch '{body}'"
    ));
    let pending = "conditions[?(@.type==\"PodResizePending\")].message";
    until(&bed, "own", pending, |message| message == why);
    bed.server().kill();
    bed.server().start_again();
    bed.wait_ready();
    bed.wait_node_ready(bed.server());
    has(&bed, "own", "1");
    sleeper(&bed, "late", "");
    has(&bed, "late", &rest);
    has(&bed, "shared", &rest);
    assert_eq!(
        status(&bed, "own", "containerStatuses[0].restartCount"),
        "0"
    );
    bed.kubectl("delete pod own");
    sleeper(&bed, "next", "resources: {limits: {cpu: 1, memory: 64Mi}}");
    has(&bed, "next", "1");
    bed.kubectl("delete pod next");
    for name in ["shared", "late"] {
        has(&bed, name, all);
        assert_eq!(status(&bed, name, "containerStatuses[0].restartCount"), "0");
    }
    assert!(
        !state(&bed, "cpu").contains("entries"),
        "{}",
        state(&bed, "cpu")
    );
    bed.kubectl("delete pod --all");
    other_policy(&bed);
}

fn config(bed: &Bed, policy: &str) -> String {
    let file = bed.folder().join("config.yaml");
    let text = format!(
        "
evictionHard: {{memory.available: 100Mi}}
imageGCHighThresholdPercent: 100
cpuManagerPolicy: {policy}
reservedSystemCPUs: '0'
memoryManagerPolicy: Static
reservedMemory: [{{numaNode: 0, limits: {{memory: 100Mi}}}}]
topologyManagerPolicy: single-numa-node
"
    );
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn bed() -> Bed {
    let bed = Bed::bare();
    let file = config(&bed, "static");
    bed.server().start_keelson(&["server", "--config", &file]);
    bed.server().wait_for(keelson_tests::bed::KUBECONFIG);
    bed.wait_ready();
    bed.wait_node_ready(bed.server());
    bed
}

fn sleeper(bed: &Bed, name: &str, more: &str) {
    let container = format!("name: c, image: '{ECHO}', command: [/bin/sleep, infinity], {more}");
    pod(bed, name, &format!("containers: [{{{container}}}]"));
    bed.kubectl(&format!(
        "wait pod {name} --for=condition=Ready --timeout=60s"
    ));
}

/// All CPUs but the second.
fn rest(all: &str) -> String {
    let last: u32 = all.rsplit('-').next().unwrap().parse().unwrap();
    match last {
        1 => "0".into(),
        2 => "0,2".into(),
        last => format!("0,2-{last}"),
    }
}

/// Waits until a pod's container may use these CPUs, as it sees it itself.
fn has(bed: &Bed, name: &str, cpus: &str) {
    let line = "/bin/busybox grep Cpus_allowed_list /proc/1/status";
    eventually(&format!("{name} has {cpus}"), secs(60), || {
        let output = bed.try_kubectl(&format!("exec {name} -- {line}"));
        anyhow::ensure!(
            output.out.split_whitespace().last() == Some(cpus),
            "{output:?}"
        );
        Ok(())
    });
}

/// Neither the pod nor its container is held to a share of CPU time.
fn unbounded(bed: &Bed, name: &str) {
    let node = bed.server();
    let uid = bed.kubectl(&format!("get pod {name} -o jsonpath={{.metadata.uid}}"));
    let found = node.sh(&format!(
        "for h in cpu .; do find /sys/fs/cgroup/$h/{} -path '*pod{uid}*' '(' -name cpu.cfs_quota_us -o -name cpu.max ')' -exec cat {{}} + 2>/dev/null || true; done | sort -u",
        node.cgroup
    ));
    assert!(["-1", "max 100000"].contains(&found.trim()), "{found}");
}

fn state(bed: &Bed, manager: &str) -> String {
    bed.server().sh(&format!("cat {}", file(manager)))
}

fn file(manager: &str) -> String {
    format!("/var/lib/keelson/agent/{manager}_manager_state")
}

/// A node that was not drained is not taken over by another policy.
fn other_policy(bed: &Bed) {
    bed.server().stop();
    config(bed, "none");
    bed.server().start_again();
    eventually("keelson says why it does not start", secs(60), || {
        anyhow::ensure!(bed.server().alive().is_err(), "it runs");
        Ok(())
    });
    let log = bed.logs(20);
    let why = "could not restore state from checkpoint: configured policy \\\"none\\\" differs from state checkpoint policy \\\"static\\\", please drain this node and delete the CPU manager checkpoint file";
    assert!(
        log.replace("\\\"", "\"")
            .contains(&why.replace("\\\"", "\"")),
        "{log}"
    );
    bed.server().forget();
    bed.server()
        .sh("rm /var/lib/keelson/agent/cpu_manager_state");
    bed.server().start_again();
    bed.wait_ready();
    // The node's last word was that it is ready: that it is again shows in the file.
    bed.server().wait_for(&file("cpu"));
    assert!(state(bed, "cpu").contains("\"policyName\":\"none\""));
}
