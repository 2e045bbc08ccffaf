use super::*;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    let pod =
        json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"v": "1"}}, "spec": spec});
    Pod::parse(&serde_json::from_value(pod).expect("a pod"))
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}})
}

#[test]
fn requests_of_all_kinds_of_containers() {
    let main = json!([{"name": "a", "resources": asks("100m", "1Gi")}, {"name": "b", "resources": asks("0.2", "1Gi")}]);
    let side = |cpu| json!({"name": "s", "restartPolicy": "Always", "resources": asks(cpu, "0")});
    let init = |cpu| json!({"name": "i", "resources": asks(cpu, "0")});
    let cases = [
        (
            "containers add up",
            json!({"containers": main}),
            300,
            2 << 30,
        ),
        (
            "a small init container is free",
            json!({"containers": main, "initContainers": [init("299m")]}),
            300,
            2 << 30,
        ),
        (
            "a large one counts alone",
            json!({"containers": main, "initContainers": [init("1"), init("2")]}),
            2000,
            2 << 30,
        ),
        (
            "sidecars run beside the containers",
            json!({"containers": main, "initContainers": [side("50m")]}),
            350,
            2 << 30,
        ),
        (
            "and beside later init containers",
            json!({"containers": main, "initContainers": [side("50m"), init("1")]}),
            1050,
            2 << 30,
        ),
        (
            "not beside earlier ones",
            json!({"containers": main, "initContainers": [init("1"), side("50m")]}),
            1000,
            2 << 30,
        ),
        (
            "overhead",
            json!({"containers": main, "overhead": {"cpu": "10m"}}),
            310,
            2 << 30,
        ),
        (
            "requests of the pod as a whole",
            json!({"containers": main, "resources": {"requests": {"cpu": "1"}}}),
            1000,
            2 << 30,
        ),
    ];
    for (name, spec, cpu, memory) in cases {
        let requests = pod(spec).requests;
        assert_eq!(
            (requests.cpu, requests.memory, requests.pods),
            (cpu, memory, 1),
            "{name}"
        );
    }
    let extended =
        pod(json!({"containers": [{"name": "a", "resources": {"requests": {"x/gpu": "2"}}}]}));
    assert_eq!(extended.requests.get("x/gpu"), 2);
    assert_eq!(extended.weight, (DEFAULT_CPU, DEFAULT_MEMORY));
}

#[test]
fn ports_of_the_host() {
    let ports = json!([{"containerPort": 80}, {"containerPort": 81, "hostPort": 8081},
        {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"}]);
    let port = |ip: &str, protocol: &str, port| HostPort {
        ip: ip.into(),
        protocol: protocol.into(),
        port,
    };
    let (web, dns) = (port("0.0.0.0", "TCP", 8081), port("127.0.0.1", "UDP", 53));
    let own = pod(json!({"containers": [{"name": "a", "ports": ports}]}));
    assert_eq!(own.ports, [web.clone(), dns.clone()]);
    let on_host = pod(json!({"hostNetwork": true, "containers": [{"name": "a", "ports": ports}]}));
    assert_eq!(on_host.ports, [port("0.0.0.0", "TCP", 80), web, dns]);
}

#[test]
fn keys_of_the_pods_own_labels_join_the_selector() {
    let spread = pod(
        json!({"containers": [], "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2,
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}, "matchLabelKeys": ["v", "absent"]}]}),
    );
    assert_eq!(
        spread.spread[0].selector,
        Selector(vec![Requirement::equals("v", "1")])
    );
    assert!(spread.spread[0].is_required && spread.spread[0].honours_affinity);
    let term = json!({"topologyKey": "zone", "labelSelector": {}, "mismatchLabelKeys": ["v"]});
    let anti = pod(json!({"containers": [], "affinity": {"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}));
    let other = |v: &str| {
        anti.anti_affinity[0]
            .selector
            .matches(&Labels::from([("v".into(), v.into())]))
    };
    assert!(other("2") && !other("1"));
    assert_eq!(
        anti.anti_affinity[0].namespaces,
        BTreeSet::from(["ns".into()])
    );
}

#[test]
fn a_resize_counts_the_largest_until_it_is_done() {
    let resized = |conditions: Value, allocated: &str, has: &str| {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"},
            "spec": {"containers": [{"name": "a", "resources": asks("2", "1Gi")}]},
            "status": {"conditions": conditions, "containerStatuses": [{"name": "a", "image": "", "imageID": "",
                "ready": true, "restartCount": 0, "allocatedResources": {"cpu": allocated, "memory": "1Gi"},
                "resources": asks(has, "1Gi")}]}});
        Pod::parse(&serde_json::from_value(pod).expect("a pod"))
            .requests
            .cpu
    };
    let pending =
        |reason: &str| json!([{"type": "PodResizePending", "status": "True", "reason": reason}]);
    let cases = [
        ("done", json!([]), "2", "2", 2000),
        ("wanted is more", pending("Deferred"), "1", "1", 2000),
        (
            "wanted is impossible",
            pending("Infeasible"),
            "1",
            "1",
            1000,
        ),
        ("promised is more", json!([]), "3", "2", 3000),
        ("what it has is more", json!([]), "2", "4", 4000),
        (
            "impossible, and still shrinking",
            pending("Infeasible"),
            "1",
            "1500m",
            1500,
        ),
    ];
    for (name, conditions, allocated, has, want) in cases {
        assert_eq!(resized(conditions, allocated, has), want, "{name}");
    }
}
