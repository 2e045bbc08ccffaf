//! What happens to pods, told step by step.

use std::sync::Arc;

use serde_json::json;

use super::world::{World, spec, states};
use crate::observed::{Hook, ProbeVerdict};
use crate::{AttemptState, Stage};

const MADE: [&str; 3] = ["CreateCgroup", "MaterializeVolumes", "CreateSandbox"];

fn yes() -> (String, String, String) {
    ("True".into(), String::new(), String::new())
}

fn no(reason: &str, message: &str) -> (String, String, String) {
    ("False".into(), reason.into(), message.into())
}

#[test]
fn a_pod_comes_up() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({})), ("b", json!({}))]));
    w.turn();
    assert_eq!(w.took(), MADE);
    assert_eq!(
        (w.phase(), w.state("a")),
        ("Pending", "Waiting:ContainerCreating".into())
    );
    assert_eq!(w.condition("PodReadyToStartContainers").0, "False");
    assert_eq!(
        w.condition("Ready"),
        no(
            "ContainersNotReady",
            "containers with unready status: [a b]"
        )
    );
    w.settle();
    assert_eq!(
        w.took(),
        ["Image a/0", "Image b/0", "Create a/0", "Create b/0"]
    );
    assert_eq!(w.phase(), "Running");
    for kind in [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ] {
        assert_eq!(w.condition(kind), yes(), "{kind}");
    }
    let s = &w.observed.status;
    assert_eq!(
        (s.pod_ip.as_deref(), s.host_ip.as_deref()),
        (Some("10.0.0.2"), Some("192.0.2.1"))
    );
    assert_eq!(
        (s.qos_class.as_deref(), s.observed_generation),
        (Some("BestEffort"), Some(1))
    );
    let a = w.status("a");
    assert_eq!((a.ready, a.started, a.restart_count), (true, Some(true), 0));
    assert_eq!(a.container_id.as_deref(), Some("containerd://u-a-0"));
}

#[test]
fn init_containers_run_one_after_the_other() {
    let mut w = World::new(spec(
        "Always",
        &[("i", json!({})), ("j", json!({}))],
        &[("a", json!({}))],
    ));
    w.settle();
    assert_eq!(w.took()[3..], ["Image i/0", "Create i/0"]);
    assert_eq!(w.phase(), "Pending");
    assert_eq!(
        w.condition("Initialized"),
        no(
            "ContainersNotInitialized",
            "containers with incomplete status: [i j]"
        )
    );
    assert_eq!(w.state("a"), "Waiting:PodInitializing");
    w.exit("i", 0);
    assert_eq!(w.took(), ["Image j/0", "Create j/0"]);
    w.exit("j", 1);
    assert_eq!(
        w.took(),
        ["Image j/1", "Create j/1"],
        "restarted at once the first time"
    );
    w.exit("j", 1);
    assert_eq!(
        (w.took().len(), w.state("j").as_str()),
        (0, "Waiting:CrashLoopBackOff")
    );
    w.wait(10);
    w.exit("j", 0);
    assert_eq!(
        w.took(),
        [
            "Image j/2",
            "Create j/2",
            "Remove j/0",
            "Image a/0",
            "Create a/0"
        ]
    );
    assert_eq!((w.phase(), w.condition("Initialized")), ("Running", yes()));
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod() {
    let mut w = World::new(spec("Never", &[("i", json!({}))], &[("a", json!({}))]));
    w.settle();
    w.took();
    w.exit("i", 3);
    assert_eq!(
        w.took(),
        ["RemoveSandbox", "TeardownVolumes", "RemoveCgroup"]
    );
    assert_eq!(
        (w.phase(), w.state("i").as_str()),
        ("Failed", "Terminated:Error")
    );
    assert_eq!(w.condition("Ready"), no("PodFailed", ""));
}

#[test]
fn a_crashing_container_backs_off() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({}))]));
    w.settle();
    let mut waits = Vec::new();
    for _ in 0..7 {
        let plan = w.exit("a", 1);
        let wait = plan
            .wake_at
            .map_or(0, |at| at.duration_since(w.now).as_secs());
        waits.push(wait);
        w.wait(wait);
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300]);
    let a = w.status("a");
    assert_eq!((a.restart_count, w.state("a").as_str()), (7, "Running"));
    let last = a
        .last_state
        .and_then(|s| s.terminated)
        .expect("the run before");
    assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("Error")));
    assert_eq!(
        w.observed.containers["a"].len(),
        2,
        "only the last dead one is kept"
    );
    w.exit("a", 1);
    let waiting = w
        .status("a")
        .state
        .and_then(|s| s.waiting)
        .expect("waiting");
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 5m0s restarting failed container=a pod=p_ns(u)")
    );
    assert_eq!(w.events.iter().filter(|e| *e == "BackOff").count(), 7);
    assert_eq!(w.phase(), "Running", "a pod that crashes is still running");
    w.wait(300);
    w.wait(601);
    assert_eq!(w.exit("a", 1).wake_at, None, "forgotten after ten minutes");
}

