//! Quantities as numbers, to compare and add them.

use serde_json::Value;

/// Billionths, the finest step there is.
const NANO: i128 = 1_000_000_000;

/// A quantity (text or number) in billionths; `None` when it is none. Validation refuses those elsewhere.
pub fn nanos(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => parse(text),
        Value::Number(number) => parse(&number.to_string()),
        _ => None,
    }
}

fn parse(text: &str) -> Option<i128> {
    const SUFFIXES: [(&str, i128); 14] = [
        ("Ki", NANO << 10),
        ("Mi", NANO << 20),
        ("Gi", NANO << 30),
        ("Ti", NANO << 40),
        ("Pi", NANO << 50),
        ("Ei", NANO << 60),
        ("n", 1),
        ("u", 1_000),
        ("m", 1_000_000),
        ("k", 1_000 * NANO),
        ("M", 1_000_000 * NANO),
        ("G", 1_000_000_000 * NANO),
        ("T", 1_000_000_000_000 * NANO),
        ("P", 1_000_000_000_000_000 * NANO),
    ];
    let suffix = SUFFIXES
        .iter()
        .find_map(|(s, unit)| Some((text.strip_suffix(s)?, *unit)));
    if let Some((number, unit)) = suffix {
        return decimal(number, unit);
    }
    // `E` at the end is the suffix, inside it begins an exponent.
    if let Some(number) = text.strip_suffix('E') {
        return decimal(number, NANO.checked_mul(1_000_000_000_000_000_000)?);
    }
    match text.split_once(['e', 'E']) {
        None => decimal(text, NANO),
        Some((number, exponent)) => match exponent.parse::<i32>().ok()? {
            e @ 0..=18 => decimal(number, NANO.checked_mul(10i128.pow(e.unsigned_abs()))?),
            e @ -9..=-1 => decimal(number, NANO / 10i128.pow(e.unsigned_abs())),
            _ => None,
        },
    }
}

/// A decimal number times a unit, rounded up as upstream rounds.
fn decimal(number: &str, unit: i128) -> Option<i128> {
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || fraction.len() > 18 {
        return None;
    }
    let scale = 10i128.pow(u32::try_from(fraction.len()).ok()?);
    let product = digits.parse::<i128>().ok()?.checked_mul(unit)?;
    let value = product / scale + i128::from(product % scale != 0);
    Some(if negative { -value } else { value })
}

/// A sum, in the form people read: whole numbers plain, others in thousandths.
pub fn show(nanos: i128) -> String {
    if nanos % NANO == 0 {
        return (nanos / NANO).to_string();
    }
    // Rounded up: a usage is never shown smaller than it is.
    format!("{}m", (nanos + 999_999) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_numbers() {
        let cases = [
            ("1", Some(NANO)),
            ("100m", Some(NANO / 10)),
            ("0.5", Some(NANO / 2)),
            ("1.5Gi", Some(NANO * 3 * (1 << 29))),
            ("2k", Some(2000 * NANO)),
            ("1e3", Some(1000 * NANO)),
            ("1E", Some(NANO * 1_000_000_000_000_000_000)),
            ("5e-3", Some(5_000_000)),
            ("1n", Some(1)),
            ("0.1n", Some(1)),
            ("-1", Some(-NANO)),
            ("", None),
            ("x", None),
            ("1.2.3", None),
            ("Ki", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
