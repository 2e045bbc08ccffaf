//! Requests that go on to a node's agent: a TLS server here plays the agent.
#![allow(clippy::unwrap_used)]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use keelson_auth::pki::Pki;
use keelson_serving::Identity;
use serde_json::json;
use support::{Bed, Caller, bed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const DAY: Duration = Duration::from_secs(86_400);
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Answers with what was asked, and by whom; commands get their input back.
async fn agent(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().contains_key("upgrade") {
        tokio::spawn(async move {
            let stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
            let (mut read, mut write) = tokio::io::split(stream);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        let switching = Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", "echo");
        return Ok(switching.body(Full::default()).unwrap());
    }
    let identity = request.extensions().get::<Identity>().unwrap();
    let user = identity
        .certificates
        .first()
        .and_then(|c| keelson_auth::user_from_cert(c, jiff::Timestamp::now()));
    let text = json!({"uri": request.uri().to_string(), "user": user.map(|u| u.name)}).to_string();
    Ok(Response::new(Full::from(text)))
}

/// A node whose agent is ours, and a pod of two containers without a node.
async fn scene(bed: &Bed, c: &Caller) -> CancellationToken {
    let pki = Pki::load_or_create(&bed.dir.path().join("pki")).unwrap();
    let issued = pki
        .issue_server("agent", &["127.0.0.1".to_owned()], DAY)
        .unwrap();
    let tls = keelson_serving::server_config(&issued.cert_pem, &issued.key_pem, Some(pki.ca_pem()))
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = CancellationToken::new();
    tokio::spawn(keelson_serving::serve(
        listener,
        tls,
        tower::service_fn(agent),
        shutdown.clone(),
    ));

    let (code, node) = c
        .post("/api/v1/nodes", json!({"metadata": {"name": "n"}}))
        .await;
    assert_eq!(code, 201, "{node}");
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let (code, node) = c
        .patch("/api/v1/nodes/n/status", "merge-patch+json", status)
        .await;
    assert_eq!(code, 200, "{node}");
    let account = json!({"metadata": {"name": "default"}});
    assert_eq!(
        c.post("/api/v1/namespaces/default/serviceaccounts", account)
            .await
            .0,
        201
    );
    let two = json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]},
    });
    let (code, pod) = c.post(PODS, two).await;
    assert_eq!(code, 201, "{pod}");

    shutdown
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_from_the_pods_node() {
    let bed = bed().await;
    let c = bed.admin();
    let shutdown = scene(&bed, &c).await;
    let (code, refused) = c.get(&format!("{PODS}/p/log?container=a")).await;
    assert_eq!(
        (code, &refused["message"]),
        (400, &json!("pod p does not have a host assigned"))
    );
    let binding = json!({"target": {"kind": "Node", "name": "n"}});
    let (code, bound) = c.post(&format!("{PODS}/p/binding"), binding.clone()).await;
    assert_eq!(code, 201, "{bound}");
    assert_eq!(
        c.post(&format!("{PODS}/p/binding"), binding).await.0,
        409,
        "assigned already"
    );

    let (code, refused) = c.get(&format!("{PODS}/p/log")).await;
    assert_eq!(code, 400);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .starts_with("a container name must be specified for pod p")
    );
    let (code, answer) = c
        .get(&format!("{PODS}/p/log?container=b&follow=true"))
        .await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(
        answer["uri"],
        "/containerLogs/default/p/b?container=b&follow=true"
    );
    assert_eq!(answer["user"], "kube-apiserver-kubelet-client");
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_is_spliced_both_ways() {
    let bed = bed().await;
    let c = bed.admin();
    let shutdown = scene(&bed, &c).await;
    let binding = json!({"target": {"kind": "Node", "name": "n"}});
    assert_eq!(c.post(&format!("{PODS}/p/binding"), binding).await.0, 201);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (server, stop) = (bed.server.clone(), shutdown.clone());
    tokio::spawn(async move { server.serve_on(listener, stop).await });

    let pki = Pki::load_or_create(&bed.dir.path().join("pki")).unwrap();
    let admin = pki.issue_client("admin", &["system:masters"], DAY).unwrap();
    let identity = Some((admin.cert_pem.as_str(), admin.key_pem.as_str()));
    let mut tls = (*keelson_serving::client_config(pki.ca_pem(), identity).unwrap()).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let stream = tls.connect(address.ip().into(), tcp).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::post(format!(
        "{PODS}/p/exec?container=a&command=cat&stdin=true&stdout=true"
    ))
    .header("host", "api")
    .header("connection", "Upgrade")
    .header("upgrade", "echo");
    let response = sender
        .send_request(request.body(Full::<Bytes>::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let sent = vec![7u8; 1 << 20];
    let mut received = vec![0u8; sent.len()];
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let send = async {
        write.write_all(&sent).await.unwrap();
        write.flush().await.unwrap();
    };
    let ((), got) = tokio::join!(send, read.read_exact(&mut received));
    got.unwrap();
    assert!(sent == received, "every byte came back");
    shutdown.cancel();
}
