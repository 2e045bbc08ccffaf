//! `metadata` of an object as a JSON value: readers that never fail and writers that make `metadata`
//! where it is missing.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::json;

/// Letters of generated names: no vowels and no look-alikes, so that no words arise (upstream's `rand.String`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest base of a generated name: 63 less the suffix.
const MAX_BASE: usize = 58;

/// `metadata.name`.
pub fn name(v: &Value) -> &str {
    json::text(v, "/metadata/name")
}

/// `metadata.generateName`.
pub fn generate_name(v: &Value) -> &str {
    json::text(v, "/metadata/generateName")
}

/// `metadata.namespace`, `""` for objects of the cluster.
pub fn namespace(v: &Value) -> &str {
    json::text(v, "/metadata/namespace")
}

/// `metadata.uid`.
pub fn uid(v: &Value) -> &str {
    json::text(v, "/metadata/uid")
}

/// `metadata.resourceVersion`.
pub fn resource_version(v: &Value) -> &str {
    json::text(v, "/metadata/resourceVersion")
}

/// `metadata.generation`.
pub fn generation(v: &Value) -> Option<i64> {
    json::int(v, "/metadata/generation")
}

/// The pairs of `metadata.labels`.
pub fn labels(v: &Value) -> impl Iterator<Item = (&str, &str)> {
    json::entries(v, "/metadata/labels").filter_map(|(k, v)| Some((k, v.as_str()?)))
}

/// A label's value.
pub fn label<'a>(v: &'a Value, key: &str) -> Option<&'a str> {
    json::at(v, "/metadata/labels").get(key)?.as_str()
}

/// The pairs of `metadata.annotations`.
pub fn annotations(v: &Value) -> impl Iterator<Item = (&str, &str)> {
    json::entries(v, "/metadata/annotations").filter_map(|(k, v)| Some((k, v.as_str()?)))
}

/// An annotation's value.
pub fn annotation<'a>(v: &'a Value, key: &str) -> Option<&'a str> {
    json::at(v, "/metadata/annotations").get(key)?.as_str()
}

/// `metadata.finalizers`.
pub fn finalizers(v: &Value) -> Vec<&str> {
    json::texts(v, "/metadata/finalizers")
}

/// `metadata.creationTimestamp`.
pub fn creation_timestamp(v: &Value) -> Option<Timestamp> {
    time(v, "/metadata/creationTimestamp")
}

/// `metadata.deletionTimestamp`: set as soon as deletion began.
pub fn deletion_timestamp(v: &Value) -> Option<Timestamp> {
    time(v, "/metadata/deletionTimestamp")
}

