//! Protobuf bodies, which Go clients send by themselves, made into JSON.
//!
//! The envelope is `k8s\0` and a `runtime.Unknown`. Messages are decoded by a table of their fields; what
//! is not in the table is refused, never dropped.

pub(crate) mod openapi;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_api::Status;
use serde_json::{Map, Value, json};

use self::table::{Field, Form, MESSAGES, Many};
use self::wire::{Wire, field, vacuous, varint};

/// The first bytes of an envelope.
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may be nested.
const DEPTH: usize = 32;

/// Why a message cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// It is no protobuf of this kind.
    Broken,
    /// It has something in a field the table does not know.
    Unknown(u32),
}

/// Decodes a body; 415 for what is no protobuf, and for kinds and fields that are not in the table.
pub(crate) fn decode(body: &[u8]) -> Result<Value, Status> {
    let envelope = body
        .strip_prefix(MAGIC)
        .and_then(envelope)
        .ok_or_else(|| refuse("is not valid application/vnd.kubernetes.protobuf"))?;
    let Envelope {
        api_version, kind, ..
    } = &envelope;
    let message = MESSAGES
        .kind(api_version, kind)
        .ok_or_else(|| unread(api_version, kind, ""))?;
    let mut object = decode_message(envelope.raw, message, DEPTH).map_err(|fault| match fault {
        Fault::Broken => refuse(&format!(
            "is not a valid {kind} as application/vnd.kubernetes.protobuf"
        )),
        Fault::Unknown(number) => unread(api_version, kind, &format!(" with field {number}")),
    })?;
    object.insert("apiVersion".into(), json!(api_version));
    object.insert("kind".into(), json!(kind));
    Ok(Value::Object(object))
}

fn unread(api_version: &str, kind: &str, with: &str) -> Status {
    refuse(&format!(
        "is {api_version:?} {kind:?}{with} as application/vnd.kubernetes.protobuf, which this server does not read"
    ))
}

fn refuse(why: &str) -> Status {
    let message = format!(
        "the body of the request {why} - accepted media types include: application/json, application/yaml"
    );
    Status::new(415, "UnsupportedMediaType", message)
}

/// `runtime.Unknown`.
#[derive(Default)]
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

fn envelope(mut bytes: &[u8]) -> Option<Envelope<'_>> {
    let mut out = Envelope::default();
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (1, Wire::Slice(mut of_type)) => {
                while !of_type.is_empty() {
                    match field(&mut of_type)? {
                        (1, Wire::Slice(text)) => out.api_version = utf8(text).ok()?.to_owned(),
                        (2, Wire::Slice(text)) => out.kind = utf8(text).ok()?.to_owned(),
                        _ => return None,
                    }
                }
            }
            (2, Wire::Slice(raw)) => out.raw = raw,
            // The encoding and type of `raw` are empty for protobuf.
            (_, other) => vacuous(&other, 0).then_some(())?,
        }
    }
    Some(out)
}

fn decode_message(
    mut bytes: &[u8],
    message: usize,
    deeper: usize,
) -> Result<Map<String, Value>, Fault> {
    let deeper = deeper.checked_sub(1).ok_or(Fault::Broken)?;
    let mut out = Map::new();
    while !bytes.is_empty() {
        let (number, wire) = field(&mut bytes).ok_or(Fault::Broken)?;
        match MESSAGES.field(message, number) {
            Some(field) => put(&mut out, field, &wire, deeper)?,
            None if vacuous(&wire, deeper) => {}
            None => return Err(Fault::Unknown(number)),
        }
    }
    Ok(out)
}

fn put(
    out: &mut Map<String, Value>,
    field: &Field,
    wire: &Wire<'_>,
    deeper: usize,
) -> Result<(), Fault> {
    match (field.many, field.form, wire) {
        (Many::One, Form::Message(inner), Wire::Slice(bytes)) if field.name == "+" => {
            out.extend(decode_message(bytes, inner, deeper)?);
        }
        (Many::One, form, wire) => {
            if let Some(value) = value(form, wire, deeper)?.filter(|v| says(form, v)) {
                out.insert(field.name.to_owned(), value);
            }
        }
        // Numbers may come packed.
        (Many::List, form @ (Form::Int { .. } | Form::Flag { .. }), Wire::Slice(bytes)) => {
            let mut rest = *bytes;
            while !rest.is_empty() {
                let number = Wire::Number(varint(&mut rest).ok_or(Fault::Broken)?);
                list(out, field.name)?.extend(value(form, &number, deeper)?);
            }
        }
        (Many::List, form, wire) => list(out, field.name)?.extend(value(form, wire, deeper)?),
        (Many::Map, form, Wire::Slice(bytes)) => {
            let (key, value) = entry(form, bytes, deeper)?;
            child(out, field.name, json!({}))
                .as_object_mut()
                .ok_or(Fault::Broken)?
                .insert(key, value);
        }
        (Many::Map, _, Wire::Number(_)) => return Err(Fault::Broken),
    }
    Ok(())
}

