//! Listening, accepting, handing connections to hyper, draining.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls_pki_types::CertificateDer;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::Error;
use crate::patience::Patience;

/// Who is at the other end of a connection; an extension on every request.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The client's certificate chain, leaf first, verified against the client authority; empty when none was shown.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The client's address.
    pub remote: SocketAddr,
}

/// Limits of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections; more wait in the kernel's backlog.
    pub connections: usize,
    /// For the TLS handshake, and again for the first bytes after it.
    pub handshake: Duration,
    /// For a request's headers; an idle HTTP/1.1 connection is closed after the same time.
    pub headers: Duration,
    /// Between HTTP/2 pings, and as long for their answer.
    pub ping: Duration,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
    /// For requests in flight at shutdown; watches that outlast it are cut.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(60),
            ping: Duration::from_secs(30),
            streams: 1000,
            drain: Duration::from_secs(10),
        }
    }
}

/// The largest head of a request in bytes, for either HTTP version: room for two large tokens.
const MAX_HEAD: u32 = 64 * 1024;

/// What Go's servers answer to plain HTTP on a TLS port, byte for byte: kubectl users know it.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Listens on an address (`[::]` takes IPv4 too); says clearly when the port is taken.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => Error::PortTaken(addr),
            _ => Error::Bind { addr, source },
        })
}

/// Serves until shutdown with the usual [`Limits`].
pub async fn serve<S, B>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    service: S,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    serve_with(listener, tls, service, Limits::default(), shutdown).await
}

/// Serves until shutdown: then stops accepting, lets requests in flight end for `limits.drain`, and cuts the rest.
/// Errors of single connections are logged, never returned.
pub async fn serve_with<S, B>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    service: S,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let acceptor = TlsAcceptor::from(tls);
    let builder = Arc::new(http_builder(&limits));
    let slots = Arc::new(Semaphore::new(limits.connections));
    let (graceful, tasks, cut) = (
        GracefulShutdown::new(),
        TaskTracker::new(),
        CancellationToken::new(),
    );
    loop {
        let slot = tokio::select! {
            () = shutdown.cancelled() => break,
            Ok(slot) = slots.clone().acquire_owned() => slot,
        };
        let (stream, remote) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let (acceptor, builder, service) = (acceptor.clone(), builder.clone(), service.clone());
        let (watcher, cut, handshake) = (graceful.watcher(), cut.clone(), limits.handshake);
        tasks.spawn(async move {
            let _slot = slot;
            let work = async {
                let (stream, identity) =
                    tokio::time::timeout(handshake, shake(&acceptor, stream, remote))
                        .await
                        .ok()??;
                let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(identity.clone());
                    tower::ServiceExt::oneshot(service.clone(), request)
                });
                let io = TokioIo::new(Patience::new(stream, handshake));
                let connection = builder
                    .serve_connection_with_upgrades(io, service)
                    .into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    tracing::debug!(%remote, error, "connection ended");
                }
                Some(())
            };
            tokio::select! {
                () = cut.cancelled() => {}
                _ = work => {}
            }
        });
    }
    drop(listener);
    drain(graceful, tasks, cut, limits.drain).await;
    Ok(())
}

fn http_builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(MAX_HEAD as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping)
        .keep_alive_timeout(limits.ping)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(MAX_HEAD);
    builder
}

/// The next connection. Errors here are of one connection (`ECONNABORTED`), or of too many open files: then others
/// have to end first, and the pause keeps the loop from spinning.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The TLS handshake; `None` when there is nobody to serve.
async fn shake(
    acceptor: &TlsAcceptor,
    mut stream: TcpStream,
    remote: SocketAddr,
) -> Option<(tokio_rustls::server::TlsStream<TcpStream>, Identity)> {
    let mut first = [0; 1];
    let seen = stream.peek(&mut first).await.ok()?;
    if seen > 0 && first[0].is_ascii_uppercase() {
        refuse_plain_http(&mut stream).await;
        return None;
    }
    stream.set_nodelay(true).ok()?;
    match acceptor.accept(stream).await {
        Ok(stream) => {
            let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates = shown.iter().map(|c| c.clone().into_owned()).collect();
            Some((
                stream,
                Identity {
                    certificates,
                    remote,
                },
            ))
        }
        Err(error) => {
            tracing::debug!(%remote, %error, "handshake failed");
            None
        }
    }
}

/// Answers before closing. What the client sent is read first: closing with unread bytes resets the connection and
/// takes the answer with it.
async fn refuse_plain_http(stream: &mut TcpStream) {
    let mut sink = [0; 4096];
    let _ = stream.try_read(&mut sink);
    let _ = stream.write_all(PLAIN_HTTP).await;
    let _ = stream.shutdown().await;
}

async fn drain(
    graceful: GracefulShutdown,
    tasks: TaskTracker,
    cut: CancellationToken,
    limit: Duration,
) {
    tasks.close();
    let ended = async {
        graceful.shutdown().await;
        tasks.wait().await;
    };
    if tokio::time::timeout(limit, ended).await.is_err() {
        tracing::info!(
            connections = tasks.len(),
            "cutting connections that outlast the drain"
        );
        cut.cancel();
        tasks.wait().await;
    }
}
