//! What a cluster has from its first start: namespaces, default roles, priority classes and the Service
//! of the API server itself, and that of the cluster's DNS. Made through the server's own router, as anybody would make it.

mod dns;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use keelson_api::{Resource, Scope};
use keelson_auth::User;
use keelson_auth::rbac::{Rule, covers, rules_of};
use serde_json::{Value, json};

use crate::Error;
use crate::allocate::Pools;
use crate::object::{self, text};
use crate::router::Router;
use crate::state::Server;

/// The annotation that keeps a default role as its owner made it, when `false`.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io~1autoupdate";
/// Who writes.
const AGENT: &str = "keelson-apiserver";

/// The API server as a user.
pub(crate) fn user() -> User {
    User::component("system:apiserver", &["system:masters"])
}

/// Makes what is missing and mends default roles that lack rules.
pub(crate) async fn run(server: &Server, router: &Router) -> Result<(), Error> {
    // Before all else, once in a cluster's life: who deletes or changes the class has it so.
    let system = "/api/v1/namespaces/kube-system";
    if call(router, Method::GET, system, None).await?.0 == StatusCode::NOT_FOUND {
        ensure(server, router, local_path(), |_, _| None).await?;
    }
    for object in keelson_auth::defaults::objects() {
        ensure(server, router, object, mended).await?;
    }
    own_service(server, router).await?;
    keep_dns(server, router).await;
    Ok(())
}

/// A cluster without this Service is one all the same: somebody may have taken its address.
async fn keep_dns(server: &Server, router: &Router) {
    if let Err(error) = dns::keep(server, router).await {
        tracing::warn!(%error, "keep the Service of the cluster's DNS");
    }
}

/// The class of volumes that are directories of a node (`keelson_controllers::volume::LocalPath`).
fn local_path() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "local-path",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "keelson.io/local-path",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// Makes the Services of the API server and of the cluster's DNS again whenever somebody deletes them, until the server
/// stops.
pub(crate) async fn keep(server: Arc<Server>) {
    let router = Router::new(server.clone(), Some(user()));
    loop {
        tokio::select! {
            () = tokio::time::sleep(KEEP) => {}
            () = server.stopping.cancelled() => return,
        }
        if let Err(error) = own_service(&server, &router).await {
            tracing::warn!(%error, "keep the Service of the API server");
        }
        keep_dns(&server, &router).await;
    }
}

/// How often these are looked after (upstream's interval).
const KEEP: Duration = Duration::from_secs(10);

async fn own_service(server: &Server, router: &Router) -> Result<(), Error> {
    let secure = server.config.bind.port();
    let (service, endpoints, slice) =
        kubernetes(&server.config.pools(), server.config.advertise, secure);
    ensure(server, router, service, |_, _| None).await?;
    ensure(server, router, endpoints, |have, want| {
        replaced(have, want, &["subsets"])
    })
    .await?;
    ensure(server, router, slice, |have, want| {
        replaced(have, want, &["endpoints", "ports"])
    })
    .await
}

/// Creates an object, or changes the one that is there as `mend` says.
async fn ensure(
    server: &Server,
    router: &Router,
    object: Value,
    mend: impl Fn(&Value, &Value) -> Option<Value>,
) -> Result<(), Error> {
    let row = row_of(server, &object).ok_or_else(|| failed(&object, "no such kind"))?;
    let collection = collection(&row, object::namespace(&object));
    let one = format!("{collection}/{}", object::name(&object));
    let (code, answer) = call(router, Method::GET, &one, None).await?;
    let (code, answer) = match code {
        StatusCode::NOT_FOUND => call(router, Method::POST, &collection, Some(&object)).await?,
        StatusCode::OK => match mend(&answer, &object) {
            Some(mended) => call(router, Method::PUT, &one, Some(&mended)).await?,
            None => return Ok(()),
        },
        _ => (code, answer),
    };
    if code.is_success() || code == StatusCode::CONFLICT {
        return Ok(());
    }
    Err(failed(&object, text(&answer, "/message")))
}

