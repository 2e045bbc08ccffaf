//! Agreeing to leave HTTP: for a WebSocket or for SPDY/3.1, and for one of the protocols within.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Refusal;
use super::websocket::{self, Protocol};

/// The connection after HTTP.
pub(super) type Io = TokioIo<Upgraded>;

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What a route speaks.
pub(super) struct Offer {
    websocket: &'static [Protocol],
    spdy: &'static [&'static str],
    /// The subprotocol of a WebSocket whose messages carry SPDY.
    tunnel: &'static str,
    /// The subprotocol of a WebSocket whose client names none; empty: it must name one.
    unnamed: &'static str,
}

/// What exec and attach speak.
pub(super) const EXEC: Offer = Offer {
    websocket: &websocket::EXEC,
    spdy: &[
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
    ],
    tunnel: "",
    unnamed: "channel.k8s.io",
};

/// What port forwarding speaks.
pub(super) const FORWARD: Offer = Offer {
    websocket: &websocket::FORWARD,
    spdy: &["portforward.k8s.io"],
    tunnel: "SPDY/3.1+portforward.k8s.io",
    unnamed: "",
};

/// What logs speak.
pub(super) const LOG: Offer = Offer {
    websocket: &websocket::LOG,
    spdy: &[],
    tunnel: "",
    unnamed: "binary.k8s.io",
};

/// What is spoken from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreed {
    /// Channels in a WebSocket.
    WebSocket(Protocol),
    /// SPDY streams, and the protocol they serve; empty for clients from before there were names.
    Spdy(&'static str),
    /// SPDY streams within a WebSocket.
    Tunnel,
}

/// An upgrade that is agreed.
pub(super) struct Upgrade {
    /// The answer to send.
    pub(super) response: Response,
    /// What it says.
    pub(super) agreed: Agreed,
    connection: OnUpgrade,
}

impl Upgrade {
    /// Agrees, or says why not.
    pub(super) fn new(mut request: Request, offer: &Offer) -> Result<Self, Refusal> {
        let (agreed, answers) = agree(request.headers(), offer)?;
        let connection = request.extensions_mut().remove::<OnUpgrade>();
        let connection = connection
            .ok_or_else(|| Refusal::bad_request("unable to upgrade: the connection cannot be"))?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().extend(answers);
        Ok(Self {
            response,
            agreed,
            connection,
        })
    }

    /// Lets `serve` have the connection once the answer is sent.
    pub(super) fn spawn<F>(self, serve: impl FnOnce(Agreed, Io) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self {
            response,
            agreed,
            connection,
        } = self;
        tokio::spawn(async move {
            match connection.await {
                Ok(upgraded) => serve(agreed, TokioIo::new(upgraded)).await,
                Err(e) => tracing::debug!(error = %e, "endpoint: upgrade"),
            }
        });
        response
    }
}

type Answers = Vec<(HeaderName, HeaderValue)>;

/// Whether a WebSocket is asked for: a route that also answers plainly looks before it upgrades.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    values(headers, header::UPGRADE).any(|v| v.eq_ignore_ascii_case("websocket"))
}

fn agree(headers: &HeaderMap, offer: &Offer) -> Result<(Agreed, Answers), Refusal> {
    let wants = |name, token: &str| values(headers, name).any(|v| v.eq_ignore_ascii_case(token));
    let (agreed, mut answers) = match wants(header::CONNECTION, "upgrade") {
        true if wants(header::UPGRADE, SPDY) => spdy(headers, offer)?,
        true if wants(header::UPGRADE, "websocket") => websocket(headers, offer)?,
        _ => {
            return Err(Refusal::bad_request(
                "unable to upgrade: missing upgrade headers in request",
            ));
        }
    };
    answers.push((header::CONNECTION, HeaderValue::from_static("Upgrade")));
    Ok((agreed, answers))
}

fn spdy(headers: &HeaderMap, offer: &Offer) -> Result<(Agreed, Answers), Refusal> {
    let mut answers = vec![(header::UPGRADE, HeaderValue::from_static(SPDY))];
    let names: Vec<&str> = values(headers, STREAM_PROTOCOL).collect();
    if names.is_empty() {
        return Ok((Agreed::Spdy(""), answers));
    }
    let found = names
        .iter()
        .find_map(|n| offer.spdy.iter().find(|p| *p == n));
    let name = found.ok_or_else(|| {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            names.join(" "),
            offer.spdy.join(" ")
        );
        Refusal::new(403, "Forbidden", message)
    })?;
    answers.push((STREAM_PROTOCOL, HeaderValue::from_static(name)));
    Ok((Agreed::Spdy(name), answers))
}

