//! Validation of ConfigMaps and Secrets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::field::{At, Errors};
use super::{check, check_update, names};
use crate::status::Cause;

/// All values of a ConfigMap or Secret, in bytes.
const MAX: usize = 1024 * 1024;

/// A ConfigMap.
pub(crate) fn config_map(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let mut total = 0;
        for (key, value) in at.entries("data") {
            key_of(key, &value, errs);
            if at.child("binaryData").value.get(key).is_some() {
                errs.invalid_value(&value.path, key, "duplicate of key present in binaryData");
            }
            total += value.text().len();
        }
        for (key, value) in at.entries("binaryData") {
            key_of(key, &value, errs);
            total += decoded(&value).len();
        }
        if total > MAX {
            errs.too_long("", MAX);
        }
    })
}

/// A Secret: keys, size, and what its type needs.
pub(crate) fn secret(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let data = at.child("data");
        let mut total = 0;
        for (key, value) in at.entries("data") {
            key_of(key, &value, errs);
            total += decoded(&value).len();
        }
        if total > MAX {
            errs.too_long(&data.path, MAX);
        }
        match at.child("type").text() {
            "kubernetes.io/service-account-token" => account(at, errs),
            "kubernetes.io/dockercfg" => registry(&data, ".dockercfg", errs),
            "kubernetes.io/dockerconfigjson" => registry(&data, ".dockerconfigjson", errs),
            "kubernetes.io/basic-auth" => login(&data, errs),
            "kubernetes.io/ssh-auth" => needs(&data, "ssh-privatekey", errs),
            "kubernetes.io/tls" => {
                needs(&data, "tls.crt", errs);
                needs(&data, "tls.key", errs);
            }
            _ => {}
        }
    })
}

fn key_of(key: &str, at: &At<'_>, errs: &mut Errors) {
    for why in names::config_key(key) {
        errs.invalid_value(&at.path, key, &why);
    }
}

fn decoded(at: &At<'_>) -> Vec<u8> {
    STANDARD.decode(at.text()).unwrap_or_default()
}

fn needs(data: &At<'_>, key: &str, errs: &mut Errors) {
    if data.value.get(key).is_none() {
        errs.required(&At::new(&Value::Null, format!("{}[{key}]", data.path)), "");
    }
}

/// A user's name or a password, or both.
fn login(data: &At<'_>, errs: &mut Errors) {
    if data.value.get("username").is_none() && data.value.get("password").is_none() {
        needs(data, "username", errs);
        needs(data, "password", errs);
    }
}

fn account(at: &At<'_>, errs: &mut Errors) {
    let name = at
        .child("metadata.annotations")
        .value
        .get("kubernetes.io/service-account.name");
    if name.and_then(Value::as_str).unwrap_or_default().is_empty() {
        errs.required(
            &At::new(
                &Value::Null,
                "metadata.annotations[kubernetes.io/service-account.name]",
            ),
            "",
        );
    }
}

/// Credentials of registries are JSON; what they say is never repeated in an error.
fn registry(data: &At<'_>, key: &str, errs: &mut Errors) {
    let Some(value) = data.value.get(key) else {
        needs(data, key, errs);
        return;
    };
    let at = At::new(value, format!("{}[{key}]", data.path));
    if let Err(why) = serde_json::from_slice::<Value>(&decoded(&at)) {
        errs.invalid_value(&at.path, "<secret contents redacted>", &json_error(&why));
    }
}

fn json_error(why: &serde_json::Error) -> String {
    if why.is_eof() {
        "unexpected end of JSON input".into()
    } else {
        format!("invalid JSON at column {}", why.column())
    }
}

/// A change of a ConfigMap.
pub(crate) fn config_map_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        frozen(new, old, &["data", "binaryData"], errs)
    })
}

/// A change of a Secret.
pub(crate) fn secret_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        errs.immutable(&new.child("type"), old.child("type").value);
        frozen(new, old, &["data"], errs);
    })
}

/// Once `immutable` is set, neither it nor the data changes (KEP-1412).
fn frozen(new: &At<'_>, old: &At<'_>, fields: &[&str], errs: &mut Errors) {
    if !old.child("immutable").flag() {
        return;
    }
    const SAYS: &str = "field is immutable when `immutable` is set";
    if !new.child("immutable").flag() {
        errs.forbidden("immutable", SAYS);
    }
    let same = |f: &&str| {
        let (n, o) = (new.child(f), old.child(f));
        n.value == o.value || (n.is_zero() && o.is_zero())
    };
    for field in fields.iter().filter(|f| !same(f)) {
        errs.forbidden(field, SAYS);
    }
}