/// Whether deletion began.
pub fn is_deleting(v: &Value) -> bool {
    json::has(v, "/metadata/deletionTimestamp")
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_seconds(v: &Value) -> Option<i64> {
    json::int(v, "/metadata/deletionGracePeriodSeconds")
}

/// `metadata.ownerReferences`.
pub fn owner_references(v: &Value) -> &[Value] {
    json::items(v, "/metadata/ownerReferences")
}

/// The owner reference with `controller: true`.
pub fn controller(v: &Value) -> Option<&Value> {
    owner_references(v)
        .iter()
        .find(|o| json::flag(o, "/controller"))
}

/// A time at a pointer (RFC 3339).
pub fn time(v: &Value, pointer: &str) -> Option<Timestamp> {
    json::text(v, pointer).parse().ok()
}

/// A time as metadata has it: RFC 3339 in whole seconds, UTC.
pub fn format_time(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as `MicroTime` fields have it.
pub fn format_micro_time(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// `metadata` for writing, made where it is missing. `None` if the value is no object.
pub fn metadata_mut(v: &mut Value) -> Option<&mut Value> {
    json::object(v, "metadata")
}

/// Sets a field of `metadata`; `null` removes it.
pub fn set(v: &mut Value, key: &str, to: impl Into<Value>) {
    let to = to.into();
    let Some(m) = metadata_mut(v) else { return };
    if to.is_null() {
        json::remove(m, key);
    } else {
        json::set(m, key, to);
    }
}

/// Sets `metadata.name`.
pub fn set_name(v: &mut Value, to: &str) {
    set(v, "name", to);
}

/// Sets `metadata.namespace`, or removes it for `""`.
pub fn set_namespace(v: &mut Value, to: &str) {
    set(
        v,
        "namespace",
        if to.is_empty() {
            Value::Null
        } else {
            json!(to)
        },
    );
}

/// Sets `metadata.uid`.
pub fn set_uid(v: &mut Value, to: &str) {
    set(v, "uid", to);
}

/// Sets `metadata.resourceVersion`, or removes it for `""`.
pub fn set_resource_version(v: &mut Value, to: &str) {
    set(
        v,
        "resourceVersion",
        if to.is_empty() {
            Value::Null
        } else {
            json!(to)
        },
    );
}

/// Sets `metadata.generation`.
pub fn set_generation(v: &mut Value, to: i64) {
    set(v, "generation", to);
}

/// Sets `metadata.creationTimestamp`.
pub fn set_creation_timestamp(v: &mut Value, to: Timestamp) {
    set(v, "creationTimestamp", format_time(to));
}

/// Sets `metadata.deletionTimestamp` and `metadata.deletionGracePeriodSeconds`, or removes both.
pub fn set_deletion(v: &mut Value, to: Option<(Timestamp, i64)>) {
    let (at, grace) = to.map_or((Value::Null, Value::Null), |(t, g)| {
        (json!(format_time(t)), json!(g))
    });
    set(v, "deletionTimestamp", at);
    set(v, "deletionGracePeriodSeconds", grace);
}

/// Sets `metadata.finalizers`, or removes the field for none.
pub fn set_finalizers(v: &mut Value, to: &[String]) {
    set(
        v,
        "finalizers",
        if to.is_empty() {
            Value::Null
        } else {
            json!(to)
        },
    );
}

/// Sets a label.
pub fn set_label(v: &mut Value, key: &str, to: &str) {
    if let Some(l) = metadata_mut(v).and_then(|m| json::object(m, "labels")) {
        json::set(l, key, to);
    }
}

/// Sets an annotation.
pub fn set_annotation(v: &mut Value, key: &str, to: &str) {
    if let Some(a) = metadata_mut(v).and_then(|m| json::object(m, "annotations")) {
        json::set(a, key, to);
    }
}

/// A name from `metadata.generateName`: the base, cut at 58 bytes, and five letters chosen by `random`.
pub fn generated_name(base: &str, random: [u8; 5]) -> String {
    let cut = (0..=base.len().min(MAX_BASE))
        .rev()
        .find(|&i| base.is_char_boundary(i))
        .unwrap_or(0);
    let mut out = base.get(..cut).unwrap_or_default().to_owned();
    out.extend(
        random
            .iter()
            .filter_map(|b| ALPHABET.get(usize::from(*b) % ALPHABET.len()))
            .map(|b| char::from(*b)),
    );
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generated_name("web-", [0, 1, 2, 26, 27]), "web-bcd9b");
        assert_eq!(
            generated_name(&"a".repeat(80), [0; 5]),
            format!("{}bbbbb", "a".repeat(58))
        );
        assert_eq!(
            generated_name(&"é".repeat(40), [0; 5]),
            format!("{}bbbbb", "é".repeat(29))
        );
    }

    #[test]
    fn writers_make_metadata_and_null_removes() {
        let mut v = json!({});
        set_label(&mut v, "app", "x");
        set_namespace(&mut v, "a");
        set_namespace(&mut v, "");
        set_deletion(
            &mut v,
            Some(("2026-11-21T10:00:00.5Z".parse().unwrap(), 30)),
        );
        let want = json!({"metadata": {"labels": {"app": "x"}, "deletionTimestamp": "2026-11-21T10:00:00Z",
            "deletionGracePeriodSeconds": 30}});
        assert_eq!(v, want);
        set_deletion(&mut v, None);
        assert!(!is_deleting(&v));
    }

    #[test]
    fn readers_and_writers_take_anything() {
        for mut v in [
            json!(null),
            json!([1]),
            json!({"metadata": 3}),
            json!({"metadata": {"labels": 1, "name": {}}}),
        ] {
            assert_eq!(name(&v), "");
            assert_eq!(labels(&v).count(), 0);
            set_label(&mut v, "a", "b");
            set_name(&mut v, "x");
        }
    }
}
