//! Probes that go over the network: HTTP(S), TCP and gRPC health. No process, no pooled connection: each
//! probe opens one and closes it, as the kubelet does. Exec probes are the runtime's.

mod grpc;
mod http;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// Healthy.
    Success,
    /// Healthy, with something to say about it.
    Warning(String),
    /// Not healthy, and why.
    Failure(String),
    /// The probe itself could not be made.
    Unknown(String),
}

/// A probe with its target filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `httpGet`: a status from 200 to 399 is success.
    Http {
        /// Over TLS; the certificate is not verified.
        tls: bool,
        /// Pod IP, or the probe's `host`.
        host: String,
        /// Port.
        port: u16,
        /// Path and query.
        path: String,
        /// More headers; `Host`, `User-Agent` and `Accept` replace ours.
        headers: Vec<(String, String)>,
    },
    /// `tcpSocket`: an accepted connection is success.
    Tcp {
        /// Pod IP, or the probe's `host`.
        host: String,
        /// Port.
        port: u16,
    },
    /// `grpc`: `SERVING` from `grpc.health.v1.Health/Check` is success.
    Grpc {
        /// Pod IP.
        host: String,
        /// Port.
        port: u16,
        /// The service asked about.
        service: String,
    },
}

/// Runs probes. Cheap to clone.
#[derive(Clone)]
pub struct Prober {
    tls: Arc<rustls::ClientConfig>,
}

impl Prober {
    /// A prober.
    pub fn new() -> Self {
        Self {
            tls: Arc::new(http::unverified()),
        }
    }

    /// Runs one probe; it never takes longer than `timeout`.
    pub async fn run(&self, probe: &Probe, timeout: Duration) -> ProbeResult {
        let deadline = tokio::time::timeout(timeout, self.probe(probe, timeout)).await;
        deadline.unwrap_or_else(|_| ProbeResult::Failure(late(probe)))
    }

    async fn probe(&self, probe: &Probe, timeout: Duration) -> ProbeResult {
        match probe {
            Probe::Http { .. } => http::probe(&self.tls, probe).await,
            Probe::Tcp { host, port } => match connect(host, *port).await {
                Ok(_) => ProbeResult::Success,
                Err(Dial::Refused(e)) => ProbeResult::Failure(e),
                Err(Dial::Name(e)) => ProbeResult::Unknown(e),
            },
            Probe::Grpc {
                host,
                port,
                service,
            } => grpc::probe(host, *port, service, timeout).await,
        }
    }
}

impl Default for Prober {
    fn default() -> Self {
        Self::new()
    }
}

fn late(probe: &Probe) -> String {
    match probe {
        Probe::Http {
            tls,
            host,
            port,
            path,
            ..
        } => {
            let url = http::url(*tls, host, *port, path);
            format!(
                "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            )
        }
        Probe::Tcp { host, port } => format!("dial tcp {}: i/o timeout", authority(host, *port)),
        Probe::Grpc { host, port, .. } => {
            format!(
                "timeout: failed to connect service \"{}\" within the probe's timeout: context deadline exceeded",
                authority(host, *port)
            )
        }
    }
}

/// `host:port`, with brackets around an IPv6 address.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Why there is no connection.
enum Dial {
    /// Nobody accepts it.
    Refused(String),
    /// The name is unknown.
    Name(String),
}

impl Dial {
    fn message(self) -> String {
        match self {
            Self::Refused(m) | Self::Name(m) => m,
        }
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, Dial> {
    let target = authority(host, port);
    let addresses = resolve(host, port)
        .await
        .map_err(|e| Dial::Name(format!("dial tcp: lookup {host}: {e}")))?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(Dial::Refused(format!(
        "dial tcp {target}: {}",
        reason(&last)
    )))
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let name = (host.to_owned(), port);
    let found = tokio::task::spawn_blocking(move || name.to_socket_addrs()).await;
    found.map_err(io::Error::other)?.map(Iterator::collect)
}

/// A connection error as Go prints it: operators and alerts match these words.
fn reason(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".into(),
        io::ErrorKind::TimedOut => "connect: connection timed out".into(),
        _ => e.to_string(),
    }
}

/// Any connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
