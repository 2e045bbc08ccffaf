//! The endpoint under test, its pods on this machine, and an API server that answers reviews from a table.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use keelson_agent_io::endpoint::{
    Config, ContainerRef, ExecOptions, Pods, Refusal, Session, TerminalSize, router,
};
use keelson_agent_io::node::Roots;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;

/// Runs commands on this machine; its one container's log is a file.
pub(crate) struct Machine {
    pub(crate) log: PathBuf,
    pub(crate) running: AtomicBool,
    pub(crate) sizes: Arc<Mutex<Vec<TerminalSize>>>,
    pub(crate) netns: OnceLock<PathBuf>,
}

#[async_trait::async_trait]
impl Pods for Machine {
    async fn pods(&self) -> Vec<Pod> {
        vec![
            serde_json::from_value(
                json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}}),
            )
            .unwrap(),
        ]
    }

    async fn container(
        &self,
        _: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<ContainerRef, Refusal> {
        if previous {
            let message =
                format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
            return Err(Refusal::bad_request(message));
        }
        let running = self.running.load(Ordering::SeqCst);
        Ok(ContainerRef {
            id: "id".into(),
            log_path: self.log.clone(),
            running,
            tty: false,
        })
    }

    async fn exec(&self, _: &str, options: ExecOptions) -> Result<Session, Refusal> {
        let mut command = Command::new(&options.command[0]);
        command
            .args(&options.command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(Refusal::internal)?;
        let (resize, mut sizes) = mpsc::channel(4);
        let seen = self.sizes.clone();
        tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                seen.lock().unwrap().push(size);
            }
        });
        let stdin = child.stdin.take().filter(|_| options.stdin);
        Ok(Session {
            stdin: stdin.map(|s| Box::new(s) as _),
            stdout: child.stdout.take().map(|s| Box::new(s) as _),
            stderr: child
                .stderr
                .take()
                .filter(|_| options.stderr)
                .map(|s| Box::new(s) as _),
            resize: Some(resize),
            exit: Box::pin(async move {
                Ok(child
                    .wait()
                    .await
                    .map_err(Refusal::internal)?
                    .code()
                    .unwrap_or(137))
            }),
        })
    }

    async fn netns(&self, _: &str, _: &str) -> Result<Option<PathBuf>, Refusal> {
        Ok(self.netns.get().cloned())
    }
}

/// `admin` may do all, `viewer` reads metrics and pods. Counts the reviews.
fn api(reviews: Arc<AtomicUsize>) -> kube::Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        reviews.fetch_add(1, Ordering::SeqCst);
        async move {
            let bytes = request.into_body().collect().await.unwrap().to_bytes();
            let mut review: Value = serde_json::from_slice(&bytes).unwrap();
            let spec = &review["spec"];
            review["status"] = if let Some(token) = spec["token"].as_str() {
                let known = matches!(token, "admin" | "viewer");
                json!({"authenticated": known, "user": {"username": token, "groups": ["system:authenticated"]}})
            } else {
                let sub = spec["resourceAttributes"]["subresource"].as_str().unwrap();
                let verb = spec["resourceAttributes"]["verb"].as_str().unwrap();
                assert_eq!(spec["resourceAttributes"]["name"], "node-a");
                let sees = spec["user"] == "viewer"
                    && verb == "get"
                    && matches!(sub, "metrics" | "pods" | "proxy");
                json!({"allowed": spec["user"] == "admin" || sees})
            };
            let body = kube::client::Body::from(serde_json::to_vec(&review).unwrap());
            Ok::<_, std::convert::Infallible>(Response::builder().status(201).body(body).unwrap())
        }
    });
    kube::Client::new(service, "default")
}

struct Pki {
    ca: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap())
            .unwrap();
        Self { ca }
    }

    fn issue(&self, name: &str, usage: rcgen::ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.extended_key_usages.push(usage);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.ca).unwrap();
        (cert.pem(), key.serialize_pem())
    }
}

pub(crate) struct Server {
    pub(crate) dir: TempDir,
    pki: Pki,
    address: SocketAddr,
    pub(crate) reviews: Arc<AtomicUsize>,
    pub(crate) machine: Arc<Machine>,
    shutdown: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let machine = Arc::new(Machine {
            log,
            running: AtomicBool::new(true),
            sizes: Arc::default(),
            netns: OnceLock::new(),
        });
        let (pki, reviews) = (Pki::new(), Arc::new(AtomicUsize::new(0)));
        let config = Config {
            node_name: "node-a".into(),
            pods: machine.clone(),
            client: api(reviews.clone()),
            roots: Roots::host("/"),
            metrics: Arc::new(|| "up 1\n".to_owned()),
        };
        let (cert, key) = pki.issue("node-a", rcgen::ExtendedKeyUsagePurpose::ServerAuth);
        let tls = keelson_serving::server_config(&cert, &key, Some(&pki.ca.pem())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(keelson_serving::serve(
            listener,
            tls,
            router(config),
            shutdown.clone(),
        ));
        Self {
            dir,
            pki,
            address,
            reviews,
            machine,
            shutdown,
        }
    }

    pub(crate) async fn connect(&self, client: Option<&str>) -> TlsStream<TcpStream> {
        let issued = client.map(|name| {
            self.pki
                .issue(name, rcgen::ExtendedKeyUsagePurpose::ClientAuth)
        });
        let pair = issued.as_ref().map(|(c, k)| (c.as_str(), k.as_str()));
        let config = keelson_serving::client_config(&self.pki.ca.pem(), pair).unwrap();
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::new(config))
            .connect("localhost".try_into().unwrap(), tcp)
            .await
            .unwrap()
    }

    /// A request with a token, or with a client certificate for `cert:<name>`.
    pub(crate) async fn open(
        &self,
        who: &str,
        method: &str,
        path: &str,
    ) -> Response<hyper::body::Incoming> {
        let stream = self.connect(who.strip_prefix("cert:")).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost");
        if !who.is_empty() && !who.starts_with("cert:") {
            request = request.header("authorization", format!("Bearer {who}"));
        }
        sender
            .send_request(request.body(Empty::<Bytes>::new()).unwrap())
            .await
            .unwrap()
    }

    pub(crate) async fn get(&self, who: &str, path: &str) -> (u16, String) {
        let response = self.open(who, "GET", path).await;
        let status = response.status().as_u16();
        (
            status,
            String::from_utf8(
                response
                    .into_body()
                    .collect()
                    .await
                    .unwrap()
                    .to_bytes()
                    .to_vec(),
            )
            .unwrap(),
        )
    }

    pub(crate) async fn websocket(
        &self,
        path: &str,
        protocol: &str,
    ) -> WebSocketStream<TlsStream<TcpStream>> {
        let request = Request::builder()
            .uri(format!("wss://localhost{path}"))
            .header("host", "localhost")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", protocol)
            .body(())
            .unwrap();
        let stream = self.connect(Some("admin")).await;
        let (socket, response) = tokio_tungstenite::client_async(request, stream)
            .await
            .unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        socket
    }
}

/// A pod's network: its listener on this port of its loopback, and `serve` on a thread that keeps it.
pub(crate) fn network<T: Send + 'static>(
    server: &Server,
    port: u16,
    serve: impl FnOnce(std::net::TcpListener) -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let (ready, listening) = std::sync::mpsc::channel();
    let pod = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        // Started from this thread, so it works in this thread's namespace.
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()
            .unwrap();
        assert!(up.success());
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let namespace = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
        ready.send(PathBuf::from(namespace)).unwrap();
        serve(listener)
    });
    server.machine.netns.set(listening.recv().unwrap()).unwrap();
    pod
}