#[test]
fn ends_by_policy() {
    // name, policy, exit codes of a and b, phase, ready reason
    let rows = [
        ("both done", "Never", [0, 0], "Succeeded", "PodCompleted"),
        ("one failed", "Never", [0, 1], "Failed", "PodFailed"),
        (
            "done on failure",
            "OnFailure",
            [0, 0],
            "Succeeded",
            "PodCompleted",
        ),
    ];
    for (name, policy, codes, phase, reason) in rows {
        let mut w = World::new(spec(policy, &[], &[("a", json!({})), ("b", json!({}))]));
        w.settle();
        w.exit("a", codes[0]);
        assert_eq!(w.phase(), "Running", "{name}: one still runs");
        w.exit("b", codes[1]);
        assert_eq!(
            (w.phase(), w.condition("Ready").1.as_str()),
            (phase, reason),
            "{name}"
        );
        assert_eq!(w.observed.containers.len(), 2, "{name}: kept to look at");
        assert!(matches!(w.observed.sandbox, Stage::Absent), "{name}");
        assert_eq!(
            w.observed.status.pod_ip.as_deref(),
            Some("10.0.0.2"),
            "{name}: the address stays in the status"
        );
        w.took();
        w.wait(1000);
        assert!(w.took().is_empty(), "{name}: at rest");
    }
}

#[test]
fn images_that_cannot_be_pulled() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({}))]));
    w.bad_images = vec!["a"];
    w.settle();
    assert_eq!(w.state("a"), "Waiting:ErrImagePull");
    w.wait(6);
    assert_eq!(w.state("a"), "Waiting:ImagePullBackOff");
    let message = w
        .status("a")
        .state
        .and_then(|s| s.waiting)
        .and_then(|s| s.message);
    assert_eq!(
        message.as_deref(),
        Some("Back-off pulling image \"img:1\": ErrImagePull: no such image")
    );
    w.took();
    w.wait(4);
    assert_eq!(w.took(), ["Image a/0"]);
    w.bad_images.clear();
    w.wait(20);
    assert_eq!(
        (w.took(), w.phase()),
        (vec!["Image a/0".into(), "Create a/0".into()], "Running")
    );
}

#[test]
fn a_container_that_cannot_be_made_waits_with_its_reason() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({})), ("b", json!({}))]));
    w.turn();
    w.fail("a", "CreateContainerConfigError");
    w.settle();
    let want = [
        ("a", "Waiting:CreateContainerConfigError"),
        ("b", "Running"),
    ];
    assert_eq!(
        states(&w, &["a", "b"]),
        want.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    );
    assert_eq!(w.phase(), "Pending");
    w.observed.failures.clear();
    w.settle();
    assert_eq!(w.phase(), "Running");
}

