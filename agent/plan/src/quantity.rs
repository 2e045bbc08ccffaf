//! Kubernetes quantities as integers. Source: the quantity grammar of the API conventions.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Suffixes and their factor in thousandths; `u` and `n` are below one and handled apart.
const SUFFIXES: [(&str, i128); 15] = [
    ("Ki", 1000 << 10),
    ("Mi", 1000 << 20),
    ("Gi", 1000 << 30),
    ("Ti", 1000 << 40),
    ("Pi", 1000 << 50),
    ("Ei", 1000 << 60),
    ("m", 1),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000_000),
    ("u", 0),
    ("n", 0),
];

/// The quantity in thousandths, rounded up; `None` if it is not one.
pub fn milli(text: &str) -> Option<i64> {
    let text = text.trim();
    let found = SUFFIXES
        .iter()
        .find_map(|(s, f)| Some((text.strip_suffix(s)?, *s, *f)));
    let value = match found {
        Some((number, "u", _)) => ceil_div(decimal(number, 1)?, 1000 * SCALE),
        Some((number, "n", _)) => ceil_div(decimal(number, 1)?, 1_000_000 * SCALE),
        Some((number, _, factor)) => ceil_div(decimal(number, factor)?, SCALE),
        None => plain(text)?,
    };
    i64::try_from(value).ok()
}

/// The quantity in whole units (bytes, pods), rounded up.
pub fn value(text: &str) -> Option<i64> {
    milli(text)
        .map(|m| m.div_euclid(1000) + i64::from(m.rem_euclid(1000) != 0))
        .or_else(|| text.parse().ok())
}

/// A count as the API writes it: with the largest binary suffix that leaves a whole number.
pub fn binary(bytes: u64) -> String {
    let units = [
        ("Ei", 60),
        ("Pi", 50),
        ("Ti", 40),
        ("Gi", 30),
        ("Mi", 20),
        ("Ki", 10),
    ];
    let unit = units
        .iter()
        .find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(
        || bytes.to_string(),
        |(name, shift)| format!("{}{name}", bytes >> shift),
    )
}

/// Thousandths of a map's entry, as of `limits["cpu"]`; zero when absent or malformed.
pub fn milli_of<'a>(
    map: impl Into<Option<&'a std::collections::BTreeMap<String, Quantity>>>,
    name: &str,
) -> i64 {
    map.into()
        .and_then(|m| m.get(name))
        .and_then(|q| milli(&q.0))
        .unwrap_or(0)
}

/// Whole units of a map's entry; zero when absent or malformed.
pub fn value_of<'a>(
    map: impl Into<Option<&'a std::collections::BTreeMap<String, Quantity>>>,
    name: &str,
) -> i64 {
    map.into()
        .and_then(|m| m.get(name))
        .and_then(|q| value(&q.0))
        .unwrap_or(0)
}

/// Decimal fractions are kept to nano.
const SCALE: i128 = 1_000_000_000;

fn ceil_div(a: i128, b: i128) -> i128 {
    a.div_euclid(b) + i128::from(a.rem_euclid(b) != 0)
}

/// A number without suffix, perhaps with a decimal exponent ("1e3"), in thousandths.
fn plain(text: &str) -> Option<i128> {
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else {
        return Some(ceil_div(decimal(text, 1000)?, SCALE));
    };
    let exponent: u32 = exponent
        .trim_start_matches('+')
        .parse()
        .ok()
        .filter(|e| *e <= 18)?;
    Some(ceil_div(
        decimal(mantissa, 1000)?.checked_mul(10_i128.checked_pow(exponent)?)?,
        SCALE,
    ))
}

/// `text * factor * SCALE`.
fn decimal(text: &str, factor: i128) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty()
        || !whole
            .bytes()
            .chain(fraction.bytes())
            .all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let fraction = &fraction[..fraction.len().min(9)];
    let nano: i128 = format!("{fraction:0<9}").parse().ok()?;
    whole
        .checked_mul(SCALE)?
        .checked_add(nano)?
        .checked_mul(factor)?
        .checked_mul(sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_with_the_largest_suffix() {
        let rows = [
            (0, "0"),
            (1023, "1023"),
            (1536, "1536"),
            (2048, "2Ki"),
            (100 << 20, "100Mi"),
            (1 << 60, "1Ei"),
            ((1 << 30) + 1024, "1048577Ki"),
        ];
        for (n, want) in rows {
            assert_eq!(binary(n), want);
        }
    }

    #[test]
    fn quantities() {
        let rows = [
            ("100m", Some(100), Some(1)),
            ("1", Some(1000), Some(1)),
            ("0.5", Some(500), Some(1)),
            ("1.5Gi", Some(1_610_612_736_000), Some(1_610_612_736)),
            ("128Mi", Some(134_217_728_000), Some(134_217_728)),
            ("1k", Some(1_000_000), Some(1000)),
            ("1e3", Some(1_000_000), Some(1000)),
            ("100u", Some(1), Some(1)),
            ("-1", Some(-1000), Some(-1)),
            ("", None, None),
            ("abc", None, None),
            ("1.2.3", None, None),
        ];
        for (text, m, v) in rows {
            assert_eq!((milli(text), value(text)), (m, v), "{text}");
        }
    }
}
