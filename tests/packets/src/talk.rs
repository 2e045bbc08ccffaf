//! Who asks and who answers. An answer is the address that was reached, and the source that was seen there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keelson_proxy_plan::model::Protocol;
use keelson_proxy_plan::packet::Packet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was answered.
    Answered {
        /// By whom.
        by: SocketAddr,
        /// Who is seen there as its sender.
        source: IpAddr,
    },
    /// The sender was told that nobody is there.
    Refused,
    /// Nothing was heard.
    Silence,
    /// Something else went wrong.
    Failed(String),
}

/// A datagram on its way may wait for a neighbour's address: it is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// Answers connections to a port, whatever the address, once this has returned.
pub(crate) async fn answer_tcp(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("::", port)).await?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let text = answer(stream.local_addr()?, stream.peer_addr()?);
                stream.write_all(text.as_bytes()).await
            });
        }
    });
    Ok(())
}

/// Answers datagrams to an address, which the answer leaves with, once this has returned.
pub(crate) async fn answer_udp(at: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(at).await?;
    tokio::spawn(async move {
        let mut buffer = [0; 16];
        loop {
            // An answer that was refused is told at the next call.
            if let Ok((_, from)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(answer(at, from).as_bytes(), from).await;
            }
        }
    });
    Ok(())
}

fn answer(at: SocketAddr, from: SocketAddr) -> String {
    let at = SocketAddr::new(at.ip().to_canonical(), at.port());
    format!("{at} {}", from.ip().to_canonical())
}

/// Sends a packet from a port, and waits for what comes of it as long as it takes.
pub(crate) async fn ask(packet: &Packet, port: u16) -> Seen {
    let from = SocketAddr::new(packet.source, port);
    let to = SocketAddr::new(packet.destination, packet.port);
    let heard = match packet.protocol {
        Protocol::Tcp => ask_tcp(from, to).await,
        Protocol::Udp => ask_udp(from, to).await,
        Protocol::Sctp => Err(io::ErrorKind::Unsupported.into()),
    };
    match heard {
        Ok(text) => read(&text).unwrap_or(Seen::Failed(text)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Seen::Refused,
        Err(error) => Seen::Failed(error.to_string()),
    }
}

fn read(text: &str) -> Option<Seen> {
    let (by, source) = text.split_once(' ')?;
    let (by, source) = (by.parse().ok()?, source.parse().ok()?);
    Some(Seen::Answered { by, source })
}

async fn ask_tcp(from: SocketAddr, to: SocketAddr) -> io::Result<String> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.bind(from)?;
    let mut stream = socket.connect(to).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

async fn ask_udp(from: SocketAddr, to: SocketAddr) -> io::Result<String> {
    let socket = UdpSocket::bind(from).await?;
    socket.connect(to).await?;
    let mut buffer = [0; 128];
    loop {
        match socket.send(b"?").await {
            // What this node's own rules turn away is told so, whether they refuse it, which is told next, or not.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            sent => drop(sent?),
        }
        if let Ok(length) = tokio::time::timeout(AGAIN, socket.recv(&mut buffer)).await {
            let text = buffer.get(..length?).unwrap_or_default();
            return Ok(String::from_utf8_lossy(text).into_owned());
        }
    }
}
