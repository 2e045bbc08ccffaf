//! Answers: JSON (or YAML), pretty on demand, compressed when large, refusals as `Status`.

use std::io::Write;

use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Response, StatusCode, header};
use keelson_api::Status;
use serde_json::Value;

/// Answers above this many bytes are compressed for clients that can read it (as upstream).
const COMPRESS_ABOVE: usize = 128 * 1024;

/// How a client wants its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    /// Indented.
    pub(crate) pretty: bool,
    /// YAML instead of JSON.
    pub(crate) yaml: bool,
    /// Understands gzip.
    pub(crate) gzip: bool,
}

/// Encodes a value.
pub(crate) fn value(code: u16, value: &Value, style: Style) -> Response<Body> {
    let encoded = match style {
        Style { yaml: true, .. } => serde_yaml_ng::to_string(value)
            .map(String::into_bytes)
            .unwrap_or_default(),
        Style { pretty: true, .. } => {
            let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
            text.push(b'\n');
            text
        }
        _ => {
            let mut text = serde_json::to_vec(value).unwrap_or_default();
            text.push(b'\n');
            text
        }
    };
    bytes(
        code,
        if style.yaml {
            "application/yaml"
        } else {
            "application/json"
        },
        encoded.into(),
        style.gzip,
    )
}

/// An answer of bytes.
pub(crate) fn bytes(code: u16, content_type: &str, body: Bytes, gzip: bool) -> Response<Body> {
    let compressed = if gzip && body.len() > COMPRESS_ABOVE {
        compress(&body)
    } else {
        None
    };
    let is_compressed = compressed.is_some();
    let mut response = Response::new(Body::from(compressed.unwrap_or(body)));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(content_type) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

/// Plain text.
pub(crate) fn text(code: u16, body: impl Into<String>) -> Response<Body> {
    bytes(
        code,
        "text/plain; charset=utf-8",
        Bytes::from(body.into()),
        false,
    )
}

/// A refusal.
pub(crate) fn refuse(status: &Status) -> Response<Body> {
    let mut response = value(status.code, &status.to_value(), Style::default());
    if let Some(seconds) = status.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status.code == 401 {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A `Warning` header's value (RFC 7234 5.5), without what a header cannot carry.
pub(crate) fn warning(text: &str) -> Option<HeaderValue> {
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
    HeaderValue::from_str(&format!("299 - \"{quoted}\"")).ok()
}

fn compress(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}
