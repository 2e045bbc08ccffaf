//! An API server over an embedded store in a temporary directory, spoken to in process.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use http::Request;
use keelson_apiserver::{ApiServer, Config};
use keelson_auth::User;
use keelson_auth::pki::Pki;
use keelson_store::embedded::{Embedded, Options};
use kube::client::Body;
use serde_json::Value;
use tempfile::TempDir;

/// A server and where its files are.
pub struct Bed {
    pub server: ApiServer,
    pub store: Arc<Embedded>,
    pub dir: TempDir,
}

/// Starts a server with nothing in its store.
pub async fn bed() -> Bed {
    again(tempfile::tempdir().unwrap()).await
}

/// Starts a server on what is in a directory.
pub async fn again(dir: TempDir) -> Bed {
    let pki = Arc::new(Pki::load_or_create(&dir.path().join("pki")).unwrap());
    let store = Arc::new(open(dir.path()).await);
    let config = Config {
        pki_dir: dir.path().join("pki"),
        ..Config::default()
    };
    let server = ApiServer::start(config, store.clone(), pki).await.unwrap();
    Bed { server, store, dir }
}

/// Opens the store as soon as a server before has let go of it.
async fn open(dir: &Path) -> Embedded {
    loop {
        match Embedded::open(&dir.join("store.redb"), Options::default()) {
            Ok(store) => return store,
            Err(error) if error.to_string().contains("another process") => {
                tokio::task::yield_now().await
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Bed {
    /// Somebody who may do everything.
    pub fn admin(&self) -> Caller {
        self.user(User::component("admin", &["system:masters"]))
    }

    /// Anybody.
    pub fn user(&self, user: User) -> Caller {
        Caller {
            client: self.server.client(user),
        }
    }
}

/// Sends requests and reads answers as JSON.
#[derive(Clone)]
pub struct Caller {
    pub client: kube::Client,
}

impl Caller {
    /// Code and body of an answer.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self
            .client
            .send(request.body(Body::from(body)).unwrap())
            .await
            .unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect_bytes().await.unwrap();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, &[], Vec::new()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(
            "POST",
            path,
            &[("content-type", "application/json")],
            body.to_string().into(),
        )
        .await
    }

    pub async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(
            "PUT",
            path,
            &[("content-type", "application/json")],
            body.to_string().into(),
        )
        .await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> (u16, Value) {
        let kind = format!("application/{kind}");
        self.send(
            "PATCH",
            path,
            &[("content-type", &kind)],
            body.to_string().into(),
        )
        .await
    }

    pub async fn delete(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(
            "DELETE",
            path,
            &[("content-type", "application/json")],
            body.to_string().into(),
        )
        .await
    }

    /// The first `count` events of a watch: type and object.
    pub async fn watch(&self, path: &str, count: usize) -> Vec<(String, Value)> {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = self.client.send(request).await.unwrap();
        assert!(response.status().is_success(), "{}", response.status());
        let mut frames = http_body_util::BodyStream::new(response.into_body());
        let mut buffer = Vec::new();
        let mut events = Vec::new();
        while events.len() < count {
            let Some(frame) = frames.next().await else {
                break;
            };
            buffer.extend_from_slice(frame.unwrap().data_ref().unwrap());
            while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                events.push((
                    event["type"].as_str().unwrap().to_owned(),
                    event["object"].clone(),
                ));
            }
        }
        events
    }
}
