//! Tables over the whole chain: each plugin by what it does to a request.
#![allow(clippy::unwrap_used)]

mod limits;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use keelson_api::{Resource, Scope, Status};
use keelson_auth::{Decision, User, csr};
use serde_json::{Value, json};

use crate::{Chain, Lookup, Operation, Request};

/// Objects by `plural/namespace/name`.
#[derive(Clone, Default)]
struct Fake(HashMap<(String, String, String), Value>);

#[async_trait]
impl Lookup for Fake {
    async fn get(
        &self,
        _: &str,
        _: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        Ok(self
            .0
            .get(&(plural.into(), namespace.into(), name.into()))
            .cloned())
    }

    async fn list(
        &self,
        _: &str,
        _: &str,
        plural: &str,
        namespace: &str,
    ) -> Result<Vec<Value>, Status> {
        let all = self
            .0
            .iter()
            .filter(|((p, ns, _), _)| p == plural && (namespace.is_empty() || ns == namespace));
        Ok(all.map(|(_, v)| v.clone()).collect())
    }
}

impl Fake {
    fn with(mut self, plural: &str, namespace: &str, name: &str, mut object: Value) -> Self {
        object["metadata"]["name"] = json!(name);
        self.0
            .insert((plural.into(), namespace.into(), name.into()), object);
        self
    }
}

/// A namespace `ns` with its default account.
fn cluster() -> Fake {
    Fake::default()
        .with("namespaces", "", "ns", json!({}))
        .with(
            "namespaces",
            "",
            "gone",
            json!({ "status": { "phase": "Terminating" } }),
        )
        .with("namespaces", "", "kube-node-lease", json!({}))
        .with("serviceaccounts", "ns", "default", json!({}))
}

/// A request in a form that tables can hold.
#[derive(Clone)]
struct Ask {
    op: Operation,
    group: &'static str,
    resource: &'static str,
    namespace: &'static str,
    name: &'static str,
    user: User,
    old: Option<Value>,
}

fn ask(
    op: Operation,
    group: &'static str,
    resource: &'static str,
    namespace: &'static str,
    name: &'static str,
) -> Ask {
    Ask {
        op,
        group,
        resource,
        namespace,
        name,
        user: User::component("jo", &[]),
        old: None,
    }
}

fn create(resource: &'static str) -> Ask {
    ask(Operation::Create, "", resource, "ns", "x")
}

fn row(group: &'static str, plural: &'static str, namespaced: bool) -> Resource {
    Resource {
        group: group.into(),
        version: "v1".into(),
        kind: "Kind".into(),
        list_kind: "KindList".into(),
        plural: plural.into(),
        singular: "kind".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        scope: if namespaced {
            Scope::Namespaced
        } else {
            Scope::Cluster
        },
        verbs: &[],
        subresources: Vec::new(),
        columns: Arc::new([]),
        strategy: keelson_api::Strategy::default(),
        storage: plural.into(),
        convert: None,
    }
}

async fn run_with(chain: &Chain, ask: &Ask, object: Value, lookup: &Fake) -> Result<Value, Status> {
    said(chain, ask, object, lookup, &|_| {}).await
}

async fn said(
    chain: &Chain,
    ask: &Ask,
    mut object: Value,
    lookup: &Fake,
    warn: &(dyn Fn(String) + Send + Sync),
) -> Result<Value, Status> {
    let (plural, subresource) = ask.resource.split_once('/').unwrap_or((ask.resource, ""));
    let resource = row(ask.group, plural, !ask.namespace.is_empty());
    let req = Request {
        op: ask.op,
        resource: &resource,
        subresource,
        namespace: ask.namespace,
        name: ask.name,
        user: &ask.user,
        old: ask.old.as_ref(),
        dry_run: false,
        now: jiff::Timestamp::UNIX_EPOCH,
        warn,
    };
    if matches!(ask.op, Operation::Create | Operation::Update) {
        chain.mutate(&req, &mut object, lookup).await?;
    }
    chain.validate(&req, &object, lookup).await?;
    Ok(object)
}

async fn run(ask: &Ask, object: Value, lookup: &Fake) -> Result<Value, Status> {
    run_with(&Chain::standard(), ask, object, lookup).await
}

/// What the user is told along with the answer.
async fn warnings(ask: &Ask, object: Value, lookup: &Fake) -> Vec<String> {
    let texts = std::sync::Mutex::new(Vec::new());
    let warn = |text| texts.lock().unwrap().push(text);
    let done = said(&Chain::standard(), ask, object, lookup, &warn).await;
    done.expect("allowed");
    texts.into_inner().unwrap()
}

