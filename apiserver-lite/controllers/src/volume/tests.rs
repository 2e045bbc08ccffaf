use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use keelson_api::volume::Class;
use serde_json::{Value, from_value, json};

use super::{Around, Holder, attach, claim, ephemeral, local, protect, volume};
use crate::action::Action;

fn now() -> jiff::Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

/// Objects from a base and what differs; `null` takes away.
fn merged(mut base: Value, more: Value) -> Value {
    fn put(base: &mut Value, more: Value) {
        match (base.as_object_mut(), more) {
            (Some(into), Value::Object(more)) => {
                for (k, v) in more {
                    put(into.entry(k).or_insert(Value::Null), v);
                }
            }
            (_, more) => *base = more,
        }
    }
    put(&mut base, more);
    base
}

fn a_claim(more: Value) -> PersistentVolumeClaim {
    let base = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""},
        "status": {"phase": "Pending"}});
    from_value(merged(base, more)).expect("a claim")
}

fn a_volume(more: Value) -> PersistentVolume {
    let base = json!({"metadata": {"name": "v", "uid": "v"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"}},
        "status": {"phase": "Available"}});
    from_value(merged(base, more)).expect("a volume")
}

fn class(provisioner: &str, mode: &str) -> Class {
    Class::parse(
        &json!({"metadata": {"name": "x"}, "provisioner": provisioner, "volumeBindingMode": mode, "reclaimPolicy": "Delete"}),
    )
}

/// What actions do, a word or two each.
fn told(actions: &[Action]) -> String {
    let one = |a: &Action| match a {
        Action::Create { object, .. } => format!(
            "create {}",
            object["metadata"]["name"].as_str().unwrap_or("?")
        ),
        Action::Delete { target, .. } => format!("delete {}", target.key),
        Action::Event { reason, .. } => format!("!{reason}"),
        Action::Patch { target, patch, .. } => {
            let mut fields = Vec::new();
            let mut add = |path: &str, name: &str| match patch.pointer(path) {
                None => {}
                Some(Value::Null) => fields.push(format!("no {name}")),
                Some(v) => fields.push(match v.as_str() {
                    Some(text) => format!("{name}={text}"),
                    None => name.to_owned(),
                }),
            };
            add("/status/phase", "phase");
            add("/status/message", "message");
            add("/status/capacity/storage", "capacity");
            add("/spec/claimRef", "claimRef");
            add("/spec/claimRef/uid", "uid");
            add("/spec/volumeName", "volume");
            add("/spec/storageClassName", "class");
            add("/metadata/finalizers", "finalizers");
            add(
                "/metadata/annotations/pv.kubernetes.io~1bind-completed",
                "completed",
            );
            add(
                "/metadata/annotations/pv.kubernetes.io~1bound-by-controller",
                "ours",
            );
            add(
                "/metadata/annotations/volume.kubernetes.io~1storage-provisioner",
                "provisioner",
            );
            add(
                "/metadata/annotations/volume.kubernetes.io~1selected-node",
                "node",
            );
            fields.retain(|f| f != "no message");
            format!("{}: {}", target.key, fields.join(" "))
        }
        other => format!("{other:?}"),
    };
    actions.iter().map(one).collect::<Vec<_>>().join("; ")
}

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

fn a_pod(more: Value) -> Pod {
    let base = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "pu"},
        "spec": {"containers": [], "nodeName": "n", "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]},
        "status": {"phase": "Running"}});
    from_value(merged(base, more)).expect("a pod")
}

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

