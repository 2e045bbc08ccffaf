//! Containers that stand beside those of the spec.

use std::sync::Arc;

use serde_json::json;

use super::world::{World, spec};

fn yes() -> (String, String, String) {
    ("True".into(), String::new(), String::new())
}

#[test]
fn ephemeral_containers_stand_beside() {
    let mut w = World::new(spec("Always", &[("i", json!({}))], &[("a", json!({}))]));
    w.settle();
    let added = json!([{"name": "e", "image": "img:1", "targetContainerName": "a"}]);
    let pod = w.pod.spec.as_mut().expect("a spec");
    pod.ephemeral_containers = serde_json::from_value(added).expect("containers");
    w.settle();
    // At once, though the init container still runs.
    assert_eq!(w.took()[5..], ["Image e/0", "Create e/0"]);
    assert_eq!(w.phase(), "Pending");
    w.exit("i", 0);
    let whole = w.observed.status.clone();
    assert_eq!(whole.phase.as_deref(), Some("Running"));
    // It ends, is not started again, and changes nothing else.
    w.exit("e", 1);
    w.wait(3600);
    let s = &w.observed.status;
    let e = &s.ephemeral_container_statuses.as_ref().expect("statuses")[0];
    let end = e.state.as_ref().and_then(|s| s.terminated.as_ref());
    assert_eq!((end.map(|t| t.exit_code), e.restart_count), (Some(1), 0));
    assert_eq!(w.condition("Ready"), yes());
    assert_eq!(w.phase(), "Running");
    w.delete();
    w.die();
    assert!(w.log.contains(&"Remove e/0".to_owned()), "{:?}", w.log);
}

#[test]
fn devices_come_first() {
    let limits = json!({"resources": {"limits": {"example.com/gpu": "1"}}});
    let mut w = World::new(spec("Never", &[], &[("a", limits), ("b", json!({}))]));
    w.turn();
    assert_eq!(w.took(), ["AssignDevices"]);
    w.settle();
    assert_eq!(
        w.took()[..3],
        ["CreateCgroup", "MaterializeVolumes", "CreateSandbox"]
    );
    assert_eq!(w.phase(), "Running");
    // How they are is told of the container that has them.
    let health = json!([{"name": "example.com/gpu", "resources": [{"resourceID": "g1", "health": "Unhealthy"}]}]);
    let told = serde_json::from_value(health.clone()).expect("a status");
    w.observed.device_health.insert("a".into(), told);
    w.settle();
    let of = |w: &World, name| serde_json::to_value(w.status(name).allocated_resources_status);
    assert_eq!(of(&w, "a").expect("JSON"), health);
    assert!(of(&w, "b").expect("JSON").is_null());
    // Also when the pod has ended.
    w.exit("a", 0);
    assert_eq!(of(&w, "a").expect("JSON"), health);
}

#[test]
fn a_pod_without_its_devices_fails_before_anything_is_made() {
    let limits = json!({"resources": {"limits": {"example.com/gpu": "1"}}});
    let mut w = World::new(spec("Always", &[], &[("a", limits)]));
    w.turn();
    assert_eq!(w.took(), ["AssignDevices"]);
    // As the daemon notes a refusal.
    let s = Arc::make_mut(&mut w.observed.status);
    s.phase = Some("Failed".into());
    s.reason = Some("UnexpectedAdmissionError".into());
    s.container_statuses = None;
    w.settle();
    assert!(w.took().is_empty(), "{:?}", w.log);
    assert_eq!(w.phase(), "Failed");
    let s = &w.observed.status;
    assert_eq!(s.reason.as_deref(), Some("UnexpectedAdmissionError"));
    assert_eq!(s.container_statuses, None);
}
