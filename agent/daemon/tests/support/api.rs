//! As much of the API as an agent needs, in memory: get, list, watch, create, replace, merge patch, delete.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Answer = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;
type Key = (String, String, String);

#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

struct Inner {
    objects: Mutex<(u64, BTreeMap<Key, Value>)>,
    changes: broadcast::Sender<(String, Value)>,
}

/// What a path names.
struct Target {
    resource: String,
    namespace: String,
    name: String,
    sub: String,
}

fn parse(path: &str) -> Target {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    parts.drain(..if parts[0] == "api" { 2 } else { 3 });
    let mut namespace = String::new();
    if parts[0] == "namespaces" && parts.len() > 2 {
        namespace = parts[1].into();
        parts.drain(..2);
    }
    let at = |i: usize| parts.get(i).map(|s| (*s).to_owned()).unwrap_or_default();
    Target {
        resource: at(0),
        namespace,
        name: at(1),
        sub: at(2),
    }
}

impl Api {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            objects: Mutex::default(),
            changes: broadcast::channel(10_000).0,
        }))
    }

    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.0
            .objects
            .lock()
            .unwrap()
            .1
            .get(&(resource.into(), namespace.into(), name.into()))
            .cloned()
    }

    pub(crate) fn list(&self, resource: &str) -> Vec<Value> {
        let objects = self.0.objects.lock().unwrap();
        objects
            .1
            .iter()
            .filter(|(k, _)| k.0 == resource)
            .map(|(_, v)| v.clone())
            .collect()
    }

    pub(crate) fn put(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        mut object: Value,
    ) -> Value {
        let mut objects = self.0.objects.lock().unwrap();
        objects.0 += 1;
        object["metadata"]["resourceVersion"] = json!(objects.0.to_string());
        object["metadata"]["name"] = json!(name);
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("{:08x}-{}", std::process::id(), objects.0));
        }
        let new = objects
            .1
            .insert(
                (resource.into(), namespace.into(), name.into()),
                object.clone(),
            )
            .is_none();
        let kind = if new { "ADDED" } else { "MODIFIED" };
        let _ = self
            .0
            .changes
            .send((resource.into(), json!({"type": kind, "object": object})));
        object
    }

    pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let mut objects = self.0.objects.lock().unwrap();
        objects.0 += 1;
        let mut gone = objects
            .1
            .remove(&(resource.into(), namespace.into(), name.into()))?;
        gone["metadata"]["resourceVersion"] = json!(objects.0.to_string());
        let _ = self
            .0
            .changes
            .send((resource.into(), json!({"type": "DELETED", "object": gone})));
        Some(gone)
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let target = parse(request.uri().path());
        let query = request.uri().query().unwrap_or_default().to_owned();
        let method = request.method().clone();
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if method == Method::GET && query.contains("watch=true") {
            return self.watch(&target.resource);
        }
        match self.act(&method, target, body) {
            Some(value) => reply(StatusCode::OK, &value),
            None => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "not found", "reason": "NotFound", "code": 404});
                reply(StatusCode::NOT_FOUND, &status)
            }
        }
    }

    fn act(&self, method: &Method, t: Target, body: Value) -> Option<Value> {
        match *method {
            Method::GET if t.name.is_empty() => {
                let version = self.0.objects.lock().unwrap().0;
                Some(
                    json!({"kind": "List", "apiVersion": "v1", "items": self.list(&t.resource),
                    "metadata": {"resourceVersion": version.to_string()}}),
                )
            }
            Method::GET => self.get(&t.resource, &t.namespace, &t.name),
            Method::POST if t.sub == "token" => {
                let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
                Some(
                    json!({"metadata": {}, "spec": {"audiences": []}, "status": {"token": "a.b.c", "expirationTimestamp": until}}),
                )
            }
            Method::POST => {
                let name = body["metadata"]["name"].as_str()?.to_owned();
                Some(self.put(&t.resource, &t.namespace, &name, body))
            }
            Method::PUT => Some(self.put(&t.resource, &t.namespace, &t.name, body)),
            Method::PATCH => {
                let mut object = self.get(&t.resource, &t.namespace, &t.name)?;
                merge(&mut object, &body);
                Some(self.put(&t.resource, &t.namespace, &t.name, object))
            }
            Method::DELETE => self.remove(&t.resource, &t.namespace, &t.name),
            _ => None,
        }
    }

    fn watch(&self, resource: &str) -> Response<Answer> {
        let resource = resource.to_owned();
        let changes = tokio_stream(self.0.changes.subscribe()).filter_map(move |(of, event)| {
            let line = (of == resource).then(|| {
                Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::from(format!("{event}\n"))))
            });
            async move { line }
        });
        Response::new(StreamBody::new(changes.boxed()).boxed_unsync())
    }
}

fn tokio_stream(
    rx: broadcast::Receiver<(String, Value)>,
) -> impl futures::Stream<Item = (String, Value)> {
    futures::stream::unfold(rx, |mut rx| async move {
        rx.recv().await.ok().map(|item| (item, rx))
    })
}

fn reply(status: StatusCode, value: &Value) -> Response<Answer> {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

fn merge(object: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (k, v) in patch {
        if v.is_null() {
            object.as_object_mut().unwrap().remove(k);
        } else {
            merge(&mut object[k.as_str()], v);
        }
    }
}
