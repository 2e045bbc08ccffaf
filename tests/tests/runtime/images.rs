//! Where images come from, and what the node tells about itself.

use std::path::Path;

use keelson_tests::bed::json;
use keelson_tests::images::ECHO;
use keelson_tests::process::Process;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};
use nix::sys::signal::Signal;

fn pod(bed: &Bed, name: &str, image: &str, policy: &str) {
    bed.kubectl(&format!("run {name} --image={image} --image-pull-policy={policy} --overrides='{{\"spec\":{{\"terminationGracePeriodSeconds\":0}}}}'"));
}

pub(crate) fn errors(bed: &Bed) {
    pod(bed, "never", "keelson.test/none:1", "Never");
    bed.wait_contains("get pod never", "ErrImageNeverPull");
    pod(bed, "nohost", "127.0.0.1:9/none:1", "Always");
    bed.wait_contains(
        "describe pod nohost",
        "Failed to pull image \"127.0.0.1:9/none:1\"",
    );
    bed.wait_contains("get pod nohost", "ImagePullBackOff");
    let error = bed.try_kubectl("run wrong --image=UPPER/Case:1");
    if error.ok {
        bed.wait_contains("get pod wrong", "InvalidImageName");
    }
    assert!(bed.refused("logs nohost", "").contains("waiting to start"));
    bed.kubectl("delete pod -l run --timeout=60s");
}

pub(crate) fn registry(bed: &Bed) {
    let node = bed.server();
    let folder = bed.folder();
    let config = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}/registry}}}}\nhttp: {{addr: '127.0.0.1:5000'}}\n",
        folder.display()
    );
    let file = folder.join("registry.yaml");
    std::fs::write(&file, config).unwrap();
    let args = ["serve".to_owned(), file.display().to_string()];
    let registry = Process::start(
        &node.space,
        Path::new("docker-registry"),
        &args,
        &folder.join("registry.log"),
    )
    .expect("docker-registry (Debian: docker-registry)");
    let push = format!(
        "ctr -n k8s.io image tag --force {ECHO} 127.0.0.1:5000/echo:1 && ctr -n k8s.io image push --plain-http 127.0.0.1:5000/echo:1 && ctr -n k8s.io image rm 127.0.0.1:5000/echo:1"
    );
    eventually("pushed", secs(30), || node.space.sh(&push));
    pod(bed, "pulled", "127.0.0.1:5000/echo:1", "Always");
    bed.kubectl("wait pod pulled --for=condition=Ready --timeout=60s");
    let text = bed.kubectl("describe pod pulled");
    assert!(
        text.contains("Successfully pulled image \"127.0.0.1:5000/echo:1\""),
        "{text}"
    );
    let id = bed.kubectl("get pod pulled -o jsonpath='{.status.containerStatuses[0].imageID}'");
    assert!(id.contains("sha256:"), "{id}");
    pod(bed, "missing", "127.0.0.1:5000/none:1", "IfNotPresent");
    bed.wait_contains(
        "describe pod missing",
        "Failed to pull image \"127.0.0.1:5000/none:1\"",
    );
    registry.end(Signal::SIGTERM);
    // What is here needs no registry, unless it is always asked.
    pod(bed, "present", "127.0.0.1:5000/echo:1", "IfNotPresent");
    bed.kubectl("wait pod present --for=condition=Ready --timeout=60s");
    bed.wait_contains("describe pod present", "already present on machine");
    bed.kubectl("delete pod -l run --timeout=60s");
}

pub(crate) fn node(bed: &Bed) {
    let node = json(&bed.kubectl("get node n1 -o json"));
    let status = &node["status"];
    let cpus = std::thread::available_parallelism()
        .unwrap()
        .get()
        .to_string();
    assert_eq!(status["capacity"]["cpu"], cpus);
    assert!(
        status["capacity"]["memory"]
            .as_str()
            .is_some_and(|m| m.ends_with("Ki"))
    );
    assert_eq!(status["capacity"]["pods"], "110");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(status["nodeInfo"]["kernelVersion"], kernel.trim());
    assert!(
        status["nodeInfo"]["containerRuntimeVersion"]
            .as_str()
            .is_some_and(|v| v.starts_with("containerd://1."))
    );
    assert_eq!(
        status["addresses"][0],
        serde_json::json!({"type": "InternalIP", "address": bed.server().ip.to_string()})
    );
    let types: Vec<&str> = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["type"].as_str())
        .collect();
    for wanted in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
        assert!(types.contains(&wanted), "{types:?}");
    }
    assert!(
        node["spec"]["podCIDR"]
            .as_str()
            .is_some_and(|c| c.starts_with("10.42."))
    );
    assert!(
        bed.kubectl("get lease -n kube-node-lease n1 -o jsonpath={.spec.holderIdentity}") == "n1"
    );
    let images = status["images"].to_string();
    assert!(images.contains(ECHO), "{images}");
    let wide = bed.kubectl("get nodes -o wide");
    assert!(
        wide.contains("10.88.0.11") && wide.contains("Debian GNU/Linux"),
        "{wide}"
    );
}
