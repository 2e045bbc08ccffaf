use super::*;
use crate::action::Action;
use crate::revision::HASH;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, from_value, json};

fn set(image: &str, edit: impl Fn(&mut Value)) -> StatefulSet {
    let mut v = json!({"metadata": {"name": "db", "namespace": "d", "uid": "u", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "svc", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}});
    edit(&mut v);
    from_value(v).expect("set")
}

/// The revision of an image: its object and its name.
fn revision(image: &str) -> (Arc<ControllerRevision>, String) {
    let outcome = plan(
        &set(image, |_| ()),
        &Around::default(),
        Timestamp::UNIX_EPOCH,
    );
    let found = outcome.actions.iter().find_map(|a| match a {
        Action::Create {
            resource, object, ..
        } if resource.kind == "ControllerRevision" => Some(object.clone()),
        _ => None,
    });
    let revision: ControllerRevision = from_value(found.expect("revision")).expect("revision");
    let name = revision.metadata.name.clone().expect("name");
    (Arc::new(revision), name)
}

/// `0`: well; `0*`: made just now; `0-`: not ready; `0x`: failed; `0~`: being deleted; `0'`: of the old revision.
fn pod(text: &str, new: &str, old: &str) -> Arc<Pod> {
    let ordinal: String = text.chars().take_while(char::is_ascii_digit).collect();
    let has = |c| text.contains(c);
    let (ready, phase) = (
        if has('-') { "False" } else { "True" },
        if has('x') { "Failed" } else { "Running" },
    );
    let gone = has('~').then_some("2026-01-01T00:00:00Z");
    let hash = if has('\'') { old } else { new };
    let made = has('*').then(Timestamp::now).unwrap_or_default();
    Arc::new(from_value(json!({"metadata": {"name": format!("db-{ordinal}"), "namespace": "d", "creationTimestamp": made.to_string(), "deletionTimestamp": gone,
            "labels": {"app": "db", HASH: hash},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u", "controller": true}]},
        "spec": {"containers": []}, "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready,
            "lastTransitionTime": "1970-01-01T00:00:00Z"}]}})).expect("pod"))
}

fn steps(outcome: &Outcome) -> String {
    let step = |a: &Action| match a {
        Action::Create {
            resource, object, ..
        } if resource.kind != "ControllerRevision" => Some(format!(
            "+{}",
            object["metadata"]["name"].as_str().expect("name")
        )),
        Action::Delete { target, .. } if target.resource.kind == "Pod" => {
            Some(format!("-{}", target.key.name))
        }
        _ => None,
    };
    outcome
        .actions
        .iter()
        .filter_map(step)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn one_after_the_other() {
    type Edit = fn(&mut Value);
    let same: Edit = |_| ();
    let parallel: Edit = |v| v["spec"]["podManagementPolicy"] = json!("Parallel");
    let one: Edit = |v| v["spec"]["replicas"] = json!(1);
    let claims: Edit =
        |v| v["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
    let partition: Edit = |v| {
        v["spec"]["updateStrategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}})
    };
    let by_hand: Edit = |v| v["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let from_five: Edit = |v| v["spec"]["ordinals"] = json!({"start": 5});
    let rows: &[(&str, Edit, &[&str], &str)] = &[
        ("the first", same, &[], "+db-0"),
        ("waits for the first", same, &["0-"], ""),
        ("the second", same, &["0"], "+db-1"),
        ("all at once", parallel, &["1-"], "+db-0 +db-2"),
        (
            "a failed one is made anew",
            same,
            &["0", "1x", "2"],
            "-db-1",
        ),
        ("not again at once", same, &["0", "1x*", "2"], ""),
        ("a gap is filled first", same, &["0", "2"], "+db-1"),
        ("the last goes first", one, &["0", "1", "2"], "-db-2"),
        ("and is waited for", one, &["0", "1", "2~"], ""),
        (
            "all go at once",
            |v| {
                v["spec"]["replicas"] = json!(1);
                v["spec"]["podManagementPolicy"] = json!("Parallel");
            },
            &["0", "1", "2"],
            "-db-2 -db-1",
        ),
        (
            "nobody goes while one is not well",
            one,
            &["0-", "1", "2"],
            "",
        ),
        (
            "of several that are not well none but the lowest",
            |v| v["spec"]["replicas"] = json!(0),
            &["0-", "1-", "2-"],
            "",
        ),
        (
            "the lowest",
            |v| v["spec"]["replicas"] = json!(0),
            &["0-"],
            "-db-0",
        ),
        (
            "those that are well go before it",
            |v| v["spec"]["replicas"] = json!(0),
            &["0-", "1", "2"],
            "-db-2",
        ),
        (
            "claims come before the pod",
            claims,
            &[],
            "+data-db-0 +db-0",
        ),
        (
            "the last is updated first",
            same,
            &["0'", "1'", "2'"],
            "-db-2",
        ),
        ("the next waits for it", same, &["0'", "1'", "2-"], ""),
        ("the next", same, &["0'", "1'", "2"], "-db-1"),
        ("down to the partition", partition, &["0'", "1'", "2"], ""),
        (
            "when deleted by hand only",
            by_hand,
            &["0'", "1'", "2'"],
            "",
        ),
        ("counted from elsewhere", from_five, &["5"], "+db-6"),
        (
            "so does the partition",
            |v| {
                v["spec"]["ordinals"] = json!({"start": 5});
                v["spec"]["updateStrategy"] =
                    json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
            },
            &["5'", "6'", "7'"],
            "-db-7",
        ),
        ("content", same, &["0", "1", "2"], ""),
    ];
    let ((new, new_name), (old, old_name)) = (revision("new"), revision("old"));
    for (name, edit, pods, want) in rows {
        let around = Around {
            pods: pods.iter().map(|p| pod(p, &new_name, &old_name)).collect(),
            revisions: vec![old.clone(), new.clone()],
            claims: Vec::new(),
        };
        let outcome = plan(&set("new", edit), &around, Timestamp::now());
        assert_eq!(steps(&outcome), *want, "{name}");
    }
}

#[test]
fn below_the_partition_pods_are_made_as_they_were() {
    let ((new, new_name), (old, old_name)) = (revision("new"), revision("old"));
    let set = set("new", |v| {
        v["spec"]["updateStrategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
        v["status"] = json!({"replicas": 3, "currentRevision": old_name});
    });
    let around = Around {
        pods: vec![pod("1", &new_name, &old_name)],
        revisions: vec![old, new],
        claims: Vec::new(),
    };
    let outcome = plan(&set, &around, Timestamp::now());
    let made = outcome
        .actions
        .iter()
        .find_map(|a| match a {
            Action::Create {
                resource, object, ..
            } if resource.kind == "Pod" => Some(object.clone()),
            _ => None,
        })
        .expect("pod");
    assert_eq!(made["spec"]["containers"][0]["image"], "old");
    assert_eq!(made["metadata"]["labels"][HASH], json!(old_name));
    assert_eq!(
        (&made["spec"]["hostname"], &made["spec"]["subdomain"]),
        (&json!("db-0"), &json!("svc"))
    );
}