#[test]
fn directories_are_given() {
    let asked = |more: Value| {
        let base = json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": "keelson.io/local-path",
            "volume.kubernetes.io/selected-node": "n"}}, "spec": {"storageClassName": "x"}});
        a_claim(merged(base, more))
    };
    let node: Node = from_value(
        json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "h"},
        "annotations": {"keelson.io/local-path": "/data/storage"}}}),
    )
    .expect("a node");
    let bare: Node = from_value(json!({"metadata": {"name": "n"}})).expect("a node");
    let class = class("keelson.io/local-path", "WaitForFirstConsumer");
    let table = [
        (
            "given",
            asked(json!({})),
            Some(&node),
            false,
            "!Provisioning; create pvc-u; !ProvisioningSucceeded",
        ),
        ("given already", asked(json!({})), Some(&node), true, ""),
        (
            "going",
            asked(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            Some(&node),
            false,
            "",
        ),
        (
            "the node is gone",
            asked(json!({})),
            None,
            false,
            "ns/c: no node",
        ),
        (
            "no keelson there",
            asked(json!({})),
            Some(&bare),
            false,
            "!ProvisioningFailed",
        ),
        (
            "no node was chosen",
            asked(json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": ""}}})),
            None,
            false,
            "!ProvisioningFailed",
        ),
        (
            "for many nodes",
            asked(json!({"spec": {"accessModes": ["ReadWriteMany"]}})),
            Some(&node),
            false,
            "!ProvisioningFailed",
        ),
        (
            "a device",
            asked(json!({"spec": {"volumeMode": "Block"}})),
            Some(&node),
            false,
            "!ProvisioningFailed",
        ),
        (
            "by labels",
            asked(json!({"spec": {"selector": {}}})),
            Some(&node),
            false,
            "!ProvisioningFailed",
        ),
    ];
    for (name, claim, node, made, want) in table {
        assert_eq!(
            told(&local::plan(&claim, &class, node, made)),
            want,
            "{name}"
        );
    }
    let actions = local::plan(&asked(json!({})), &class, Some(&node), false);
    let Some(Action::Create { object, .. }) = actions.get(1) else {
        panic!("{actions:?}")
    };
    assert_eq!(object["spec"]["local"]["path"], "/data/storage/pvc-u_ns_c");
    assert_eq!(object["spec"]["capacity"]["storage"], "1Gi");
    assert_eq!(
        object["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"]
            [0],
        "h"
    );
}

#[test]
fn directories_are_taken_back() {
    let given = |phase: &str, policy: &str, more: Value| {
        let base = json!({"metadata": {"name": "v", "finalizers": ["keelson.io/local-path", "kubernetes.io/pv-protection"]},
            "spec": {"local": {"path": "/s/v_ns_c"}, "persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase}});
        from_value::<PersistentVolume>(merged(base, more)).expect("a volume")
    };
    let going = || json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let table = [
        ("in use", given("Bound", "Delete", json!({})), None),
        ("in use, going", given("Bound", "Delete", going()), None),
        (
            "released",
            given("Released", "Delete", json!({})),
            Some((None, "delete v")),
        ),
        (
            "released, going",
            given("Released", "Delete", going()),
            Some((Some("v_ns_c"), "v: finalizers")),
        ),
        ("kept", given("Released", "Retain", json!({})), None),
        (
            "kept, the volume goes",
            given("Released", "Retain", going()),
            Some((None, "v: finalizers")),
        ),
    ];
    for (name, volume, want) in table {
        let got = local::removal(&volume);
        let got = got
            .as_ref()
            .map(|r| (r.directory.as_deref(), told(&r.actions)));
        let got = got.as_ref().map(|(d, t)| (*d, t.as_str()));
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn volumes_are_attached_where_pods_are() {
    let volume = |modes: &str| {
        a_volume(
            json!({"spec": {"hostPath": null, "accessModes": [modes], "csi": {"driver": "d", "volumeHandle": "h"}}}),
        )
    };
    let claim = || a_claim(json!({"spec": {"volumeName": "v"}}));
    let driver = |attach: bool| {
        Arc::new(
            from_value(json!({"metadata": {"name": "d"}, "spec": {"attachRequired": attach}}))
                .expect("a driver"),
        )
    };
    let attached = |node: &str, more: Value| {
        let base = json!({"metadata": {"name": attach::name("h", "d", node)},
            "spec": {"attacher": "d", "nodeName": node, "source": {"persistentVolumeName": "v"}}});
        Arc::new(from_value(merged(base, more)).expect("an attachment"))
    };
    let node = |used: &[&str]| {
        Arc::new(
            from_value(json!({"metadata": {"name": "n"}, "status": {"volumesInUse": used}}))
                .expect("a node"),
        )
    };
    let (here, there) = (attach::name("h", "d", "n"), attach::name("h", "d", "m"));
    let in_use = "kubernetes.io/csi/d^h";
    let (make, delete, delete_there) = (
        format!("create {here}"),
        format!("delete {here}"),
        format!("delete {there}"),
    );
    let held = format!("!FailedAttachVolume; {delete_there}");
    let both = format!("{make}; {delete_there}");
    let one = |pods: Vec<Pod>, modes: &str, drivers, attachments, nodes| attach::Around {
        pods: pods.into_iter().map(Arc::new).collect(),
        claims: vec![Arc::new(claim())],
        volumes: vec![Arc::new(volume(modes))],
        drivers,
        attachments,
        nodes,
    };
    let pod = || vec![a_pod(json!({}))];
    let rwo = "ReadWriteOnce";
    let table = [
        (
            "a pod has a node",
            one(pod(), rwo, vec![], vec![], vec![node(&[])]),
            make.as_str(),
        ),
        (
            "attached",
            one(
                pod(),
                rwo,
                vec![],
                vec![attached("n", json!({}))],
                vec![node(&[])],
            ),
            "",
        ),
        (
            "the driver needs none",
            one(pod(), rwo, vec![driver(false)], vec![], vec![]),
            "",
        ),
        (
            "no node yet",
            one(
                vec![a_pod(json!({"spec": {"nodeName": ""}}))],
                rwo,
                vec![],
                vec![],
                vec![],
            ),
            "",
        ),
        (
            "an ended pod counts",
            one(
                vec![a_pod(json!({"status": {"phase": "Succeeded"}}))],
                rwo,
                vec![],
                vec![attached("n", json!({}))],
                vec![node(&[])],
            ),
            "",
        ),
        (
            "nobody wants it",
            one(
                vec![],
                rwo,
                vec![],
                vec![attached("n", json!({}))],
                vec![node(&[])],
            ),
            delete.as_str(),
        ),
        (
            "mounted still",
            one(
                vec![],
                rwo,
                vec![],
                vec![attached("n", json!({}))],
                vec![node(&[in_use])],
            ),
            "",
        ),
        (
            "the node is gone",
            one(vec![], rwo, vec![], vec![attached("n", json!({}))], vec![]),
            delete.as_str(),
        ),
        (
            "going already",
            one(
                vec![],
                rwo,
                vec![],
                vec![attached(
                    "n",
                    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                )],
                vec![],
            ),
            "",
        ),
        (
            "somebody else's",
            one(
                vec![],
                rwo,
                vec![],
                vec![attached("n", json!({"metadata": {"name": "other"}}))],
                vec![],
            ),
            "",
        ),
        (
            "held by another node",
            one(pod(), rwo, vec![], vec![attached("m", json!({}))], vec![]),
            held.as_str(),
        ),
        (
            "many may have it",
            one(
                pod(),
                "ReadWriteMany",
                vec![],
                vec![attached("m", json!({}))],
                vec![],
            ),
            both.as_str(),
        ),
    ];
    for (name, around, want) in table {
        assert_eq!(told(&attach::plan(&around)), want, "{name}");
    }
}
