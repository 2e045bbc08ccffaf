//! Resources of containers that change, and of pods as a whole.

use keelson_tests::Bed;
use keelson_tests::images::ECHO;

use crate::life::{pod, status, until};

/// Values of a pod's cgroup files of one name, the pod's own and its containers'.
fn files(bed: &Bed, name: &str, v1: (&str, &str), v2: &str) -> Vec<String> {
    let node = bed.server();
    let uid = bed.kubectl(&format!("get pod {name} -o jsonpath={{.metadata.uid}}"));
    let unified = node
        .space
        .sh("test -e /sys/fs/cgroup/cgroup.controllers")
        .is_ok();
    let (hierarchy, file) = if unified { ("", v2) } else { v1 };
    let dir = format!("/sys/fs/cgroup/{hierarchy}/{}", node.cgroup);
    let found = node.sh(&format!(
        "find {dir} -path '*pod{uid}*' -name {file} -exec cat {{}} +"
    ));
    found.lines().map(str::to_owned).collect()
}

fn memory(bed: &Bed, name: &str) -> Vec<String> {
    files(bed, name, ("memory", "memory.limit_in_bytes"), "memory.max")
}

fn patch(resources: &str) -> String {
    format!("{{\"spec\":{{\"containers\":[{{\"name\":\"c\",\"resources\":{resources}}}]}}}}")
}

fn resize(bed: &Bed, name: &str, resources: &str) {
    let body = patch(resources);
    bed.kubectl(&format!(
        "patch pod {name} --subresource resize --patch '{body}'"
    ));
}

const FIRST: &str =
    "resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}";

pub(crate) fn in_place(bed: &Bed) {
    pod(
        bed,
        "grows",
        &format!("containers: [{{name: c, image: '{ECHO}', {FIRST}}}]"),
    );
    bed.kubectl("wait pod grows --for=condition=Ready --timeout=60s");
    assert_eq!(
        status(bed, "grows", "containerStatuses[0].allocatedResources.cpu"),
        "100m"
    );
    let cpu = ("cpu", "cpu.cfs_quota_us");
    resize(
        bed,
        "grows",
        "{\"requests\":{\"cpu\":\"150m\"},\"limits\":{\"cpu\":\"300m\",\"memory\":\"96Mi\"}}",
    );
    until(
        bed,
        "grows",
        "containerStatuses[0].resources.limits.memory",
        |m| m == "96Mi",
    );
    let quotas = files(bed, "grows", cpu, "cpu.max");
    assert!(quotas.iter().all(|q| q.starts_with("30000")), "{quotas:?}");
    let limits = memory(bed, "grows");
    assert!(
        limits.len() >= 2 && limits.iter().all(|l| l == "100663296"),
        "{limits:?}"
    );
    assert_eq!(
        status(bed, "grows", "containerStatuses[0].restartCount"),
        "0"
    );
    assert_eq!(
        status(bed, "grows", "containerStatuses[0].allocatedResources.cpu"),
        "150m"
    );
    bed.wait_contains("get events", "Pod resize completed");
    // Back again; what it never had, and what is too much.
    resize(
        bed,
        "grows",
        "{\"requests\":{\"cpu\":\"100m\"},\"limits\":{\"cpu\":\"200m\",\"memory\":\"64Mi\"}}",
    );
    until(
        bed,
        "grows",
        "containerStatuses[0].resources.limits.memory",
        |m| m == "64Mi",
    );
    let limits = memory(bed, "grows");
    assert!(limits.iter().all(|l| l == "67108864"), "{limits:?}");
    let refused = |resources: &str| {
        let body = patch(resources);
        bed.refused(
            &format!("patch pod grows --subresource resize --patch '{body}'"),
            "",
        )
    };
    let error = refused("{\"limits\":{\"memory\":null}}");
    assert!(
        error.contains("resource limits cannot be removed"),
        "{error}"
    );
    let error = refused("{\"requests\":{\"cpu\":\"200m\",\"memory\":\"64Mi\"}}");
    assert!(
        error.contains("Pod QOS Class may not change as a result of resizing"),
        "{error}"
    );
    let body = patch("{\"requests\":{\"cpu\":\"110m\"}}");
    let error = bed.refused(&format!("patch pod grows --patch '{body}'"), "");
    assert!(
        error.contains("pod updates may not change fields"),
        "{error}"
    );
    resize(
        bed,
        "grows",
        "{\"requests\":{\"cpu\":\"500\"},\"limits\":{\"cpu\":\"500\"}}",
    );
    let pending = "conditions[?(@.type==\"PodResizePending\")].reason";
    until(bed, "grows", pending, |r| r == "Infeasible");
    assert_eq!(
        status(bed, "grows", "containerStatuses[0].allocatedResources.cpu"),
        "100m"
    );
    // An agent that starts anew knows what it had promised.
    bed.server().kill();
    bed.server().start_again();
    bed.wait_ready();
    resize(
        bed,
        "grows",
        "{\"requests\":{\"cpu\":\"120m\"},\"limits\":{\"cpu\":\"200m\"}}",
    );
    until(
        bed,
        "grows",
        "containerStatuses[0].allocatedResources.cpu",
        |c| c == "120m",
    );
    until(bed, "grows", pending, str::is_empty);
    assert_eq!(
        status(bed, "grows", "containerStatuses[0].restartCount"),
        "0"
    );
    bed.kubectl("delete pod grows");
}

pub(crate) fn restarted(bed: &Bed) {
    let policy = "resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]";
    pod(
        bed,
        "anew",
        &format!("containers: [{{name: c, image: '{ECHO}', {policy}, {FIRST}}}]"),
    );
    bed.kubectl("wait pod anew --for=condition=Ready --timeout=60s");
    resize(bed, "anew", "{\"limits\":{\"memory\":\"80Mi\"}}");
    until(bed, "anew", "containerStatuses[0].restartCount", |n| {
        n == "1"
    });
    bed.kubectl("wait pod anew --for=condition=Ready --timeout=60s");
    // The pod's, the new run's, and what the dead one had.
    let limits = memory(bed, "anew");
    let new = limits.iter().filter(|l| *l == "83886080").count();
    assert_eq!(new, 2, "{limits:?}");
    bed.kubectl("delete pod anew");
}

pub(crate) fn of_pods(bed: &Bed) {
    let own = "resources: {requests: {cpu: 200m, memory: 32Mi}, limits: {cpu: 400m, memory: 64Mi}}";
    pod(
        bed,
        "whole",
        &format!("{own}, containers: [{{name: c, image: '{ECHO}'}}]"),
    );
    bed.kubectl("wait pod whole --for=condition=Ready --timeout=60s");
    assert_eq!(status(bed, "whole", "qosClass"), "Burstable");
    let limits = memory(bed, "whole");
    assert_eq!(
        limits.iter().filter(|l| *l == "67108864").count(),
        1,
        "only the pod's own: {limits:?}"
    );
    let quotas = files(bed, "whole", ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(quotas.iter().any(|q| q.starts_with("40000")), "{quotas:?}");
    let greedy = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: greedy}}\nspec: {{{own}, containers: [{{name: c, image: '{ECHO}', resources: {{requests: {{cpu: 1}}}}}}]}}\n"
    );
    let error = bed.refused("apply -f -", &greedy);
    assert!(
        error.contains("must be greater than or equal to aggregate container requests of 1"),
        "{error}"
    );
    bed.kubectl("delete pod whole");
}
