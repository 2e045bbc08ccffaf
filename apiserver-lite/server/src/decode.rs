//! From a request's body to a checked JSON value of the row's form.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use keelson_api::{Resource, Status};
use keelson_schema::{Gvk, Schema};
use serde_json::Value;

use crate::protobuf;

/// The largest body that is read, in bytes (upstream's limit).
pub(crate) const MAX_BODY: usize = 3 * 1024 * 1024;

/// What to do about fields a kind does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so in a header.
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; absent means `Warn`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Status> {
        Ok(match text {
            Some("Ignore") => Self::Ignore,
            None | Some("Warn") => Self::Warn,
            Some("Strict") => Self::Strict,
            Some(other) => {
                let cause = keelson_api::Cause {
                    reason: "FieldValueNotSupported",
                    field: "fieldValidation".into(),
                    message: format!(
                        "Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                    ),
                };
                return Err(Status::invalid(
                    "meta.k8s.io",
                    "CreateOptions",
                    "",
                    vec![cause],
                ));
            }
        })
    }
}

/// How long a client may take to send its body (upstream's limit of a whole request): while it does, it keeps one of the
/// places for requests that write.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads a body up to the limit.
pub(crate) async fn read(body: Body) -> Result<Bytes, Status> {
    read_within(body, PATIENCE).await
}

async fn read_within(body: Body, patience: Duration) -> Result<Bytes, Status> {
    let reading = Limited::new(body, MAX_BODY).collect();
    let Ok(read) = tokio::time::timeout(patience, reading).await else {
        return Err(Status::new(
            504,
            "Timeout",
            "Timeout: request did not complete within the allotted timeout",
        ));
    };
    match read {
        Ok(all) => Ok(all.to_bytes()),
        Err(e) if e.downcast_ref::<LengthLimitError>().is_some() => Err(Status::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {MAX_BODY}"),
        )),
        Err(e) => Err(Status::bad_request(format!("read request body: {e}"))),
    }
}

/// Decodes JSON or YAML by content type.
pub(crate) fn parse(content_type: &str, body: &[u8]) -> Result<Value, Status> {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    match kind {
        ""
        | "application/json"
        | "text/json"
        | "application/merge-patch+json"
        | "application/strategic-merge-patch+json"
        | "application/json-patch+json" => json(body),
        "application/yaml"
        | "text/yaml"
        | "application/x-yaml"
        | "application/apply-patch+yaml" => yaml(body),
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body),
        other => Err(unsupported(other)),
    }
}

/// 415, naming what is taken.
pub(crate) fn unsupported(kind: &str) -> Status {
    Status::new(
        415,
        "UnsupportedMediaType",
        format!(
            "the body of the request was in an unknown format ({kind}) - accepted media types include: \
             application/json, application/yaml"
        ),
    )
}

fn json(body: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(body)
        .map_err(|e| Status::bad_request(format!("couldn't parse the body as JSON: {e}")))
}

/// How deep a YAML body's brackets may nest. No kind comes near; the parser's time grows with the square.
const MAX_YAML_DEPTH: usize = 1000;

fn yaml(body: &[u8]) -> Result<Value, Status> {
    // JSON is YAML, and what clients mostly send under this name (server-side apply); its parser is quicker.
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    if bracket_depth(body) > MAX_YAML_DEPTH {
        return Err(Status::bad_request(format!(
            "couldn't parse the body as YAML: brackets nest deeper than {MAX_YAML_DEPTH}"
        )));
    }
    serde_yaml_ng::from_slice(body)
        .map_err(|e| Status::bad_request(format!("couldn't parse the body as YAML: {e}")))
}

/// The most brackets that are open at once. Those within texts count too: telling them apart is the parser's job.
fn bracket_depth(text: &[u8]) -> usize {
    let (mut depth, mut most) = (0usize, 0);
    for byte in text {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        most = most.max(depth);
    }
    most
}

/// The schema of a row's kind.
pub(crate) fn schema(row: &Resource) -> Option<Schema> {
    Schema::builtin(&gvk(row))
}

/// A row's group, version and kind.
pub(crate) fn gvk(row: &Resource) -> Gvk {
    Gvk {
        group: row.group.to_string(),
        version: row.version.to_string(),
        kind: row.kind.to_string(),
    }
}

/// Fields that stand twice in a JSON text, unless nobody wants to know.
pub(crate) fn duplicates(json: &[u8], mode: FieldValidation) -> Vec<String> {
    match mode {
        FieldValidation::Ignore => Vec::new(),
        _ => keelson_schema::duplicate_fields(json),
    }
}

/// Checks that the object is of the row's kind, removes unknown fields and says which they were, after the
/// fields that were found to stand `twice`.
pub(crate) fn conform(
    row: &Resource,
    object: &mut Value,
    twice: Vec<String>,
    mode: FieldValidation,
) -> Result<Vec<String>, Status> {
    conform_as(&gvk(row), object, twice, mode)
}

