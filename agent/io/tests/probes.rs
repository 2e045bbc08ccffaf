//! Probes against real servers on loopback.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use keelson_agent_io::probes::{Probe, ProbeResult, Prober};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;

const LONG: Duration = Duration::from_secs(30);

fn http(port: u16, path: &str) -> Probe {
    Probe::Http {
        tls: false,
        host: "127.0.0.1".into(),
        port,
        path: path.into(),
        headers: Vec::new(),
    }
}

fn failed(message: impl Into<String>) -> ProbeResult {
    ProbeResult::Failure(message.into())
}

type Seen = Arc<Mutex<Vec<HeaderMap>>>;

/// A server whose path says what to answer: `/status/500`, `/redirect?to=...`, `/hang`.
async fn server(tls: Option<tokio_rustls::TlsAcceptor>) -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let log = seen.clone();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (tls, log) = (tls.clone(), log.clone());
            tokio::spawn(async move {
                let service = service_fn(move |r| answer(r, log.clone()));
                let builder = hyper::server::conn::http1::Builder::new();
                match tls {
                    None => _ = builder.serve_connection(TokioIo::new(tcp), service).await,
                    Some(tls) => {
                        _ = builder
                            .serve_connection(TokioIo::new(tls.accept(tcp).await.unwrap()), service)
                            .await
                    }
                }
            });
        }
    });
    (port, seen)
}

async fn answer(
    request: Request<Incoming>,
    seen: Seen,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    seen.lock().unwrap().push(request.headers().clone());
    let uri = request.uri();
    let response = Response::builder();
    let to = uri.query().and_then(|q| q.strip_prefix("to="));
    let response = match (uri.path(), to) {
        ("/hang", _) => std::future::pending().await,
        ("/redirect", Some(to)) => response.status(302).header("location", to),
        (path, _) => response.status(
            path.rsplit('/')
                .next()
                .unwrap()
                .parse::<u16>()
                .unwrap_or(200),
        ),
    };
    Ok(response
        .body(Full::new(Bytes::from(vec![b'x'; 100_000])))
        .unwrap())
}

#[tokio::test]
async fn http_status_and_redirects_decide() {
    let (port, _) = server(None).await;
    let prober = Prober::new();
    let looped = format!("Get \"http://127.0.0.1:{port}/redirect?to=/redirect\"");
    let body = "x".repeat(10 << 10);
    let elsewhere = format!("Probe terminated redirects, Response body: {body}");
    let table = [
        ("/status/200", ProbeResult::Success),
        ("status/204", ProbeResult::Success),
        ("/status/399", ProbeResult::Success),
        (
            "/status/400",
            failed("HTTP probe failed with statuscode: 400"),
        ),
        (
            "/status/500",
            failed("HTTP probe failed with statuscode: 500"),
        ),
        ("/redirect?to=/status/200", ProbeResult::Success),
        (
            "/redirect?to=status/503",
            failed("HTTP probe failed with statuscode: 503"),
        ),
        (
            "/redirect?to=http://192.0.2.1/",
            ProbeResult::Warning(elsewhere),
        ),
    ];
    for (path, want) in table {
        assert_eq!(prober.run(&http(port, path), LONG).await, want, "{path}");
    }
    let own = format!("/redirect?to=http://127.0.0.1:{port}/status/500");
    assert_eq!(
        prober.run(&http(port, &own), LONG).await,
        failed("HTTP probe failed with statuscode: 500")
    );
    let (looping, _) = looping().await;
    let got = prober.run(&http(looping, "/"), LONG).await;
    assert_eq!(
        got,
        failed(format!(
            "Get \"http://127.0.0.1:{looping}/\": stopped after 10 redirects"
        )),
        "{looped}"
    );
}

/// A server that sends everybody back to itself.
async fn looping() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let service = service_fn(|_| async {
                Response::builder()
                    .status(307)
                    .header("location", "/")
                    .body(Full::new(Bytes::new()))
            });
            _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(tcp), service)
                .await;
        }
    });
    (port, task)
}

