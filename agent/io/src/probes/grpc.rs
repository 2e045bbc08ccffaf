//! gRPC health probes: one `grpc.health.v1.Health/Check` over plain HTTP/2. The two messages have one
//! field each, so they are written and read by hand.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{ProbeResult, authority, connect};

const SERVING: u64 = 1;

/// Names of `HealthCheckResponse.ServingStatus`.
const STATUS: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// Runs a gRPC probe.
pub(super) async fn probe(host: &str, port: u16, service: &str, timeout: Duration) -> ProbeResult {
    match check(host, port, service).await {
        Ok(SERVING) => ProbeResult::Success,
        Ok(status) => {
            let name = usize::try_from(status)
                .ok()
                .and_then(|i| STATUS.get(i))
                .copied()
                .unwrap_or("UNKNOWN");
            ProbeResult::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        Err(Refusal::Connect(why)) => {
            let target = authority(host, port);
            let ms = timeout.as_millis();
            ProbeResult::Failure(format!(
                "timeout: failed to connect service {target:?} within {ms}ms: {why}"
            ))
        }
        Err(Refusal::Unimplemented) => ProbeResult::Failure(
            "this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                .into(),
        ),
        Err(Refusal::Call(why)) => ProbeResult::Failure(format!("rpc error: {why}")),
    }
}

enum Refusal {
    Connect(String),
    Unimplemented,
    Call(String),
}

async fn check(host: &str, port: u16, service: &str) -> Result<u64, Refusal> {
    let tcp = connect(host, port)
        .await
        .map_err(|e| Refusal::Connect(e.message()))?;
    let call = |e: &dyn std::fmt::Display| Refusal::Call(e.to_string());
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await;
    let (mut sender, connection) = handshake.map_err(|e| Refusal::Connect(e.to_string()))?;
    tokio::spawn(connection);
    let uri = format!(
        "http://{}/grpc.health.v1.Health/Check",
        authority(host, port)
    );
    let request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(Bytes::from(frame(service))))
        .map_err(|e| call(&e))?;
    let response = sender.send_request(request).await.map_err(|e| call(&e))?;
    if !response.status().is_success() {
        return Err(Refusal::Call(format!(
            "unexpected HTTP status code {}",
            response.status()
        )));
    }
    status(response.headers())?;
    let body = response.into_body().collect().await.map_err(|e| call(&e))?;
    body.trailers().map_or(Ok(()), status)?;
    parse(&body.to_bytes()).ok_or_else(|| Refusal::Call("malformed health response".into()))
}

/// gRPC's own status, in headers (for a call refused at once) or in trailers.
fn status(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    };
    match text("grpc-status") {
        "" | "0" => Ok(()),
        "12" => Err(Refusal::Unimplemented),
        code => Err(Refusal::Call(format!(
            "code = {code} desc = {}",
            text("grpc-message")
        ))),
    }
}

/// `HealthCheckRequest { service = 1 }` with gRPC's five bytes of length prefix.
fn frame(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.append(&mut message);
    frame
}

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The `status = 1` of `HealthCheckResponse`; absent means 0.
fn parse(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_at_checked(5)?;
    let [0, length @ ..] = head else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    let message = message.get(..length)?;
    match message {
        [] => Some(0),
        [0x08, status @ 0..=0x7f] => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(frame(""), [0, 0, 0, 0, 0]);
        assert_eq!(frame("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = frame(&"x".repeat(200));
        assert_eq!(long.get(5..8), Some(&[0x0a, 0xc8, 0x01][..]));
        assert_eq!(parse(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(parse(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [
            &[][..],
            &[1, 0, 0, 0, 0],
            &[0, 0, 0, 0, 9, 8, 1],
            &[0, 0, 0, 0, 1, 8],
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
