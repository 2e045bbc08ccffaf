//! The generic handler through the router, over a real store.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use keelson_auth::User;
use serde_json::{Value, json};
use support::{Caller, again, bed};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"a": "1"}})
}

fn reason(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["reason"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_reads_and_refuses() {
    let bed = bed().await;
    let c = bed.admin();
    let (code, made) = c.post(MAPS, map("a")).await;
    assert_eq!(code, 201, "{made}");
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["managedFields"].is_array());
    let (code, read) = c.get(&format!("{MAPS}/a")).await;
    assert_eq!((code, &read), (200, &made));
    assert_eq!(
        reason(&c.post(MAPS, map("a")).await),
        (409, "AlreadyExists")
    );
    assert_eq!(
        reason(&c.get(&format!("{MAPS}/nope")).await),
        (404, "NotFound")
    );
    assert_eq!(
        reason(&c.post(MAPS, json!({"metadata": {}})).await),
        (422, "Invalid")
    );
    assert_eq!(
        reason(&c.post(MAPS, json!({"kind": "Pod"})).await),
        (400, "BadRequest")
    );
    assert_eq!(
        reason(
            &c.post(MAPS, json!({"data": 3, "metadata": {"name": "x"}}))
                .await
        ),
        (400, "BadRequest")
    );
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let wrong = json!({"metadata": {"name": "x"}, "spec": {}});
    assert_eq!(reason(&c.post(&strict, wrong).await), (400, "BadRequest"));
    let proto = [("content-type", "application/vnd.kubernetes.protobuf")];
    assert_eq!(
        reason(&c.send("POST", MAPS, &proto, b"k8s\0".to_vec()).await),
        (415, "UnsupportedMediaType")
    );
    let large = vec![b' '; 3 * 1024 * 1024 + 1];
    assert_eq!(c.send("POST", MAPS, &[], large).await.0, 413);
    assert_eq!(c.get("/api/v1/nosuch").await.0, 404);
    assert_eq!(c.get("/api/v1/pods/%ff").await.0, 400);
    let (code, generated) = c
        .post(MAPS, json!({"metadata": {"generateName": "g-"}}))
        .await;
    assert_eq!(code, 201);
    assert!(
        generated["metadata"]["name"]
            .as_str()
            .unwrap()
            .starts_with("g-")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_in_pages_of_one_revision() {
    let bed = bed().await;
    let c = bed.admin();
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(c.post(MAPS, map(name)).await.0, 201);
    }
    let (_, first) = c.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    c.delete(&format!("{MAPS}/c"), json!({})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = c.get(&format!("{MAPS}?limit=10&continue={token}")).await;
    let names: Vec<&str> = rest["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["c", "d", "e"],
        "the second page shows the first page's revision"
    );
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let (_, one) = c
        .get(&format!("{MAPS}?limit=1&labelSelector=app%3De"))
        .await;
    assert_eq!(one["items"][0]["metadata"]["name"], "e");
    let (_, two) = c
        .get(&format!("{MAPS}?labelSelector=app%20in%20(a,b)"))
        .await;
    assert_eq!(two["items"].as_array().unwrap().len(), 2);
    let (_, named) = c
        .get(&format!("{MAPS}?fieldSelector=metadata.name%3Db"))
        .await;
    assert_eq!(named["items"].as_array().unwrap().len(), 1);
    assert_eq!(c.get(&format!("{MAPS}?continue=junk")).await.0, 400);
    assert_eq!(
        c.get(&format!("{MAPS}?fieldSelector=spec.x%3Db")).await.0,
        400
    );
    assert_eq!(c.get(&format!("{MAPS}?resourceVersion=junk")).await.0, 422);
    assert_eq!(
        c.get(&format!("{MAPS}?resourceVersion=99999999")).await.0,
        504
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_with_selectors() {
    let bed = bed().await;
    let c = bed.admin();
    let (_, made) = c.post(MAPS, map("a")).await;
    let rv = made["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    let out = json!({"metadata": {"labels": {"app": "other"}}});
    c.patch(&format!("{MAPS}/a"), "merge-patch+json", out).await;
    let back = json!({"metadata": {"labels": {"app": "a"}}});
    c.patch(&format!("{MAPS}/a"), "merge-patch+json", back)
        .await;
    c.delete(&format!("{MAPS}/a"), json!({})).await;
    let path = format!("{MAPS}?watch=1&resourceVersion={rv}&labelSelector=app%3Da");
    let kinds: Vec<String> = c
        .watch(&path, 3)
        .await
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, ["DELETED", "ADDED", "DELETED"]);

    c.post(MAPS, map("b")).await;
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=app%3Db"
    );
    let events = c.watch(&path, 2).await;
    assert_eq!(
        (events[0].0.as_str(), &events[0].1["metadata"]["name"]),
        ("ADDED", &json!("b"))
    );
    assert_eq!(events[1].0, "BOOKMARK");
    assert_eq!(
        events[1].1["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_and_patches() {
    let bed = bed().await;
    let c = bed.admin();
    let (_, made) = c.post(MAPS, map("a")).await;
    let one = format!("{MAPS}/a");
    let mut changed = made.clone();
    changed["data"]["a"] = json!("2");
    let (code, updated) = c.put(&one, changed.clone()).await;
    assert_eq!((code, &updated["data"]["a"]), (200, &json!("2")));
    assert_eq!(
        reason(&c.put(&one, changed).await),
        (409, "Conflict"),
        "based on an old revision"
    );
    let (_, same) = c.put(&one, updated.clone()).await;
    assert_eq!(
        same["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"],
        "nothing changed, nothing written"
    );
    let mut foreign = updated.clone();
    foreign["metadata"]["uid"] = json!("other");
    assert_eq!(reason(&c.put(&one, foreign).await), (409, "Conflict"));

    let ops = json!([{"op": "add", "path": "/data/b", "value": "3"}]);
    assert_eq!(
        c.patch(&one, "json-patch+json", ops).await.1["data"]["b"],
        "3"
    );
    let bad = json!([{"op": "remove", "path": "/data/nope"}]);
    assert_eq!(c.patch(&one, "json-patch+json", bad).await.0, 422);
    assert_eq!(
        c.patch(&one, "json-patch+json", json!({"op": "x"})).await.0,
        400
    );
    assert_eq!(
        c.patch(
            &one,
            "strategic-merge-patch+json",
            json!({"data": {"b": null}})
        )
        .await
        .1["data"],
        json!({"a": "2"})
    );
    assert_eq!(c.patch(&one, "unknown", json!({})).await.0, 415);
    let (_, dry) = c
        .patch(
            &format!("{one}?dryRun=All"),
            "merge-patch+json",
            json!({"data": {"dry": "1"}}),
        )
        .await;
    assert_eq!(dry["data"]["dry"], "1");
    assert_eq!(c.get(&one).await.1["data"].get("dry"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn applies_with_owners() {
    let bed = bed().await;
    let c = bed.admin();
    let applied = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"k": value}});
    let at = |manager: &str| format!("{MAPS}/s?fieldManager={manager}");
    assert_eq!(
        c.patch(&at("one"), "apply-patch+yaml", applied("1"))
            .await
            .0,
        201
    );
    assert_eq!(
        c.patch(&at("one"), "apply-patch+yaml", applied("2"))
            .await
            .0,
        200
    );
    let refused = c.patch(&at("two"), "apply-patch+yaml", applied("3")).await;
    assert_eq!(reason(&refused), (409, "Conflict"), "{}", refused.1);
    assert!(
        refused.1["message"]
            .as_str()
            .unwrap()
            .starts_with("Apply failed with 1 conflict"),
        "{}",
        refused.1
    );
    let (code, forced) = c
        .patch(
            &format!("{}&force=true", at("two")),
            "apply-patch+yaml",
            applied("3"),
        )
        .await;
    assert_eq!((code, &forced["data"]["k"]), (200, &json!("3")));
    assert_eq!(
        c.patch(&format!("{MAPS}/s"), "apply-patch+yaml", applied("4"))
            .await
            .0,
        422,
        "fieldManager is required"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_with_finalizers_and_preconditions() {
    let bed = bed().await;
    let c = bed.admin();
    let mut held = map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let (_, made) = c.post(MAPS, held).await;
    let one = format!("{MAPS}/held");
    assert_eq!(
        reason(&c.delete(&one, json!({"preconditions": {"uid": "x"}})).await),
        (409, "Conflict")
    );
    let (code, deleting) = c.delete(&one, json!({})).await;
    assert_eq!(code, 200);
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(deleting["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(c.get(&one).await.0, 200, "the finalizer holds it");
    let release = json!({"metadata": {"finalizers": null}});
    assert_eq!(c.patch(&one, "merge-patch+json", release).await.0, 200);
    assert_eq!(c.get(&one).await.0, 404, "the last finalizer was removed");

    c.post(MAPS, map("plain")).await;
    let (code, status) = c
        .delete(
            &format!("{MAPS}/plain"),
            json!({"propagationPolicy": "Background"}),
        )
        .await;
    assert_eq!(
        (code, &status["status"], &status["details"]["name"]),
        (200, &json!("Success"), &json!("plain"))
    );
    c.post(MAPS, map("orphans")).await;
    let (_, orphans) = c
        .delete(
            &format!("{MAPS}/orphans"),
            json!({"propagationPolicy": "Orphan"}),
        )
        .await;
    assert_eq!(orphans["metadata"]["finalizers"], json!(["orphan"]));
    assert_eq!(
        c.delete(
            &format!("{MAPS}/orphans"),
            json!({"propagationPolicy": "Wrong"})
        )
        .await
        .0,
        422
    );
    for name in ["x", "y"] {
        c.post(MAPS, map(name)).await;
    }
    let (code, list) = c
        .delete(
            &format!("{MAPS}?labelSelector=app%20in%20(x,y)"),
            Value::Null,
        )
        .await;
    assert_eq!(
        (code, list["items"].as_array().map(Vec::len)),
        (200, Some(2)),
        "{list}"
    );
    assert_eq!(c.get(&format!("{MAPS}/x")).await.0, 404);
}

fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"type": "NodePort", "selector": {"app": "x"}, "ports": [{"port": 80}]},
    })
}

fn holds(service: &Value) -> (String, u64) {
    let ip = service["spec"]["clusterIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    (
        ip,
        service["spec"]["ports"][0]["nodePort"]
            .as_u64()
            .unwrap_or_default(),
    )
}

async fn create_many(c: &Caller, count: usize) -> Vec<(String, u64)> {
    let tasks = (0..count).map(|i| {
        let c = c.clone();
        tokio::spawn(async move { c.post(SERVICES, service(&format!("s{i}"))).await })
    });
    let mut all = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        let (code, made) = task.await.unwrap();
        assert_eq!(code, 201, "{made}");
        all.push(holds(&made));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn allocates_without_doubles_or_leaks() {
    let bed = bed().await;
    let c = bed.admin();
    let all = create_many(&c, 64).await;
    let ips: BTreeSet<&String> = all.iter().map(|(ip, _)| ip).collect();
    let ports: BTreeSet<u64> = all.iter().map(|(_, port)| *port).collect();
    assert_eq!((ips.len(), ports.len()), (64, 64));

    let (ip, port) = all[0].clone();
    let mut wanted = service("same");
    wanted["spec"]["clusterIP"] = json!(ip);
    let refused = c.post(SERVICES, wanted.clone()).await;
    assert_eq!(reason(&refused), (422, "Invalid"));
    assert!(
        refused.1["message"]
            .as_str()
            .unwrap()
            .contains("provided IP is already allocated"),
        "{}",
        refused.1
    );
    let mut port_wanted = service("same");
    port_wanted["spec"]["ports"][0]["nodePort"] = json!(port);
    let refused = c.post(SERVICES, port_wanted).await;
    assert!(
        refused.1["message"]
            .as_str()
            .unwrap()
            .contains("provided port is already allocated"),
        "{}",
        refused.1
    );

    assert_eq!(c.delete(&format!("{SERVICES}/s0"), json!({})).await.0, 200);
    wanted["spec"]["ports"][0]["nodePort"] = json!(port);
    let (code, made) = c.post(SERVICES, wanted).await;
    assert_eq!(
        (code, holds(&made)),
        (201, (ip, port)),
        "what was released can be had again: {made}"
    );

    let dry = c
        .post(&format!("{SERVICES}?dryRun=All"), service("dry"))
        .await;
    assert_eq!(dry.0, 201);
    let (dry_ip, _) = holds(&dry.1);
    let mut real = service("real");
    real["spec"]["clusterIP"] = json!(dry_ip);
    assert_eq!(
        c.post(SERVICES, real).await.0,
        201,
        "a dry run takes nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn allocations_outlive_a_restart() {
    let bed = bed().await;
    let before: BTreeSet<(String, u64)> = create_many(&bed.admin(), 8).await.into_iter().collect();
    let support::Bed { server, store, dir } = bed;
    server.stop().await;
    drop((server, store));
    let bed = again(dir).await;
    let c = bed.admin();
    let (_, list) = c.get(SERVICES).await;
    let after: BTreeSet<(String, u64)> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|s| s["metadata"]["name"] != "kubernetes")
        .map(holds)
        .collect();
    assert_eq!(before, after);
    let mut again = service("again");
    again["spec"]["clusterIP"] = json!(before.first().unwrap().0);
    assert_eq!(c.post(SERVICES, again).await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn authorizes_in_upstreams_words() {
    let bed = bed().await;
    let nobody = bed.user(User::component("jane", &[]));
    let refused = nobody.get("/api/v1/namespaces/default/pods").await;
    assert_eq!(reason(&refused), (403, "Forbidden"));
    let words = r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert!(
        refused.1["message"].as_str().unwrap().starts_with(words),
        "{}",
        refused.1
    );
    assert_eq!(nobody.get("/version").await.0, 200);
    assert_eq!(nobody.get("/metrics").await.0, 403);
    let anonymous = bed.user(User::anonymous());
    assert_eq!(anonymous.get("/readyz").await.0, 200);
    assert_eq!(anonymous.get("/api").await.0, 403);

    let admin = bed.admin();
    let as_jane = [("impersonate-user", "jane")];
    let path = "/api/v1/namespaces/default/pods";
    assert_eq!(admin.send("GET", path, &as_jane, Vec::new()).await.0, 403);
    assert_eq!(
        nobody
            .send("GET", path, &[("impersonate-user", "admin")], Vec::new())
            .await
            .0,
        403
    );
    let review = json!({"spec": {"user": "jane", "resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (code, answer) = admin
        .post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        .await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn prints_tables_and_metadata() {
    let bed = bed().await;
    let c = bed.admin();
    c.post(MAPS, map("a")).await;
    let accept = [(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    )];
    let (_, table) = c
        .send("GET", &format!("{MAPS}/a"), &accept, Vec::new())
        .await;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let accept = [(
        "accept",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    )];
    let (_, list) = c.send("GET", MAPS, &accept, Vec::new()).await;
    assert_eq!(
        (&list["kind"], list["items"][0].get("data")),
        (&json!("PartialObjectMetadataList"), None)
    );
    let proto = [("accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(c.send("GET", MAPS, &proto, Vec::new()).await.0, 406);
}
