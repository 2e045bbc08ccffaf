//! What the generic handler does at its edges: history that is gone, bindings, reviews, other encodings.
#![allow(clippy::unwrap_used)]

mod support;

use keelson_auth::User;
use keelson_store::Store;
use serde_json::{Value, json};
use support::{Bed, Caller, bed};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn maps(c: &Caller, names: &[&str]) {
    for name in names {
        let made = c.post(MAPS, json!({"metadata": {"name": name}})).await;
        assert_eq!(made.0, 201, "{}", made.1);
    }
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap())
        .collect()
}

/// Forgets all history but the newest state.
async fn compact(bed: &Bed) {
    let now = bed.store.revision().await.unwrap();
    bed.store.compact(now).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_of_gone_history_end_with_410() {
    let bed = bed().await;
    let c = bed.admin();
    maps(&c, &["a", "b"]).await;
    compact(&bed).await;
    let events = c
        .watch(&format!("{MAPS}?watch=1&resourceVersion=1"), 2)
        .await;
    let [(kind, status)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &json!(410), &json!("Expired"))
    );
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("too old resource version: 1 (")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_go_on_after_their_revision_is_gone() {
    let bed = bed().await;
    let c = bed.admin();
    maps(&c, &["b", "d", "f"]).await;
    let (_, first) = c.get(&format!("{MAPS}?limit=1")).await;
    assert_eq!(names(&first), ["b"]);
    let old = first["metadata"]["continue"].as_str().unwrap();
    maps(&c, &["a", "e"]).await;
    let (_, same) = c.get(&format!("{MAPS}?limit=9&continue={old}")).await;
    assert_eq!(names(&same), ["d", "f"]);
    compact(&bed).await;
    let (code, gone) = c.get(&format!("{MAPS}?limit=1&continue={old}")).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")));
    let fresh = gone["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = c.get(&format!("{MAPS}?limit=1&continue={fresh}")).await;
    assert_eq!((code, names(&rest)), (200, vec!["d"]));
    let next = rest["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = c.get(&format!("{MAPS}?limit=2&continue={next}")).await;
    assert_eq!((code, names(&rest)), (200, vec!["e", "f"]));
    let exact = format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact");
    let (code, refused) = c.get(&exact).await;
    assert_eq!(code, 410);
    assert_eq!(
        refused["message"],
        "The resourceVersion for the provided list is too old."
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_of_every_form_see_the_same() {
    let bed = bed().await;
    let c = bed.admin();
    let from = bed.store.revision().await.unwrap();
    maps(&c, &["a"]).await;
    let patch = json!({"data": {"k": "v"}});
    c.patch(&format!("{MAPS}/a"), "merge-patch+json", patch)
        .await;
    c.delete(&format!("{MAPS}/a"), Value::Null).await;
    let watch = |query: &'static str| {
        let (c, path) = (
            c.clone(),
            format!("{MAPS}?watch=1&resourceVersion={from}{query}"),
        );
        async move { c.watch(&path, 3).await }
    };
    let all = watch("").await;
    let kinds: Vec<&str> = all.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED"]);
    assert_eq!(all, watch("&fieldSelector=metadata.name=a").await);
    assert_eq!(all, watch("").await);
    let revisions: Vec<u64> = all
        .iter()
        .map(|(_, o)| {
            o["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    assert_eq!(all[2].1["data"]["k"], "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn binds_through_the_namespace() {
    let bed = bed().await;
    let c = bed.admin();
    let account = "/api/v1/namespaces/default/serviceaccounts";
    c.post(account, json!({"metadata": {"name": "default"}}))
        .await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = c.post(PODS, pod).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let bindings = "/api/v1/namespaces/default/bindings";
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let (code, answer) = c.post(bindings, binding.clone()).await;
    assert_eq!((code, &answer["status"]), (201, &json!("Success")));
    let (_, bound) = c.get(&format!("{PODS}/p")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let (code, again) = c.post(bindings, binding).await;
    assert_eq!((code, &again["reason"]), (409, &json!("Conflict")));
    let nobody = json!({"metadata": {"name": "q"}, "target": {"name": "n1"}});
    assert_eq!(c.post(bindings, nobody).await.0, 404);
    assert_eq!(c.get(bindings).await.0, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_stand_twice_are_reported() {
    let bed = bed().await;
    let c = bed.admin();
    let json = [("content-type", "application/json")];
    let body = br#"{"metadata":{"name":"a"},"data":{"k":"1","k":"2"}}"#.to_vec();
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let (code, refused) = c.send("POST", &strict, &json, body.clone()).await;
    assert_eq!(code, 400);
    assert_eq!(
        refused["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
         duplicate field \"data.k\""
    );
    let request = |path: &str| {
        let builder = http::Request::post(path).header("content-type", "application/json");
        builder
            .body(kube::client::Body::from(body.clone()))
            .unwrap()
    };
    let answer = c.client.send(request(MAPS)).await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(
        answer.headers()["warning"],
        r#"299 - "duplicate field \"data.k\"""#
    );
    let patch = br#"{"data":{"k":"1","k":"2"}}"#.to_vec();
    let merge = [("content-type", "application/merge-patch+json")];
    let path = format!("{MAPS}/a?fieldValidation=Strict");
    assert_eq!(c.send("PATCH", &path, &merge, patch).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_reviewed_for_their_audiences() {
    let bed = bed().await;
    let c = bed.admin();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    c.post(accounts, json!({"metadata": {"name": "sa"}})).await;
    let wanted = json!({"spec": {"audiences": ["x", "y"], "expirationSeconds": 600}});
    let (code, made) = c.post(&format!("{accounts}/sa/token"), wanted).await;
    assert_eq!(code, 201, "{made}");
    let token = made["status"]["token"].clone();
    let review = async |audiences: Value| {
        let body = json!({"spec": {"token": token, "audiences": audiences}});
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        c.post(path, body).await.1["status"].clone()
    };
    let status = review(json!(["z", "y"])).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!(["y"]));
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:default:sa"
    );
    for audiences in [json!(["z"]), json!([])] {
        let status = review(audiences).await;
        assert_eq!(status["authenticated"], Value::Null);
        assert!(status["error"].is_string(), "{status}");
    }
    c.delete(&format!("{accounts}/sa"), Value::Null).await;
    assert!(review(json!(["y"])).await["error"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_approved_by_those_who_may() {
    let bed = bed().await;
    let c = bed.admin();
    let role = json!({
        "metadata": {"name": "updates"},
        "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update"]}],
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    c.post(&format!("{rbac}/clusterroles"), role).await;
    let binding = json!({
        "metadata": {"name": "updates"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "updates"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "u"}],
    });
    c.post(&format!("{rbac}/clusterrolebindings"), binding)
        .await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = json!({
        "metadata": {"name": "r"},
        "spec": {"request": CSR, "signerName": "example.com/s", "usages": ["client auth"]},
    });
    let (code, mut made) = c.post(requests, request).await;
    assert_eq!(code, 201, "{made}");
    made["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]});
    let path = format!("{requests}/r/approval");
    let user = bed.user(User::component("u", &[]));
    // The cache of roles follows the store: until then the refusal is RBAC's own.
    let refused = loop {
        let (code, refused) = user.put(&path, made.clone()).await;
        assert_eq!(code, 403, "{refused}");
        let message = refused["message"].as_str().unwrap().to_owned();
        if !message.contains("cannot update resource") {
            break message;
        }
        tokio::task::yield_now().await;
    };
    assert!(refused.contains("example.com/s"), "{refused}");
    let (code, done) = c.put(&path, made).await;
    assert_eq!(code, 200, "{done}");
}

/// A request for a certificate of `CN=x`.
const CSR: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIR01HNENBUUF3RERFS01BZ0dBMVVFQXd3QmVEQlpNQk1HQnlxR1NNNDlBZ0VHQ0NxR1NNNDlBd0VIQTBJQQpCSlVKMk8yY1ZjcDRPSFlmdnNieCtJOFhKb3dvcmd1amc5UGNQWW9IUmRHcnZsT2l4Z2diQTNoYXZyWUhQZmk4Ck9Lc0lWNEdXak9qcHRBcnZEeERGWWVHZ0FEQUtCZ2dxaGtqT1BRUURBZ05JQURCRkFpQmJJZCtYT01nL2tyOHMKYWZ2SStQQ3VPdWlhbHBrT1c0Qm5pT1dTYTVpeXFRSWhBT0phVTdpS1JFT0pVSzN3RlJCMkZUcGp5YnZlOUluSgpvMGdsUFZFTGpqZjcKLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";

#[tokio::test(flavor = "multi_thread")]
async fn openapi_as_protobuf() {
    let bed = bed().await;
    let c = bed.admin();
    let request = http::Request::get("/openapi/v2")
        .header(
            "accept",
            "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        )
        .body(kube::client::Body::empty())
        .unwrap();
    let answer = c.client.send(request).await.unwrap();
    assert_eq!(
        answer.headers()["content-type"],
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    let bytes = answer.into_body().collect_bytes().await.unwrap();
    // Field 1 (swagger), then field 2 (info).
    assert_eq!(bytes.get(..6), Some(&b"\x0a\x032.0\x12"[..]));
    let needle = b"#/definitions/io.k8s.api.core.v1.PodSpec";
    assert!(bytes.windows(needle.len()).any(|w| w == needle));
}
