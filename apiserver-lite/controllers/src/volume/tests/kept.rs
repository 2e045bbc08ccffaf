//! What is in use is kept, and pods get their own.

use super::*;

#[test]
fn claims_in_use_are_kept() {
    let own = || json!({"spec": {"volumes": [{"name": "d", "ephemeral": {}}]}});
    let owned = || json!({"metadata": {"name": "p-d", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pu", "controller": true}]}});
    let table = [
        ("running", json!({}), json!({}), true),
        (
            "ended pods keep claims",
            json!({"status": {"phase": "Succeeded"}}),
            json!({}),
            true,
        ),
        (
            "no node yet",
            json!({"spec": {"nodeName": ""}}),
            json!({}),
            false,
        ),
        (
            "another claim",
            json!({}),
            json!({"metadata": {"name": "other"}}),
            false,
        ),
        ("its own", own(), owned(), true),
        (
            "its own, ended",
            merged(own(), json!({"status": {"phase": "Failed"}})),
            owned(),
            false,
        ),
        (
            "its name, not its own",
            own(),
            json!({"metadata": {"name": "p-d"}}),
            false,
        ),
    ];
    for (name, pod, claim, want) in table {
        assert_eq!(protect::uses(&a_pod(pod), &a_claim(claim)), want, "{name}");
    }
    let going = |finalizers: Value| {
        a_claim(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers}}),
        )
    };
    let f = "kubernetes.io/pvc-protection";
    let table = [
        ("used", going(json!([f])), true, ""),
        ("free", going(json!([f])), false, "ns/c: no finalizers"),
        (
            "free, held by others",
            going(json!([f, "x"])),
            false,
            "ns/c: finalizers",
        ),
        ("not ours", going(json!(["x"])), false, ""),
        (
            "not going",
            a_claim(json!({"metadata": {"finalizers": [f]}})),
            false,
            "",
        ),
    ];
    for (name, claim, used, want) in table {
        assert_eq!(told(&protect::plan(&claim, f, used)), want, "{name}");
    }
    let volume = |phase: &str| {
        a_volume(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["kubernetes.io/pv-protection"]}, "status": {"phase": phase}}),
        )
    };
    assert_eq!(told(&protect::volume(&volume("Bound"))), "");
    assert_eq!(
        told(&protect::volume(&volume("Released"))),
        "v: no finalizers"
    );
}

#[test]
fn pods_get_their_own_claims() {
    let volumes = json!([{"name": "d", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}]);
    let pod = |more: Value| a_pod(merged(json!({"spec": {"volumes": volumes}}), more));
    let made = ephemeral(&pod(json!({})), &[]).expect("a plan");
    assert_eq!(told(&made), "create p-d");
    let Some(Action::Create { object, .. }) = made.first() else {
        panic!("{made:?}")
    };
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "pu");
    assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
    let there: Arc<PersistentVolumeClaim> = Arc::new(from_value(object.clone()).expect("a claim"));
    assert_eq!(
        told(&ephemeral(&pod(json!({})), std::slice::from_ref(&there)).expect("a plan")),
        ""
    );
    let ended = pod(json!({"status": {"phase": "Failed"}}));
    assert_eq!(told(&ephemeral(&ended, &[]).expect("a plan")), "");
    let foreign = Arc::new(a_claim(json!({"metadata": {"name": "p-d"}})));
    let error = ephemeral(&pod(json!({})), &[foreign]).expect_err("not its own");
    assert_eq!(
        error.to_string(),
        "PVC ns/p-d was not created for pod ns/p (pod is not owner)"
    );
}
