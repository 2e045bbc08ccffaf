//! All controllers against a real API server in this process, under leader election: what users see of them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use keelson_apiserver::{ApiServer, Config as ServerConfig};
use keelson_auth::pki::Pki;
use keelson_auth::token::Ref;
use keelson_auth::{User, csr};
use keelson_controllers::{Config, run};
use keelson_store::embedded::{Embedded, Options};
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long something may take before the test gives up; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

struct Bed {
    server: ApiServer,
    client: Client,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
    _dir: tempfile::TempDir,
}

async fn bed(change: impl FnOnce(&mut Config)) -> Bed {
    let dir = tempfile::tempdir().expect("directory");
    let pki = Arc::new(Pki::load_or_create(&dir.path().join("pki")).expect("pki"));
    let store = Embedded::open(&dir.path().join("store.redb"), Options::default()).expect("store");
    let config = ServerConfig {
        pki_dir: dir.path().join("pki"),
        ..ServerConfig::default()
    };
    let server = ApiServer::start(config, Arc::new(store), pki.clone())
        .await
        .expect("server");
    let client = server.client(User::component("controllers", &["system:masters"]));
    let (signer, keys) = (pki.clone(), pki.clone());
    let mut config = Config::new(
        pki.ca_pem().to_owned(),
        Arc::new(move |account, secret| {
            let meta = &account.metadata;
            let account = Ref::new(
                meta.name.as_deref().unwrap_or(""),
                meta.uid.as_deref().unwrap_or(""),
            );
            let namespace = meta.namespace.as_deref().unwrap_or("");
            let secret = secret.metadata.name.as_deref().unwrap_or("");
            Ok(keys.token_keys().sign_legacy(namespace, &account, secret)?)
        }),
        Arc::new(move |pem, usage, lasts| {
            let lasts = lasts.unwrap_or(Duration::from_secs(365 * 24 * 3600));
            Ok(signer.sign_csr(pem, usage, lasts)?)
        }),
    );
    config.cluster_cidrs = vec!["10.42.0.0/16".parse().expect("network")];
    change(&mut config);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(run(client.clone(), config, shutdown.clone()));
    Bed {
        server,
        client,
        shutdown,
        running,
        _dir: dir,
    }
}

impl Bed {
    fn api(
        &self,
        api_version: &str,
        kind: &str,
        plural: &str,
        namespace: &str,
    ) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        match namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    fn pods(&self) -> Api<DynamicObject> {
        self.api("v1", "Pod", "pods", "default")
    }

    fn nodes(&self) -> Api<DynamicObject> {
        self.api("v1", "Node", "nodes", "")
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.expect("task").expect("controllers");
        self.server.stop().await;
    }
}

async fn create(api: &Api<DynamicObject>, object: Value) {
    let object: DynamicObject = serde_json::from_value(object).expect("object");
    api.create(&PostParams::default(), &object)
        .await
        .expect("create");
}

async fn list(api: &Api<DynamicObject>) -> Vec<Value> {
    let list = api.list(&Default::default()).await.expect("list");
    list.items
        .iter()
        .map(|o| serde_json::to_value(o).expect("json"))
        .collect()
}

async fn get(api: &Api<DynamicObject>, name: &str) -> Value {
    let found = api.get_opt(name).await.expect("get");
    found.map_or(Value::Null, |o| serde_json::to_value(o).expect("json"))
}

/// Asks until the answer is yes.
async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let asking = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, asking).await.is_err() {
        panic!("never: {what}");
    }
}

/// Plays the scheduler and the agent: all pods run on a node and are ready.
async fn start_pods(bed: &Bed, node: &str) {
    for (at, pod) in list(&bed.pods()).await.iter().enumerate() {
        let name = pod["metadata"]["name"].as_str().expect("name");
        let ip = format!("10.42.0.{}", at + 2);
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": ready}});
        if pod["spec"]["nodeName"].is_null() {
            let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
            let body = serde_json::to_vec(&binding).expect("json");
            let request =
                http::Request::post(format!("/api/v1/namespaces/default/pods/{name}/binding"))
                    .header("content-type", "application/json")
                    .body(body)
                    .expect("request");
            bed.client.request::<Value>(request).await.expect("bind");
        }
        bed.pods()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .expect("status");
    }
}

