//! Reading and filling JSON values that come from outside: a missing field reads as nothing, and
//! filling a field of something that is no object does nothing. Paths are JSON pointers (RFC 6901).

use serde_json::{Map, Value, json};

static NULL: Value = Value::Null;

/// The value at a pointer, `null` where nothing is.
pub fn at<'a>(v: &'a Value, pointer: &str) -> &'a Value {
    v.pointer(pointer).unwrap_or(&NULL)
}

/// The text at a pointer, `""` where none is.
pub fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    at(v, pointer).as_str().unwrap_or_default()
}

/// The integer at a pointer.
pub fn int(v: &Value, pointer: &str) -> Option<i64> {
    at(v, pointer).as_i64()
}

/// Whether `true` stands at a pointer.
pub fn flag(v: &Value, pointer: &str) -> bool {
    at(v, pointer).as_bool().unwrap_or_default()
}

/// The array at a pointer, empty where none is.
pub fn items<'a>(v: &'a Value, pointer: &str) -> &'a [Value] {
    at(v, pointer)
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The texts of the array at a pointer.
pub fn texts<'a>(v: &'a Value, pointer: &str) -> Vec<&'a str> {
    items(v, pointer).iter().filter_map(Value::as_str).collect()
}

/// The entries of the object at a pointer, empty where none is.
pub fn entries<'a>(
    v: &'a Value,
    pointer: &str,
) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
    at(v, pointer)
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v))
}

/// Whether something other than `null` stands at a pointer.
pub fn has(v: &Value, pointer: &str) -> bool {
    !at(v, pointer).is_null()
}

/// Whether nothing of weight stands at a pointer: absent, `null`, `""`, `[]`, `{}`, 0 or `false` (Go's zero values).
pub fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// Sets a key that is absent or `null`.
pub fn fill(v: &mut Value, key: &str, default: impl Into<Value>) {
    if let Some(o) = v.as_object_mut()
        && o.get(key).is_none_or(Value::is_null)
    {
        o.insert(key.to_owned(), default.into());
    }
}

/// Sets a text that is absent, `null` or `""`.
pub fn fill_text(v: &mut Value, key: &str, default: &str) {
    if let Some(o) = v.as_object_mut()
        && o.get(key)
            .is_none_or(|x| x.is_null() || x.as_str() == Some(""))
    {
        o.insert(key.to_owned(), json!(default));
    }
}

/// Sets a number that is absent, `null` or 0 (fields that are no pointers in upstream's types).
pub fn fill_int(v: &mut Value, key: &str, default: i64) {
    if let Some(o) = v.as_object_mut()
        && o.get(key)
            .is_none_or(|x| x.is_null() || x.as_i64() == Some(0))
    {
        o.insert(key.to_owned(), json!(default));
    }
}

/// Sets a key, if the value is an object.
pub fn set(v: &mut Value, key: &str, to: impl Into<Value>) {
    if let Some(o) = v.as_object_mut() {
        o.insert(key.to_owned(), to.into());
    }
}

/// Removes a key.
pub fn remove(v: &mut Value, key: &str) -> Option<Value> {
    v.as_object_mut()?.remove(key)
}

/// The object under a key, made where it is absent or `null`.
pub fn object<'a>(v: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let child = v.as_object_mut()?.entry(key).or_insert(Value::Null);
    if child.is_null() {
        *child = Value::Object(Map::new());
    }
    child.is_object().then_some(child)
}

/// The value at a pointer, if it is there and an object.
pub fn object_at<'a>(v: &'a mut Value, pointer: &str) -> Option<&'a mut Value> {
    v.pointer_mut(pointer).filter(|x| x.is_object())
}

/// Calls `f` on each item of the array at a pointer.
pub fn each(v: &mut Value, pointer: &str, f: impl FnMut(&mut Value)) {
    if let Some(a) = v.pointer_mut(pointer).and_then(Value::as_array_mut) {
        a.iter_mut().for_each(f);
    }
}

/// Copies a key of `from` over `to`'s, or removes it where `from` has none.
pub fn keep(to: &mut Value, from: &Value, key: &str) {
    match from.get(key) {
        Some(v) => set(to, key, v.clone()),
        None => {
            remove(to, key);
        }
    }
}