fn websocket(headers: &HeaderMap, offer: &Offer) -> Result<(Agreed, Answers), Refusal> {
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Refusal::bad_request("unable to upgrade: no WebSocket key"))?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
    let mut answers = vec![
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (
            header::SEC_WEBSOCKET_ACCEPT,
            accept.map_err(Refusal::internal)?,
        ),
    ];
    let names: Vec<&str> = values(headers, header::SEC_WEBSOCKET_PROTOCOL).collect();
    let known = |name: &&str| {
        let protocol = offer.websocket.iter().find(|p| p.name == *name);
        let channels = protocol.map(|p| (p.name, Agreed::WebSocket(*p)));
        channels.or((*name == offer.tunnel).then_some((offer.tunnel, Agreed::Tunnel)))
    };
    if names.is_empty()
        && !offer.unnamed.is_empty()
        && let Some((_, agreed)) = known(&offer.unnamed)
    {
        return Ok((agreed, answers));
    }
    let (name, agreed) = names.iter().find_map(known).ok_or_else(|| {
        let ours: Vec<&str> = offer.websocket.iter().map(|p| p.name).collect();
        Refusal::bad_request(format!(
            "unable to upgrade: none of the subprotocols {names:?} is supported: {ours:?}"
        ))
    })?;
    answers.push((
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(name),
    ));
    Ok((agreed, answers))
}

/// The values of a header, which may come many times and with commas; never empty.
fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers
        .get_all(name)
        .into_iter()
        .filter_map(|v| v.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|v| !v.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_order_decides() {
        let spdy = |names: &[&'static str]| ("SPDY/3.1", STREAM_PROTOCOL, names.to_vec());
        let socket =
            |names: &[&'static str]| ("websocket", header::SEC_WEBSOCKET_PROTOCOL, names.to_vec());
        let channels = |p: Protocol| Agreed::WebSocket(p);
        let table = [
            (
                &EXEC,
                spdy(&["v9", "v4.channel.k8s.io", "v3.channel.k8s.io"]),
                Ok(Agreed::Spdy("v4.channel.k8s.io")),
            ),
            (
                &EXEC,
                spdy(&["v9, channel.k8s.io"]),
                Ok(Agreed::Spdy("channel.k8s.io")),
            ),
            (&EXEC, spdy(&[]), Ok(Agreed::Spdy(""))),
            (&EXEC, spdy(&["v5.channel.k8s.io"]), Err(403)),
            (
                &EXEC,
                socket(&["v5.channel.k8s.io,v4.channel.k8s.io"]),
                Ok(channels(websocket::EXEC[0])),
            ),
            (&EXEC, socket(&[]), Ok(channels(websocket::EXEC[3]))),
            (&EXEC, socket(&["SPDY/3.1+portforward.k8s.io"]), Err(400)),
            (
                &FORWARD,
                spdy(&["portforward.k8s.io"]),
                Ok(Agreed::Spdy("portforward.k8s.io")),
            ),
            (
                &FORWARD,
                socket(&["SPDY/3.1+portforward.k8s.io"]),
                Ok(Agreed::Tunnel),
            ),
            (
                &FORWARD,
                socket(&["v4.channel.k8s.io"]),
                Ok(channels(websocket::FORWARD[0])),
            ),
            (&FORWARD, socket(&[]), Err(400)),
            (
                &LOG,
                socket(&["binary.k8s.io"]),
                Ok(channels(websocket::LOG[0])),
            ),
            (&LOG, socket(&[]), Ok(channels(websocket::LOG[0]))),
            (&LOG, socket(&["v4.channel.k8s.io"]), Err(400)),
            (&FORWARD, ("h2c", header::TE, vec![]), Err(400)),
        ];
        for (offer, (upgrade, name, values), want) in table {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::CONNECTION,
                HeaderValue::from_static("keep-alive, Upgrade"),
            );
            headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
            headers.insert(
                header::SEC_WEBSOCKET_KEY,
                HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
            );
            for value in &values {
                headers.append(&name, HeaderValue::from_static(value));
            }
            let got = agree(&headers, offer).map(|(agreed, _)| agreed);
            assert_eq!(got.map_err(|e| e.code), want, "{upgrade} {values:?}");
        }
    }
}
