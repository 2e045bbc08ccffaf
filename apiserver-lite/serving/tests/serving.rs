//! Real TLS sockets on loopback.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keelson_serving::{
    Certs, Error, Identity, Limits, TlsFiles, bind, client_config, serve_with, server_config,
    server_config_with,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Authority {
        pem: params.self_signed(&key).unwrap().pem(),
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    /// Certificate and key.
    fn issue(&self, sans: &[&str], purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let sans: Vec<String> = sans.iter().map(|s| (*s).to_owned()).collect();
        let mut params = CertificateParams::new(sans).unwrap();
        params.extended_key_usages = vec![purpose];
        (
            params.signed_by(&key, &self.issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    fn server(&self) -> (String, String) {
        self.issue(
            &["localhost", "127.0.0.1"],
            ExtendedKeyUsagePurpose::ServerAuth,
        )
    }

    fn client(&self) -> (String, String) {
        self.issue(&["somebody"], ExtendedKeyUsagePurpose::ClientAuth)
    }
}

struct Server {
    addr: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn start(tls: Arc<rustls::ServerConfig>, limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let service = tower::service_fn(answer);
    let task = tokio::spawn(serve_with(listener, tls, service, limits, shutdown.clone()));
    Server {
        addr,
        shutdown,
        task,
    }
}

/// Says how many certificates the client showed and which version it speaks; echoes after an upgrade; `/hang` never ends.
async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/hang" {
        std::future::pending::<()>().await;
    }
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 4];
            io.read_exact(&mut word).await.unwrap();
            io.write_all(&word).await.unwrap();
        });
        let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        let response = response
            .header("connection", "upgrade")
            .header("upgrade", "echo");
        return Ok(response.body(Full::default()).unwrap());
    }
    let identity = request.extensions().get::<Identity>().unwrap();
    let text = format!(
        "{} {:?} {}",
        identity.certificates.len(),
        request.version(),
        identity.remote.ip()
    );
    Ok(Response::new(Full::from(text)))
}

async fn connect(
    addr: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    TlsConnector::from(config)
        .connect("localhost".try_into().unwrap(), stream)
        .await
}

