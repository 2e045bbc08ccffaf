use super::*;
use crate::action::Action;
use k8s_openapi::api::policy::v1::PodDisruptionBudgetStatus;
use serde_json::{from_value, json};

/// `name`, then: `-` not ready, `~` being deleted, `o` controlled by nobody, `?` by something unknown.
fn pod(text: &str) -> Arc<Pod> {
    let has = |c| text.contains(c);
    let owner = if has('?') { "Odd" } else { "ReplicaSet" };
    let owners = json!([{"apiVersion": "apps/v1", "kind": owner, "name": "r", "uid": "r", "controller": true}]);
    Arc::new(from_value(json!({"metadata": {"name": &text[..1], "ownerReferences": if has('o') { json!([]) } else { owners },
            "deletionTimestamp": has('~').then_some("2026-01-01T00:00:00Z")},
        "status": {"conditions": [{"type": "Ready", "status": if has('-') { "False" } else { "True" }}]}})).expect("pod"))
}

#[test]
fn how_many_may_go() {
    let expected = |pod: &Pod| match controller(pod).map(|o| o.kind.as_str()) {
        None => Expected::Nothing,
        Some("ReplicaSet") => Expected::Replicas("r".into(), 4),
        Some(kind) => Expected::Unknown(kind.into()),
    };
    // Expected, healthy, wanted healthy, allowed; the condition's reason.
    let rows = [
        (
            "minAvailable",
            json!(2),
            "a b c",
            [3, 3, 2, 1],
            "SufficientPods",
        ),
        (
            "minAvailable",
            json!(2),
            "a b- c~",
            [3, 1, 2, 0],
            "InsufficientPods",
        ),
        (
            "minAvailable",
            json!("50%"),
            "a b c",
            [4, 3, 2, 1],
            "SufficientPods",
        ),
        (
            "minAvailable",
            json!("51%"),
            "a b c",
            [4, 3, 3, 0],
            "InsufficientPods",
        ),
        (
            "maxUnavailable",
            json!(1),
            "a b c d",
            [4, 4, 3, 1],
            "SufficientPods",
        ),
        (
            "maxUnavailable",
            json!("25%"),
            "a b c",
            [4, 3, 3, 0],
            "InsufficientPods",
        ),
        (
            "maxUnavailable",
            json!(9),
            "a",
            [4, 1, 0, 1],
            "SufficientPods",
        ),
        (
            "maxUnavailable",
            json!(1),
            "ao",
            [0, 1, 0, 0],
            "InsufficientPods",
        ),
        ("maxUnavailable", json!(1), "a?", [0, 0, 0, 0], "SyncFailed"),
        (
            "minAvailable",
            json!(1),
            "",
            [0, 0, 1, 0],
            "InsufficientPods",
        ),
        (
            "minAvailable",
            json!(1),
            "a b z",
            [3, 2, 1, 1],
            "SufficientPods",
        ),
    ];
    let now = "2026-01-01T00:01:00Z".parse().expect("time");
    for (field, value, pods, want, reason) in rows {
        // `z` was evicted a moment ago, `y` is gone since.
        let budget: PodDisruptionBudget = from_value(json!({"metadata": {"name": "b", "generation": 2, "resourceVersion": "7"}, "spec": {field: value},
            "status": {"disruptionsAllowed": 0, "disruptedPods": {"z": "2026-01-01T00:00:30Z", "y": "2026-01-01T00:00:30Z", "a": "2025-12-31T00:00:00Z"}}})).expect("budget");
        let all: Vec<_> = pods.split_whitespace().map(pod).collect();
        let outcome = plan(&budget, &all, &expected, now);
        let Some(Action::Patch { patch, target, .. }) = outcome.actions.last() else {
            panic!("{outcome:?}")
        };
        assert_eq!(target.version.as_deref(), Some("7"));
        let mut status = patch["status"].clone();
        let evicted = std::mem::take(&mut status["disruptedPods"]);
        // Those that are gone, or were not deleted in time, are taken away.
        let stays = pods.contains('z').then(|| {
            assert_eq!(outcome.again, Some(std::time::Duration::from_secs(90)));
            json!({"z": "2026-01-01T00:00:30Z", "y": null, "a": null})
        });
        assert_eq!(evicted, stays.unwrap_or_default(), "{pods}");
        let status: PodDisruptionBudgetStatus = from_value(status).expect("status");
        let numbers = [
            status.expected_pods,
            status.current_healthy,
            status.desired_healthy,
            status.disruptions_allowed,
        ];
        assert_eq!(
            numbers.map(|n| n.unwrap_or(-1)),
            want,
            "{field} {value} {pods}"
        );
        let condition = &status.conditions.expect("conditions")[0];
        assert_eq!(
            (condition.reason.as_str(), condition.status == "True"),
            (reason, want[3] > 0)
        );
    }
}
