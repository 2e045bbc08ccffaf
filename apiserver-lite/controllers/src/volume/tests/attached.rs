//! Volumes of drivers.

use super::*;

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
