//! Server-side apply against KEP-555 and upstream's documented examples.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::tests::{any_json, schema};
use proptest::prelude::*;
use serde_json::json;

fn manager(name: &str) -> Manager {
    at(name, "2026-11-21T00:00:00Z")
}

fn at(name: &str, time: &str) -> Manager {
    Manager {
        name: name.into(),
        api_version: "apps/v1".into(),
        subresource: String::new(),
        time: time.into(),
    }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": spec})
}

fn apps() -> Schema {
    schema("apps/v1", "Deployment")
}

fn without_managed(mut object: Value) -> Value {
    managed::take(&mut object);
    object
}

/// Manager, operation and paths of each entry.
fn owners(object: &Value) -> Vec<(String, String, Vec<String>)> {
    let entries = object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    entries
        .into_iter()
        .flatten()
        .map(|entry| {
            let paths = Set::parse(&entry["fieldsV1"]).unwrap().paths();
            (text(entry, "manager"), text(entry, "operation"), paths)
        })
        .collect()
}

fn owned_by(object: &Value, name: &str) -> Vec<String> {
    let all = owners(object);
    all.into_iter()
        .find(|entry| entry.0 == name)
        .map(|entry| entry.2)
        .unwrap_or_default()
}

#[test]
fn first_apply_owns_what_it_says() {
    let config = deployment(
        json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}}),
    );
    let got = apply(&apps(), None, &config, &manager("me"), false).unwrap();
    assert_eq!(without_managed(got.clone()), config);
    let c = r#".spec.template.spec.containers[name="c"]"#;
    let port = format!(r#"{c}.ports[containerPort=80,protocol="TCP"]"#);
    assert_eq!(
        owned_by(&got, "me"),
        [
            ".spec.replicas".to_owned(),
            ".spec.selector".to_owned(),
            ".spec.template.metadata.labels.a".to_owned(),
            c.to_owned(),
            format!("{c}.image"),
            format!("{c}.name"),
            port.clone(),
            format!("{port}.containerPort"),
        ]
    );
    let entry = &got["metadata"]["managedFields"][0];
    assert_eq!(entry["operation"], "Apply");
    assert_eq!(entry["apiVersion"], "apps/v1");
    assert_eq!(entry["fieldsType"], "FieldsV1");
    assert_eq!(entry["time"], "2026-11-21T00:00:00Z");
}

#[test]
fn a_field_no_longer_applied_goes_unless_another_owns_it() {
    let first = deployment(json!({"replicas": 3, "paused": true}));
    let live = apply(&apps(), None, &first, &manager("a"), false).unwrap();
    let live = apply(
        &apps(),
        Some(&live),
        &deployment(json!({"paused": true})),
        &manager("b"),
        false,
    )
    .unwrap();
    assert_eq!(owned_by(&live, "b"), [".spec.paused"]);
    let live = apply(
        &apps(),
        Some(&live),
        &deployment(json!({"minReadySeconds": 1})),
        &manager("a"),
        false,
    )
    .unwrap();
    assert_eq!(live["spec"], json!({"paused": true, "minReadySeconds": 1}));
    assert_eq!(owned_by(&live, "a"), [".spec.minReadySeconds"]);
}

#[test]
fn list_items_come_and_go_by_key() {
    let pod = |items: Value| deployment(json!({"template": {"spec": {"containers": items}}}));
    let live = apply(
        &apps(),
        None,
        &pod(json!([{"name": "a", "image": "1"}, {"name": "b"}])),
        &manager("x"),
        false,
    )
    .unwrap();
    let live = apply(
        &apps(),
        Some(&live),
        &pod(json!([{"name": "s"}])),
        &manager("y"),
        false,
    )
    .unwrap();
    let live = apply(
        &apps(),
        Some(&live),
        &pod(json!([{"name": "c"}, {"name": "a"}])),
        &manager("x"),
        false,
    )
    .unwrap();
    assert_eq!(
        live["spec"]["template"]["spec"]["containers"],
        json!([{"name": "c"}, {"name": "a"}, {"name": "s"}])
    );
}

#[test]
fn sets_and_atomics() {
    let object = |finalizers: Value, selector: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "finalizers": finalizers}, "spec": {"selector": {"matchLabels": selector}}})
    };
    let live = apply(
        &apps(),
        None,
        &object(json!(["a/x", "a/y"]), json!({"a": "b"})),
        &manager("x"),
        false,
    )
    .unwrap();
    assert_eq!(
        owned_by(&live, "x"),
        [
            r#".metadata.finalizers[="a/x"]"#,
            r#".metadata.finalizers[="a/y"]"#,
            ".spec.selector"
        ]
    );
    let next = object(json!(["a/y", "a/z"]), json!({"c": "d"}));
    let live = apply(&apps(), Some(&live), &next, &manager("x"), false).unwrap();
    assert_eq!(without_managed(live), next);
}

