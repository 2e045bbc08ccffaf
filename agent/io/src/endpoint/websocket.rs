//! The WebSocket side: the upgrade, and the channel protocols of Kubernetes over it.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::Refusal;

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

/// An upgrade that is agreed: the answer to send, and the connection to come.
pub(super) struct Upgrade {
    pub(super) protocol: Protocol,
    pub(super) response: Response,
    connection: OnUpgrade,
}

/// Frames are read into memory; kubectl sends 32 KiB.
const MAX_MESSAGE: usize = 4 << 20;

impl Upgrade {
    /// The connection, once the answer is sent.
    pub(super) async fn connect(
        connection: OnUpgrade,
    ) -> Result<WebSocketStream<TokioIo<Upgraded>>, hyper::Error> {
        let upgraded = TokioIo::new(connection.await?);
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await)
    }

    /// Splits into answer and the rest.
    pub(super) fn into_parts(self) -> (Response, Protocol, OnUpgrade) {
        (self.response, self.protocol, self.connection)
    }
}

/// Agrees to a WebSocket with one of `offered`; a client that names none gets the version before names.
pub(super) fn upgrade(mut request: Request, offered: &[Protocol]) -> Result<Upgrade, Refusal> {
    let headers = request.headers();
    let wanted = token(headers, header::UPGRADE);
    if wanted.starts_with("spdy/") {
        return Err(Refusal::not_offered(
            "unable to upgrade: SPDY/3.1 is not offered by this node agent, use a WebSocket",
        ));
    }
    if wanted != "websocket" || !token(headers, header::CONNECTION).contains("upgrade") {
        return Err(Refusal::bad_request(
            "unable to upgrade: missing upgrade headers in request",
        ));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Refusal::bad_request("unable to upgrade: no WebSocket key"))?;
    let accept = derive_accept_key(key.as_bytes());
    let names = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok());
    let names: Vec<String> = names
        .flat_map(|v| v.split(','))
        .map(|n| n.trim().to_owned())
        .collect();
    let agreed = names
        .iter()
        .find_map(|n| offered.iter().find(|p| p.name == n))
        .copied();
    let unnamed = offered
        .iter()
        .find(|p| p.name == "channel.k8s.io")
        .copied()
        .filter(|_| names.is_empty());
    let protocol = agreed
        .or(unnamed)
        .ok_or_else(|| unsupported(&names, offered))?;
    let connection = request.extensions_mut().remove::<OnUpgrade>();
    let connection = connection
        .ok_or_else(|| Refusal::bad_request("unable to upgrade: the connection cannot be"))?;
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept);
    if agreed.is_some() {
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, protocol.name);
    }
    let response = response.body(Body::empty()).map_err(Refusal::internal)?;
    Ok(Upgrade {
        protocol,
        response,
        connection,
    })
}

fn unsupported(names: &[String], offered: &[Protocol]) -> Refusal {
    let ours: Vec<&str> = offered.iter().map(|p| p.name).collect();
    if names.iter().any(|n| n.starts_with("SPDY/3.1+")) {
        return Refusal::not_offered(format!(
            "SPDY/3.1 in a WebSocket is not offered by this node agent; it speaks {ours:?}"
        ));
    }
    Refusal::bad_request(format!(
        "unable to upgrade: none of the subprotocols {names:?} is supported: {ours:?}"
    ))
}

fn token(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_ascii_lowercase()
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
