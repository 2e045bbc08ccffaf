//! Claims and volumes find each other.

use super::*;

const BOUND: &str = "pv.kubernetes.io/bind-completed";
const OURS: &str = "pv.kubernetes.io/bound-by-controller";

#[test]
fn claims_are_bound() {
    let done = || json!({"metadata": {"annotations": {BOUND: "yes"}}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"]}});
    let held = |uid: &str| json!({"spec": {"claimRef": {"namespace": "ns", "name": "c", "uid": uid}}, "status": {"phase": "Bound"}});
    let reserved = || json!({"spec": {"claimRef": {"namespace": "ns", "name": "c"}}});
    let whole = "v: claimRef uid=u ours=yes; v: phase=Bound; ns/c: volume=v completed=yes ours=yes; ns/c: phase=Bound capacity=2Gi";
    let of = |name: &str| json!({"spec": {"storageClassName": name}});
    let none: fn() -> Value = || json!({});
    type Row<'a> = (&'a str, Value, Vec<Value>, Option<Class>, &'a str);
    let table: Vec<Row<'_>> = vec![
        (
            "no class, no volume",
            none(),
            vec![],
            None,
            "!FailedBinding",
        ),
        ("a free volume", none(), vec![none()], None, whole),
        (
            "reserved by name: not our choice",
            none(),
            vec![reserved()],
            None,
            "v: claimRef uid=u; v: phase=Bound; ns/c: volume=v completed=yes ours=yes; ns/c: phase=Bound capacity=2Gi",
        ),
        (
            "asked for by name",
            json!({"spec": {"volumeName": "v"}}),
            vec![none()],
            None,
            "v: claimRef uid=u ours=yes; v: phase=Bound; ns/c: volume=v completed=yes; ns/c: phase=Bound capacity=2Gi",
        ),
        (
            "asked for, not there",
            json!({"spec": {"volumeName": "v"}}),
            vec![],
            None,
            "",
        ),
        (
            "asked for, too small",
            json!({"spec": {"volumeName": "v", "resources": {"requests": {"storage": "3Gi"}}}}),
            vec![none()],
            None,
            "!VolumeMismatch",
        ),
        (
            "asked for, another's",
            json!({"spec": {"volumeName": "v"}}),
            vec![held("other")],
            None,
            "",
        ),
        (
            "chosen, another's",
            json!({"metadata": {"annotations": {OURS: "yes"}}, "spec": {"volumeName": "v"}}),
            vec![held("other")],
            None,
            "!FailedBinding",
        ),
        (
            "half bound: the volume is done",
            none(),
            vec![held("u")],
            None,
            "ns/c: volume=v completed=yes ours=yes; ns/c: phase=Bound capacity=2Gi",
        ),
        (
            "half bound: the status lacks",
            json!({"metadata": {"annotations": {BOUND: "yes"}}, "spec": {"volumeName": "v"}}),
            vec![held("u")],
            None,
            "ns/c: phase=Bound capacity=2Gi",
        ),
        ("bound", done(), vec![held("u")], None, ""),
        (
            "bound, the volume forgot",
            done(),
            vec![none()],
            None,
            "v: claimRef uid=u ours=yes; v: phase=Bound",
        ),
        (
            "bound, the volume is gone",
            done(),
            vec![],
            None,
            "ns/c: phase=Lost; !ClaimLost",
        ),
        (
            "bound to nothing",
            merged(done(), json!({"spec": {"volumeName": ""}})),
            vec![none()],
            None,
            "ns/c: phase=Lost; !ClaimLost",
        ),
        (
            "bound to another's",
            done(),
            vec![held("other")],
            None,
            "ns/c: phase=Lost; !ClaimMisbound",
        ),
        (
            "lost is told once",
            merged(done(), json!({"status": {"phase": "Lost"}})),
            vec![],
            None,
            "",
        ),
        (
            "going, unbound",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            vec![none()],
            None,
            "",
        ),
        (
            "no such class",
            of("x"),
            vec![],
            None,
            "!ProvisioningFailed",
        ),
        (
            "class without a provisioner",
            of("x"),
            vec![],
            Some(class("kubernetes.io/no-provisioner", "Immediate")),
            "!ProvisioningFailed",
        ),
        (
            "somebody makes it",
            of("x"),
            vec![],
            Some(class("p", "Immediate")),
            "ns/c: provisioner=p; !ExternalProvisioning",
        ),
        (
            "somebody was asked",
            merged(
                of("x"),
                json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": "p", "volume.beta.kubernetes.io/storage-provisioner": "p"}}}),
            ),
            vec![],
            Some(class("p", "Immediate")),
            "!ExternalProvisioning",
        ),
        (
            "waits for a pod",
            of("x"),
            vec![none()],
            Some(class("p", "WaitForFirstConsumer")),
            "!WaitForFirstConsumer",
        ),
        (
            "waits, though one is free",
            of("x"),
            vec![json!({"spec": {"storageClassName": "x"}})],
            Some(class("p", "WaitForFirstConsumer")),
            "!WaitForFirstConsumer",
        ),
        (
            "the scheduler reserved one",
            of("x"),
            vec![merged(
                reserved(),
                json!({"spec": {"claimRef": {"uid": "u"}, "storageClassName": "x"}}),
            )],
            Some(class("p", "WaitForFirstConsumer")),
            "v: phase=Bound; ns/c: volume=v completed=yes ours=yes; ns/c: phase=Bound capacity=2Gi",
        ),
        (
            "the scheduler chose a node",
            merged(
                of("x"),
                json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n"}}}),
            ),
            vec![],
            Some(class("p", "WaitForFirstConsumer")),
            "ns/c: provisioner=p; !ExternalProvisioning",
        ),
    ];
    for (name, more, volumes, class, want) in table {
        let around = Around {
            volumes: volumes.into_iter().map(|v| Arc::new(a_volume(v))).collect(),
            class,
            ..Around::default()
        };
        assert_eq!(told(&claim(&a_claim(more), &around, now())), want, "{name}");
    }
}

#[test]
fn a_late_default_class_and_pods_that_wait() {
    let around = Around {
        default_class: Some("d".into()),
        ..Around::default()
    };
    let mut without = a_claim(json!({}));
    without.spec.as_mut().expect("spec").storage_class_name = None;
    assert_eq!(told(&claim(&without, &around, now())), "ns/c: class=d");
    // An empty name means: none.
    assert_eq!(
        told(&claim(&a_claim(json!({})), &around, now())),
        "!FailedBinding"
    );
    let around = Around {
        class: Some(class("p", "WaitForFirstConsumer")),
        waiting_pods: vec!["p".into()],
        ..Around::default()
    };
    let waiting = a_claim(json!({"spec": {"storageClassName": "x"}}));
    assert_eq!(
        told(&claim(&waiting, &around, now())),
        "!WaitForPodScheduled"
    );
}

#[test]
fn volumes_follow_their_claims() {
    let there = |volume: &str| Holder::There {
        volume: volume.into(),
    };
    let at = |phase: &str| json!({"status": {"phase": phase}});
    let ours = || json!({"metadata": {"annotations": {OURS: "yes"}}});
    let delete = || json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}});
    let made = || json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "p"}}});
    let table = [
        ("new", at("Pending"), Holder::Nobody, "v: phase=Available"),
        ("free", at("Available"), Holder::Nobody, ""),
        ("its claim is not bound yet", at("Available"), there(""), ""),
        ("bound", at("Bound"), there("v"), ""),
        (
            "bound, not told",
            at("Available"),
            there("v"),
            "v: phase=Bound",
        ),
        (
            "the claim has another: our choice",
            merged(at("Bound"), ours()),
            there("w"),
            "v: no claimRef no ours; v: phase=Available",
        ),
        (
            "the claim has another: reserved by hand",
            at("Bound"),
            there("w"),
            "v: claimRef no uid; v: phase=Available",
        ),
        (
            "made for a claim that has another",
            merged(merged(at("Bound"), made()), delete()),
            there("w"),
            "v: phase=Released",
        ),
        ("kept", at("Bound"), Holder::Gone, "v: phase=Released"),
        ("kept, told", at("Released"), Holder::Gone, ""),
        (
            "to be deleted by nobody",
            merged(at("Bound"), delete()),
            Holder::Gone,
            "v: phase=Released; v: phase=Failed message=error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched; !VolumeFailedDelete",
        ),
        (
            "failed, told",
            merged(at("Failed"), delete()),
            Holder::Gone,
            "",
        ),
        (
            "to be deleted by its maker",
            merged(merged(at("Bound"), delete()), made()),
            Holder::Gone,
            "v: phase=Released",
        ),
        (
            "to be recycled",
            merged(
                at("Released"),
                json!({"spec": {"persistentVolumeReclaimPolicy": "Recycle"}}),
            ),
            Holder::Gone,
            "v: phase=Failed message=No recycler plugin found for the volume!; !VolumeFailedRecycle",
        ),
        (
            "going",
            merged(
                merged(at("Released"), delete()),
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            ),
            Holder::Gone,
            "",
        ),
    ];
    for (name, more, holder, want) in table {
        assert_eq!(
            told(&volume(&a_volume(more), &holder, now())),
            want,
            "{name}"
        );
    }
}
