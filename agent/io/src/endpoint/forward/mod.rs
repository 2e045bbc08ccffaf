//! Port forwarding: connections are made inside the pod's network namespace, to its loopback, as upstream
//! does. The client comes by WebSocket channels or by SPDY streams.

mod spdy;
mod websocket;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::upgrade::{Agreed, Io};
use super::websocket::{socket, tunnel};
use crate::netns;

const BLOCK: usize = 32 * 1024;
const CONNECT: Duration = Duration::from_secs(10);

/// What is forwarded to.
pub(super) struct Target {
    /// The pod's name.
    pub(super) pod: String,
    /// The pod's UID, where the client told it.
    pub(super) uid: String,
    /// Its network namespace; `None`: the host's.
    pub(super) netns: Option<PathBuf>,
}

/// Forwards until the client goes; `ports` are those that WebSocket channels stand for.
pub(super) async fn serve(agreed: Agreed, io: Io, target: Target, ports: Vec<u16>) {
    match agreed {
        Agreed::WebSocket(protocol) => websocket::run(io, protocol, &target, &ports).await,
        Agreed::Spdy(_) => spdy::run(io, target).await,
        Agreed::Tunnel => spdy::run(tunnel(socket(io).await), target).await,
    }
}

/// Where the pod's bytes go.
trait Client: Send {
    /// Sends bytes.
    fn send(&mut self, data: &[u8]) -> impl Future<Output = io::Result<()>> + Send;
    /// The pod has ended its side.
    fn finish(&mut self) -> impl Future<Output = ()> + Send;
    /// Waits until the client takes no more.
    fn gone(&self) -> impl Future<Output = ()> + Send;
}

/// Joins a client to a port until both sides have ended. The error is for the client to read.
async fn forward(
    target: &Target,
    port: u16,
    input: impl Stream<Item = Bytes>,
    client: &mut impl Client,
) -> Result<(), String> {
    let done = match target.connect(port).await {
        Ok(connection) => copy(connection, input, client).await,
        Err(e) => Err(e),
    };
    match done.map_err(|e| (e.kind(), e)) {
        // One connection's reset is no reason for kubectl to end them all, which it does after any error
        // (kubernetes/kubernetes issues 74551 and 111825).
        Ok(()) | Err((io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset, _)) => Ok(()),
        Err((_, e)) => {
            let Target { pod, uid, .. } = target;
            Err(format!(
                "error forwarding port {port} to pod {pod}, uid {uid}: {e}"
            ))
        }
    }
}

async fn copy(
    connection: TcpStream,
    input: impl Stream<Item = Bytes>,
    client: &mut impl Client,
) -> io::Result<()> {
    let (mut read, mut write) = connection.into_split();
    let up = async {
        let mut input = std::pin::pin!(input);
        while let Some(bytes) = input.next().await {
            write.write_all(&bytes).await?;
        }
        write.shutdown().await
    };
    let down = async {
        let mut buffer = vec![0; BLOCK];
        loop {
            let n = tokio::select! {
                n = read.read(&mut buffer) => n?,
                () = client.gone() => return Err(io::ErrorKind::BrokenPipe.into()),
            };
            if n == 0 {
                client.finish().await;
                return Ok(());
            }
            client.send(buffer.get(..n).unwrap_or_default()).await?;
        }
    };
    tokio::try_join!(up, down).map(|_| ())
}

impl Target {
    /// Connects to the port on the pod's loopback; IPv6 where IPv4 refuses.
    async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let dial = move || {
            let connect = |ip| std::net::TcpStream::connect_timeout(&(ip, port).into(), CONNECT);
            connect(IpAddr::from(Ipv4Addr::LOCALHOST))
                .or_else(|v4| connect(IpAddr::from(Ipv6Addr::LOCALHOST)).map_err(|v6| (v4, v6)))
        };
        let (dialed, place) = match &self.netns {
            Some(path) => (
                netns::inside(path, move || Ok(dial())).await?,
                path.display().to_string(),
            ),
            None => (tokio::task::spawn_blocking(dial).await?, "host".to_owned()),
        };
        let stream = dialed.map_err(|(v4, v6)| {
            io::Error::other(format!(
                "failed to connect to localhost:{port} inside namespace {place:?}, \
                 IPv4: dial tcp4 127.0.0.1:{port}: connect: {v4} IPv6: dial tcp6 [::1]:{port}: connect: {v6}"
            ))
        })?;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }
}
