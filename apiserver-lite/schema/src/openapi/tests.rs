//! What clients read out of the documents.

#![allow(clippy::unwrap_used)]

use super::*;

fn served(
    group: &str,
    kind: &str,
    plural: &str,
    namespaced: bool,
    subresources: &[&str],
) -> Served {
    let verbs = [
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    ];
    Served {
        gvk: Gvk {
            group: group.into(),
            version: "v1".into(),
            kind: kind.into(),
        },
        plural: plural.into(),
        namespaced,
        verbs: verbs.map(String::from).to_vec(),
        subresources: subresources.iter().map(|sub| (*sub).to_owned()).collect(),
    }
}

fn all() -> Vec<Served> {
    vec![
        served("", "Pod", "pods", true, &["status", "log"]),
        served("", "Namespace", "namespaces", false, &["status"]),
        served(
            "apps",
            "Deployment",
            "deployments",
            true,
            &["status", "scale"],
        ),
        served(
            "scheduling.k8s.io",
            "PriorityClass",
            "priorityclasses",
            false,
            &[],
        ),
    ]
}

/// Every reference leads to something.
fn references_resolve(document: &Value, value: &Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            object
                .values()
                .for_each(|value| references_resolve(document, value));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|value| references_resolve(document, value)),
        _ => {}
    }
}

#[test]
fn index() {
    let index = v3_index(&all());
    let paths: Vec<&String> = index["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        ["api/v1", "apis/apps/v1", "apis/scheduling.k8s.io/v1"]
    );
    let url = |index: &Value| {
        index["paths"]["apis/apps/v1"]["serverRelativeURL"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(url(&index).starts_with("/openapi/v3/apis/apps/v1?hash="));
    let mut changed = all();
    changed[2].subresources.clear();
    assert_ne!(url(&v3_index(&changed)), url(&index));
    assert_eq!(v3(&all(), "batch", "v1"), None);
}

#[test]
fn documents_are_closed() {
    for (group, version) in [("", "v1"), ("apps", "v1"), ("scheduling.k8s.io", "v1")] {
        let document = v3(&all(), group, version).unwrap();
        references_resolve(&document, &document);
    }
    let document = v2(&all());
    references_resolve(&document, &document);
}

/// What `kubectl explain` and `kubectl create --validate` look for.
#[test]
fn kubectl_finds_its_way() {
    let document = v3(&all(), "apps", "v1").unwrap();
    let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
    assert_eq!(patch["x-kubernetes-action"], "patch");
    let names: Vec<&str> = patch["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["dryRun", "fieldManager", "fieldValidation", "force"]
    );
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"],
        json!([gvk])
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
    assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
    let scale =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
    let answer = &scale["responses"]["200"]["content"]["application/json"]["schema"]["$ref"];
    assert_eq!(
        answer,
        "#/components/schemas/io.k8s.api.autoscaling.v1.Scale"
    );
}

#[test]
fn a_small_kind() {
    let document = v3(&all(), "scheduling.k8s.io", "v1").unwrap();
    let schema = &document["components"]["schemas"]["io.k8s.api.scheduling.v1.PriorityClass"];
    insta::assert_json_snapshot!("priority_class", schema);
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        [
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            "/apis/scheduling.k8s.io/v1/priorityclasses/{name}"
        ]
    );
}
