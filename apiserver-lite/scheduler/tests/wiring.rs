//! The whole scheduler against a fake API server that keeps a few objects in memory: it lists and watches them, binds
//! pods, and takes events and status patches.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use keelson_scheduler::{Config, run};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

type Answer = UnsyncBoxBody<Bytes, std::io::Error>;

/// Objects by plural name, and every write that came.
struct Server {
    lists: Mutex<std::collections::BTreeMap<&'static str, Vec<Value>>>,
    /// Watch lines to send, of pods and nodes.
    changes: watch::Sender<Vec<(&'static str, Value)>>,
    writes: watch::Sender<Vec<(String, Value)>>,
}

impl Server {
    fn new(lists: impl IntoIterator<Item = (&'static str, Vec<Value>)>) -> Arc<Self> {
        let (changes, _) = watch::channel(Vec::new());
        let (writes, _) = watch::channel(Vec::new());
        Arc::new(Self {
            lists: Mutex::new(lists.into_iter().collect()),
            changes,
            writes,
        })
    }

    fn client(self: &Arc<Self>) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::io::Error>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let plural = path.rsplit('/').next().unwrap_or_default().to_owned();
        if parts.method != Method::GET {
            let body = body.collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap();
            self.writes
                .send_modify(|writes| writes.push((path, body.clone())));
            // A pod's patch is answered by the pod, the rest by itself.
            let name = json!({"metadata": {"name": "p"}});
            return json_body(if parts.method == Method::PATCH {
                name
            } else {
                body
            });
        }
        if parts.uri.query().unwrap_or_default().contains("watch=true") {
            return Response::new(self.lines(plural));
        }
        let items = self
            .lists
            .lock()
            .unwrap()
            .get(plural.as_str())
            .cloned()
            .unwrap_or_default();
        json_body(json!({"metadata": {"resourceVersion": "1"}, "items": items}))
    }

    fn lines(&self, plural: String) -> Answer {
        let changes = self.changes.subscribe();
        let lines = futures::stream::unfold((changes, 0), move |(mut changes, sent)| {
            let plural = plural.clone();
            async move {
                changes.wait_for(|all| all.len() > sent).await.ok()?;
                let (of, event) = changes.borrow()[sent].clone();
                let line = if of == plural {
                    format!("{event}\n")
                } else {
                    String::new()
                };
                Some((line, (changes, sent + 1)))
            }
        });
        let frames = lines.map(|line| Ok(Frame::data(Bytes::from(line))));
        StreamBody::new(frames).boxed_unsync()
    }

    fn change(&self, of: &'static str, event: Value) {
        self.changes
            .send_modify(|changes| changes.push((of, event)));
    }

    /// The first write to a path that ends so, and says so somewhere.
    async fn written(&self, end: &str, text: &str) -> Value {
        let mut writes = self.writes.subscribe();
        let find = |writes: &Vec<(String, Value)>| {
            let mut hits = writes.iter();
            hits.find(|(path, body)| path.ends_with(end) && body.to_string().contains(text))
                .cloned()
        };
        let found = writes.wait_for(|writes| find(writes).is_some());
        let found = tokio::time::timeout(Duration::from_secs(20), found).await;
        let found =
            found.unwrap_or_else(|_| panic!("no {end} with {text} in {:?}", self.writes.borrow()));
        find(&found.unwrap()).unwrap().1
    }
}

fn json_body(value: Value) -> Response<Answer> {
    let response = Response::builder().header("content-type", "application/json");
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {});
    response.body(body.boxed_unsync()).unwrap()
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": "2"},
        "spec": {"schedulerName": "default-scheduler",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn node(name: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "resourceVersion": "2"},
        "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}})
}

#[tokio::test]
async fn pods_are_bound_refused_and_tried_again() {
    let server = Server::new([
        ("nodes", vec![node("small", "1")]),
        ("pods", vec![pod("first", "500m")]),
    ]);
    let stop = CancellationToken::new();
    let scheduler = tokio::spawn(run(server.client(), Config::default(), stop.clone()));

    let binding = server
        .written("/namespaces/ns/pods/first/binding", "")
        .await;
    assert_eq!(binding["target"]["name"], "small");
    assert_eq!(binding["metadata"]["uid"], "uid-first");
    let event = server.written("/events", "Scheduled").await;
    assert_eq!(event["note"], "Successfully assigned ns/first to small");
    assert_eq!(
        (&event["type"], &event["regarding"]["uid"]),
        (&json!("Normal"), &json!("uid-first"))
    );

    // The watch has not shown the first one's binding; its room is taken all the same.
    server.change(
        "pods",
        json!({"type": "ADDED", "object": pod("second", "600m")}),
    );
    let why = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
               1 No preemption victims found for incoming pod.";
    let status = server.written("/pods/second/status", "PodScheduled").await;
    let condition = &status["status"]["conditions"][0];
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("False"), &json!("Unschedulable"))
    );
    assert_eq!(condition["message"], why);
    let event = server.written("/events", "FailedScheduling").await;
    assert_eq!(
        (&event["type"], &event["note"]),
        (&json!("Warning"), &json!(why))
    );

    // Pods of other schedulers and gated ones are left alone.
    let mut other = pod("other", "1m");
    other["spec"]["schedulerName"] = json!("another");
    let mut gated = pod("gated", "1m");
    gated["spec"]["schedulingGates"] = json!([{"name": "g"}]);
    server.change("pods", json!({"type": "ADDED", "object": other}));
    server.change("pods", json!({"type": "ADDED", "object": gated}));
    server.change(
        "nodes",
        json!({"type": "ADDED", "object": node("large", "4")}),
    );
    let binding = server.written("/pods/second/binding", "").await;
    assert_eq!(binding["target"]["name"], "large");
    let bound = |path: &str| path.ends_with("other/binding") || path.ends_with("gated/binding");
    assert!(!server.writes.borrow().iter().any(|(path, _)| bound(path)));

    stop.cancel();
    scheduler.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lower_priority_pod_gives_way() {
    let mut low = pod("low", "800m");
    low["spec"]["nodeName"] = json!("small");
    let mut high = pod("high", "500m");
    high["spec"]["priority"] = json!(100);
    let server = Server::new([
        ("nodes", vec![node("small", "1")]),
        ("pods", vec![low.clone(), high]),
    ]);
    let stop = CancellationToken::new();
    let scheduler = tokio::spawn(run(server.client(), Config::default(), stop.clone()));

    let deletion = server.written("/namespaces/ns/pods/low", "").await;
    assert_eq!(deletion["preconditions"]["uid"], "uid-low");
    server.written("/pods/low/status", "DisruptionTarget").await;
    let status = server
        .written("/pods/high/status", "nominatedNodeName")
        .await;
    assert_eq!(status["status"]["nominatedNodeName"], "small");
    let event = server.written("/events", "\"Preempted\"").await;
    assert_eq!(event["note"], "Preempted by pod uid-high on node small");

    server.change("pods", json!({"type": "DELETED", "object": low}));
    assert_eq!(
        server.written("/pods/high/binding", "").await["target"]["name"],
        "small"
    );
    stop.cancel();
    scheduler.await.unwrap().unwrap();
}
