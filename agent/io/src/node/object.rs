//! The Node and Lease objects. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};

/// How long a lease holds without renewal, seconds (the kubelet's default).
const LEASE_SECONDS: i32 = 40;
/// Where node leases live.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The object that registers a node: the well-known labels (architecture, system, host name) and the
/// operator's own, which win.
pub fn node(
    name: &str,
    labels: &BTreeMap<String, String>,
    taints: &[Taint],
    status: NodeStatus,
) -> Node {
    let arch = status
        .node_info
        .as_ref()
        .map(|i| i.architecture.clone())
        .unwrap_or_default();
    let hostname = status
        .addresses
        .iter()
        .flatten()
        .find(|a| a.type_ == "Hostname");
    let hostname = hostname.map_or(name, |a| &a.address).to_owned();
    let known = [
        ("beta.kubernetes.io/arch", arch.clone()),
        ("beta.kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/hostname", hostname),
        ("kubernetes.io/os", "linux".to_owned()),
    ];
    let known = known.into_iter().map(|(k, v)| (k.to_owned(), v));
    let all = known.chain(labels.clone()).collect();
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(all),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then(|| taints.to_vec()),
            ..NodeSpec::default()
        }),
        status: Some(status),
    }
}

/// The node's lease, renewed now. `current` is the one that stands (its resourceVersion guards the update);
/// `node_uid` makes the node its owner, so that it goes with it.
pub fn lease(name: &str, node_uid: Option<&str>, current: Option<&Lease>, now: Timestamp) -> Lease {
    let mut lease = current.cloned().unwrap_or_default();
    lease.metadata.name = Some(name.to_owned());
    lease.metadata.namespace = Some(LEASE_NAMESPACE.to_owned());
    if let Some(uid) = node_uid {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }]);
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(name.to_owned());
    spec.lease_duration_seconds = Some(LEASE_SECONDS);
    spec.renew_time = Some(MicroTime(now));
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_lease_keeps_what_others_put_there() {
        let at = |s| Timestamp::from_second(s).expect("time");
        let mut first = lease("a", Some("uid"), None, at(1));
        first.metadata.resource_version = Some("7".into());
        let next = lease("a", None, Some(&first), at(2));
        assert_eq!(next.metadata, first.metadata);
        let spec = next.spec.expect("spec");
        assert_eq!(
            (spec.renew_time, spec.lease_duration_seconds),
            (Some(MicroTime(at(2))), Some(40))
        );
        assert_eq!(spec.holder_identity.as_deref(), Some("a"));
    }

    #[test]
    fn the_operators_labels_win() {
        let own = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "mine".to_owned())]);
        let labels = node("a", &own, &[], NodeStatus::default())
            .metadata
            .labels
            .expect("labels");
        assert_eq!(
            labels.get("kubernetes.io/hostname").map(String::as_str),
            Some("mine")
        );
        assert_eq!(
            labels.get("kubernetes.io/os").map(String::as_str),
            Some("linux")
        );
    }
}