fn failed(object: &Value, why: &str) -> Error {
    let (kind, name) = (text(object, "/kind"), object::name(object));
    Error::Bootstrap(format!("{kind} {name:?}: {why}"))
}

fn row_of(server: &Server, object: &Value) -> Option<Arc<Resource>> {
    let (api_version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
    server
        .table()
        .rows()
        .find(|r| r.kind == kind && r.api_version() == api_version)
        .cloned()
}

fn collection(row: &Resource, namespace: &str) -> String {
    let root = if row.group.is_empty() {
        "/api"
    } else {
        "/apis"
    };
    let base = format!("{root}/{}", row.api_version());
    match row.scope {
        Scope::Cluster => format!("{base}/{}", row.plural),
        Scope::Namespaced => format!("{base}/namespaces/{namespace}/{}", row.plural),
    }
}

/// Sends a request through the router.
async fn call(
    router: &Router,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Value), Error> {
    let body = body.map_or_else(Body::empty, |b| Body::from(b.to_string()));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::USER_AGENT, AGENT)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|e| Error::Bootstrap(e.to_string()))?;
    let response = router.answer(request).await;
    let code = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    let bytes = bytes.map_err(|e| Error::Bootstrap(e.to_string()))?;
    Ok((
        code,
        serde_json::from_slice(&bytes).unwrap_or_else(|_| respond_text(&bytes)),
    ))
}

fn respond_text(bytes: &[u8]) -> Value {
    json!({"message": String::from_utf8_lossy(bytes)})
}

/// A default role with the rules it lacks, a default binding with the subjects it lacks.
fn mended(have: &Value, want: &Value) -> Option<Value> {
    let by_hand =
        have.pointer(&format!("/metadata/annotations/{AUTO_UPDATE}")) == Some(&json!("false"));
    if by_hand || !text(want, "/apiVersion").starts_with("rbac.") {
        return None;
    }
    let mut new = have.clone();
    let map = new.as_object_mut()?;
    if want.get("roleRef").is_some() {
        let mut subjects = object::items(have, "/subjects").to_vec();
        let before = subjects.len();
        subjects.extend(
            object::items(want, "/subjects")
                .iter()
                .filter(|s| !object::items(have, "/subjects").contains(s))
                .cloned(),
        );
        map.insert("subjects".into(), json!(subjects));
        return (subjects.len() > before).then_some(new);
    }
    let (mine, theirs): (Vec<Rule>, Vec<Rule>) = (rules_of(have), rules_of(want));
    if want.get("aggregationRule").is_some() || covers(&mine, &theirs) {
        return None;
    }
    let lacking = keelson_auth::rbac::missing(&mine, &theirs);
    let all: Vec<Rule> = mine.into_iter().chain(lacking).collect();
    map.insert("rules".into(), json!(all));
    Some(new)
}

fn replaced(have: &Value, want: &Value, fields: &[&str]) -> Option<Value> {
    if fields.iter().all(|f| have.get(*f) == want.get(*f)) {
        return None;
    }
    let mut new = have.clone();
    for field in fields {
        new[*field] = want.get(*field).cloned().unwrap_or_default();
    }
    Some(new)
}

/// The Service `kubernetes`, its Endpoints and its EndpointSlice.
fn kubernetes(pools: &Pools, advertise: std::net::IpAddr, secure: u16) -> (Value, Value, Value) {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let meta = json!({"name": "kubernetes", "namespace": "default", "labels": labels});
    let first = pools.first_address().map(|ip| ip.to_string());
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": meta,
        "spec": {
            "type": "ClusterIP",
            "clusterIP": first,
            "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": secure}],
        },
    });
    let port = json!([{"name": "https", "port": secure, "protocol": "TCP"}]);
    let mirrored = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": mirrored},
        "subsets": [{"addresses": [{"ip": advertise.to_string()}], "ports": port}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if advertise.is_ipv6() { "IPv6" } else { "IPv4" },
        "endpoints": [{"addresses": [advertise.to_string()], "conditions": {"ready": true}}],
        "ports": port,
    });
    (service, endpoints, slice)
}
