//! Resource quantities: what is accepted, and the one form they are stored in.
//!
//! Rules: the `Quantity` type of `k8s.io/apimachinery/pkg/api/resource`, as its API reference describes it.

/// Upstream's words for a text that is no quantity.
pub const INVALID: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const INVALID_SUFFIX: &str = "unable to parse quantity's suffix";

/// The greatest amount, 2^63-1; greater ones are capped to it.
const MAX: i128 = i64::MAX as i128;
/// Amounts are kept in billionths, the finest step there is.
const NANO: i128 = 1_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Binary,
    Decimal,
    Exponent,
}

/// The canonical form: the greatest suffix that needs no fraction, in the kind of suffix the text had.
///
/// # Errors
/// Upstream's words when the text is no quantity.
pub fn canonical(text: &str) -> Result<String, &'static str> {
    let (negative, digits, fraction, suffix) = split(text)?;
    let (form, base, exponent) = suffix_of(suffix)?;
    let amount = nanos(digits, fraction, base, exponent);
    let form = match form {
        // A whole number of bytes below 1024 or any fraction has no binary suffix.
        Form::Binary if amount < 1024 * NANO || amount % NANO != 0 => Form::Decimal,
        form => form,
    };
    let sign = if negative && amount != 0 { "-" } else { "" };
    Ok(format!("{sign}{}", print(amount, form)))
}

type Parts<'a> = (bool, &'a str, &'a str, &'a str);

fn split(text: &str) -> Result<Parts<'_>, &'static str> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let number = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(number);
    let (digits, fraction) = number.split_once('.').unwrap_or((number, ""));
    let has_digits = !digits.is_empty() || !fraction.is_empty();
    let well_formed = has_digits && !fraction.contains('.');
    let suffix_chars = suffix
        .chars()
        .all(|c| c.is_ascii_digit() || "eEinumkKMGTP+-".contains(c));
    if !well_formed || !suffix_chars {
        return Err(INVALID);
    }
    Ok((negative, digits, fraction, suffix))
}

fn suffix_of(suffix: &str) -> Result<(Form, u32, i32), &'static str> {
    const DECIMAL: [(&str, i32); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(row) = DECIMAL.iter().find(|row| row.0 == suffix) {
        return Ok((Form::Decimal, 10, row.1));
    }
    if let Some(at) = BINARY.iter().position(|name| *name == suffix) {
        return Ok((Form::Binary, 2, 10 * (at as i32 + 1)));
    }
    suffix
        .strip_prefix(['e', 'E'])
        .and_then(|exponent| exponent.parse().ok())
        .map(|exponent| (Form::Exponent, 10, exponent))
        .ok_or(INVALID_SUFFIX)
}

/// The amount in billionths, rounded up, capped.
fn nanos(digits: &str, fraction: &str, base: u32, exponent: i32) -> i128 {
    let digits = digits.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    // 10^k * mantissa billionths, before a binary suffix.
    let shift = 9 - fraction.len() as i32
        + if base == 10 {
            exponent.clamp(-9999, 9999)
        } else {
            0
        };
    let text = format!("{digits}{fraction}");
    let text = text.trim_start_matches('0');
    if text.is_empty() {
        return 0;
    }
    let cap = MAX * NANO;
    // Longer than any amount below the cap: 19 digits and 9 decimals.
    if text.len() as i32 + shift > 30 {
        return cap;
    }
    // What lies beyond the 30th digit can only round up.
    let (kept, lost) = text.split_at(text.len().min(30));
    let shift = shift + lost.len() as i32;
    let mut amount: i128 = kept.parse().unwrap_or(cap);
    let mut exact = lost.bytes().all(|digit| digit == b'0');
    if base == 2 {
        amount = match amount.checked_mul(1_i128 << exponent) {
            Some(amount) => amount,
            // Only amounts of many digits get here: scale down first, then up.
            None => return scale_then_shift(amount, shift, exponent).min(cap),
        };
    }
    for _ in 0..shift.max(0) {
        match amount.checked_mul(10) {
            Some(scaled) => amount = scaled,
            None => return cap,
        }
    }
    for _ in 0..(-shift).clamp(0, 40) {
        exact &= amount % 10 == 0;
        amount /= 10;
    }
    (amount + i128::from(!exact)).min(cap)
}

fn scale_then_shift(mut amount: i128, shift: i32, exponent: i32) -> i128 {
    for _ in 0..(-shift).clamp(0, 40) {
        amount /= 10;
    }
    for _ in 0..shift.max(0) {
        amount = amount.saturating_mul(10);
    }
    amount.checked_mul(1_i128 << exponent).unwrap_or(i128::MAX)
}

fn print(amount: i128, form: Form) -> String {
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    if amount == 0 {
        return "0".into();
    }
    if form == Form::Binary {
        let (value, steps) = factor_out(amount / NANO, 1024, BINARY.len() - 1);
        return format!("{value}{}", BINARY.get(steps).unwrap_or(&""));
    }
    let (value, steps) = factor_out(amount, 1000, DECIMAL.len() - 1);
    match form {
        Form::Exponent if steps == 3 => value.to_string(),
        Form::Exponent => format!("{value}e{}", (steps as i32 - 3) * 3),
        _ => format!("{value}{}", DECIMAL.get(steps).unwrap_or(&"")),
    }
}

fn factor_out(mut value: i128, factor: i128, most: usize) -> (i128, usize) {
    let mut steps = 0;
    while steps < most && value % factor == 0 {
        value /= factor;
        steps += 1;
    }
    (value, steps)
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn canonical_forms() {
        for (text, want) in [
            ("0", "0"),
            ("-0", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("+2", "2"),
            ("-1500m", "-1500m"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("0.1Gi", "107374182400m"),
            ("1e3", "1e3"),
            ("12e2", "1200"),
            ("1E", "1E"),
            ("1E6", "1e6"),
            ("0.1n", "1n"),
            ("1u", "1u"),
            ("100Ei", "9223372036854775807"),
            ("1e300", "9223372036854775807"),
            (
                "123456789012345678901234567890123456789",
                "9223372036854775807",
            ),
            ("0.00000000000000000000000000000000000000000001", "1n"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn refusals() {
        for text in ["", "a", "1.2.3", "--1", " 1", "1 Gi", "Gi", "."] {
            assert!(canonical(text).is_err(), "{text}");
        }
        for text in ["1gi", "1KI", "1e", "1Mib"] {
            assert!(canonical(text).is_err(), "{text}");
        }
    }
}
