//! A node that runs short: what it keeps from pods, whom it evicts, which images it removes.

use std::fs;

use keelson_tests::bed::json;
use keelson_tests::bins::program;
use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};
use serde_json::Value;

const MI: u64 = 1 << 20;
/// What all pods may have.
const PODS: u64 = 512 * MI;
const JUNK: &str = "keelson.test/junk:1";

/// On a node of its own.
pub(crate) fn all() {
    let bed = bed();
    reserved(&bed);
    logs(&bed);
    limits(&bed);
    memory_pressure(&bed);
    disk_pressure(&bed);
}

/// A node whose volumes and images share a small disk, and which looks often.
fn bed() -> Bed {
    let bed = Bed::small_disk("360m");
    let folder = bed.folder();
    fs::create_dir(folder.join("images")).unwrap();
    keelson_tests::images::copy_into(&folder.join("images"));
    junk(&bed);
    let config = format!(
        "
imagesDir: {}/images
evictionHard: {{memory.available: 64Mi, nodefs.available: 150Mi}}
evictionPressureTransitionPeriod: 12s
evictionMonitoringPeriod: 500ms
imageMinimumGCAge: 1s
systemReserved: {{memory: '{}', pid: 1k}}
kubeReserved: {{cpu: 100m}}
containerLogMaxSize: 64Ki
containerLogMaxFiles: 3
",
        folder.display(),
        memory() - PODS
    );
    let file = folder.join("config.yaml");
    fs::write(&file, config).unwrap();
    let args = ["server", "--config", &file.display().to_string()];
    bed.server().start_keelson(&args);
    bed.server().wait_for(keelson_tests::bed::KUBECONFIG);
    bed.wait_ready();
    bed.wait_node_ready(bed.server());
    bed
}

/// An image that nobody uses.
fn junk(bed: &Bed) {
    let folder = bed.folder();
    let script = format!(
        "head -c 40M /dev/urandom >{0}/junk && {1} image --name {JUNK} --output {0}/images/junk.tar --file {0}/junk=/junk",
        folder.display(),
        program("keelson").display()
    );
    bed.server().sh(&script);
}

/// The machine's memory, bytes.
fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib << 10
}

/// A quantity of bytes.
fn bytes(text: &str) -> u64 {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30)];
    let found = units
        .iter()
        .find_map(|(u, s)| Some((text.strip_suffix(u)?, *s)));
    let (number, shift) = found.unwrap_or((text, 0));
    number.parse::<u64>().unwrap() << shift
}

/// A pod that sleeps, with a volume, and more of the container's and the pod's fields.
fn pod(bed: &Bed, name: &str, volume: &str, container: &str, spec: &str) {
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 30\n  containers: [{{name: c, image: {ECHO}, command: [/bin/sleep, infinity], volumeMounts: [{{name: v, mountPath: /v}}], {container}}}]\n  volumes: [{{name: v, emptyDir: {{{volume}}}}}]\n{spec}"
    ));
}

fn wait_ready(bed: &Bed, name: &str) {
    bed.kubectl(&format!(
        "wait pod {name} --for=condition=Ready --timeout=60s"
    ));
}

/// Has a pod write megabytes; it may be ended meanwhile.
fn fill(bed: &Bed, pod: &str, file: &str, megabytes: u64) {
    bed.try_kubectl(&format!(
        "exec {pod} -- /bin/busybox dd if=/dev/zero of={file} bs=1M count={megabytes}"
    ));
}

/// Waits until a pod is evicted; its status.
fn evicted(bed: &Bed, name: &str) -> Value {
    eventually(&format!("{name} is evicted"), secs(60), || {
        let status = json(&bed.kubectl(&format!("get pod {name} -o json")))["status"].clone();
        let is = |k: &str, v: &str| status[k] == v;
        anyhow::ensure!(is("phase", "Failed") && is("reason", "Evicted"), "{status}");
        Ok(status)
    })
}

fn disrupted(status: &Value) -> bool {
    let all = status["conditions"].as_array().unwrap();
    all.iter()
        .any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "TerminationByKubelet")
}

/// Waits until a condition of the node and its taint are so. While it holds nobody may enter.
fn wait_pressure(bed: &Bed, kind: &str, taint: &str, holds: bool) {
    let status = if holds { "True" } else { "False" };
    let line =
        format!("get node n1 -o \"jsonpath={{.status.conditions[?(@.type=='{kind}')].status}}\"");
    bed.wait_for(&line, status);
    if holds {
        refused(bed, "late", kind);
    }
    eventually("the taint follows", secs(30), || {
        let taints = bed.kubectl("get node n1 -o jsonpath={.spec.taints[*].key}");
        anyhow::ensure!(taints.contains(taint) == holds, "{taints}");
        Ok(())
    });
}

