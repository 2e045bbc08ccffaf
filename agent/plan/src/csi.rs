//! What CSI drivers want to know, and what a node says of its drivers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::{
    CSIDriver, CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Whether a volume must be attached to the node first; so it is when nobody has said anything about the driver.
pub fn attaches(driver: Option<&CSIDriver>) -> bool {
    driver.is_none_or(|d| d.spec.attach_required != Some(false))
}

/// Whether the node gives a volume to the pod's group (`fsGroupPolicy`).
pub fn gives_group(driver: Option<&CSIDriver>, fs_type: &str, modes: &[String]) -> bool {
    let policy = driver.and_then(|d| d.spec.fs_group_policy.as_deref());
    match policy.unwrap_or("ReadWriteOnceWithFSType") {
        "None" => false,
        "File" => true,
        _ => {
            let once = |m: &String| m == "ReadWriteOnce" || m == "ReadWriteOncePod";
            !fs_type.is_empty() && modes.iter().any(once)
        }
    }
}

/// Whether a driver takes volumes of this kind: those of a pod alone, or persistent ones.
///
/// # Errors
/// Not this kind, in upstream's words.
pub fn takes(name: &str, driver: Option<&CSIDriver>, inline: bool) -> Result<(), String> {
    let all = driver.and_then(|d| d.spec.volume_lifecycle_modes.clone());
    let all = all
        .filter(|a| !a.is_empty())
        .unwrap_or_else(|| vec!["Persistent".into()]);
    let wanted = if inline { "Ephemeral" } else { "Persistent" };
    if all.iter().any(|m| m == wanted) {
        return Ok(());
    }
    Err(format!(
        "volume mode \"{wanted}\" not supported by driver {name} (only supports {all:?})"
    ))
}

/// What the driver is told of a volume: its attributes, and of the pod what the driver asked for.
pub fn context(
    pod: &Pod,
    attributes: Option<&BTreeMap<String, String>>,
    driver: Option<&CSIDriver>,
    inline: bool,
) -> BTreeMap<String, String> {
    let mut all = attributes.cloned().unwrap_or_default();
    if driver.is_some_and(|d| d.spec.pod_info_on_mount == Some(true)) {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.clone());
        let of_pod = [
            ("pod.name", text(&pod.metadata.name)),
            ("pod.namespace", text(&pod.metadata.namespace)),
            ("pod.uid", text(&pod.metadata.uid)),
            ("serviceAccount.name", account.unwrap_or_default()),
            ("ephemeral", inline.to_string()),
        ];
        all.extend(of_pod.map(|(k, v)| (format!("csi.storage.k8s.io/{k}"), v)));
    }
    all
}

/// What a driver said of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// What the storage knows the node by.
    pub node_id: String,
    /// Most volumes; 0: no limit.
    pub max_volumes: i64,
    /// Keys of the node's place.
    pub topology_keys: Vec<String>,
}

/// The node's CSINode with these drivers, by name; `None`: it is that already.
pub fn csi_node(
    current: Option<&CSINode>,
    node: (&str, &str),
    drivers: &BTreeMap<String, Here>,
) -> Option<CSINode> {
    let driver = |(name, here): (&String, &Here)| CSINodeDriver {
        name: name.clone(),
        node_id: here.node_id.clone(),
        topology_keys: (!here.topology_keys.is_empty()).then(|| here.topology_keys.clone()),
        allocatable: i32::try_from(here.max_volumes)
            .ok()
            .filter(|n| *n > 0)
            .map(|n| VolumeNodeResources { count: Some(n) }),
    };
    let spec = CSINodeSpec {
        drivers: drivers.iter().map(driver).collect(),
    };
    let (name, uid) = node;
    match current {
        None if drivers.is_empty() => None,
        None => Some(CSINode {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: name.to_owned(),
                    uid: uid.to_owned(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec,
        }),
        Some(current) if current.spec == spec => None,
        Some(current) => Some(CSINode {
            metadata: current.metadata.clone(),
            spec,
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn driver(spec: Value) -> CSIDriver {
        from_value(json!({"metadata": {"name": "d"}, "spec": spec})).expect("a driver")
    }

    #[test]
    fn what_drivers_ask_for() {
        type Row = (Option<Value>, bool, &'static str, &'static str, bool);
        let rows: [Row; 6] = [
            (None, true, "ext4", "ReadWriteOnce", true),
            (None, true, "", "ReadWriteOnce", false),
            (None, true, "ext4", "ReadWriteMany", false),
            (
                Some(json!({"attachRequired": false, "fsGroupPolicy": "File"})),
                false,
                "",
                "ReadWriteMany",
                true,
            ),
            (
                Some(json!({"fsGroupPolicy": "None"})),
                true,
                "ext4",
                "ReadWriteOnce",
                false,
            ),
            (
                Some(json!({"fsGroupPolicy": "ReadWriteOnceWithFSType"})),
                true,
                "ext4",
                "ReadWriteOncePod",
                true,
            ),
        ];
        for (spec, attach, fs_type, mode, group) in rows {
            let driver = spec.clone().map(driver);
            assert_eq!(attaches(driver.as_ref()), attach, "{spec:?}");
            let modes = [mode.to_owned()];
            assert_eq!(
                gives_group(driver.as_ref(), fs_type, &modes),
                group,
                "{spec:?} {fs_type} {mode}"
            );
        }
        let both = driver(json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"]}));
        assert!(takes("d", Some(&both), true).is_ok() && takes("d", Some(&both), false).is_ok());
        assert!(takes("d", None, false).is_ok());
        assert_eq!(
            takes("d", None, true).err().as_deref(),
            Some(
                "volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])"
            )
        );
    }

    #[test]
    fn what_drivers_are_told() {
        let pod: Pod = from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "serviceAccountName": "sa"}}),
        )
        .expect("a pod");
        let attributes = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        assert_eq!(context(&pod, Some(&attributes), None, false), attributes);
        let curious = driver(json!({"podInfoOnMount": true}));
        let told = context(&pod, None, Some(&curious), true);
        let told: Vec<String> = told.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            told,
            [
                "csi.storage.k8s.io/ephemeral=true",
                "csi.storage.k8s.io/pod.name=p",
                "csi.storage.k8s.io/pod.namespace=ns",
                "csi.storage.k8s.io/pod.uid=u",
                "csi.storage.k8s.io/serviceAccount.name=sa",
            ]
        );
    }

    #[test]
    fn the_nodes_drivers() {
        let here = Here {
            node_id: "id".into(),
            max_volumes: 3,
            topology_keys: vec!["zone".into()],
        };
        let one = BTreeMap::from([("d".to_owned(), here)]);
        let node = ("n", "nu");
        assert_eq!(csi_node(None, node, &BTreeMap::new()), None);
        let made = csi_node(None, node, &one).expect("one");
        assert_eq!(
            made.metadata.owner_references.as_ref().map(Vec::len),
            Some(1)
        );
        let first = made.spec.drivers.first().expect("a driver");
        assert_eq!(
            (
                first.node_id.as_str(),
                first.allocatable.as_ref().and_then(|a| a.count)
            ),
            ("id", Some(3))
        );
        assert_eq!(csi_node(Some(&made), node, &one), None);
        let gone = csi_node(Some(&made), node, &BTreeMap::new()).expect("a change");
        assert!(gone.spec.drivers.is_empty());
    }
}
