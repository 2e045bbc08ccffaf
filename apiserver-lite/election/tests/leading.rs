//! Candidates against a Lease kept in memory behind a fake API server.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use keelson_election::{Error, Options, run_leading};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// One Lease with a resourceVersion, checked on every write.
#[derive(Default)]
struct Server {
    lease: Mutex<Option<Value>>,
    is_down: AtomicBool,
}

impl Server {
    fn client(self: &Arc<Self>) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let (status, answer) = server.answer(&method, serde_json::from_slice(&body).ok());
                let response = Response::builder()
                    .status(status)
                    .header("content-type", "application/json");
                Ok::<_, std::io::Error>(
                    response
                        .body(Body::from(answer.to_string().into_bytes()))
                        .unwrap(),
                )
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &Method, body: Option<Value>) -> (StatusCode, Value) {
        let refuse = |status: StatusCode, reason: &str| {
            let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason,
                "reason": reason, "code": status.as_u16()});
            (status, body)
        };
        if self.is_down.load(Ordering::SeqCst) {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        let mut lease = self.lease.lock().unwrap();
        let version = |lease: &Value| {
            lease["metadata"]["resourceVersion"]
                .as_str()
                .map(str::to_owned)
        };
        let now = lease.as_ref().and_then(version);
        let Some(mut new) = body else {
            return lease
                .clone()
                .map_or(refuse(StatusCode::NOT_FOUND, "NotFound"), |lease| {
                    (StatusCode::OK, lease)
                });
        };
        match *method {
            Method::POST if now.is_some() => refuse(StatusCode::CONFLICT, "AlreadyExists"),
            Method::PUT if version(&new) != now => refuse(StatusCode::CONFLICT, "Conflict"),
            _ => {
                let next = now.and_then(|v| v.parse::<u64>().ok()).unwrap_or_default() + 1;
                new["metadata"]["resourceVersion"] = json!(next.to_string());
                *lease = Some(new.clone());
                (StatusCode::OK, new)
            }
        }
    }

    fn holder(&self) -> Value {
        self.lease.lock().unwrap().as_ref().unwrap()["spec"]["holderIdentity"].clone()
    }
}

fn options(identity: &str) -> Options {
    Options {
        lease_duration: Duration::from_secs(1),
        renew_deadline: Duration::from_millis(500),
        retry_period: Duration::from_millis(50),
        ..Options::new("kube-system", "test", identity)
    }
}

#[tokio::test]
async fn one_works_at_a_time_and_the_next_follows() {
    let server = Arc::new(Server::default());
    let (working, turns) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let started = Arc::new(Notify::new());
    let candidates: Vec<_> = (0..3)
        .map(|number| {
            let (working, turns, started) = (working.clone(), turns.clone(), started.clone());
            let stop = CancellationToken::new();
            let leading = run_leading(
                server.client(),
                options(&format!("candidate-{number}")),
                stop.clone(),
                async move |token: CancellationToken| {
                    assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    turns.fetch_add(1, Ordering::SeqCst);
                    started.notify_one();
                    token.cancelled().await;
                    // Winding up takes longer than a retry: nobody may start meanwhile.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    working.fetch_sub(1, Ordering::SeqCst);
                },
            );
            (format!("candidate-{number}"), stop, tokio::spawn(leading))
        })
        .collect();
    let mut left = candidates;
    while !left.is_empty() {
        started.notified().await;
        let holder = server.holder();
        let leader = left
            .iter()
            .position(|(name, ..)| holder == name.as_str())
            .unwrap();
        let (_, stop, task) = left.remove(leader);
        stop.cancel();
        task.await.unwrap().unwrap();
    }
    assert_eq!(turns.load(Ordering::SeqCst), 3);
    assert_eq!(server.holder(), "");
}

#[tokio::test]
async fn who_cannot_renew_stops_working() {
    let server = Arc::new(Server::default());
    let is_stopped = Arc::new(AtomicBool::new(false));
    let (seen, down) = (is_stopped.clone(), server.clone());
    let ended = run_leading(
        server.client(),
        options("me"),
        CancellationToken::new(),
        async move |token: CancellationToken| {
            down.is_down.store(true, Ordering::SeqCst);
            token.cancelled().await;
            seen.store(true, Ordering::SeqCst);
        },
    )
    .await;
    assert!(matches!(ended, Err(Error::Lost { .. })));
    assert!(is_stopped.load(Ordering::SeqCst));
    assert_eq!(server.holder(), "me");
}

#[tokio::test]
async fn a_silent_leader_is_followed_and_a_robbed_one_gives_up() {
    let server = Arc::new(Server::default());
    let silent = json!({"metadata": {"name": "test", "resourceVersion": "7"},
        "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 1, "leaseTransitions": 4}});
    *server.lease.lock().unwrap() = Some(silent);
    let robber = server.clone();
    let ended = run_leading(
        server.client(),
        options("me"),
        CancellationToken::new(),
        async move |token: CancellationToken| {
            let mut lease = robber.lease.lock().unwrap().clone().unwrap();
            assert_eq!(lease["spec"]["leaseTransitions"], 5);
            lease["spec"]["holderIdentity"] = json!("robber");
            lease["metadata"]["resourceVersion"] = json!("1000");
            *robber.lease.lock().unwrap() = Some(lease);
            token.cancelled().await;
        },
    )
    .await;
    assert!(matches!(ended, Err(Error::Lost { .. })));
    assert_eq!(server.holder(), "robber");
}
