//! Values that are more than their JSON type: quantities, times, numbers-or-names, base64. Each is checked and
//! put into the form upstream stores.

use crate::quantity;
use base64::Engine as _;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// A quantity, as text or number, in canonical form.
pub(crate) fn quantity(value: &mut Value) -> Result<(), String> {
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(quantity::INVALID.to_owned()),
    };
    *value = Value::String(quantity::canonical(&text)?);
    Ok(())
}

/// A number of 32 bits or a text. `Err`: what the value is, for the caller's words.
pub(crate) fn int_or_string(value: &Value) -> Result<(), String> {
    match value {
        Value::String(_) => Ok(()),
        Value::Number(number) => match number.as_i64().map(i32::try_from) {
            Some(Ok(_)) => Ok(()),
            _ => Err(format!(
                "json: cannot unmarshal number {number} into Go value of type int32"
            )),
        },
        other => Err(format!(
            "json: cannot unmarshal {} into Go value of type int32",
            json_kind(other)
        )),
    }
}

/// A time, with or without a fraction or an offset, as UTC with as many decimals as the type has.
pub(crate) fn time(text: &str, decimals: u8) -> Result<String, String> {
    let layout = match decimals {
        0 => "2006-01-02T15:04:05Z07:00",
        _ => "2006-01-02T15:04:05.000000Z07:00",
    };
    let refuse =
        || format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"");
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20
        && bytes.get(10) == Some(&b'T')
        && bytes.get(16) == Some(&b':')
        && !text.contains('[');
    if !shaped {
        return Err(refuse());
    }
    let at: Timestamp = text.parse().map_err(|_| refuse())?;
    Ok(match decimals {
        0 => format!("{at:.0}"),
        _ => format!("{at:.6}"),
    })
}

/// Standard base64 with padding; line breaks are ignored, as Go does.
pub(crate) fn base64(text: &str) -> Result<(), String> {
    let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match base64::engine::general_purpose::STANDARD.decode(&clean) {
        Ok(_) => Ok(()),
        Err(base64::DecodeError::InvalidByte(at, _)) => {
            Err(format!("illegal base64 data at input byte {at}"))
        }
        Err(_) => Err(format!(
            "illegal base64 data at input byte {}",
            clean.len() / 4 * 4
        )),
    }
}

/// Go's word for a JSON value's kind.
pub(crate) fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, decimals, want) in [
            ("2026-01-02T03:04:05Z", 0, "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05.999Z", 0, "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05+02:00", 0, "2026-01-02T01:04:05Z"),
            ("2026-01-02T03:04:05Z", 6, "2026-01-02T03:04:05.000000Z"),
            (
                "2026-01-02T03:04:05.1234567Z",
                6,
                "2026-01-02T03:04:05.123456Z",
            ),
        ] {
            assert_eq!(time(text, decimals).as_deref(), Ok(want), "{text}");
        }
        for text in [
            "",
            "now",
            "2026-01-02",
            "2026-01-02 03:04:05Z",
            "2026-13-02T03:04:05Z",
        ] {
            assert!(time(text, 0).is_err(), "{text}");
        }
    }

    #[test]
    fn base64_positions() {
        assert_eq!(base64("aGk="), Ok(()));
        assert_eq!(base64("aG\nk="), Ok(()));
        assert_eq!(
            base64("a$k="),
            Err("illegal base64 data at input byte 1".into())
        );
        assert!(base64("aGk").is_err());
    }
}