#[test]
fn references_are_wholes_but_for_the_claim_of_a_volume() {
    let volume = json!({"metadata": {"name": "v"}, "spec": {
        "claimRef": {"name": "c", "namespace": "n"},
        "csi": {"driver": "d", "nodeStageSecretRef": {"name": "s", "namespace": "n"}}}});
    let schema = schema("v1", "PersistentVolume");
    let got = apply(&schema, None, &volume, &manager("m"), false).unwrap();
    assert_eq!(
        owned_by(&got, "m"),
        [
            ".spec.claimRef.name",
            ".spec.claimRef.namespace",
            ".spec.csi.driver",
            ".spec.csi.nodeStageSecretRef",
        ]
    );
}

#[test]
fn conflicts_name_manager_and_field() {
    let live = apply(
        &apps(),
        None,
        &deployment(json!({"replicas": 3, "paused": true})),
        &manager("a"),
        false,
    )
    .unwrap();
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(5);
    record_update(&apps(), Some(&live), &mut scaled, &manager("kubectl-edit"));
    assert_eq!(owned_by(&scaled, "a"), [".spec.paused"]);

    let refused = apply(
        &apps(),
        Some(&scaled),
        &deployment(json!({"replicas": 3, "paused": true})),
        &manager("a"),
        false,
    );
    let error = refused.unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"Apply failed with 1 conflict: conflict with "kubectl-edit" using apps/v1: .spec.replicas"#
    );

    let refused = apply(
        &apps(),
        Some(&scaled),
        &deployment(json!({"replicas": 1, "paused": false})),
        &manager("b"),
        false,
    );
    assert_eq!(
        refused.unwrap_err().to_string(),
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.paused\nconflicts with \"kubectl-edit\" using apps/v1:\n- .spec.replicas"
    );

    let forced = apply(
        &apps(),
        Some(&scaled),
        &deployment(json!({"replicas": 1, "paused": false})),
        &manager("b"),
        true,
    )
    .unwrap();
    assert_eq!(forced["spec"], json!({"replicas": 1, "paused": false}));
    assert_eq!(owners(&forced).len(), 1);
}

#[test]
fn equal_values_are_owned_together() {
    let config = deployment(json!({"replicas": 3}));
    let live = apply(&apps(), None, &config, &manager("a"), false).unwrap();
    let live = apply(&apps(), Some(&live), &config, &manager("b"), false).unwrap();
    assert_eq!(owned_by(&live, "a"), owned_by(&live, "b"));
    let live = apply(
        &apps(),
        Some(&live),
        &deployment(json!({})),
        &manager("a"),
        false,
    )
    .unwrap();
    assert_eq!(live["spec"]["replicas"], 3);
    assert_eq!(owned_by(&live, "a"), [".spec"]);
}

#[test]
fn an_apply_without_change_keeps_everything() {
    let config = deployment(json!({"replicas": 3}));
    let live = apply(&apps(), None, &config, &manager("a"), false).unwrap();
    let again = apply(
        &apps(),
        Some(&live),
        &config,
        &at("a", "2027-01-01T00:00:00Z"),
        false,
    )
    .unwrap();
    assert_eq!(again, live);
}

#[test]
fn what_was_there_before_belongs_to_before_first_apply() {
    let live = deployment(json!({"replicas": 2}));
    let error = apply(
        &apps(),
        Some(&live),
        &deployment(json!({"replicas": 3})),
        &manager("a"),
        false,
    )
    .unwrap_err();
    let conflict = Conflict {
        manager: r#""before-first-apply" using apps/v1"#.into(),
        field: ".spec.replicas".into(),
    };
    assert_eq!(error, ApplyError::Conflicts(vec![conflict]));
    let got = apply(
        &apps(),
        Some(&live),
        &deployment(json!({"paused": true})),
        &manager("a"),
        false,
    )
    .unwrap();
    assert_eq!(owned_by(&got, "before-first-apply"), [".spec.replicas"]);
}

