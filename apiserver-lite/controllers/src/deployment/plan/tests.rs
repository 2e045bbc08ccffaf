use super::*;
use serde_json::from_value;

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().expect("time")
}

fn deployment(change: impl Fn(&mut Value)) -> Deployment {
    let mut v = json!({"metadata": {"name": "web", "namespace": "d", "uid": "u1", "generation": 1},
        "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:2"}]}}}});
    change(&mut v);
    from_value(v).expect("deployment")
}

/// A ReplicaSet of an image (`i:2` is the present template), with sizes and a revision.
fn set(name: &str, image: &str, replicas: i32, available: i32, revision: u32) -> Arc<ReplicaSet> {
    Arc::new(from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name, "generation": 1, "resourceVersion": "1",
            "creationTimestamp": format!("2026-01-01T00:0{revision}:00Z"),
            "annotations": {REVISION: revision.to_string(), template::DESIRED: "4", template::MAX: "5"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "u1", "controller": true}]},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web", HASH: name}}, "spec": {"containers": [{"name": "c", "image": image}]}}},
        "status": {"replicas": replicas, "availableReplicas": available, "readyReplicas": available, "observedGeneration": 1}})).expect("set"))
}

/// What a plan does to ReplicaSets: `name=size`, `create=size`, `-name`.
fn sizes(outcome: &Outcome) -> Vec<String> {
    let one = |a: &Action| match a {
        Action::Create { object, .. } => Some(format!("create={}", object["spec"]["replicas"])),
        Action::Patch {
            target,
            patch,
            subresource: None,
        } if patch["spec"]["replicas"].is_i64() => {
            Some(format!("{}={}", target.key.name, patch["spec"]["replicas"]))
        }
        Action::Delete { target, .. } => Some(format!("-{}", target.key.name)),
        _ => None,
    };
    outcome.actions.iter().filter_map(one).collect()
}

#[test]
fn rolling_update_step_by_step() {
    // 4 wanted, at most 5 (25 % of 4 is one more), at least 3.
    let cases: &[(&str, &[(&str, &str, i32, i32, u32)], &[&str])] = &[
        ("first", &[], &["create=4"]),
        (
            "new template beside a full old set",
            &[("old", "i:1", 4, 4, 1)],
            &["create=1"],
        ),
        (
            "one new, not yet available: one old may go",
            &[("old", "i:1", 4, 4, 1), ("new", "i:2", 1, 0, 2)],
            &["old=3"],
        ),
        (
            "room for the next new",
            &[("old", "i:1", 3, 3, 1), ("new", "i:2", 1, 0, 2)],
            &["new=2"],
        ),
        (
            "nothing may go while none is available",
            &[("old", "i:1", 3, 3, 1), ("new", "i:2", 2, 0, 2)],
            &[],
        ),
        (
            "one came up, one may go",
            &[("old", "i:1", 3, 3, 1), ("new", "i:2", 2, 1, 2)],
            &["old=2"],
        ),
        (
            "broken old ones go first",
            &[("old", "i:1", 4, 1, 1), ("new", "i:2", 1, 0, 2)],
            &["old=3"],
        ),
        (
            "the last old ones",
            &[("old", "i:1", 1, 1, 1), ("new", "i:2", 4, 4, 2)],
            &["old=0"],
        ),
        (
            "done",
            &[("old", "i:1", 0, 0, 1), ("new", "i:2", 4, 4, 2)],
            &[],
        ),
        (
            "an old revision is the template again",
            &[("a", "i:2", 0, 0, 3), ("b", "i:1", 4, 4, 2)],
            &["a=1"],
        ),
    ];
    for (name, sets, want) in cases {
        let sets: Vec<_> = sets
            .iter()
            .map(|(n, i, r, a, v)| set(n, i, *r, *a, *v))
            .collect();
        assert_eq!(
            sizes(&plan(&deployment(|_| ()), &sets, 0, now())),
            *want,
            "{name}"
        );
    }
}

