//! The agent on a real containerd, with an API in memory.
#![allow(clippy::unwrap_used)]

mod support;

use keelson_runtime::State;
use serde_json::{Value, json};
use support::machine::Machine;

fn sh(name: &str, script: &str) -> Value {
    json!({"name": name, "command": ["/bin/sh", "-c", script]})
}

fn condition(status: &Value, kind: &str) -> bool {
    let mut all = status["conditions"].as_array().into_iter().flatten();
    all.any(|c| c["type"] == kind && c["status"] == "True")
}

fn pids(m: &Machine) -> Vec<(String, u32)> {
    let pid = |s: State| match s {
        State::Running { pid, .. } => pid,
        _ => 0,
    };
    m.containers()
        .into_iter()
        .map(|c| (c.id, pid(c.state)))
        .collect()
}

#[test]
fn a_pod_runs_with_what_it_refers_to_and_goes_without_a_trace() {
    let m = Machine::start();
    m.api.put(
        "configmaps",
        "default",
        "conf",
        json!({"data": {"key": "from the map"}}),
    );
    let mut app = sh(
        "app",
        "cat /data/made /conf/key; echo \" $VALUE $POD_IP\"; trap 'exit 0' TERM; while :; do sleep 0.1; done",
    );
    app["env"] = json!([
        {"name": "VALUE", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "key"}}},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    app["volumeMounts"] =
        json!([{"name": "data", "mountPath": "/data"}, {"name": "conf", "mountPath": "/conf"}]);
    app["readinessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/data/made"]}, "periodSeconds": 1});
    app["resources"] = json!({"limits": {"memory": "64Mi"}});
    let mut init = sh("init", "echo -n 'made: ' > /data/made");
    init["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let uid = m.pod("web", json!({"containers": [app], "initContainers": [init],
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "conf", "configMap": {"name": "conf"}}]}));
    let status = m.until("web", "ready", |s| condition(s, "Ready"));
    let ip = status["podIP"].as_str().unwrap();
    assert!(ip.starts_with("10.99.0."), "{ip}");
    assert_eq!(
        (&status["phase"], &status["qosClass"]),
        (&json!("Running"), &json!("Burstable"))
    );
    assert_eq!(
        status["initContainerStatuses"][0]["state"]["terminated"]["reason"],
        "Completed"
    );
    let log = m.log("web", &uid, "app", 0);
    assert!(
        log.contains(&format!("made: from the map from the map {ip}")),
        "{log}"
    );
    let node = m.api.get("nodes", "", "n1").unwrap();
    assert!(
        node["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    );
    assert!(m.api.get("leases", "kube-node-lease", "n1").is_some());
    m.delete_pod("web", 10);
    m.gone(&uid);
    let events = m.events();
    for want in [
        "Created: Created container: app",
        "Started: Started container app",
        "Killing: Stopping container app",
    ] {
        assert!(events.iter().any(|e| e == want), "{want}: {events:?}");
    }
}

#[test]
fn containers_that_end() {
    let m = Machine::start();
    let fails = sh("fails", "echo last words > /dev/termination-log; exit 3");
    m.pod(
        "once",
        json!({"restartPolicy": "Never", "containers": [fails, sh("done", "true")]}),
    );
    m.pod("loop", json!({"containers": [sh("crash", "exit 1")]}));
    let mut hungry = sh("hungry", "x=a; while :; do x=$x$x; done");
    hungry["resources"] = json!({"limits": {"memory": "16Mi"}});
    m.pod(
        "oom",
        json!({"restartPolicy": "Never", "containers": [hungry]}),
    );
    m.pod(
        "broken",
        json!({"restartPolicy": "Never", "containers": [{"name": "c", "command": ["/no/such"]}]}),
    );
    m.pod(
        "missing",
        json!({"containers": [{"name": "c", "env": [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}]}]}),
    );

    let once = m.until("once", "failed", |s| s["phase"] == "Failed");
    let end = |i: usize| once["containerStatuses"][i]["state"]["terminated"].clone();
    assert_eq!(
        (&end(0)["exitCode"], &end(0)["message"]),
        (&json!(3), &json!("last words\n"))
    );
    assert_eq!(end(1)["reason"], "Completed");
    let waiting = |s: &Value| s["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    let crash = m.until("loop", "back-off", |s| waiting(s) == "CrashLoopBackOff");
    assert_eq!(
        (
            &crash["containerStatuses"][0]["restartCount"],
            &crash["phase"]
        ),
        (&json!(1), &json!("Running"))
    );
    let oom = m.until("oom", "failed", |s| s["phase"] == "Failed");
    assert_eq!(
        oom["containerStatuses"][0]["state"]["terminated"]["reason"],
        "OOMKilled"
    );
    let broken = m.until("broken", "failed", |s| s["phase"] == "Failed");
    let end = &broken["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&end["reason"], &end["exitCode"]),
        (&json!("StartError"), &json!(128))
    );
    let missing = m.until("missing", "waiting", |s| {
        waiting(s) == "CreateContainerConfigError"
    });
    assert_eq!(
        missing["containerStatuses"][0]["state"]["waiting"]["message"],
        "secret \"none\" not found"
    );
}

#[test]
fn a_crash_of_the_agent_is_not_noticed_by_pods() {
    let mut m = Machine::start();
    let stay = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let mut probed = sh("c", stay);
    probed["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    m.pod("stays", json!({"containers": [probed]}));
    let leaves = m.pod("leaves", json!({"containers": [sh("c", stay)]}));
    m.pod("ends", json!({"containers": [sh("c", "while ! test -e /stop/now; do sleep 0.05; done; exit 4")
        .as_object().map(|o| { let mut o = o.clone(); o.insert("volumeMounts".into(),
            json!([{"name": "stop", "mountPath": "/stop"}])); Value::from(o) }).unwrap()],
        "volumes": [{"name": "stop", "hostPath": {"path": m.dir.join("stop"), "type": "DirectoryOrCreate"}}]}));
    for pod in ["stays", "leaves", "ends"] {
        m.until(pod, "ready", |s| condition(s, "Ready"));
    }
    let (before, status) = (pids(&m), m.status("stays"));
    m.kill_agent();
    // While nobody looks: one pod is deleted for good, and one container ends.
    m.api.remove("pods", "default", "leaves");
    std::fs::write(m.dir.join("stop/now"), "").unwrap();
    m.start_agent();
    let ends = m.until("ends", "restarted", |s| {
        s["containerStatuses"][0]["restartCount"] == 1
    });
    assert_eq!(
        ends["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        4
    );
    m.gone(&leaves);
    let after = pids(&m);
    let stays = before.iter().find(|(id, _)| {
        status["containerStatuses"][0]["containerID"]
            .as_str()
            .unwrap()
            .ends_with(id)
    });
    assert!(after.contains(stays.unwrap()), "{before:?} {after:?}");
    assert_eq!(m.status("stays"), status, "not even the status changed");
    m.delete_pod("stays", 5);
    let gone = m.api.get("pods", "default", "stays").unwrap()["metadata"]["uid"]
        .as_str()
        .unwrap()
        .to_owned();
    m.gone(&gone);
}

#[test]
fn probes_hooks_and_grace() {
    let m = Machine::start();
    let mut app = sh("app", "trap '' TERM; echo run; while :; do sleep 0.1; done");
    app["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["/bin/sh", "-c", "echo up > /marks/up"]}},
        "preStop": {"exec": {"command": ["/bin/sh", "-c", "echo down > /marks/down"]}}});
    app["livenessProbe"] = json!({"exec": {"command": ["test", "-e", "/marks/up"]},
        "periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 1});
    app["volumeMounts"] = json!([{"name": "marks", "mountPath": "/marks"}]);
    let marks = m.dir.join("marks");
    let uid = m.pod(
        "probed",
        json!({"hostNetwork": true, "containers": [app],
        "volumes": [{"name": "marks", "hostPath": {"path": marks, "type": "DirectoryOrCreate"}}]}),
    );
    let status = m.until("probed", "ready", |s| condition(s, "Ready"));
    assert_eq!(status["podIP"], "192.0.2.1", "the node's own address");
    assert_eq!(std::fs::read_to_string(marks.join("up")).unwrap(), "up\n");
    std::fs::remove_file(marks.join("up")).unwrap();
    let status = m.until("probed", "restarted", |s| {
        s["containerStatuses"][0]["restartCount"] == 1
    });
    assert_eq!(
        status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137,
        "it ignores SIGTERM"
    );
    assert_eq!(
        std::fs::read_to_string(marks.join("down")).unwrap(),
        "down\n"
    );
    let events = m.events();
    for want in [
        "Unhealthy: Liveness probe failed: ",
        "Killing: Container app failed liveness probe, will be restarted",
    ] {
        assert!(events.iter().any(|e| e == want), "{want}: {events:?}");
    }
    m.delete_pod("probed", 1);
    m.gone(&uid);
    m.pod(
        "big",
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1000"}}}]}),
    );
    let refused = m.until("big", "refused", |s| s["phase"] == "Failed");
    assert_eq!(refused["reason"], "OutOfcpu");
}

#[test]
fn images_that_nobody_needs_go_when_they_are_old() {
    let m = Machine::start();
    m.import("used:test", "/bin/cat");
    let mut user = sh("c", "trap 'exit 0' TERM; while :; do sleep 0.1; done");
    user["image"] = json!("used:test");
    let uid = m.pod("user", json!({"containers": [user]}));
    m.until("user", "ready", |s| condition(s, "Ready"));
    m.import("junk:test", "/bin/true");
    assert!(m.has_image("junk:test"));
    m.image_gone("junk:test");
    assert!(m.has_image("used:test"), "a container runs from it");
    m.delete_pod("user", 10);
    m.gone(&uid);
    m.image_gone("used:test");
    assert!(m.has_image("busybox:test"), "what has an archive stays");
}
