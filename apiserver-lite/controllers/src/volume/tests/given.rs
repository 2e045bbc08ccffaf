//! Directories of nodes.

use super::*;

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
