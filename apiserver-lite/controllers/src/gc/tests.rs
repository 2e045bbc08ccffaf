use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, PropagationPolicy};
use serde_json::{Value, from_value, json};

use super::graph::{Graph, Object};
use super::plan::{Presence, plan};
use crate::action::Action;

/// `name < owner!, owner; finalizer` — `!` blocks; a name that begins with `-` is being deleted.
fn object(text: &str) -> Object {
    let (head, finalizers) = text.split_once(';').unwrap_or((text, ""));
    let (name, owners) = head.split_once('<').unwrap_or((head, ""));
    let words = |s: &str| -> Vec<String> {
        let all = s.split(',').map(|w| w.trim().to_owned());
        all.filter(|w| !w.is_empty()).collect()
    };
    let owners: Vec<Value> = words(owners)
        .iter()
        .map(|o| {
            let name = o.trim_end_matches('!');
            json!({"apiVersion": "v1", "kind": "X", "name": name, "uid": name, "blockOwnerDeletion": o.ends_with('!')})
        })
        .collect();
    let name = name.trim();
    let deleted = name.starts_with('-').then_some("2026-01-01T00:00:00Z");
    let name = name.trim_start_matches('-');
    let meta: ObjectMeta = from_value(
        json!({"name": name, "namespace": "d", "uid": name, "resourceVersion": "1",
        "ownerReferences": owners, "finalizers": words(finalizers), "deletionTimestamp": deleted}),
    )
    .expect("metadata");
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::ConfigMap>(&());
    Object::new(&Arc::new(resource), meta).expect("object")
}

fn said(actions: &[Action]) -> String {
    let say = |a: &Action| match a {
        Action::Delete {
            target,
            propagation,
            ..
        } => {
            let how = match propagation {
                PropagationPolicy::Background => "background",
                PropagationPolicy::Foreground => "foreground",
                PropagationPolicy::Orphan => "orphan",
            };
            format!("delete {} {how}", target.key.name)
        }
        Action::Patch { target, patch, .. } => {
            let meta = &patch["metadata"];
            let owners = meta["ownerReferences"].as_array().map(|all| {
                let names = all.iter().map(|o| {
                    let block = if o["blockOwnerDeletion"] == true {
                        "!"
                    } else {
                        ""
                    };
                    format!("{}{block}", o["name"].as_str().expect("name"))
                });
                format!("owners [{}]", names.collect::<Vec<_>>().join(" "))
            });
            let what = owners.unwrap_or_else(|| format!("finalizers {}", meta["finalizers"]));
            format!("{} {what}", target.key.name)
        }
        other => panic!("{other:?}"),
    };
    actions.iter().map(say).collect::<Vec<_>>().join(", ")
}

#[test]
fn what_becomes_of_an_object() {
    let (here, gone, waits, unknown) = (
        Presence::Here { waiting: false },
        Presence::Gone,
        Presence::Here { waiting: true },
        Presence::Unknown,
    );
    let rows: &[(&str, &str, &[Presence], &[&str], &str)] = &[
        ("its owner is there", "a < o", &[here], &[], ""),
        (
            "its owner is gone",
            "a < o",
            &[gone],
            &[],
            "delete a background",
        ),
        (
            "all owners are gone",
            "a < o, p",
            &[gone, gone],
            &[],
            "delete a background",
        ),
        (
            "one of two is gone",
            "a < o, p",
            &[gone, here],
            &[],
            "a owners [p]",
        ),
        (
            "one cannot be told",
            "a < o, p",
            &[gone, unknown],
            &[],
            "a owners [p]",
        ),
        ("the only one cannot be told", "a < o", &[unknown], &[], ""),
        (
            "its owner waits for it",
            "a < o!",
            &[waits],
            &[],
            "delete a background",
        ),
        (
            "and it has dependents itself",
            "a < o!",
            &[waits],
            &["b < a!"],
            "delete a foreground",
        ),
        (
            "one waits, one stays",
            "a < o!, p",
            &[waits, here],
            &[],
            "a owners [p]",
        ),
        (
            "a circle",
            "a < b!",
            &[waits],
            &["-b < a!; foregroundDeletion"],
            "a owners [b], delete a foreground",
        ),
        (
            "to be orphaned later",
            "a < o; orphan",
            &[gone],
            &["b < a"],
            "delete a orphan",
        ),
        ("is going already", "-a < o; x", &[gone], &[], ""),
        (
            "waits for what blocks",
            "-a; foregroundDeletion",
            &[],
            &["b < a!"],
            "",
        ),
        (
            "waits for nothing that blocks",
            "-a; foregroundDeletion, x",
            &[],
            &["b < a"],
            "a finalizers [\"x\"]",
        ),
        (
            "orphans",
            "-a; orphan",
            &[],
            &["b < a!, o", "c < a"],
            "b owners [o], c owners [], a finalizers []",
        ),
    ];
    for (name, text, owners, dependents, want) in rows {
        let dependents: Vec<Object> = dependents.iter().map(|d| object(d)).collect();
        let actions = plan(&object(text), owners, &dependents);
        assert_eq!(said(&actions), *want, "{name}");
    }
}

#[test]
fn changes_wake_whom_they_concern() {
    let mut graph = Graph::default();
    // (what happens: a state, or `gone NAME`; who is to be looked at)
    let rows: &[(&str, &[&str])] = &[
        ("o", &[]),
        ("a < o!", &["a"]),
        ("b < a!", &["b"]),
        ("a < o!", &[]),
        ("a < o!, p", &["a"]),
        ("-o; foregroundDeletion", &["a", "o"]),
        ("-a < o!, p; foregroundDeletion", &["a", "b", "o"]),
        ("gone b", &["a"]),
        ("a < p", &["a", "o"]),
        ("gone o", &[]),
        ("gone p", &[]),
        ("p", &[]),
        ("gone p", &["a"]),
        ("gone a", &[]),
    ];
    for (at, (event, want)) in rows.iter().enumerate() {
        let woken = match event.strip_prefix("gone ") {
            Some(name) => graph.remove(name),
            None => graph.apply(object(event)),
        };
        let mut woken: Vec<&str> = woken.iter().map(|w| &**w).collect();
        woken.sort_unstable();
        woken.dedup();
        assert_eq!(woken, *want, "{at}: {event}");
    }
    assert!(graph.dependents("p").is_empty());
}
