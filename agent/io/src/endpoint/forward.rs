//! Port forwarding over a WebSocket: each port has a data channel and an error channel, and each begins
//! with the port's number (two bytes, little endian). The connection is made inside the pod's network
//! namespace, to its loopback, as upstream does.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, SplitSink};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::websocket::{Frame, Protocol, farewell};
use crate::netns;

type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Sink = Mutex<SplitSink<Socket, Message>>;

const BLOCK: usize = 32 * 1024;
const CONNECT: std::time::Duration = std::time::Duration::from_secs(10);

/// Forwards until the client goes or every port's connection has ended.
pub(super) async fn run(
    socket: Socket,
    protocol: Protocol,
    netns: Option<PathBuf>,
    ports: Vec<u16>,
) {
    let (sink, mut stream) = socket.split();
    let sink = Mutex::new(sink);
    let (writers, readers): (Vec<_>, Vec<_>) =
        ports.iter().map(|_| mpsc::channel::<Bytes>(4)).unzip();
    let jobs = ports.iter().zip(readers).enumerate();
    let jobs: FuturesUnordered<_> = jobs
        .map(|(i, (port, data))| forward(&sink, protocol, i, *port, netns.as_deref(), data))
        .collect();
    let input = async {
        while let Some(Ok(message)) = stream.next().await {
            if message.is_close() {
                return;
            }
            match protocol.decode(message) {
                Ok(Some(Frame::Data(channel, data))) if channel % 2 == 0 => {
                    if let Some(writer) = writers.get(usize::from(channel / 2)) {
                        _ = writer.send(data).await;
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = input => {}
        () = jobs.collect::<()>() => {}
    }
    _ = sink.lock().await.send(farewell()).await;
}

async fn forward(
    sink: &Sink,
    protocol: Protocol,
    index: usize,
    port: u16,
    netns: Option<&Path>,
    data: mpsc::Receiver<Bytes>,
) {
    let Ok(channel) = u8::try_from(index * 2) else {
        return;
    };
    let number = port.to_le_bytes();
    for c in [channel, channel + 1] {
        _ = sink.lock().await.send(protocol.encode(c, &number)).await;
    }
    let done = match connect(netns, port).await {
        Ok(connection) => copy(sink, protocol, channel, connection, data).await,
        Err(e) => Err(e),
    };
    if let Err(e) = done {
        let message = format!("error forwarding port {port}: {e}");
        _ = sink
            .lock()
            .await
            .send(protocol.encode(channel + 1, message.as_bytes()))
            .await;
    }
}

async fn copy(
    sink: &Sink,
    protocol: Protocol,
    channel: u8,
    connection: TcpStream,
    mut data: mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    let (mut read, mut write) = connection.into_split();
    let up = async {
        while let Some(bytes) = data.recv().await {
            write.write_all(&bytes).await?;
        }
        write.shutdown().await?;
        std::future::pending::<io::Result<()>>().await
    };
    let down = async {
        let mut buffer = vec![0; BLOCK];
        loop {
            let n = read.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            let message = protocol.encode(channel, buffer.get(..n).unwrap_or_default());
            sink.lock()
                .await
                .send(message)
                .await
                .map_err(io::Error::other)?;
        }
    };
    tokio::select! {
        r = up => r,
        r = down => r,
    }
}

/// Connects to the port on the pod's loopback; IPv6 where IPv4 refuses.
async fn connect(netns: Option<&Path>, port: u16) -> io::Result<TcpStream> {
    let addresses = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    let Some(path) = netns else {
        return TcpStream::connect(&addresses[..]).await;
    };
    let dial = move || {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match std::net::TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    stream.set_nonblocking(true)?;
                    return Ok(stream);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    };
    TcpStream::from_std(netns::inside(path, dial).await?)
}