/// A pod that somebody bound to the node by hand.
fn refused(bed: &Bed, name: &str, condition: &str) {
    pod(bed, name, "", "", "  nodeName: n1\n");
    let status = evicted(bed, name);
    let message = format!("Pod was rejected: The node had condition: [{condition}]. ");
    assert_eq!(status["message"], message);
    bed.kubectl(&format!("delete pod {name}"));
}

fn reserved(bed: &Bed) {
    let status = json(&bed.kubectl("get node n1 -o json"))["status"].clone();
    let figure = |list: &str, name: &str| status[list][name].as_str().unwrap().to_owned();
    assert_eq!(bytes(&figure("allocatable", "memory")), PODS - 64 * MI);
    let cpus = std::thread::available_parallelism().unwrap().get();
    let cpu = format!("{}m", cpus * 1000 - 100);
    assert_eq!(figure("allocatable", "cpu"), cpu);
    let storage = |list| bytes(&figure(list, "ephemeral-storage"));
    assert_eq!(storage("capacity") - storage("allocatable"), 150 * MI);
    let limits = bed.server().sh(&format!(
        "cat /sys/fs/cgroup/memory/{0}/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/{0}/memory.max",
        bed.server().cgroup
    ));
    assert_eq!(limits.trim(), PODS.to_string());
}

/// Who follows a log sees every line, however often it is rotated meanwhile.
fn logs(bed: &Bed) {
    let talk = "echo begin; until [ -e /v/go ]; do sleep 0.1; done; i=0; while [ $i -lt 4000 ]; do echo line-$i-0123456789012345678901234567890123456789; i=$((i+1)); [ $((i%100)) = 0 ] && sleep 0.1; done; sleep infinity";
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: talker}}\nspec:\n  containers: [{{name: c, image: {ECHO}, command: [/bin/sh, -c, '{talk}'], volumeMounts: [{{name: v, mountPath: /v}}]}}]\n  volumes: [{{name: v, emptyDir: {{}}}}]\n"
    ));
    wait_ready(bed, "talker");
    let follow = "kubectl logs -f talker >followed & until grep -q begin followed; do sleep 0.1; done
        kubectl exec talker -- /bin/busybox touch /v/go
        for i in $(seq 300); do grep -q line-3999- followed && break; sleep 0.1; done; kill %1; grep -c line- followed";
    let output = bed.bash(follow, "");
    assert_eq!(output.out.trim(), "4000", "{output:?}");
    // The last rotation may still be under way: it compresses the older file, then renames.
    eventually(
        "the log, one rotated file, one compressed",
        secs(30),
        || {
            let files = bed.server().sh("ls /var/log/pods/default_talker_*/c");
            let files: Vec<&str> = files.lines().collect();
            let compressed = files.iter().filter(|f| f.ends_with(".gz")).count();
            anyhow::ensure!((files.len(), compressed) == (3, 1), "{files:?}");
            Ok(())
        },
    );
    bed.kubectl("delete pod talker --grace-period=1");
}

fn limits(bed: &Bed) {
    let storage = |n: &str| format!("resources: {{limits: {{ephemeral-storage: {n}}}}}");
    let second = |n: &str| {
        format!(
            "  initContainers: [{{name: d, image: {ECHO}, restartPolicy: Always, command: [/bin/sleep, infinity], {}}}]\n",
            storage(n)
        )
    };
    pod(bed, "full-volume", "sizeLimit: 2Mi", "", "");
    pod(bed, "full-pod", "", &storage("2Mi"), "");
    pod(bed, "full-container", "", &storage("2Mi"), &second("20Mi"));
    pod(bed, "within", "sizeLimit: 4Mi", &storage("4Mi"), "");
    let rows = [
        (
            "full-volume",
            "/v/f",
            "Usage of EmptyDir volume \"v\" exceeds the limit \"2Mi\". ",
        ),
        (
            "full-pod",
            "/v/f",
            "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ",
        ),
        (
            "full-container",
            "/f",
            "Container c exceeded its local ephemeral storage limit \"2Mi\". ",
        ),
    ];
    for (name, ..) in rows {
        wait_ready(bed, name);
    }
    wait_ready(bed, "within");
    fill(bed, "within", "/v/f", 3);
    for (name, file, message) in rows {
        fill(bed, name, file, 3);
        let status = evicted(bed, name);
        assert_eq!(status["message"], message);
        assert!(!disrupted(&status), "its own limit: {status}");
        assert!(
            status["containerStatuses"][0]["state"]["terminated"].is_object(),
            "{status}"
        );
        bed.wait_contains(&format!("describe pod {name}"), "Warning  Evicted");
    }
    bed.kubectl("get pod within --no-headers | grep Running");
    bed.kubectl("delete pod --all --grace-period=1");
}