fn without_h2(config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = (**config).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// One request over whichever version was negotiated.
async fn get(addr: SocketAddr, config: Arc<ClientConfig>, path: &str) -> Result<String, String> {
    let stream = connect(addr, config).await.map_err(|e| e.to_string())?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let request = Request::get(format!("https://localhost{path}")).header("host", "localhost");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = if h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let body = response
        .map_err(|e| e.to_string())?
        .into_body()
        .collect()
        .await
        .map_err(|e| e.to_string())?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn certificates_become_identities_in_both_versions() {
    let ca = authority();
    let ((cert, key), (client_cert, client_key)) = (ca.server(), ca.client());
    let server = start(
        server_config(&cert, &key, Some(&ca.pem)).unwrap(),
        Limits::default(),
    )
    .await;
    let anonymous = client_config(&ca.pem, None).unwrap();
    let known = client_config(&ca.pem, Some((&client_cert, &client_key))).unwrap();
    let cases = [
        (anonymous.clone(), "0 HTTP/2.0 127.0.0.1"),
        (known.clone(), "1 HTTP/2.0 127.0.0.1"),
        (without_h2(&anonymous), "0 HTTP/1.1 127.0.0.1"),
        (without_h2(&known), "1 HTTP/1.1 127.0.0.1"),
    ];
    for (config, expected) in cases {
        assert_eq!(get(server.addr, config, "/").await.as_deref(), Ok(expected));
    }
}

#[tokio::test]
async fn certificates_of_others_are_refused_on_both_sides() {
    let (ca, other) = (authority(), authority());
    let ((cert, key), (client_cert, client_key)) = (ca.server(), other.client());
    let server = start(
        server_config(&cert, &key, Some(&ca.pem)).unwrap(),
        Limits::default(),
    )
    .await;
    let stranger = client_config(&ca.pem, Some((&client_cert, &client_key))).unwrap();
    assert!(get(server.addr, stranger, "/").await.is_err());
    let mistrusting = client_config(&other.pem, None).unwrap();
    assert!(connect(server.addr, mistrusting).await.is_err());
    let good = client_config(&ca.pem, None).unwrap();
    assert!(
        get(server.addr, good, "/").await.is_ok(),
        "the server lives on"
    );
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes() {
    let ca = authority();
    let (cert, key) = ca.server();
    let server = start(server_config(&cert, &key, None).unwrap(), Limits::default()).await;
    let config = without_h2(&client_config(&ca.pem, None).unwrap());
    let mut stream = connect(server.addr, config).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
}

#[tokio::test]
async fn plain_http_and_garbage_hurt_nobody() {
    let ca = authority();
    let (cert, key) = ca.server();
    let server = start(server_config(&cert, &key, None).unwrap(), Limits::default()).await;
    let mut plain = TcpStream::connect(server.addr).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert_eq!(
        answer,
        "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    );

    let hello = [0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff];
    for garbage in [
        &[0u8; 64][..],
        &[0xff; 4096],
        &hello,
        b"\n",
        &[0x80, 0x2e, 1, 0, 2],
    ] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        // An alert, a reset or nothing: the server only has to survive it.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    // Garbage inside of TLS too.
    let config = client_config(&ca.pem, None).unwrap();
    for config in [config.clone(), without_h2(&config)] {
        let mut stream = connect(server.addr, config).await.unwrap();
        stream.write_all(&[0xfe; 300]).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert!(get(server.addr, config, "/").await.is_ok());
    assert!(!server.task.is_finished());
}

#[tokio::test]
async fn silent_clients_are_cut_and_make_room() {
    let ca = authority();
    let (cert, key) = ca.server();
    let short = Duration::from_millis(50);
    let limits = Limits {
        connections: 1,
        handshake: short,
        headers: short,
        ..Limits::default()
    };
    let server = start(server_config(&cert, &key, None).unwrap(), limits).await;
    let config = client_config(&ca.pem, None).unwrap();
    // Nothing before the handshake; nothing after it; half a preface; half a head.
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    for (config, sent) in [
        (config.clone(), &b""[..]),
        (config.clone(), b"PRI * HT"),
        (without_h2(&config), b"GET / HTTP/1.1\r\nHost:"),
    ] {
        let mut stream = connect(server.addr, config).await.unwrap();
        stream.write_all(sent).await.unwrap();
        // Ends by itself: otherwise this never returns. hyper may say 408 first.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert!(get(server.addr, config, "/").await.is_ok());
}

#[tokio::test]
async fn shutdown_lets_go_of_idle_and_cuts_hanging_requests() {
    let ca = authority();
    let (cert, key) = ca.server();
    let limits = Limits {
        drain: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = start(server_config(&cert, &key, None).unwrap(), limits).await;
    let config = client_config(&ca.pem, None).unwrap();
    let hanging = tokio::spawn(get(server.addr, config.clone(), "/hang"));
    // One request after it: the server has accepted the hanging connection by then.
    get(server.addr, config.clone(), "/").await.unwrap();
    server.shutdown.cancel();
    server.task.await.unwrap().unwrap();
    assert!(hanging.await.unwrap().is_err());
    assert!(
        TcpStream::connect(server.addr).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn certificates_are_swapped_while_serving() {
    let ca = authority();
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        cert: dir.path().join("tls.crt"),
        key: dir.path().join("tls.key"),
    };
    let write = |(cert, key): (String, String)| {
        std::fs::write(&files.key, key).unwrap();
        std::fs::write(&files.cert, cert).unwrap();
    };
    write(ca.server());
    let certs = Arc::new(files.load().unwrap());
    let server = start(
        server_config_with(certs.clone(), None).unwrap(),
        Limits::default(),
    )
    .await;
    let config = client_config(&ca.pem, None).unwrap();
    let served = async || {
        let stream = connect(server.addr, config.clone()).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = certs.leaf();
    assert_eq!(served().await, first);

    let (cert, key) = ca.server();
    certs.set(&cert, &key).unwrap();
    let second = certs.leaf();
    assert_ne!(first, second);
    assert_eq!(served().await, second);
    assert!(
        certs.set(&cert, &ca.server().1).is_err(),
        "a key of another certificate"
    );
    assert_eq!(served().await, second);

    let (follower, stop) = (certs.clone(), CancellationToken::new());
    let (followed, stopped) = (files.clone(), stop.clone());
    let task = tokio::spawn(async move {
        followed
            .follow(&follower, Duration::from_millis(5), stopped)
            .await
    });
    // Not the first look's contents, whichever side of it this write falls: both differ from what is served.
    write(ca.server());
    while served().await == second {
        if task.is_finished() {
            panic!("nobody follows the files");
        }
        write(ca.server());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = first.local_addr().unwrap();
    let error = bind(addr).await.unwrap_err();
    assert!(matches!(error, Error::PortTaken(a) if a == addr));
    assert!(error.to_string().contains("taken"));
    let elsewhere = bind("192.0.2.1:1".parse().unwrap()).await.unwrap_err();
    assert!(matches!(elsewhere, Error::Bind { .. }));
}

#[test]
fn wrong_pem_is_refused_by_name() {
    let ca = authority();
    let (cert, key) = ca.server();
    let cases = [
        (Certs::new("", &key).err(), "serving certificate"),
        (Certs::new(&cert, "").err(), "serving key"),
        (
            Certs::new(&cert, &ca.server().1).err(),
            "serving certificate",
        ),
        (
            server_config(&cert, &key, Some("no pem")).err(),
            "client authority",
        ),
        (client_config("", None).err(), "server authority"),
    ];
    for (error, what) in cases {
        let error = error.expect("refused").to_string();
        assert!(error.contains(what), "{error}");
    }
}
