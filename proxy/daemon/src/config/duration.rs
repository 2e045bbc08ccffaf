//! Durations as Go writes them: `15m0s`, `1h30m`, `250ms`.

use std::time::Duration;

/// Units in nanoseconds; longer names before those they begin with.
const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration; `None`: it is none, or negative, or longer than 500 years.
pub(super) fn parse(text: &str) -> Option<Duration> {
    const MOST: u128 = u64::MAX as u128;
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0u128);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (unit, factor) = UNITS.iter().find(|(u, _)| after.starts_with(u))?;
        total = total.checked_add(scaled(number, *factor)?)?;
        rest = after.strip_prefix(unit)?;
    }
    let nanoseconds = u64::try_from(total.min(MOST + 1)).ok()?;
    (!text.is_empty()).then(|| Duration::from_nanos(nanoseconds))
}

/// `number` with an optional fraction, times `factor`.
fn scaled(number: &str, factor: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let parts = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let all: u128 = digits.parse().ok()?;
    Some(all.checked_mul(factor)? / parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_reads_them() {
        let cases = [
            ("15m0s", Some(900_000)),
            ("1h30m", Some(5_400_000)),
            ("250ms", Some(250)),
            ("1.5s", Some(1500)),
            (".5s", Some(500)),
            ("1.s", Some(1000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("-1s", None),
            ("1d", None),
            ("1..5s", None),
            ("6000000h", None),
            ("99999999999999999999999999999999999999999h", None),
            ("0.000000000000000000000000000000000000000000001s", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text).map(|d| d.as_millis()), want, "{text}");
        }
    }
}