/// As [`conform`], for any kind (`Binding`, `Scale`, `Eviction`, ...).
pub(crate) fn conform_as(
    gvk: &Gvk,
    object: &mut Value,
    twice: Vec<String>,
    mode: FieldValidation,
) -> Result<Vec<String>, Status> {
    check_type(gvk, object)?;
    let cannot = |why: String| {
        let (kind, version) = (&gvk.kind, &gvk.version);
        Status::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"
        ))
    };
    let mut wrong = twice;
    if let Some(schema) = Schema::builtin(gvk) {
        wrong.extend(schema.decode(object).map_err(cannot)?);
    }
    match mode {
        FieldValidation::Strict if !wrong.is_empty() => Err(cannot(strict(&wrong))),
        FieldValidation::Warn => Ok(wrong),
        _ => Ok(Vec::new()),
    }
}

/// How many wrong fields are named (upstream's limit).
const NAMED: usize = 100;

/// What `Strict` says of wrong fields.
pub(crate) fn strict(wrong: &[String]) -> String {
    let named = wrong.get(..NAMED).unwrap_or(wrong);
    format!("strict decoding error: {}", named.join(", "))
}

fn check_type(gvk: &Gvk, object: &mut Value) -> Result<(), Status> {
    let want = if gvk.group.is_empty() {
        gvk.version.clone()
    } else {
        format!("{}/{}", gvk.group, gvk.version)
    };
    let Some(map) = object.as_object_mut() else {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {})",
            gvk.kind
        )));
    };
    for (field, want) in [("kind", &gvk.kind), ("apiVersion", &want)] {
        let have = match map.get(field) {
            None | Some(Value::Null) => "",
            Some(Value::String(s)) => s.as_str(),
            Some(_) => return Err(Status::bad_request(format!("{field} must be a string"))),
        };
        if have.is_empty() {
            map.insert(field.to_owned(), Value::String(want.clone()));
        } else if have != want {
            let message = if field == "kind" {
                format!("the kind in the data ({have}) does not match the expected kind ({want})")
            } else {
                format!(
                    "the API version in the data ({have}) does not match the expected API version ({want})"
                )
            };
            return Err(Status::bad_request(message));
        }
    }
    match map.get("metadata") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(_) => Err(Status::bad_request("metadata must be an object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn types_must_match() {
        let gvk = Gvk {
            group: "apps".into(),
            version: "v1".into(),
            kind: "Deployment".into(),
        };
        let mut empty = json!({});
        assert_eq!(check_type(&gvk, &mut empty), Ok(()));
        assert_eq!(
            empty,
            json!({"apiVersion": "apps/v1", "kind": "Deployment"})
        );
        for bad in [
            json!([]),
            json!(3),
            json!({"kind": 4}),
            json!({"kind": "Pod"}),
            json!({"apiVersion": "apps/v2"}),
            json!({"metadata": []}),
        ] {
            assert_eq!(
                check_type(&gvk, &mut bad.clone())
                    .expect_err("refused")
                    .code,
                400,
                "{bad}"
            );
        }
    }

    #[tokio::test]
    async fn bodies_must_come_in_time_and_whole() {
        type Piece = Result<Bytes, std::io::Error>;
        let never = Body::from_stream(futures::stream::pending::<Piece>());
        let late = read_within(never, Duration::from_millis(1)).await;
        assert_eq!(late.expect_err("late").code, 504);
        let large = Body::from(vec![0; MAX_BODY + 1]);
        assert_eq!(read(large).await.expect_err("large").code, 413);
        assert_eq!(read(Body::from("{}")).await.expect("read"), "{}");
    }

    #[test]
    fn bodies() {
        assert_eq!(parse("application/cbor", b"").expect_err("cbor").code, 415);
        assert_eq!(
            parse("application/yaml", b"a: [1]").expect("yaml"),
            json!({"a": [1]})
        );
        assert_eq!(
            parse("application/json; charset=utf-8", b"{}").expect("json"),
            json!({})
        );
        assert_eq!(parse("", b"{").expect_err("broken").code, 400);
    }

    #[test]
    fn yaml_is_not_read_when_too_deep() {
        let nested = |n: usize| format!("a: {}{}", "[".repeat(n), "]".repeat(n));
        let refused = |n| {
            parse("application/yaml", nested(n).as_bytes())
                .expect_err("deep")
                .message
        };
        assert!(refused(MAX_YAML_DEPTH + 1).contains("nest deeper"));
        assert!(!refused(MAX_YAML_DEPTH).contains("nest deeper"));
        assert!(parse("application/yaml", nested(20).as_bytes()).is_ok());
        let wide = "a: [".to_owned() + &"[],".repeat(5000) + "]";
        assert!(parse("application/yaml", wide.as_bytes()).is_ok());
    }
}