#[test]
fn probes_kill_and_gate() {
    let probe = json!({"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 3});
    let plain = json!({"tcpSocket": {"port": 1}});
    let more = json!({"startupProbe": plain, "livenessProbe": probe, "readinessProbe": plain});
    let mut w = World::new(spec("Always", &[], &[("a", more)]));
    w.settle();
    w.took();
    let a = w.status("a");
    assert_eq!(
        (w.phase(), a.ready, a.started),
        ("Running", false, Some(false)),
        "gated by the startup probe"
    );
    w.verdict(
        "a",
        ProbeVerdict {
            startup: Some(true),
            ..Default::default()
        },
    );
    assert_eq!(
        (w.status("a").ready, w.status("a").started),
        (false, Some(true))
    );
    w.verdict(
        "a",
        ProbeVerdict {
            startup: Some(true),
            readiness: Some(true),
            ..Default::default()
        },
    );
    assert_eq!((w.status("a").ready, w.condition("Ready")), (true, yes()));
    w.verdict(
        "a",
        ProbeVerdict {
            startup: Some(true),
            liveness: Some(false),
            ..Default::default()
        },
    );
    assert_eq!(w.took(), ["Kill a/0 3s"]);
    w.die();
    assert_eq!(w.took(), ["Image a/1", "Create a/1"]);
    assert_eq!(
        (w.state("a").as_str(), w.status("a").ready),
        ("Running", false),
        "old verdicts do not count"
    );
    w.verdict(
        "a",
        ProbeVerdict {
            startup: Some(false),
            ..Default::default()
        },
    );
    assert_eq!(w.took(), ["Kill a/1 30s"]);
}

#[test]
fn a_failed_post_start_hook_kills() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({}))]));
    w.settle();
    w.took();
    let started = w.now;
    w.run("a").state = AttemptState::Running {
        started,
        post_start: Hook::Running,
    };
    w.settle();
    assert_eq!(
        (w.status("a").started, w.condition("Ready").0.as_str()),
        (Some(false), "False")
    );
    w.run("a").state = AttemptState::Running {
        started,
        post_start: Hook::Failed("no".into()),
    };
    w.settle();
    assert_eq!(w.took(), ["Kill a/0 30s"]);
}

#[test]
fn deletion_takes_everything_away_in_order() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({})), ("b", json!({}))]));
    w.settle();
    w.took();
    w.pod.metadata.deletion_grace_period_seconds = Some(7);
    w.delete();
    assert_eq!(w.took(), ["Kill a/0 7s", "Kill b/0 7s"]);
    assert_eq!(w.phase(), "Running");
    w.end("a", 0);
    w.settle();
    assert!(w.took().is_empty(), "waits for b");
    w.die();
    let want = [
        "Remove a/0",
        "Remove b/0",
        "RemoveSandbox",
        "TeardownVolumes",
        "RemoveCgroup",
        "DeletePod",
        "RemoveLogs",
    ];
    assert_eq!(w.took(), want);
    assert_eq!((w.phase(), w.finished), ("Failed", true));
    assert_eq!(
        w.state("b"),
        "Terminated:Error",
        "the last word stays in the status"
    );
}

#[test]
fn a_shorter_grace_is_passed_on() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({}))]));
    w.settle();
    w.took();
    w.delete();
    w.pod.metadata.deletion_grace_period_seconds = Some(0);
    w.settle();
    assert_eq!(w.took(), ["Kill a/0 30s", "Kill a/0 1s"]);
}

#[test]
fn sidecars_start_first_and_end_last() {
    let always = json!({"restartPolicy": "Always"});
    let init = [("s", always.clone()), ("i", json!({})), ("t", always)];
    let mut w = World::new(spec("Never", &init, &[("a", json!({}))]));
    w.settle();
    assert_eq!(
        w.took()[3..],
        ["Image s/0", "Create s/0", "Image i/0", "Create i/0"]
    );
    w.exit("s", 1);
    assert_eq!(
        w.took(),
        ["Image s/1", "Create s/1"],
        "a sidecar is restarted whatever the policy"
    );
    w.exit("i", 0);
    assert_eq!(
        w.took(),
        ["Image t/0", "Create t/0", "Image a/0", "Create a/0"]
    );
    assert_eq!((w.phase(), w.condition("Ready")), ("Running", yes()));
    w.exit("a", 0);
    assert_eq!(
        (w.took(), w.phase()),
        (vec!["Kill t/0 30s".into()], "Running")
    );
    w.die();
    assert_eq!(w.took(), ["Kill s/1 30s"]);
    w.die();
    assert_eq!(w.phase(), "Succeeded");
}

#[test]
fn a_deadline_fails_the_pod() {
    let mut s = spec("Always", &[], &[("a", json!({}))]);
    s["activeDeadlineSeconds"] = json!(60);
    let mut w = World::new(s);
    let plan = w.settle();
    assert_eq!(
        plan.wake_at.map(|t| t.duration_since(w.now).as_secs()),
        Some(60)
    );
    w.took();
    w.wait(60);
    assert_eq!(
        (w.took(), w.phase()),
        (vec!["Kill a/0 30s".into()], "Running")
    );
    w.die();
    assert_eq!(
        (w.phase(), w.observed.status.reason.as_deref()),
        ("Failed", Some("DeadlineExceeded"))
    );
    assert_eq!(
        w.events.iter().filter(|e| *e == "DeadlineExceeded").count(),
        1
    );
}