#[test]
fn kubectl_takes_over_its_own_client_side_apply() {
    let last = deployment(json!({"replicas": 2}));
    let mut live = last.clone();
    live["metadata"]["annotations"] = json!({legacy::LAST_APPLIED: last.to_string()});
    record_update(
        &apps(),
        None,
        &mut live,
        &manager("kubectl-client-side-apply"),
    );
    let config = deployment(json!({"replicas": 4}));
    assert!(apply(&apps(), Some(&live), &config, &manager("other"), false).is_err());
    let got = apply(&apps(), Some(&live), &config, &manager("kubectl"), false).unwrap();
    assert_eq!(got["spec"]["replicas"], 4);
    let annotation = got["metadata"]["annotations"][legacy::LAST_APPLIED]
        .as_str()
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(annotation).unwrap(), config);
    // Somebody scaled in between: that is no longer kubectl's.
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(7);
    record_update(&apps(), Some(&live), &mut scaled, &manager("scaler"));
    assert!(apply(&apps(), Some(&scaled), &config, &manager("kubectl"), false).is_err());
}

#[test]
fn malformed_configurations() {
    for (config, want) in [
        (
            json!({"metadata": {"managedFields": []}}),
            "metadata.managedFields must be nil",
        ),
        (
            deployment(json!({"replica": 1})),
            "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema",
        ),
        (
            deployment(
                json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}),
            ),
            r#"failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name="a"]"#,
        ),
    ] {
        let got = apply(&apps(), None, &config, &manager("a"), false);
        assert_eq!(got, Err(ApplyError::Malformed(want.into())));
    }
}