fn deployment(replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_behind_a_service_comes_and_goes() {
    let bed = bed(|_| ()).await;
    let (nodes, pods) = (bed.nodes(), bed.pods());
    create(
        &nodes,
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}),
    )
    .await;
    let deployments = bed.api("apps/v1", "Deployment", "deployments", "default");
    let sets = bed.api("apps/v1", "ReplicaSet", "replicasets", "default");
    let services = bed.api("v1", "Service", "services", "default");
    let endpoints = bed.api("v1", "Endpoints", "endpoints", "default");
    let slices = bed.api(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "endpointslices",
        "default",
    );
    let slice = || async {
        let all = list(&slices).await;
        all.into_iter()
            .find(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "web")
            .unwrap_or_default()
    };
    // Pods need their account first, as admission says.
    until("default account", || async {
        !get(
            &bed.api("v1", "ServiceAccount", "serviceaccounts", "default"),
            "default",
        )
        .await
        .is_null()
    })
    .await;
    create(&deployments, deployment(2)).await;
    create(&services, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}})).await;
    until("two pods", || async { list(&pods).await.len() == 2 }).await;
    start_pods(&bed, "n").await;
    until("two ready endpoints", || async {
        let slice = slice().await;
        let ready = slice["endpoints"].as_array().into_iter().flatten();
        ready.filter(|e| e["conditions"]["ready"] == true).count() == 2
            && slice["ports"][0]["port"] == 8080
    })
    .await;
    until("both addresses in Endpoints", || async {
        get(&endpoints, "web").await["subsets"][0]["addresses"]
            .as_array()
            .map(Vec::len)
            == Some(2)
    })
    .await;
    until("available", || async {
        get(&deployments, "web").await["status"]["availableReplicas"] == 2
    })
    .await;
    until("pod network", || async {
        get(&nodes, "n").await["spec"]["podCIDR"] == "10.42.0.0/24"
    })
    .await;

    deployments
        .delete("web", &DeleteParams::foreground())
        .await
        .expect("delete");
    until("pods asked to end", || async {
        list(&pods)
            .await
            .iter()
            .all(|p| !p["metadata"]["deletionTimestamp"].is_null())
    })
    .await;
    assert!(
        !get(&deployments, "web").await.is_null(),
        "the owner waits for its dependents"
    );
    for pod in list(&pods).await {
        let name = pod["metadata"]["name"].as_str().expect("name");
        pods.delete(name, &DeleteParams::default().grace_period(0))
            .await
            .expect("end");
    }
    until("no ReplicaSet", || async { list(&sets).await.is_empty() }).await;
    until("no Deployment", || async {
        get(&deployments, "web").await.is_null()
    })
    .await;
    until("no endpoint", || async {
        slice().await["endpoints"]
            .as_array()
            .is_none_or(Vec::is_empty)
    })
    .await;
    services
        .delete("web", &DeleteParams::default())
        .await
        .expect("delete");
    until("no Endpoints", || async {
        get(&endpoints, "web").await.is_null()
    })
    .await;
    until("no slice", || async { slice().await.is_null() }).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_emptied() {
    let bed = bed(|c| c.account_token_secrets = true).await;
    let namespaces = bed.api("v1", "Namespace", "namespaces", "");
    create(
        &namespaces,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}),
    )
    .await;
    let secrets = bed.api("v1", "Secret", "secrets", "team");
    let maps = bed.api("v1", "ConfigMap", "configmaps", "team");
    until("authority", || async {
        get(&maps, "kube-root-ca.crt").await["data"]["ca.crt"].is_string()
    })
    .await;
    until("token Secret", || async {
        list(&secrets)
            .await
            .iter()
            .any(|s| s["data"]["token"].is_string() && s["data"]["ca.crt"].is_string())
    })
    .await;
    create(
        &maps,
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "namespace": "team", "finalizers": ["example.com/hold"]}}),
    )
    .await;
    namespaces
        .delete("team", &DeleteParams::default())
        .await
        .expect("delete");
    until("says what it waits for", || async {
        let namespace = get(&namespaces, "team").await;
        let conditions = namespace["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions
            .iter()
            .any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
    })
    .await;
    let free = json!({"metadata": {"finalizers": null}});
    maps.patch("held", &PatchParams::default(), &Patch::Merge(&free))
        .await
        .expect("patch");
    until("gone", || async {
        get(&namespaces, "team").await.is_null()
    })
    .await;
    assert!(list(&maps).await.is_empty(), "nothing is left behind");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_loses_its_pods_and_a_removed_one_too() {
    let bed = bed(|c| {
        c.node_timing.grace = Duration::from_secs(2);
        c.node_timing.period = Duration::from_millis(200);
    })
    .await;
    let (nodes, pods) = (bed.nodes(), bed.pods());
    until("default account", || async {
        !get(
            &bed.api("v1", "ServiceAccount", "serviceaccounts", "default"),
            "default",
        )
        .await
        .is_null()
    })
    .await;
    for name in ["well", "lost"] {
        create(
            &nodes,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}),
        )
        .await;
    }
    // The well node goes on saying so.
    let heart = nodes.clone();
    let beating = tokio::spawn(async move {
        loop {
            let now = jiff::Timestamp::now();
            let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now.to_string()}]}});
            drop(
                heart
                    .patch_status("well", &PatchParams::default(), &Patch::Merge(&status))
                    .await,
            );
            tokio::time::sleep(Duration::from_millis(1000)).await;
        }
    });
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    nodes
        .patch_status("lost", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .expect("status");
    let tolerations = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]);
    create(
        &pods,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"tolerations": tolerations, "containers": [{"name": "c", "image": "i"}]}}),
    )
    .await;
    start_pods(&bed, "lost").await;
    until("Unknown", || async {
        let node = get(&nodes, "lost").await;
        let conditions = node["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions.iter().any(|c| {
            c["type"] == "Ready" && c["status"] == "Unknown" && c["reason"] == "NodeStatusUnknown"
        })
    })
    .await;
    until("pod not ready", || async {
        let pod = get(&pods, "p").await;
        let conditions = pod["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "False")
    })
    .await;
    until("evicted", || async {
        !get(&pods, "p").await["metadata"]["deletionTimestamp"].is_null()
    })
    .await;
    let taints = get(&nodes, "well").await["spec"]["taints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(
        taints.iter().all(|t| t["effect"] != "NoExecute"),
        "the well node is spared: {taints:?}"
    );
    nodes
        .delete("lost", &DeleteParams::default())
        .await
        .expect("delete");
    until("collected", || async { get(&pods, "p").await.is_null() }).await;
    beating.abort();
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_its_certificates() {
    let bed = bed(|_| ()).await;
    let node = User::component("system:node:n", &["system:nodes"]);
    let (_, pem) = csr::new("system:node:n", &["system:nodes"], &[]).expect("request");
    // Who asks is for the server to write, over whatever the request claims.
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "renewal"}, "spec": {"username": "system:node:n", "groups": ["system:nodes", "system:authenticated"], "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"], "request": k8s_openapi::ByteString(pem.into_bytes())}});
    let as_node = Api::<k8s_openapi::api::certificates::v1::CertificateSigningRequest>::all(
        bed.server.client(node),
    );
    let request = serde_json::from_value(request).expect("request");
    as_node
        .create(&PostParams::default(), &request)
        .await
        .expect("create");
    let requests = bed.api(
        "certificates.k8s.io/v1",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        "",
    );
    until("signed", || async {
        get(&requests, "renewal").await["status"]["certificate"].is_string()
    })
    .await;
    bed.stop().await;
}
