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

/// What a port takes.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at a time; more wait.
    connections: usize,
    /// Time for a request's head, and so between two requests.
    head: Duration,
    /// After this a connection ends with the answer that it is at.
    life: Duration,
    /// Time for that answer.
    last: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    head: Duration::from_secs(10),
    life: Duration::from_secs(120),
    last: Duration::from_secs(10),
};

/// Most bytes of a head.
const HEAD_SIZE: usize = 16 * 1024;
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
    serve_within(LIMITS, listener, router, shutdown).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    router: Router,
    shutdown: impl Future,
) {
    let limit = Arc::new(Semaphore::new(limits.connections));
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
                    let connection = connection(stream, router.clone(), limits);
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

async fn connection(stream: TcpStream, router: Router, limits: Limits) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Errors are the client's: it went away, or spoke no HTTP.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = sleep(limits.life) => {
            connection.as_mut().graceful_shutdown();
            _ = timeout(limits.last, connection).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Longer than any test runs.
    const LONG: Duration = Duration::from_secs(3600);

    async fn port(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let router = Router::new().route("/", get(async || "here"));
        let never = std::future::pending::<()>();
        tokio::spawn(serve_within(limits, listener, router, never));
        address
    }

    async fn connect(to: SocketAddr) -> TcpStream {
        TcpStream::connect(to).await.expect("connect")
    }

    /// What comes until the connection ends.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        // Cut off where the answer comes before the end of the question.
        let all = timeout(Duration::from_secs(60), stream.read_to_end(&mut answer));
        _ = all.await.expect("the end");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn ask(stream: &mut TcpStream, head: &str) -> String {
        let request = format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n");
        _ = stream.write_all(request.as_bytes()).await;
        rest(stream).await
    }

    #[tokio::test]
    async fn who_sends_no_head_is_cut_off() {
        let head = Duration::from_millis(50);
        let address = port(Limits {
            head,
            life: LONG,
            ..LIMITS
        })
        .await;
        for words in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut stream = connect(address).await;
            stream.write_all(words.as_bytes()).await.expect("write");
            let answer = rest(&mut stream).await;
            assert_eq!(
                answer.contains("here"),
                words.ends_with("\r\n"),
                "{words}: {answer}"
            );
        }
    }

    #[tokio::test]
    async fn a_connection_ends_when_its_time_is_over() {
        let (life, last) = (Duration::from_millis(50), Duration::from_millis(50));
        let address = port(Limits {
            head: LONG,
            life,
            last,
            ..LIMITS
        })
        .await;
        for words in ["", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut stream = connect(address).await;
            stream.write_all(words.as_bytes()).await.expect("write");
            let answer = rest(&mut stream).await;
            assert_eq!(
                answer.contains("here"),
                !words.is_empty(),
                "{words}: {answer}"
            );
        }
    }

    #[tokio::test]
    async fn more_connections_wait_for_their_turn() {
        let address = port(Limits {
            connections: 2,
            head: LONG,
            life: LONG,
            ..LIMITS
        })
        .await;
        let first = connect(address).await;
        let _second = connect(address).await;
        let mut third = connect(address).await;
        let asked = tokio::spawn(async move { ask(&mut third, "GET / HTTP/1.1").await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!asked.is_finished(), "two are there");
        drop(first);
        assert!(asked.await.expect("asked").ends_with("here"));
    }

    #[tokio::test]
    async fn heads_are_bounded_and_only_reading_is_allowed() {
        let address = port(LIMITS).await;
        let much = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(2 * HEAD_SIZE));
        let many = format!("GET / HTTP/1.1{}", "\r\nX: x".repeat(200));
        let cases = [
            ("plain", "GET / HTTP/1.1", "200 OK"),
            ("head", "HEAD / HTTP/1.1", "200 OK"),
            (
                "write",
                "POST / HTTP/1.1\r\nContent-Length: 0",
                "405 Method",
            ),
            ("elsewhere", "GET /x HTTP/1.1", "404 Not"),
            ("much", &much, "431 Request"),
            ("many", &many, "431 Request"),
            ("no HTTP", "hello", "400 Bad"),
        ];
        for (name, head, want) in cases {
            let answer = ask(&mut connect(address).await, head).await;
            let first = answer.lines().next().unwrap_or_default();
            assert!(first.contains(want), "{name}: {first:?}");
        }
    }
}