#[tokio::test]
async fn http_headers_are_those_of_the_probe() {
    let (port, seen) = server(None).await;
    let headers = [
        ("Host", "example.com"),
        ("X-A", "1"),
        ("X-A", "2"),
        ("Accept", ""),
    ];
    let headers = headers.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    let probe = Probe::Http {
        tls: false,
        host: "127.0.0.1".into(),
        port,
        path: "/".into(),
        headers,
    };
    assert_eq!(Prober::new().run(&probe, LONG).await, ProbeResult::Success);
    let headers = seen.lock().unwrap().pop().unwrap();
    assert_eq!(headers["host"], "example.com");
    assert_eq!(headers["user-agent"], "kube-probe/1.36");
    assert_eq!(headers["connection"], "close");
    assert_eq!(headers.get_all("x-a").iter().count(), 2);
    assert!(!headers.contains_key("accept"));
}

#[tokio::test]
async fn https_takes_any_certificate() {
    let signed = rcgen::generate_simple_self_signed(vec!["elsewhere".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    let (port, _) = server(Some(Arc::new(config).into())).await;
    let https = |path: &str| Probe::Http {
        tls: true,
        host: "127.0.0.1".into(),
        port,
        path: path.into(),
        headers: Vec::new(),
    };
    assert_eq!(
        Prober::new().run(&https("/status/200"), LONG).await,
        ProbeResult::Success
    );
    assert_eq!(
        Prober::new().run(&https("/status/404"), LONG).await,
        failed("HTTP probe failed with statuscode: 404")
    );
}

#[tokio::test]
async fn silence_and_refusal_are_failures() {
    let (port, _) = server(None).await;
    let prober = Prober::new();
    let got = prober
        .run(&http(port, "/hang"), Duration::from_millis(50))
        .await;
    let deadline = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(
        got,
        failed(format!("Get \"http://127.0.0.1:{port}/hang\": {deadline}"))
    );
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let refused = format!("dial tcp 127.0.0.1:{closed}: connect: connection refused");
    let got = prober.run(&http(closed, "/"), LONG).await;
    assert_eq!(
        got,
        failed(format!("Get \"http://127.0.0.1:{closed}/\": {refused}"))
    );
    let tcp = |port| Probe::Tcp {
        host: "127.0.0.1".into(),
        port,
    };
    assert_eq!(prober.run(&tcp(port), LONG).await, ProbeResult::Success);
    assert_eq!(prober.run(&tcp(closed), LONG).await, failed(refused));
}

/// A gRPC health server: serving for `ok`, not serving for the others, and no such service for `gone`.
async fn health() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let connection = auto::Builder::new(TokioExecutor::new()).http2_only();
            tokio::spawn(async move {
                connection
                    .serve_connection(TokioIo::new(tcp), service_fn(check))
                    .await
                    .is_ok()
            });
        }
    });
    port
}

async fn check(
    request: Request<Incoming>,
) -> Result<
    Response<http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>>,
    hyper::Error,
> {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    let body = request.into_body().collect().await?.to_bytes();
    let (status, code) = match body.get(7..).unwrap_or_default() {
        b"ok" => (1, "0"),
        b"gone" => (0, "12"),
        _ => (2, "0"),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    let frames = [
        Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status])),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(tokio_stream::iter(frames.map(Ok)));
    Ok(Response::builder()
        .header("content-type", "application/grpc")
        .body(BodyExt::boxed(body))
        .unwrap())
}

#[tokio::test]
async fn grpc_health_decides() {
    let port = health().await;
    let table = [
        ("ok", ProbeResult::Success),
        (
            "other",
            failed("service unhealthy (responded with \"NOT_SERVING\")"),
        ),
        (
            "gone",
            failed(
                "this server does not implement the grpc health protocol (grpc.health.v1.Health)",
            ),
        ),
    ];
    for (service, want) in table {
        let probe = Probe::Grpc {
            host: "127.0.0.1".into(),
            port,
            service: service.into(),
        };
        assert_eq!(Prober::new().run(&probe, LONG).await, want, "{service}");
    }
}