#[test]
fn a_lost_sandbox_is_made_again_with_all_containers() {
    let mut w = World::new(spec("Always", &[("i", json!({}))], &[("a", json!({}))]));
    w.settle();
    w.exit("i", 0);
    w.took();
    w.end("a", 255);
    w.observed.sandbox = Stage::Absent;
    w.wait(5);
    let want = ["CreateSandbox", "Image i/1", "Create i/1"];
    assert_eq!(w.took(), want, "a reboot: initialisation begins again");
    w.exit("i", 0);
    assert_eq!(
        (w.took(), w.status("a").restart_count),
        (vec!["Image a/1".into(), "Create a/1".into()], 1)
    );
}

#[test]
fn a_new_agent_goes_on_where_the_last_one_was() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({}))]));
    w.settle();
    w.exit("a", 1);
    let before = w.observed.status.clone();
    w.took();
    w.observed.backoffs.clear();
    w.observed.images.clear();
    w.observed.failures.clear();
    w.settle();
    assert!(w.took().is_empty());
    assert_eq!(w.observed.status, before);
}

#[test]
fn containers_that_vanished_are_counted_on() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({}))]));
    w.settle();
    w.took();
    w.observed.containers.clear();
    w.settle();
    assert_eq!(w.took(), ["Image a/1", "Create a/1"]);
    let last = w.status("a").last_state.and_then(|s| s.terminated);
    assert_eq!(
        last.and_then(|t| t.reason).as_deref(),
        Some("ContainerStatusUnknown")
    );
}

#[test]
fn readiness_gates_hold_back() {
    let mut s = spec("Always", &[], &[("a", json!({}))]);
    s["readinessGates"] = json!([{"conditionType": "example.com/in"}]);
    let mut w = World::new(s);
    w.settle();
    let message =
        "corresponding condition of pod readiness gate \"example.com/in\" does not exist.";
    assert_eq!(w.condition("Ready"), no("ReadinessGatesNotReady", message));
    assert_eq!(w.condition("ContainersReady"), yes());
    let theirs = json!({"type": "example.com/in", "status": "True"});
    let theirs = serde_json::from_value(theirs).expect("condition");
    Arc::make_mut(&mut w.observed.status)
        .conditions
        .get_or_insert_default()
        .push(theirs);
    w.settle();
    assert_eq!(w.condition("Ready"), yes());
    assert_eq!(
        w.condition("example.com/in").0,
        "True",
        "others' conditions stay"
    );
}

#[test]
fn a_refused_pod_keeps_its_reason() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({}))]));
    let status =
        json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected: why"});
    w.observed.status = Arc::new(serde_json::from_value(status).expect("status"));
    w.settle();
    assert!(w.took().is_empty());
    let s = &w.observed.status;
    assert_eq!(
        (s.phase.as_deref(), s.reason.as_deref()),
        (Some("Failed"), Some("OutOfcpu"))
    );
    assert_eq!(s.container_statuses, None);
}

#[test]
fn an_orphan_is_only_torn_down() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({}))]));
    w.settle();
    w.took();
    w.observed.orphan = true;
    w.settle();
    w.die();
    let want = [
        "Kill a/0 30s",
        "Remove a/0",
        "RemoveSandbox",
        "TeardownVolumes",
        "RemoveCgroup",
        "RemoveLogs",
    ];
    assert_eq!(
        (w.took(), w.finished),
        (want.map(str::to_owned).to_vec(), true)
    );
}

#[test]
fn another_image_restarts_the_container() {
    let mut w = World::new(spec("Always", &[], &[("a", json!({})), ("b", json!({}))]));
    w.settle();
    w.took();
    w.pod.spec.as_mut().expect("spec").containers[0].image = Some("img:2".into());
    w.settle();
    assert_eq!(w.took(), ["Kill a/0 30s"]);
    w.die();
    assert_eq!(w.took(), ["Image a/1", "Create a/1"]);
}
