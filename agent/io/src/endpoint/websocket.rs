//! The WebSocket side: the channel protocols of Kubernetes, and the tunnel for another protocol.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt, TryStreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::upgrade::Io;

/// A subprotocol: how frames look, and what they may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) name: &'static str,
    /// Text frames: the channel as a digit, the data in base64.
    base64: bool,
    /// The error channel carries a `Status` object (v4), not plain text.
    pub(super) status: bool,
    /// Channel 255 closes a channel (v5).
    close: bool,
}

const fn protocol(name: &'static str, base64: bool, status: bool, close: bool) -> Protocol {
    Protocol {
        name,
        base64,
        status,
        close,
    }
}

/// What exec and attach speak. The client's order decides.
pub(super) const EXEC: [Protocol; 5] = [
    protocol("v5.channel.k8s.io", false, true, true),
    protocol("v4.channel.k8s.io", false, true, false),
    protocol("v4.base64.channel.k8s.io", true, true, false),
    protocol("channel.k8s.io", false, false, false),
    protocol("base64.channel.k8s.io", true, false, false),
];

/// What port forwarding speaks.
pub(super) const FORWARD: [Protocol; 2] = [
    protocol("v4.channel.k8s.io", false, false, false),
    protocol("v4.base64.channel.k8s.io", true, false, false),
];

/// What logs speak: each message some of the text, without a channel.
pub(super) const LOG: [Protocol; 2] = [
    protocol("binary.k8s.io", false, false, false),
    protocol("base64.binary.k8s.io", true, false, false),
];

/// The last frame: a normal closure. Clients take any other code, and none, for a broken connection.
pub(super) fn farewell() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
}

/// A frame from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Data of a channel.
    Data(u8, Bytes),
    /// The client closed a channel.
    Close(u8),
}

impl Protocol {
    /// A message to the client.
    pub(super) fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            return Message::text(format!("{channel}{}", STANDARD.encode(data)));
        }
        let mut frame = Vec::with_capacity(data.len() + 1);
        frame.push(channel);
        frame.extend_from_slice(data);
        Message::binary(frame)
    }

    /// A message without a channel.
    pub(super) fn plain(self, data: Bytes) -> Message {
        if self.base64 {
            Message::text(STANDARD.encode(data))
        } else {
            Message::binary(data)
        }
    }

    /// What a message says; `None` for pings and the like. The error is the client's fault.
    pub(super) fn decode(self, message: Message) -> Result<Option<Frame>, String> {
        let bytes: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            _ => return Ok(None),
        };
        let Some(first) = bytes.first().copied() else {
            return Ok(None);
        };
        let rest = bytes.slice(1..);
        if self.base64 {
            let channel = first
                .checked_sub(b'0')
                .filter(|c| *c < 10)
                .ok_or("invalid channel")?;
            let data = STANDARD.decode(&rest).map_err(|e| e.to_string())?;
            return Ok(Some(Frame::Data(channel, data.into())));
        }
        if self.close && first == u8::MAX {
            return Ok(rest.first().map(|c| Frame::Close(*c)));
        }
        Ok(Some(Frame::Data(first, rest)))
    }
}

/// Frames are read into memory; kubectl sends 32 KiB.
const MAX_MESSAGE: usize = 4 << 20;

/// A WebSocket of the server's side.
pub(super) type Socket = WebSocketStream<Io>;

/// The WebSocket over a connection that was upgraded to it.
pub(super) async fn socket(io: Io) -> Socket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Sends what comes until it ends, then a normal closure. Ends early when the client goes.
pub(super) async fn send_all<T>(io: Io, protocol: Protocol, mut from: mpsc::Receiver<(T, Bytes)>) {
    let (mut sink, mut stream) = socket(io).await.split();
    let gone = async { while let Some(Ok(_)) = stream.next().await {} };
    let send = async {
        while let Some((_, data)) = from.recv().await {
            if sink.send(protocol.plain(data)).await.is_err() {
                return;
            }
        }
        _ = sink.send(farewell()).await;
    };
    tokio::select! {
        () = gone => {}
        () = send => {}
    }
}

/// A WebSocket whose binary messages carry one stream of bytes (KEP-4006).
pub(super) fn tunnel(socket: Socket) -> impl AsyncRead + AsyncWrite + Send {
    let (sink, messages) = socket.split();
    let bytes = messages
        .map_err(io::Error::other)
        .try_filter_map(|message| async {
            match message {
                Message::Binary(bytes) => Ok(Some(bytes)),
                Message::Text(_) => Err(io::ErrorKind::InvalidData.into()),
                _ => Ok(None),
            }
        });
    let sink = sink.sink_map_err(io::Error::other);
    let sink =
        sink.with(|bytes: Bytes| std::future::ready(Ok::<_, io::Error>(Message::binary(bytes))));
    let output = SinkWriter::new(CopyToBytes::new(sink));
    tokio::io::join(StreamReader::new(Box::pin(bytes)), output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let [v5, v4, b64, ..] = EXEC;
        let data = |c, d: &'static [u8]| Ok(Some(Frame::Data(c, Bytes::from_static(d))));
        let table = [
            (v5, Message::binary(vec![0, b'x']), data(0, b"x")),
            (v5, Message::binary(vec![255, 0]), Ok(Some(Frame::Close(0)))),
            (v4, Message::binary(vec![255, 0]), data(255, b"\0")),
            (v4, Message::binary(vec![]), Ok(None)),
            (b64, Message::text("0aGk="), data(0, b"hi")),
            (b64, Message::text("xaGk="), Err("invalid channel".into())),
            (v5, Message::Ping(Bytes::new()), Ok(None)),
        ];
        for (protocol, message, want) in table {
            assert_eq!(
                protocol.decode(message.clone()),
                want,
                "{protocol:?} {message:?}"
            );
        }
        assert_eq!(b64.encode(1, b"hi"), Message::text("1aGk="));
        assert_eq!(v4.encode(3, b"hi"), Message::binary(vec![3, b'h', b'i']));
    }
}
