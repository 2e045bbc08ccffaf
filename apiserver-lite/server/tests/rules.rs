//! Who may write which part of an object, what counts against a quota, and what a request may cost.
#![allow(clippy::unwrap_used)]

mod support;

use base64::Engine;
use keelson_auth::User;
use serde_json::{Value, json};
use support::{Bed, Caller, bed};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A user with one rule in the namespace `default`, who is let in already.
async fn user_with(bed: &Bed, name: &str, rule: Value) -> Caller {
    let c = bed.admin();
    let roles = format!("{RBAC}/namespaces/default");
    let role = json!({"metadata": {"name": name}, "rules": [rule]});
    assert_eq!(c.post(&format!("{roles}/roles"), role).await.0, 201);
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    });
    let made = c.post(&format!("{roles}/rolebindings"), binding).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let user = bed.user(User::component(name, &[]));
    // The cache of roles follows the store.
    while user.get(&format!("{MAPS}/kube-root-ca.crt")).await.0 == 403 {
        tokio::task::yield_now().await;
    }
    user
}

fn rule(verbs: &[&str], names: &[&str]) -> Value {
    json!({"apiGroups": ["", "coordination.k8s.io"], "resources": ["configmaps", "leases"], "verbs": verbs, "resourceNames": names})
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_rules_hold_for_selectors_of_one_name() {
    let bed = bed().await;
    let user = user_with(&bed, "u", rule(&["get", "list"], &["kube-root-ca.crt"])).await;
    for (path, code) in [
        (MAPS.to_owned(), 403),
        (
            format!("{MAPS}?fieldSelector=metadata.name%3Dkube-root-ca.crt"),
            200,
        ),
        (
            format!("{MAPS}?fieldSelector=metadata.name!%3Dkube-root-ca.crt"),
            403,
        ),
        (format!("{MAPS}?fieldSelector=metadata.name%3Dother"), 403),
        (
            "/api/v1/configmaps?fieldSelector=metadata.name%3Dkube-root-ca.crt".to_owned(),
            403,
        ),
    ] {
        let (found, answer) = user.get(&path).await;
        assert_eq!(found, code, "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_is_selected_among_those_that_begin_the_same() {
    let bed = bed().await;
    let c = bed.admin();
    for name in ["a", "ab", "a-b", "b"] {
        let map = json!({"metadata": {"name": name, "labels": {"l": name}}});
        assert_eq!(c.post(MAPS, map).await.0, 201);
    }
    for path in [MAPS, "/api/v1/configmaps"] {
        let path = format!("{path}?fieldSelector=metadata.name%3Da");
        let (_, list) = c.get(&path).await;
        let names: Vec<&Value> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| &i["metadata"]["name"])
            .collect();
        assert_eq!(names, ["a"], "{path}");
        let events = c
            .watch(&format!("{path}&watch=1&timeoutSeconds=1"), 2)
            .await;
        let names: Vec<&Value> = events.iter().map(|(_, o)| &o["metadata"]["name"]).collect();
        assert_eq!(names, ["a"], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_changes_may_not_therefore_create() {
    let bed = bed().await;
    let user = user_with(&bed, "u", rule(&["get", "update", "patch"], &[])).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"metadata": {"name": "x"}, "spec": {"holderIdentity": "u"}});
    let (code, refused) = user.put(&format!("{leases}/x"), lease.clone()).await;
    assert_eq!(code, 403, "{refused}");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    let path = format!("{MAPS}/x?fieldManager=m");
    let (code, refused) = user.patch(&path, "apply-patch+yaml", map.clone()).await;
    assert_eq!(code, 403, "{refused}");
    let admin = bed.admin();
    assert_eq!(admin.put(&format!("{leases}/x"), lease).await.0, 201);
    assert_eq!(
        admin.patch(&path, "apply-patch+yaml", map.clone()).await.0,
        201
    );
    assert_eq!(user.patch(&path, "apply-patch+yaml", map).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requesters_of_certificates_cannot_lie() {
    let bed = bed().await;
    let (_, pem) = keelson_auth::csr::new("x", &[] as &[&str], &[]).unwrap();
    let pem = base64::engine::general_purpose::STANDARD.encode(pem);
    let request = json!({"metadata": {"name": "r"}, "spec": {
        "request": pem, "signerName": "example.com/s", "usages": ["client auth"],
        "username": "system:node:a", "groups": ["system:masters"], "uid": "7", "extra": {"a": ["b"]},
    }});
    let user = User::component("jo", &["team", "system:masters"]);
    let (code, made) = bed.user(user).post(CSRS, request).await;
    assert_eq!(code, 201, "{made}");
    let spec = &made["spec"];
    assert_eq!(spec["username"], "jo");
    assert_eq!(
        spec["groups"],
        json!(["team", "system:masters", "system:authenticated"])
    );
    assert_eq!((spec.get("uid"), spec.get("extra")), (None, None));

    let c = bed.admin();
    let part = |part: &str| format!("{CSRS}/r/{part}");
    let approve = json!({
        "metadata": {"annotations": {"by": "hand"}},
        "status": {"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True", "reason": "r"}]},
    });
    let (_, approved) = c
        .patch(&part("approval"), "merge-patch+json", approve)
        .await;
    assert_eq!(approved["metadata"]["annotations"]["by"], "hand");
    assert_eq!(approved["status"].get("certificate"), None, "{approved}");
    let undo = json!({"status": {"conditions": []}});
    let (_, still) = c.patch(&part("status"), "merge-patch+json", undo).await;
    assert_eq!(
        still["status"]["conditions"][0]["type"], "Approved",
        "{still}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_bring_metadata_but_no_spec() {
    let bed = bed().await;
    let c = bed.admin();
    let change = json!({"metadata": {"annotations": {"a": "b"}, "labels": {"l": "m"}}, "spec": {"replicas": 7}, "status": {}});
    let sets = "/apis/apps/v1/namespaces/default";
    let spec = json!({"replicas": 0, "selector": {"matchLabels": {"x": "y"}}, "template": {
        "metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    for (plural, label) in [("replicasets", Some("m")), ("deployments", None)] {
        let path = format!("{sets}/{plural}");
        let object = json!({"metadata": {"name": "x"}, "spec": spec});
        assert_eq!(c.post(&path, object).await.0, 201, "{plural}");
        let path = format!("{path}/x/status");
        let (code, done) = c.patch(&path, "merge-patch+json", change.clone()).await;
        assert_eq!(code, 200, "{done}");
        let meta = &done["metadata"];
        assert_eq!(meta["annotations"]["a"], "b", "{plural}");
        assert_eq!(meta["labels"]["l"].as_str(), label, "{plural}");
        assert_eq!(
            (&done["spec"]["replicas"], &meta["generation"]),
            (&json!(0), &json!(1))
        );
    }
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let policy = json!({"metadata": {"name": "x"}, "spec": {"validations": [{"expression": "true"}],
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}}});
    assert_eq!(c.post(policies, policy).await.0, 201);
    let path = format!("{policies}/x/status");
    let change =
        json!({"metadata": {"annotations": {"a": "b"}}, "status": {"observedGeneration": 1}});
    let (_, done) = c.patch(&path, "merge-patch+json", change).await;
    assert_eq!(done["metadata"].get("annotations"), None);
    assert_eq!(done["status"]["observedGeneration"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_hold_when_many_create_at_once() {
    let bed = bed().await;
    let c = bed.admin();
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "5"}}});
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    assert_eq!(c.post(quotas, quota).await.0, 201);
    let before = c.get(MAPS).await.1["items"].as_array().unwrap().len();
    let tasks = (0..20).map(|i| {
        let c = c.clone();
        tokio::spawn(async move {
            c.post(MAPS, json!({"metadata": {"name": format!("m{i}")}}))
                .await
                .0
        })
    });
    let mut made = before;
    for task in tasks.collect::<Vec<_>>() {
        let code = task.await.unwrap();
        assert!([201, 403].contains(&code), "{code}");
        made += usize::from(code == 201);
    }
    assert_eq!(made, 5);
    assert_eq!(c.get(MAPS).await.1["items"].as_array().unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_and_warnings_are_bounded() {
    let bed = bed().await;
    let c = bed.admin();
    let map = json!({"metadata": {"name": "x"}, "data": {"a": "x".repeat(1000)}});
    assert_eq!(c.post(MAPS, map).await.0, 201);
    let doubling: Vec<Value> = (0..60)
        .map(|i| json!({"op": "copy", "from": "/data", "path": format!("/data/{i}")}))
        .collect();
    let path = format!("{MAPS}/x");
    let (code, refused) = c.patch(&path, "json-patch+json", doubling.into()).await;
    assert_eq!(code, 413, "{refused}");

    let mut wrong = json!({"metadata": {"name": "y"}});
    for i in 0..5000 {
        wrong[format!("field{i}")] = json!(i);
    }
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let (code, refused) = c.post(&strict, wrong).await;
    assert_eq!(code, 400);
    assert!(
        refused["message"].as_str().unwrap().len() < 5000,
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_have_no_table() {
    let bed = bed().await;
    let c = bed.admin();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let ask = |accept: &'static str| {
        let headers = [("accept", accept), ("content-type", "application/json")];
        let (c, body) = (c.clone(), review.to_string());
        async move { c.send("POST", path, &headers, body.into()).await }
    };
    let (code, refused) = ask("application/json;as=Table;v=v1;g=meta.k8s.io").await;
    assert_eq!(code, 406, "{refused}");
    let (code, done) = ask("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    assert_eq!((code, &done["status"]["allowed"]), (201, &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_share_objects_answer_in_their_own_form() {
    let bed = bed().await;
    let c = bed.admin();
    let old = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let hpa = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
    let (code, made) = c.post(old, hpa).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["targetCPUUtilizationPercentage"], 80, "{made}");
    assert_eq!(made["spec"].get("metrics"), None);
    let path = format!("{old}/h");
    let (_, read) = c.get(&path).await;
    assert_eq!(read, made);
    let (_, same) = c.put(&path, read.clone()).await;
    assert_eq!(same, read, "nothing changed");
    let (_, new) = c.get(&path.replace("v1/", "v2/")).await;
    assert_eq!(new["spec"]["metrics"][0]["resource"]["name"], "cpu");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_leave_their_pods_unless_told_otherwise() {
    let bed = bed().await;
    let c = bed.admin();
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let spec = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    for (options, finalizer) in [
        (json!({}), Some("orphan")),
        (json!({"propagationPolicy": "Background"}), None),
        (
            json!({"propagationPolicy": "Foreground"}),
            Some("foregroundDeletion"),
        ),
    ] {
        let job = json!({"metadata": {"name": "j"}, "spec": spec});
        assert_eq!(c.post(jobs, job).await.0, 201);
        let path = format!("{jobs}/j");
        let (code, gone) = c.delete(&path, options.clone()).await;
        assert_eq!(code, 200, "{gone}");
        assert_eq!(
            gone["metadata"]["finalizers"][0].as_str(),
            finalizer,
            "{options}"
        );
        let free = json!({"metadata": {"finalizers": null}});
        c.patch(&path, "merge-patch+json", free).await;
        assert_eq!(c.get(&path).await.0, 404);
    }
}