#[test]
fn updates_record_what_they_changed() {
    let mut live = deployment(json!({"replicas": 1}));
    live["metadata"]["labels"] = json!({"a": "1"});
    live["metadata"]["uid"] = json!("u");
    live["metadata"]["resourceVersion"] = json!("1");
    record_update(
        &apps(),
        None,
        &mut live,
        &at("kubectl-create", "2026-01-01T00:00:00Z"),
    );
    assert_eq!(
        owned_by(&live, "kubectl-create"),
        [".metadata.labels", ".metadata.labels.a", ".spec.replicas"]
    );

    // Nothing changed: nothing is recorded.
    let mut same = live.clone();
    same["metadata"]["resourceVersion"] = json!("2");
    record_update(
        &apps(),
        Some(&live),
        &mut same,
        &at("idle", "2026-01-02T00:00:00Z"),
    );
    assert_eq!(
        same["metadata"]["managedFields"],
        live["metadata"]["managedFields"]
    );

    // A client that knows nothing of managed fields does not lose them; the same manager has one entry.
    let mut next = without_managed(live.clone());
    next["metadata"]["labels"] = json!({"b": "1"});
    record_update(
        &apps(),
        Some(&live),
        &mut next,
        &at("kubectl-create", "2026-01-03T00:00:00Z"),
    );
    assert_eq!(
        owned_by(&next, "kubectl-create"),
        [".metadata.labels", ".metadata.labels.b", ".spec.replicas"]
    );
    assert_eq!(
        next["metadata"]["managedFields"][0]["time"],
        "2026-01-03T00:00:00Z"
    );

    // Status is written by a manager of its own.
    let mut status = next.clone();
    status["status"] = json!({"replicas": 1});
    let kubelet = Manager {
        subresource: "status".into(),
        ..at("kubectl-create", "2026-01-04T00:00:00Z")
    };
    record_update(&apps(), Some(&next), &mut status, &kubelet);
    let entries = status["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["subresource"], "status");
}

#[test]
fn resetting_and_editing_entries() {
    let mut live = deployment(json!({"replicas": 1}));
    record_update(&apps(), None, &mut live, &manager("a"));
    let mut reset = live.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    record_update(&apps(), Some(&live), &mut reset, &manager("b"));
    assert_eq!(reset.pointer("/metadata/managedFields"), None);

    let mut renamed = live.clone();
    renamed["metadata"]["managedFields"][0]["manager"] = json!("z");
    renamed["metadata"]["managedFields"][0]["operation"] = json!("Apply");
    record_update(&apps(), Some(&live), &mut renamed, &manager("b"));
    assert_eq!(
        owners(&renamed),
        [("z".into(), "Apply".into(), vec![".spec.replicas".into()])]
    );
}

#[test]
fn old_updaters_are_merged() {
    let mut live = deployment(json!({}));
    live["metadata"]["annotations"] = json!({"a0": ""});
    record_update(&apps(), None, &mut live, &at("m0", "2026-01-01T00:00:00Z"));
    for n in 1..=12 {
        let mut next = live.clone();
        next["metadata"]["annotations"][format!("a{n}")] = json!("");
        record_update(
            &apps(),
            Some(&live),
            &mut next,
            &at(&format!("m{n}"), &format!("2026-01-01T00:00:{n:02}Z")),
        );
        live = next;
    }
    let all = owners(&live);
    assert_eq!(all.len(), 10);
    assert_eq!(all[0].0, "ancient-changes");
    for n in 0..=3 {
        assert!(
            all[0].2.contains(&format!(".metadata.annotations.a{n}")),
            "{n}"
        );
    }
}

#[test]
fn status_is_applied_through_its_subresource_only() {
    let mut config = deployment(json!({"replicas": 1}));
    config["status"] = json!({"replicas": 9});
    let live = apply(&apps(), None, &config, &manager("a"), false).unwrap();
    assert_eq!(live.get("status"), None);
    let sub = Manager {
        subresource: "status".into(),
        ..manager("a")
    };
    let got = apply(&apps(), Some(&live), &config, &sub, false).unwrap();
    assert_eq!(got["status"], json!({"replicas": 9}));
    assert_eq!(
        got["metadata"]["managedFields"].as_array().unwrap().len(),
        2
    );
}

fn config() -> impl Strategy<Value = Value> {
    let container = (
        "[a-d]",
        prop::option::of("[xy]"),
        prop::collection::btree_map("[A-C]", "[0-1]", 0..3),
    );
    let labels = prop::collection::btree_map("[a-c]", "[0-1]", 0..3);
    let containers = prop::collection::vec(container, 0..4);
    (prop::option::of(0..3_i32), labels, containers).prop_map(|(replicas, labels, containers)| {
        let mut seen = std::collections::BTreeSet::new();
        let containers: Vec<Value> = containers
            .into_iter()
            .filter(|(name, ..)| seen.insert(name.clone()))
            .map(|(name, image, env)| {
                let env: Vec<Value> = env
                    .into_iter()
                    .map(|(name, value)| json!({"name": name, "value": value}))
                    .collect();
                let mut container = json!({"name": name});
                if let Some(image) = image {
                    container["image"] = image.into();
                }
                if !env.is_empty() {
                    container["env"] = env.into();
                }
                container
            })
            .collect();
        let mut config = deployment(json!({}));
        if let Some(replicas) = replicas {
            config["spec"]["replicas"] = replicas.into();
        }
        if !labels.is_empty() {
            config["metadata"]["labels"] = json!(labels);
        }
        if !containers.is_empty() {
            config["spec"]["template"] = json!({"spec": {"containers": containers}});
        }
        config
    })
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(a in config(), b in config(), c in config()) {
        let live = apply(&apps(), None, &a, &manager("a"), false).unwrap();
        let live = apply(&apps(), Some(&live), &b, &manager("b"), true).unwrap();
        let once = apply(&apps(), Some(&live), &c, &manager("a"), true).unwrap();
        let twice = apply(&apps(), Some(&once), &c, &at("a", "2027-01-01T00:00:00Z"), false).unwrap();
        prop_assert_eq!(&twice, &once);
        // Whatever was there, the configuration is in the result.
        let merged = merge(apps().root, &without_managed(once.clone()), &c);
        prop_assert_eq!(fields(apps().root, &merged), fields(apps().root, &without_managed(once)));
    }

    #[test]
    fn the_last_of_two_configurations_wins_alone(a in config(), b in config()) {
        let live = apply(&apps(), None, &a, &manager("a"), false).unwrap();
        let got = apply(&apps(), Some(&live), &b, &manager("a"), false).unwrap();
        prop_assert_eq!(fields(apps().root, &without_managed(got)), fields(apps().root, &b));
    }

    #[test]
    fn any_object_is_survived(live in any_json(), applied in any_json(), entries in any_json()) {
        let mut live = json!({"metadata": {"name": "d", "managedFields": entries}, "spec": live});
        let applied = json!({"metadata": {"name": "d"}, "spec": applied});
        let _ = apply(&apps(), Some(&live), &applied, &manager("a"), true);
        let mut new = applied;
        record_update(&apps(), Some(&live), &mut new, &manager("b"));
        record_update(&apps(), None, &mut live, &manager("b"));
    }

    #[test]
    fn nobody_owns_what_is_not_there(a in config(), b in config()) {
        let mut live = a.clone();
        record_update(&apps(), None, &mut live, &manager("a"));
        let mut next = b.clone();
        record_update(&apps(), Some(&live), &mut next, &manager("b"));
        let there = compare(apps().root, &json!({}), &b).added;
        for (name, _, _) in owners(&next) {
            let owned = owned_by(&next, &name);
            let there = there.paths();
            prop_assert!(owned.iter().all(|path| there.contains(path)), "{name}: {owned:?} not in {there:?}");
        }
    }
}
