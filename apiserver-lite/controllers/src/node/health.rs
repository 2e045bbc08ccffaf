//! A node's conditions, and what its silence makes of them.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::watchtower::Stamp;
use crate::action::{Action, Target};
use crate::pod::is_ready;

/// Conditions that only the node itself knows.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The condition `Ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    True,
    /// Or not said yet.
    False,
    Unknown,
}

pub(super) fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    let all = node.status.as_ref()?.conditions.as_ref()?;
    all.iter().find(|c| c.type_ == type_)
}

pub(super) fn ready(node: &Node) -> Ready {
    match condition(node, "Ready").map(|c| c.status.as_str()) {
        Some("True") => Ready::True,
        Some("Unknown") => Ready::Unknown,
        _ => Ready::False,
    }
}

/// What a node last said of itself.
pub(super) fn stamp(node: &Node, lease: Option<&Lease>) -> Stamp {
    let renewed = lease
        .and_then(|l| l.spec.as_ref())
        .and_then(|s| s.renew_time.as_ref())
        .map(|t| t.0);
    let heartbeat = condition(node, "Ready")
        .and_then(|c| c.last_heartbeat_time.as_ref())
        .map(|t| t.0);
    (renewed, heartbeat)
}

/// The status of a lost node, unless it says so already.
pub(super) fn unknown(node: &Node, now: Timestamp) -> Option<Action> {
    let old = node
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    let mut new = old.to_vec();
    for type_ in CONDITIONS {
        match new.iter_mut().find(|c| c.type_ == type_) {
            Some(c) if c.status == "Unknown" => {}
            Some(c) => {
                c.status = "Unknown".into();
                c.reason = Some("NodeStatusUnknown".into());
                c.message = Some("Kubelet stopped posting node status.".into());
                c.last_transition_time = Some(Time(now));
            }
            None => new.push(NodeCondition {
                type_: type_.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    (new != old).then(|| {
        Action::status(
            Target::of(node).unchanged(node),
            json!({ "conditions": new }),
        )
    })
}

/// A ready pod of a lost node is not ready: nobody may send it requests.
pub(super) fn pod_not_ready(pod: &Pod, now: Timestamp) -> Option<Action> {
    if !is_ready(pod) {
        return None;
    }
    let mut conditions = pod.status.as_ref()?.conditions.clone()?;
    let ready = conditions.iter_mut().find(|c| c.type_ == "Ready")?;
    ready.status = "False".into();
    ready.reason = Some("NodeLost".into());
    ready.last_transition_time = Some(Time(now));
    let target = Target::of(pod).unchanged(pod);
    Some(Action::status(target, json!({ "conditions": conditions })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value};

    #[test]
    fn silence_makes_conditions_unknown() {
        let cases = [
            (
                "never said anything",
                json!([]),
                Some([
                    ("Ready", "NodeStatusNeverUpdated"),
                    ("MemoryPressure", "NodeStatusNeverUpdated"),
                ]),
            ),
            (
                "stopped",
                json!([{"type": "Ready", "status": "True"}, {"type": "MemoryPressure", "status": "False"}]),
                Some([
                    ("Ready", "NodeStatusUnknown"),
                    ("MemoryPressure", "NodeStatusUnknown"),
                ]),
            ),
            (
                "known already",
                json!(CONDITIONS.map(|t| json!({"type": t, "status": "Unknown"}))),
                None,
            ),
        ];
        for (name, conditions, want) in cases {
            let node: Node = from_value(
                json!({"metadata": {"name": "n"}, "status": {"conditions": conditions}}),
            )
            .expect("node");
            let seen = unknown(&node, Timestamp::UNIX_EPOCH).map(|a| match a {
                Action::Patch { patch, .. } => patch["status"]["conditions"].clone(),
                other => panic!("{other:?}"),
            });
            let Some(want) = want else {
                assert_eq!(seen, None, "{name}");
                continue;
            };
            let seen = seen.expect(name);
            assert_eq!(seen.as_array().map(Vec::len), Some(4), "{name}");
            for (type_, reason) in want {
                let all = seen.as_array().into_iter().flatten();
                let found: Vec<&Value> = all.filter(|c| c["type"] == type_).collect();
                assert_eq!(found.len(), 1, "{name}");
                assert_eq!(
                    (&found[0]["status"], &found[0]["reason"]),
                    (&json!("Unknown"), &json!(reason)),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn only_ready_pods_are_marked() {
        for (status, marked) in [("True", true), ("False", false)] {
            let pod: Pod = from_value(
                json!({"metadata": {"name": "p", "namespace": "d"}, "status": {"conditions": [
                {"type": "Initialized", "status": "True"}, {"type": "Ready", "status": status}]}}),
            )
            .expect("pod");
            match pod_not_ready(&pod, Timestamp::UNIX_EPOCH) {
                Some(Action::Patch { patch, .. }) if marked => {
                    let conditions = &patch["status"]["conditions"];
                    assert_eq!(
                        (&conditions[0]["status"], &conditions[1]["status"]),
                        (&json!("True"), &json!("False"))
                    );
                }
                None if !marked => {}
                other => panic!("{status}: {other:?}"),
            }
        }
    }
}