#[test]
fn other_strategies_and_scaling() {
    type Change = fn(&mut Value);
    let recreate: Change = |v| v["spec"]["strategy"] = json!({"type": "Recreate"});
    let paused: Change = |v| v["spec"]["paused"] = json!(true);
    let ten: Change = |v| v["spec"]["replicas"] = json!(10);
    let zero: Change = |v| v["spec"]["replicas"] = json!(0);
    let exact: Change =
        |v| v["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}});
    let deleted: Change = |v| v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let history: Change = |v| v["spec"]["revisionHistoryLimit"] = json!(1);
    let cases: &[(&str, Change, &[(&str, &str, i32, i32, u32)], usize, &[&str])] = &[
        (
            "recreate: old ones first",
            recreate,
            &[("old", "i:1", 4, 4, 1)],
            4,
            &["old=0"],
        ),
        (
            "recreate: waits for the last pod",
            recreate,
            &[("old", "i:1", 0, 0, 1)],
            1,
            &[],
        ),
        (
            "recreate: then all new",
            recreate,
            &[("old", "i:1", 0, 0, 1)],
            0,
            &["create=4"],
        ),
        (
            "paused: no new set",
            paused,
            &[("old", "i:1", 4, 4, 1)],
            4,
            &[],
        ),
        (
            "scaled while all is new",
            ten,
            &[("new", "i:2", 4, 4, 1)],
            4,
            &["new=10"],
        ),
        (
            "scaled in the middle of a rollout: by shares",
            ten,
            &[("old", "i:1", 3, 3, 1), ("new", "i:2", 2, 0, 2)],
            5,
            &["old=8", "new=5"],
        ),
        (
            "scaled to nothing",
            zero,
            &[("new", "i:2", 4, 4, 1)],
            4,
            &["new=0"],
        ),
        (
            "no room at all still moves",
            exact,
            &[("old", "i:1", 4, 4, 1), ("new", "i:2", 0, 0, 2)],
            4,
            &["old=3"],
        ),
        ("being deleted", deleted, &[("old", "i:1", 4, 4, 1)], 4, &[]),
        (
            "history is cut",
            history,
            &[
                ("a", "i:0", 0, 0, 1),
                ("b", "i:1", 0, 0, 2),
                ("new", "i:2", 4, 4, 3),
            ],
            4,
            &["-a"],
        ),
    ];
    for (name, change, sets, running, want) in cases {
        let sets: Vec<_> = sets
            .iter()
            .map(|(n, i, r, a, v)| set(n, i, *r, *a, *v))
            .collect();
        assert_eq!(
            sizes(&plan(&deployment(change), &sets, *running, now())),
            *want,
            "{name}"
        );
    }
}

#[test]
fn a_roll_back_gets_a_new_number_and_keeps_the_old_one() {
    let sets = [set("a", "i:2", 0, 0, 1), set("b", "i:1", 4, 4, 2)];
    let outcome = plan(&deployment(|_| ()), &sets, 4, now());
    let numbers: Vec<_> = outcome
        .actions
        .iter()
        .filter_map(|a| match a {
            Action::Patch {
                target,
                patch,
                subresource: None,
            } => {
                let text = |k: &str| {
                    patch["metadata"]["annotations"][k]
                        .as_str()
                        .map(str::to_owned)
                };
                text(REVISION).map(|r| (target.key.name.clone(), r, text(template::HISTORY)))
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        numbers,
        [
            ("a".to_owned(), "3".to_owned(), Some("1".to_owned())),
            ("web".to_owned(), "3".to_owned(), None)
        ]
    );
}

#[test]
fn status_says_what_upstream_says() {
    let reason = |d: &Deployment, sets: &[Arc<ReplicaSet>], kind: &str| {
        let outcome = plan(d, sets, 0, now());
        let Some(Action::Patch {
            patch,
            subresource: Some("status"),
            ..
        }) = outcome.actions.last()
        else {
            return None;
        };
        let all = patch["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        all.iter().find(|c| c["type"] == kind).map(|c| {
            format!(
                "{} {}",
                c["status"].as_str().unwrap_or(""),
                c["reason"].as_str().unwrap_or("")
            )
        })
    };
    let plain = deployment(|_| ());
    assert_eq!(
        reason(&plain, &[], "Progressing").as_deref(),
        Some("True NewReplicaSetCreated")
    );
    assert_eq!(
        reason(&plain, &[], "Available").as_deref(),
        Some("False MinimumReplicasUnavailable")
    );
    let done = [set("new", "i:2", 4, 4, 1)];
    assert_eq!(
        reason(&plain, &done, "Progressing").as_deref(),
        Some("True NewReplicaSetAvailable")
    );
    assert_eq!(
        reason(&plain, &done, "Available").as_deref(),
        Some("True MinimumReplicasAvailable")
    );
    let stuck = deployment(|v| {
        v["status"] = json!({"updatedReplicas": 4, "replicas": 4, "readyReplicas": 1, "availableReplicas": 1, "conditions": [
        {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "lastUpdateTime": "2026-01-01T00:00:00Z"}]})
    });
    assert_eq!(
        reason(&stuck, &[set("new", "i:2", 4, 1, 1)], "Progressing").as_deref(),
        Some("False ProgressDeadlineExceeded")
    );
}

#[test]
fn a_count_that_falls_to_none_is_taken_out_of_the_status() {
    let was = deployment(|v| v["status"] = json!({"updatedReplicas": 4, "replicas": 4}));
    let outcome = plan(&was, &[set("old", "i:1", 4, 4, 1)], 4, now());
    let Some(Action::Patch {
        patch,
        subresource: Some("status"),
        ..
    }) = outcome.actions.last()
    else {
        panic!("{outcome:?}")
    };
    assert_eq!(patch["status"].get("updatedReplicas"), Some(&Value::Null));
}

/// A rollout that cannot go on, scaled from 2 to 4 and back: both writes of the way down must come through, however
/// often they are interrupted.
#[test]
fn a_stuck_rollout_shrinks_to_its_surge() {
    let two = deployment(|v| v["spec"]["replicas"] = json!(2));
    // With 1 new pod the new set keeps its size: only its note is written, and must not outlive a change of the size.
    for new in [2, 1] {
        stuck(&two, new);
    }
}

fn stuck(two: &Deployment, new: i32) {
    let mut sets = vec![set("old", "i:1", 3, 2, 1), set("new", "i:2", new, 0, 2)];
    for _ in 0..5 {
        let outcome = plan(two, &sets, 0, now());
        let first = outcome.actions.iter().find_map(|a| match a {
            Action::Patch {
                target,
                patch,
                subresource: None,
            } if target.resource.kind == "ReplicaSet" => Some((target, patch)),
            _ => None,
        });
        // Only the first write comes through each time.
        let Some((target, patch)) = first else { break };
        assert!(target.version.is_some(), "a size or its note on a version");
        let changed = sets.iter_mut().find(|s| s.name_any() == target.key.name);
        let changed = changed.expect("set");
        let mut v = json!(**changed);
        for (key, note) in patch["metadata"]["annotations"].as_object().expect("notes") {
            v["metadata"]["annotations"][key] = note.clone();
        }
        if patch["spec"]["replicas"].is_i64() {
            v["spec"]["replicas"] = patch["spec"]["replicas"].clone();
        }
        *changed = Arc::new(from_value(v).expect("set"));
    }
    let is: Vec<_> = sets.iter().map(|s| rollout::size(s)).collect();
    assert_eq!(is, [2, 1], "2 replicas and a surge of 1");
}
