//! Answers: JSON (or YAML), pretty on demand, compressed when large, refusals as `Status`.

use std::collections::HashSet;
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

/// The most that all warnings of an answer hold, in characters, and, when they would hold more, the most of each
/// (upstream's limits).
const WARNINGS: (usize, usize) = (4096, 256);
/// How many warnings an answer has at most: common clients read no more than 100 headers.
const MOST_WARNINGS: usize = 50;

/// The values of `Warning` headers: each text once, and no more than clients can be expected to read.
pub(crate) fn warnings(texts: &[String]) -> Vec<HeaderValue> {
    let mut seen = HashSet::new();
    let unique = || texts.iter().map(String::as_str);
    let total: usize = unique().map(|t| t.chars().count()).sum();
    let longest = if total > WARNINGS.0 {
        WARNINGS.1
    } else {
        WARNINGS.0
    };
    let mut left = WARNINGS.0;
    unique()
        .filter(|text| !text.is_empty() && seen.insert(*text))
        .map(|text| text.chars().take(longest).collect::<String>())
        .take_while(|text| {
            let fits = text.chars().count() <= left;
            left = left.saturating_sub(text.chars().count());
            fits
        })
        .filter_map(|text| warning(&text))
        .take(MOST_WARNINGS)
        .collect()
}

/// A `Warning` header's value (RFC 7234 5.5), without what a header cannot carry.
fn warning(text: &str) -> Option<HeaderValue> {
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
    HeaderValue::from_str(&format!("299 - \"{quoted}\"")).ok()
}

fn compress(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_few() {
        let text = |values: Vec<HeaderValue>| -> Vec<String> {
            let text = |v: HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
            values.into_iter().map(text).collect()
        };
        let few = ["a \"b\"", "", "a \"b\"", "c\n"].map(str::to_owned);
        assert_eq!(
            text(warnings(&few)),
            ["299 - \"a \\\"b\\\"\"", "299 - \"c\""]
        );
        let many: Vec<String> = (0..5000).map(|i| format!("{i:0300}")).collect();
        let sent = text(warnings(&many));
        assert_eq!(sent.len(), 16);
        assert!(sent.iter().all(|w| w.len() < 300));
        let short: Vec<String> = (0..5000).map(|i| i.to_string()).collect();
        assert_eq!(warnings(&short).len(), MOST_WARNINGS);
    }
}