async fn refusal(ask: &Ask, object: Value, lookup: &Fake) -> String {
    run(ask, object, lookup).await.expect_err("refused").message
}

fn pod() -> Value {
    json!({ "metadata": {}, "spec": { "containers": [{ "name": "c" }] } })
}

/// A pod with something at a pointer of its spec or container.
fn pod_with(pointer: &str, value: Value) -> Value {
    let mut pod = pod();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap()[key] = value;
    pod
}

#[test]
fn the_order_is_upstreams() {
    let names = Chain::standard_with(Arc::new(|_, _| Decision::NoOpinion(String::new()))).names();
    let expected = [
        "NamespaceLifecycle",
        "LimitRanger",
        "ServiceAccount",
        "NodeRestriction",
        "TaintNodesByCondition",
        "PodSecurity",
        "Priority",
        "DefaultTolerationSeconds",
        "DefaultStorageClass",
        "StorageObjectInUseProtection",
        "PersistentVolumeClaimResize",
        "RuntimeClass",
        "CertificateApproval",
        "CertificateSigning",
        "ClusterTrustBundleAttest",
        "CertificateSubjectRestriction",
        "DefaultIngressClass",
        "ResourceQuota",
    ];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn namespaces_live_and_die() {
    let lookup = cluster();
    let map = |ns| ask(Operation::Create, "", "configmaps", ns, "x");
    assert!(run(&map("ns"), json!({}), &lookup).await.is_ok());
    let missing = run(&map("none"), json!({}), &lookup).await.unwrap_err();
    assert_eq!(
        (missing.code, missing.message.as_str()),
        (404, "namespaces \"none\" not found")
    );
    let ending = run(&map("gone"), json!({}), &lookup).await.unwrap_err();
    assert_eq!(
        (ending.code, ending.message.as_str()),
        (
            403,
            "configmaps \"x\" is forbidden: unable to create new content in namespace gone because it is being terminated"
        )
    );
    assert_eq!(
        (ending.causes[0].reason, ending.causes[0].field.as_str()),
        ("NamespaceTerminating", "metadata.namespace")
    );
    let update = Ask {
        op: Operation::Update,
        ..map("gone")
    };
    assert!(run(&update, json!({}), &lookup).await.is_ok());
    let cases = [
        ("default", false),
        ("kube-system", false),
        ("kube-public", false),
        ("kube-node-lease", true),
        ("ns", true),
    ];
    for (name, allowed) in cases {
        let delete = ask(Operation::Delete, "", "namespaces", "", name);
        assert_eq!(
            run(&delete, Value::Null, &lookup).await.is_ok(),
            allowed,
            "{name}"
        );
    }
}

#[tokio::test]
async fn pods_get_the_accounts_token() {
    let out = run(&create("pods"), pod(), &cluster()).await.unwrap();
    assert_eq!(out["spec"]["serviceAccountName"], "default");
    let name = out["spec"]["volumes"][0]["name"].as_str().unwrap();
    assert!(
        name.starts_with("kube-api-access-") && name.len() == 21,
        "{name}"
    );
    let expected = json!([{ "name": name, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }]);
    assert_eq!(out["spec"]["containers"][0]["volumeMounts"], expected);
    let sources = &out["spec"]["volumes"][0]["projected"]["sources"];
    assert_eq!(
        sources[0],
        json!({ "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } })
    );
    assert_eq!(sources[1]["configMap"]["name"], "kube-root-ca.crt");
    assert_eq!(sources[2]["downwardAPI"]["items"][0]["path"], "namespace");
    assert_eq!(out["spec"]["volumes"][0]["projected"]["defaultMode"], 420);
}

#[tokio::test]
async fn the_token_stays_away_where_it_is_not_wanted() {
    let quiet =
        json!({ "automountServiceAccountToken": false, "imagePullSecrets": [{ "name": "pull" }] });
    let lookup = cluster().with("serviceaccounts", "ns", "quiet", quiet);
    let named = |extra: Value| {
        let mut pod = pod();
        pod["spec"]["serviceAccountName"] = json!("quiet");
        if !extra.is_null() {
            pod["spec"]["automountServiceAccountToken"] = extra;
        }
        pod
    };
    let taken =
        json!([{ "name": "own", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }]);
    let cases = [
        (pod(), 1),
        (
            pod_with("/spec/automountServiceAccountToken", json!(false)),
            0,
        ),
        (named(Value::Null), 0),
        (named(json!(true)), 1),
        (pod_with("/spec/containers/0/volumeMounts", taken), 0),
    ];
    for (i, (pod, volumes)) in cases.into_iter().enumerate() {
        let out = run(&create("pods"), pod, &lookup).await.unwrap();
        assert_eq!(
            out["spec"]["volumes"].as_array().map_or(0, Vec::len),
            volumes,
            "{i}"
        );
    }
    let out = run(&create("pods"), named(Value::Null), &lookup)
        .await
        .unwrap();
    assert_eq!(out["spec"]["imagePullSecrets"], json!([{ "name": "pull" }]));
    let missing = refusal(
        &create("pods"),
        pod_with("/spec/serviceAccountName", json!("no")),
        &lookup,
    )
    .await;
    assert_eq!(
        missing,
        "pods \"x\" is forbidden: error looking up service account ns/no: serviceaccount \"no\" not found"
    );
}

fn by_node(mut ask: Ask) -> Ask {
    ask.user = User::component("system:node:a", &["system:nodes"]);
    ask
}

#[tokio::test]
async fn nodes_touch_only_their_own() {
    let on = |node: &str| json!({ "metadata": { "uid": "u" }, "spec": { "nodeName": node, "serviceAccountName": "app" } });
    let lookup =
        cluster()
            .with("pods", "ns", "mine", on("a"))
            .with("pods", "ns", "theirs", on("b"));
    let node = |labels: Value, taints: Value| json!({ "metadata": { "labels": labels }, "spec": { "taints": taints } });
    let mirror = |spec: Value| json!({ "metadata": { "annotations": { "kubernetes.io/config.mirror": "h" } }, "spec": spec });
    let bound = |name: &str, uid: &str| json!({ "spec": { "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid } } });
    let (op, sa) = (Operation::Create, "serviceaccounts/token");
    let old = |a: Ask, old: Value| Ask {
        old: Some(old),
        ..a
    };
    let update = |resource, ns, name| ask(Operation::Update, "", resource, ns, name);
    let lease = |ns, name| ask(op, "coordination.k8s.io", "leases", ns, name);
    let cases = [
        (
            ask(op, "", "nodes", "", "a"),
            node(json!({}), json!([])),
            true,
        ),
        (
            ask(op, "", "nodes", "", "b"),
            node(json!({}), json!([])),
            false,
        ),
        (
            ask(op, "", "nodes", "", "a"),
            node(
                json!({ "kubernetes.io/hostname": "a", "x.example/y": "1" }),
                json!([]),
            ),
            true,
        ),
        (
            ask(op, "", "nodes", "", "a"),
            node(
                json!({ "node-restriction.kubernetes.io/x": "1" }),
                json!([]),
            ),
            false,
        ),
        (
            ask(op, "", "nodes", "", "a"),
            node(
                json!({ "node-role.kubernetes.io/control-plane": "" }),
                json!([]),
            ),
            false,
        ),
        (
            ask(op, "", "nodes", "", "a"),
            node(json!({ "foo.node.kubernetes.io/x": "" }), json!([])),
            true,
        ),
        (
            old(update("nodes", "", "a"), node(json!({}), json!([]))),
            node(json!({}), json!([{ "key": "k" }])),
            false,
        ),
        (
            old(update("nodes/status", "", "a"), node(json!({}), json!([]))),
            node(json!({}), json!([])),
            true,
        ),
        (
            ask(Operation::Delete, "", "nodes", "", "a"),
            Value::Null,
            false,
        ),
        (
            old(update("pods/status", "ns", "mine"), on("a")),
            on("a"),
            true,
        ),
        (
            old(update("pods/status", "ns", "theirs"), on("b")),
            on("b"),
            false,
        ),
        (
            old(ask(Operation::Delete, "", "pods", "ns", "mine"), on("a")),
            Value::Null,
            true,
        ),
        (
            old(ask(Operation::Delete, "", "pods", "ns", "theirs"), on("b")),
            Value::Null,
            false,
        ),
        (ask(op, "", "pods/eviction", "ns", "mine"), json!({}), true),
        (
            ask(op, "", "pods/eviction", "ns", "theirs"),
            json!({}),
            false,
        ),
        (
            ask(op, "", "pods", "ns", "m"),
            mirror(json!({ "nodeName": "a" })),
            true,
        ),
        (
            ask(op, "", "pods", "ns", "m"),
            mirror(json!({ "nodeName": "b" })),
            false,
        ),
        (
            ask(op, "", "pods", "ns", "m"),
            mirror(json!({ "nodeName": "a", "volumes": [{ "secret": {} }] })),
            false,
        ),
        (
            ask(op, "", "pods", "ns", "m"),
            json!({ "spec": { "nodeName": "a" } }),
            false,
        ),
        (ask(op, "", sa, "ns", "app"), bound("mine", "u"), true),
        (ask(op, "", sa, "ns", "app"), bound("mine", "v"), false),
        (ask(op, "", sa, "ns", "app"), bound("mine", ""), false),
        (ask(op, "", sa, "ns", "app"), bound("theirs", "u"), false),
        (ask(op, "", sa, "ns", "other"), bound("mine", "u"), false),
        (ask(op, "", sa, "ns", "app"), json!({}), false),
        (lease("kube-node-lease", "a"), json!({}), true),
        (lease("kube-node-lease", "b"), json!({}), false),
        (lease("ns", "a"), json!({}), false),
        (
            ask(op, "storage.k8s.io", "csinodes", "", "b"),
            json!({}),
            false,
        ),
    ];
    for (i, (ask, object, allowed)) in cases.into_iter().enumerate() {
        let answer = run(&by_node(ask.clone()), object.clone(), &lookup).await;
        assert_eq!(answer.is_ok(), allowed, "{i}: {answer:?}");
        if !ask.resource.contains("pods") && !allowed {
            assert!(run(&ask, object, &lookup).await.is_ok(), "{i}: others may");
        }
    }
}

#[tokio::test]
async fn certificate_requests_are_for_oneself_and_approved_by_those_who_may() {
    let request = |cn: &str, org: &str, signer: &str| {
        let pem = csr::new(cn, &[org], &[]).unwrap().1;
        json!({ "spec": { "request": base64::engine::general_purpose::STANDARD.encode(pem), "signerName": signer } })
    };
    let group = "certificates.k8s.io";
    let post = ask(
        Operation::Create,
        group,
        "certificatesigningrequests",
        "",
        "x",
    );
    let (kubelet, client) = (
        "kubernetes.io/kube-apiserver-client-kubelet",
        "kubernetes.io/kube-apiserver-client",
    );
    let cases = [
        (
            by_node(post.clone()),
            request("system:node:a", "system:nodes", kubelet),
            true,
        ),
        (
            by_node(post.clone()),
            request("system:node:b", "system:nodes", kubelet),
            false,
        ),
        (
            post.clone(),
            request("system:node:b", "system:nodes", kubelet),
            true,
        ),
        (
            post.clone(),
            request("root", "system:masters", client),
            false,
        ),
        (post.clone(), request("jo", "team", client), true),
    ];
    for (i, (ask, object, allowed)) in cases.into_iter().enumerate() {
        assert_eq!(run(&ask, object, &cluster()).await.is_ok(), allowed, "{i}");
    }
    let chain = Chain::standard_with(Arc::new(|user, a| {
        match (user.name.as_str(), a.verb.as_str(), a.name.as_str()) {
            ("jo", "approve", "example.com/*") | ("jo", "sign", "other.com/s") => {
                Decision::Allow(String::new())
            }
            _ => Decision::NoOpinion(String::new()),
        }
    }));
    let cases = [
        ("approval", "example.com/s", true),
        ("approval", "other.com/s", false),
        ("status", "other.com/s", true),
        ("status", "example.com/s", false),
    ];
    for (sub, signer, allowed) in cases {
        let resource = if sub == "status" {
            "certificatesigningrequests/status"
        } else {
            "certificatesigningrequests/approval"
        };
        let old = json!({ "spec": { "signerName": signer } });
        let ask = Ask {
            old: Some(old.clone()),
            ..ask(Operation::Update, group, resource, "", "x")
        };
        let mut new = old;
        new["status"] = json!({ "certificate": "c" });
        assert_eq!(
            run_with(&chain, &ask, new, &cluster()).await.is_ok(),
            allowed,
            "{sub} {signer}"
        );
    }
}

#[tokio::test]
async fn trust_bundles_are_attested_by_those_who_may() {
    let chain = Chain::standard_with(Arc::new(|user, a| {
        match (user.name.as_str(), a.verb.as_str(), a.name.as_str()) {
            ("jo", "attest", "example.com/s") => Decision::Allow(String::new()),
            _ => Decision::NoOpinion(String::new()),
        }
    }));
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let anchor = &params.self_signed(&key).unwrap().pem();
    let bundle =
        |signer: &str, pem: &str| json!({"spec": {"signerName": signer, "trustBundle": pem}});
    let known = bundle("other.com/s", anchor);
    let cases = [
        ("nobody's", None, bundle("", anchor), None),
        ("may attest", None, bundle("example.com/s", anchor), None),
        ("may not", None, bundle("other.com/s", anchor), Some(403)),
        ("nothing changes", Some(known.clone()), known, None),
        ("no certificate", None, bundle("", "words"), Some(422)),
    ];
    for (name, old, new, refused) in cases {
        let op = match old {
            Some(_) => Operation::Update,
            None => Operation::Create,
        };
        let ask = Ask {
            old,
            ..ask(op, "certificates.k8s.io", "clustertrustbundles", "", "x")
        };
        let done = run_with(&chain, &ask, new, &cluster()).await;
        assert_eq!(done.err().map(|s| s.code), refused, "{name}");
    }
}

#[tokio::test]
async fn priorities_are_resolved() {
    let class = |value: i64, default: bool| json!({ "value": value, "globalDefault": default });
    let none = cluster().with("priorityclasses", "", "high", class(1000, false));
    let with_default = none
        .clone()
        .with("priorityclasses", "", "usual", class(5, true));
    let named = |name: &str| pod_with("/spec/priorityClassName", json!(name));
    let given = |value: i64| pod_with("/spec/priority", json!(value));
    let ok = |value: i64, class: Value| Ok((json!(value), class));
    let cases = [
        (&none, pod(), ok(0, Value::Null)),
        (&with_default, pod(), ok(5, json!("usual"))),
        (&none, named("high"), ok(1000, json!("high"))),
        (
            &none,
            named("no"),
            Err("no PriorityClass with name no was found"),
        ),
        (&none, given(0), ok(0, Value::Null)),
        (
            &none,
            given(7),
            Err(
                "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name",
            ),
        ),
    ];
    for (lookup, pod, expected) in cases {
        let out = run(&create("pods"), pod, lookup).await;
        let out = out.map(|p| {
            (
                p["spec"]["priority"].clone(),
                p["spec"]["priorityClassName"].clone(),
            )
        });
        let expected = expected.map_err(|why: &str| format!("pods \"x\" is forbidden: {why}"));
        assert_eq!(out.map_err(|e| e.message), expected);
    }
    let second = ask(
        Operation::Create,
        "scheduling.k8s.io",
        "priorityclasses",
        "",
        "x",
    );
    let why = refusal(
        &second,
        json!({ "metadata": { "name": "x" }, "globalDefault": true }),
        &with_default,
    )
    .await;
    assert!(
        why.contains("PriorityClass usual is already marked as default"),
        "{why}"
    );
}

#[tokio::test]
async fn defaults_are_filled_in() {
    let out = run(&create("pods"), pod(), &cluster()).await.unwrap();
    let keys = |v: &Value| {
        v.as_array()
            .unwrap()
            .iter()
            .map(|t| t["key"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        keys(&out["spec"]["tolerations"]),
        [
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable"
        ]
    );
    assert_eq!(out["spec"]["tolerations"][0]["tolerationSeconds"], 300);
    let all = pod_with("/spec/tolerations", json!([{ "operator": "Exists" }]));
    let out = run(&create("pods"), all, &cluster()).await.unwrap();
    assert_eq!(keys(&out["spec"]["tolerations"]).len(), 1);

    let node = run(
        &ask(Operation::Create, "", "nodes", "", "n"),
        json!({ "metadata": {} }),
        &cluster(),
    )
    .await
    .unwrap();
    assert_eq!(
        node["spec"]["taints"],
        json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }])
    );

    let class = |made: &str, default: &str| json!({ "metadata": { "creationTimestamp": made, "annotations": { "storageclass.kubernetes.io/is-default-class": default } } });
    let lookup = cluster()
        .with(
            "storageclasses",
            "",
            "old",
            class("2025-01-01T00:00:00Z", "true"),
        )
        .with(
            "storageclasses",
            "",
            "new",
            class("2026-01-01T00:00:00Z", "true"),
        )
        .with(
            "storageclasses",
            "",
            "other",
            class("2027-01-01T00:00:00Z", "false"),
        );
    let claim = |class: Value| json!({ "metadata": {}, "spec": { "storageClassName": class } });
    for (given, expected) in [(Value::Null, "new"), (json!(""), ""), (json!("old"), "old")] {
        let out = run(&create("persistentvolumeclaims"), claim(given), &lookup)
            .await
            .unwrap();
        assert_eq!(out["spec"]["storageClassName"], expected);
        assert_eq!(
            out["metadata"]["finalizers"],
            json!(["kubernetes.io/pvc-protection"])
        );
    }
}