fn child<'a>(out: &'a mut Map<String, Value>, name: &str, new: Value) -> &'a mut Value {
    out.entry(name).or_insert(new)
}

fn list<'a>(out: &'a mut Map<String, Value>, name: &str) -> Result<&'a mut Vec<Value>, Fault> {
    child(out, name, json!([]))
        .as_array_mut()
        .ok_or(Fault::Broken)
}

/// Whether a single value is more than the zero that Go writes where nothing was set.
fn says(form: Form, value: &Value) -> bool {
    match form {
        Form::Text { empty: false } => value != "",
        Form::Int { zero: false } => value != 0,
        Form::Flag { zero: false } => value != false,
        _ => true,
    }
}

/// One entry of a map: a message of key (1) and value (2).
fn entry(form: Form, mut bytes: &[u8], deeper: usize) -> Result<(String, Value), Fault> {
    let (mut key, mut of_key) = (String::new(), None);
    while !bytes.is_empty() {
        match field(&mut bytes).ok_or(Fault::Broken)? {
            (1, Wire::Slice(text)) => key = utf8(text)?.to_owned(),
            (2, wire) => of_key = value(form, &wire, deeper)?,
            _ => return Err(Fault::Broken),
        }
    }
    let value = match of_key {
        Some(value) => value,
        None => value(form, &Wire::Slice(&[]), deeper)?.ok_or(Fault::Broken)?,
    };
    Ok((key, value))
}

/// One value; `None`: a time that is not set.
fn value(form: Form, wire: &Wire<'_>, deeper: usize) -> Result<Option<Value>, Fault> {
    Ok(Some(match (form, wire) {
        (Form::Int { .. }, Wire::Number(n)) => json!(n.cast_signed()),
        (Form::Flag { .. }, Wire::Number(n)) => json!(*n != 0),
        (Form::Int { .. } | Form::Flag { .. }, _) | (_, Wire::Number(_)) => {
            return Err(Fault::Broken);
        }
        (Form::Text { .. }, Wire::Slice(bytes)) => json!(utf8(bytes)?),
        (Form::Bytes, Wire::Slice(bytes)) => json!(STANDARD.encode(bytes)),
        (Form::Time, Wire::Slice(bytes)) => {
            return Ok(time(bytes)?.map(|at| json!(crate::object::timestamp(at))));
        }
        (Form::MicroTime, Wire::Slice(bytes)) => {
            let micro = |at: jiff::Timestamp| at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
            return Ok(time(bytes)?.map(|at| json!(micro(at))));
        }
        (Form::Quantity, Wire::Slice(bytes)) => match utf8(single(bytes)?)? {
            "" => json!("0"),
            text => json!(text),
        },
        (Form::Either, Wire::Slice(bytes)) => either(bytes)?,
        (Form::Json, Wire::Slice(bytes)) => match single(bytes)? {
            [] => return Ok(None),
            text => serde_json::from_slice(text).map_err(|_| Fault::Broken)?,
        },
        (Form::Texts, Wire::Slice(bytes)) => texts(bytes)?,
        (Form::Message(inner), Wire::Slice(bytes)) => {
            Value::Object(decode_message(bytes, inner, deeper)?)
        }
    }))
}

fn utf8(slice: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(slice).map_err(|_| Fault::Broken)
}

/// The slice in the first field of a message that has no other.
fn single(mut bytes: &[u8]) -> Result<&[u8], Fault> {
    let mut out: &[u8] = &[];
    while !bytes.is_empty() {
        match field(&mut bytes).ok_or(Fault::Broken)? {
            (1, Wire::Slice(slice)) => out = slice,
            _ => return Err(Fault::Broken),
        }
    }
    Ok(out)
}

fn texts(mut bytes: &[u8]) -> Result<Value, Fault> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        match field(&mut bytes).ok_or(Fault::Broken)? {
            (1, Wire::Slice(slice)) => out.push(utf8(slice)?),
            _ => return Err(Fault::Broken),
        }
    }
    Ok(json!(out))
}

/// Seconds (1) and nanoseconds (2); nothing at all is no time.
fn time(mut bytes: &[u8]) -> Result<Option<jiff::Timestamp>, Fault> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    while !bytes.is_empty() {
        match field(&mut bytes).ok_or(Fault::Broken)? {
            (1, Wire::Number(n)) => seconds = n.cast_signed(),
            (2, Wire::Number(n)) => nanos = i32::try_from(n).map_err(|_| Fault::Broken)?,
            _ => return Err(Fault::Broken),
        }
    }
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| Fault::Broken)?;
    Ok(Some(at))
}

/// Type (1), number (2) and text (3); the type says which of them counts.
fn either(mut bytes: &[u8]) -> Result<Value, Fault> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    while !bytes.is_empty() {
        match field(&mut bytes).ok_or(Fault::Broken)? {
            (1, Wire::Number(n)) => is_text = n == 1,
            (2, Wire::Number(n)) => number = n.cast_signed(),
            (3, Wire::Slice(slice)) => text = utf8(slice)?,
            _ => return Err(Fault::Broken),
        }
    }
    Ok(if is_text { json!(text) } else { json!(number) })
}