fn memory_pressure(bed: &Bed) {
    let asks = "resources: {requests: {memory: 300Mi}}";
    pod(bed, "modest", "medium: Memory", asks, "");
    pod(bed, "greedy", "medium: Memory", "", "");
    wait_ready(bed, "modest");
    wait_ready(bed, "greedy");
    fill(bed, "modest", "/v/f", 250);
    fill(bed, "greedy", "/v/f", 215);
    let status = evicted(bed, "greedy");
    let message = status["message"].as_str().unwrap();
    let begins = "The node was low on resource: memory. Threshold quantity: 64Mi, available: ";
    assert!(message.starts_with(begins), "{message}");
    let container = "Container c was using ";
    assert!(
        message.contains(container)
            && message.ends_with(", request is 0, has larger consumption of memory. "),
        "{message}"
    );
    assert!(disrupted(&status), "{status}");
    wait_pressure(bed, "MemoryPressure", "memory-pressure", true);
    bed.kubectl("get pod modest --no-headers | grep Running");
    wait_pressure(bed, "MemoryPressure", "memory-pressure", false);
    let told = bed.kubectl("get events -A -o jsonpath='{.items[*].message}'");
    assert!(told.contains("Attempting to reclaim memory"), "{told}");
    bed.kubectl("delete pod --all --grace-period=1");
}

/// Megabytes that the node's disk has left.
fn left(bed: &Bed) -> u64 {
    let text = bed
        .server()
        .sh("df -BM --output=avail /var/lib/keelson | tail -1");
    text.trim().trim_end_matches('M').parse().unwrap()
}

fn shown_images(bed: &Bed) -> String {
    bed.kubectl("get node n1 -o jsonpath={.status.images[*].names}")
}

fn disk_pressure(bed: &Bed) {
    assert!(shown_images(bed).contains(JUNK));
    // Without its archive it is an image like others.
    bed.server().stop();
    fs::remove_file(bed.folder().join("images/junk.tar")).unwrap();
    bed.server().start_again();
    bed.wait_ready();
    let asks = "resources: {requests: {ephemeral-storage: 150Mi}}";
    pod(bed, "modest", "", asks, "");
    pod(bed, "greedy", "", "", "");
    wait_ready(bed, "modest");
    wait_ready(bed, "greedy");
    // Images go first, and that is enough.
    fill(bed, "modest", "/v/f", left(bed) - 130);
    wait_pressure(bed, "DiskPressure", "disk-pressure", true);
    eventually("the unused image is gone", secs(30), || {
        let shown = shown_images(bed);
        anyhow::ensure!(!shown.contains(JUNK) && shown.contains(ECHO), "{shown}");
        let there = bed.server().sh("ctr -n k8s.io images ls -q");
        anyhow::ensure!(!there.contains(JUNK), "{there}");
        Ok(())
    });
    wait_pressure(bed, "DiskPressure", "disk-pressure", false);
    let running = bed.kubectl("get pods --no-headers");
    assert_eq!(running.matches("Running").count(), 2, "{running}");
    // Then the one that has more than it asked for, though it has less than the other.
    fill(bed, "greedy", "/v/f", left(bed) - 130);
    let status = evicted(bed, "greedy");
    let message = status["message"].as_str().unwrap();
    let begins =
        "The node was low on resource: ephemeral-storage. Threshold quantity: 150Mi, available: ";
    assert!(message.starts_with(begins), "{message}");
    assert!(disrupted(&status), "{status}");
    wait_pressure(bed, "DiskPressure", "disk-pressure", false);
    bed.kubectl("get pod modest --no-headers | grep Running");
    let told = bed.kubectl("get events -A -o jsonpath='{.items[*].reason}'");
    for reason in [
        "EvictionThresholdMet",
        "NodeHasDiskPressure",
        "NodeHasNoDiskPressure",
    ] {
        assert!(told.contains(reason), "{reason}: {told}");
    }
    bed.kubectl("delete pod --all --grace-period=1");
}
