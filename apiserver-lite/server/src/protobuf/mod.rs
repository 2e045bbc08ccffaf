//! Protobuf bodies of the kinds that Go clients send by themselves, made into JSON.
//!
//! The envelope is `k8s\0` and a `runtime.Unknown`. Messages are decoded by a table of their fields (the
//! field numbers of `generated.proto`); a kind that is not in the table gets 415.

mod kinds;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_api::Status;
use serde_json::{Map, Value, json};

use self::kinds::KINDS;

/// The first bytes of an envelope.
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may be nested.
const DEPTH: usize = 32;

/// What a field holds.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Bytes,
    Int,
    Flag,
    /// `meta/v1 Time`.
    Time,
    Texts,
    /// `map<string, string>`.
    TextMap,
    /// `map<string, bytes>`.
    BytesMap,
    One(&'static [Field]),
    Many(&'static [Field]),
    /// `intstr.IntOrString`.
    IntOrText,
    /// `map<string, ExtraValue>`.
    TextsMap,
}

type Field = (u32, &'static str, Form);

use Form::{
    Bytes, BytesMap, Flag, Int, IntOrText, Many, One, Text, TextMap, Texts, TextsMap, Time,
};

/// Decodes a body. 415 for kinds and fields that are not in the table, 400 for what is no protobuf.
pub(crate) fn decode(body: &[u8]) -> Result<Value, Status> {
    let broken = |_| Status::bad_request("couldn't parse the body as protobuf");
    let envelope = body
        .strip_prefix(MAGIC)
        .ok_or(Fault::Broken)
        .and_then(|rest| message(rest, ENVELOPE, 0));
    let envelope = envelope.map_err(broken)?;
    let text = |p: &str| {
        envelope
            .pointer(p)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (api_version, kind) = (text("/type/apiVersion"), text("/type/kind"));
    let fields = KINDS
        .iter()
        .find(|(v, k, _)| *k == kind && (v.is_empty() || *v == api_version));
    let Some((_, _, fields)) = fields else {
        return Err(unread(&kind, ""));
    };
    let raw = STANDARD.decode(text("/raw")).unwrap_or_default();
    let mut object = message(&raw, fields, 0).map_err(|fault| match fault {
        Fault::Broken => broken(fault),
        Fault::Unknown(number) => unread(&kind, &format!(" with field {number}")),
    })?;
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    Ok(object)
}

/// `runtime.Unknown`.
const ENVELOPE: &[Field] = &[
    (
        1,
        "type",
        One(&[(1, "apiVersion", Text), (2, "kind", Text)]),
    ),
    (2, "raw", Bytes),
    (3, "contentEncoding", Text),
    (4, "contentType", Text),
];

fn unread(kind: &str, with: &str) -> Status {
    Status::new(
        415,
        "UnsupportedMediaType",
        format!(
            "the body of the request is {kind}{with} as application/vnd.kubernetes.protobuf, which this server does \
             not read - accepted media types include: application/json, application/yaml"
        ),
    )
}

/// The value of one field on the wire.
enum Wire<'a> {
    Number(u64),
    Slice(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(head)
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Wire<'a>)> {
    let tag = varint(bytes)?;
    let number = u32::try_from(tag >> 3).ok()?;
    let wire = match tag & 7 {
        0 => Wire::Number(varint(bytes)?),
        1 => Wire::Slice(take(bytes, 8)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Wire::Slice(take(bytes, length)?)
        }
        5 => Wire::Slice(take(bytes, 4)?),
        _ => return None,
    };
    Some((number, wire))
}

/// Why a message cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is no protobuf of this kind.
    Broken,
    /// It has something in a field the table does not know: it must not be dropped in silence.
    Unknown(u32),
}

/// Whether a field says nothing: zero, empty, or a message of such fields (Go writes empty statuses).
fn vacuous(wire: &Wire<'_>, depth: usize) -> bool {
    let mut rest = match wire {
        Wire::Number(n) => return *n == 0,
        Wire::Slice(slice) => *slice,
    };
    while !rest.is_empty() {
        match field(&mut rest) {
            Some((_, inner)) if depth < DEPTH && vacuous(&inner, depth + 1) => {}
            _ => return false,
        }
    }
    true
}

fn message(mut bytes: &[u8], fields: &[Field], depth: usize) -> Result<Value, Fault> {
    if depth > DEPTH {
        return Err(Fault::Broken);
    }
    let mut out = Map::new();
    while !bytes.is_empty() {
        let (number, wire) = field(&mut bytes).ok_or(Fault::Broken)?;
        match fields.iter().find(|(n, _, _)| *n == number) {
            Some((_, name, form)) => put(&mut out, name, *form, &wire, depth)?,
            None if vacuous(&wire, depth) => {}
            None => return Err(Fault::Unknown(number)),
        }
    }
    Ok(Value::Object(out))
}

fn put(
    out: &mut Map<String, Value>,
    name: &str,
    form: Form,
    wire: &Wire<'_>,
    depth: usize,
) -> Result<(), Fault> {
    let slice = match (form, wire) {
        (Int, Wire::Number(n)) => {
            out.insert(name.to_owned(), json!(n.cast_signed()));
            return Ok(());
        }
        (Flag, Wire::Number(n)) => {
            out.insert(name.to_owned(), json!(*n != 0));
            return Ok(());
        }
        (Int | Flag, _) | (_, Wire::Number(_)) => return Err(Fault::Broken),
        (_, Wire::Slice(slice)) => *slice,
    };
    match form {
        Text => {
            let text = utf8(slice)?;
            if !text.is_empty() {
                out.insert(name.to_owned(), json!(text));
            }
        }
        Bytes => {
            out.insert(name.to_owned(), json!(STANDARD.encode(slice)));
        }
        Time => {
            let seconds = message(slice, &[(1, "seconds", Int)], depth + 1)?;
            let seconds = seconds.get("seconds").and_then(Value::as_i64);
            if let Some(at) = seconds.and_then(|s| jiff::Timestamp::from_second(s).ok()) {
                out.insert(name.to_owned(), json!(crate::object::timestamp(at)));
            }
        }
        One(fields) => {
            out.insert(name.to_owned(), message(slice, fields, depth + 1)?);
        }
        Texts => push(out, name, json!(utf8(slice)?))?,
        Many(fields) => push(out, name, message(slice, fields, depth + 1)?)?,
        TextMap => entry(out, name, slice, Text, depth)?,
        BytesMap => entry(out, name, slice, Bytes, depth)?,
        TextsMap => entry(out, name, slice, One(&[(1, "items", Texts)]), depth)?,
        IntOrText => {
            let either = message(
                slice,
                &[(1, "type", Int), (2, "number", Int), (3, "text", Text)],
                depth + 1,
            )?;
            let is_text = either.get("type").and_then(Value::as_i64) == Some(1);
            let (named, none) = if is_text {
                ("text", json!(""))
            } else {
                ("number", json!(0))
            };
            out.insert(name.to_owned(), either.get(named).cloned().unwrap_or(none));
        }
        Int | Flag => return Err(Fault::Broken),
    }
    Ok(())
}

fn utf8(slice: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(slice).map_err(|_| Fault::Broken)
}

fn push(out: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), Fault> {
    out.entry(name)
        .or_insert_with(|| json!([]))
        .as_array_mut()
        .ok_or(Fault::Broken)?
        .push(value);
    Ok(())
}

/// One entry of a map: a message of key (1) and value (2).
fn entry(
    out: &mut Map<String, Value>,
    name: &str,
    slice: &[u8],
    form: Form,
    depth: usize,
) -> Result<(), Fault> {
    let fields = [(1, "key", Text), (2, "value", form)];
    let pair = message(slice, &fields, depth + 1)?;
    let key = pair
        .get("key")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let value = match (pair.get("value"), form) {
        (Some(value), One(_)) => value.get("items").cloned().unwrap_or_else(|| json!([])),
        (Some(value), _) => value.clone(),
        (None, _) => json!(""),
    };
    out.entry(name)
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or(Fault::Broken)?
        .insert(key, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kubectl 1.32 sends `create configmap a --from-literal=x=y`.
    const CONFIG_MAP: &str = "6b3873000a0f0a0276311209436f6e6669674d6170121b0a110a01611200\
                              1a0022002a00320038004200120 60a01781201791a002200";

    #[test]
    fn kubectl_config_map() {
        let bytes = hex::decode(CONFIG_MAP.replace(' ', "")).expect("hex");
        let object = decode(&bytes).expect("decodes");
        assert_eq!(object["kind"], "ConfigMap");
        assert_eq!(object["metadata"]["name"], "a");
        assert_eq!(object["data"], json!({"x": "y"}));
    }

    #[test]
    fn hostile_bytes() {
        let bytes = hex::decode(CONFIG_MAP.replace(' ', "")).expect("hex");
        for cut in 0..bytes.len() {
            let _ = decode(bytes.get(..cut).expect("in range"));
        }
        assert_eq!(
            decode(b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
                .expect_err("varint")
                .code,
            400
        );
        assert_eq!(decode(b"k8s\0").expect_err("no kind").code, 415);
    }
}
