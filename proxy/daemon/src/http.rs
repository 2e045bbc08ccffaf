//! Plain HTTP/1 for health checks and scrapers: whoever can reach the port may ask, so all of it is bounded.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Connections of one port at a time; more wait.
const CONNECTIONS: usize = 64;
/// Time for a request's head, and so between two requests.
const HEAD: Duration = Duration::from_secs(10);
/// Most bytes of a head.
const HEAD_SIZE: usize = 16 * 1024;
/// After this a connection ends with the answer that it is at.
const LIFE: Duration = Duration::from_secs(120);
/// Time for that answer.
const LAST: Duration = Duration::from_secs(10);
/// Time to wait when a port can't be had, or no connection can be accepted (upstream's 5 s for the former).
const RETRY: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// Listens. On an unspecified address of either family: on all addresses of both, as kube-proxy does.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip().is_unspecified() {
        let both = SocketAddr::from((IpAddr::from(Ipv6Addr::UNSPECIFIED), address.port()));
        if let Ok(listener) = TcpListener::bind(both).await {
            return Ok(listener);
        }
    }
    TcpListener::bind(address).await
}

/// Listens and serves until shutdown. A port that can't be had is tried again, or is the end where `hard_fail` says so.
pub(crate) async fn run(
    what: &'static str,
    address: SocketAddr,
    hard_fail: bool,
    router: Router,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        match bind(address).await {
            Ok(listener) => {
                serve(listener, router, shutdown.cancelled()).await;
                return Ok(());
            }
            Err(error) if hard_fail => {
                return Err(anyhow::Error::new(error).context(format!("{what} on {address}")));
            }
            Err(error) => tracing::warn!(what, %address, %error, "port not had, trying again"),
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Serves until `shutdown`; connections end with it.
pub(crate) async fn serve(listener: TcpListener, router: Router, shutdown: impl Future) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let next = async {
            // Never closed. What waits here waits in the kernel's queue.
            let permit = limit.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            _ = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            (permit, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream, router.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "not accepted");
                    sleep(PAUSE).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Errors are the client's: it went away, or spoke no HTTP.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = sleep(LIFE) => {
            connection.as_mut().graceful_shutdown();
            _ = timeout(LAST, connection).await;
        }
    }
}
