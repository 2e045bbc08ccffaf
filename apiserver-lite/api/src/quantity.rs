//! Resource quantities (`500m`, `1.5Gi`, `2e3`), exact to a billionth, with upstream's canonical text
//! (`k8s.io/apimachinery/pkg/api/resource`).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

const NANO: u128 = 1_000_000_000;
/// Upstream caps at the largest 64-bit integer.
const MAX_NANOS: u128 = i64::MAX as u128 * NANO;
/// Fraction digits that are looked at; one more that is not 0 rounds up.
const MAX_FRACTION: usize = 18;
/// 10^29 is above the cap in any unit.
const MAX_INTEGER: usize = 29;

/// Unit, power of ten.
const DECIMAL: &[(&str, i32)] = &[
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
/// Unit, power of 1024.
const BINARY: &[(&str, u32)] = &[
    ("Ki", 1),
    ("Mi", 2),
    ("Gi", 3),
    ("Ti", 4),
    ("Pi", 5),
    ("Ei", 6),
];

/// In which units a quantity was written and is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `m`, `k`, `M`, ...
    Decimal,
    /// `Ki`, `Mi`, ...
    Binary,
    /// `e3`, ...
    Exponent,
}

/// A quantity. Equality and order are those of the amounts, whatever their units.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Text that is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct ParseError;

impl Quantity {
    /// None of it.
    pub const ZERO: Quantity = Quantity {
        nanos: 0,
        format: Format::Decimal,
    };

    /// A whole number of units.
    pub fn new(units: i64, format: Format) -> Quantity {
        Quantity {
            nanos: i128::from(units) * NANO as i128,
            format,
        }
    }

    /// Billionths of a unit.
    pub fn from_nano(nanos: i64) -> Quantity {
        Quantity {
            nanos: i128::from(nanos),
            format: Format::Decimal,
        }
    }

    /// Thousandths of a unit.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity {
            nanos: i128::from(milli) * 1_000_000,
            format: Format::Decimal,
        }
    }

    /// The quantity in a JSON value: text, or a number as manifests may have it.
    ///
    /// # Errors
    /// Anything else.
    pub fn from_value(v: &Value) -> Result<Quantity, ParseError> {
        match v {
            Value::String(s) => s.parse(),
            Value::Number(n) => n.to_string().parse(),
            _ => Err(ParseError),
        }
    }

    /// Whole units, rounded up (bytes of a memory quantity).
    pub fn value(self) -> i64 {
        self.scaled(NANO as i128)
    }

    /// Thousandths of units, rounded up (millicores).
    pub fn milli(self) -> i64 {
        self.scaled(1_000_000)
    }

    /// -1, 0 or 1.
    pub fn signum(self) -> i128 {
        self.nanos.signum()
    }

    /// Whether it is a whole number of units.
    pub fn is_integer(self) -> bool {
        self.nanos % NANO as i128 == 0
    }

    /// Whether it is a whole number of the other, which is itself one of units and more than none.
    pub fn is_multiple_of(self, other: Quantity) -> bool {
        other.nanos > 0 && other.is_integer() && self.nanos % other.nanos == 0
    }

    /// The sum, in the units of the left side.
    #[must_use]
    pub fn plus(self, other: Quantity) -> Quantity {
        let max = MAX_NANOS as i128;
        let format = if self.nanos == 0 {
            other.format
        } else {
            self.format
        };
        Quantity {
            nanos: self.nanos.saturating_add(other.nanos).clamp(-max, max),
            format,
        }
    }

    fn scaled(self, by: i128) -> i64 {
        let up = i128::from(self.nanos.rem_euclid(by) != 0);
        i64::try_from(self.nanos.div_euclid(by) + up).unwrap_or(if self.nanos < 0 {
            i64::MIN
        } else {
            i64::MAX
        })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match s.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, s.strip_prefix('+').unwrap_or(s)),
        };
        let split = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(split);
        let (int, frac) = number.split_once('.').unwrap_or((number, ""));
        if (int.is_empty() && frac.is_empty()) || frac.contains('.') {
            return Err(ParseError);
        }
        let number = Number::new(int, frac);
        let (nanos, mut format) = if let Some((_, p)) = DECIMAL.iter().find(|(u, _)| *u == suffix) {
            (number.times_ten_to(*p), Format::Decimal)
        } else if let Some((_, p)) = BINARY.iter().find(|(u, _)| *u == suffix) {
            (number.times_two_to(10 * p), Format::Binary)
        } else {
            let digits = suffix.strip_prefix(['e', 'E']).ok_or(ParseError)?;
            (number.times_ten_to(exponent(digits)?), Format::Exponent)
        };
        if format == Format::Binary && nanos < NANO {
            format = Format::Decimal;
        }
        let nanos = nanos.min(MAX_NANOS) as i128;
        Ok(Quantity {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }
}

fn exponent(digits: &str) -> Result<i32, ParseError> {
    let bare = digits.strip_prefix(['-', '+']).unwrap_or(digits);
    if bare.is_empty() || bare.len() > 9 || !bare.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseError);
    }
    digits.parse().map_err(|_| ParseError)
}

/// The digits before a unit: an integer of at most 29 digits (or more than the cap) and a fraction.
struct Number {
    int: u128,
    frac: u128,
    frac_digits: u32,
    more: bool,
}

impl Number {
    fn new(int: &str, frac: &str) -> Number {
        let int = int.trim_start_matches('0');
        let frac = frac.trim_end_matches('0');
        let kept = frac.get(..frac.len().min(MAX_FRACTION)).unwrap_or_default();
        Number {
            int: if int.len() > MAX_INTEGER {
                MAX_NANOS
            } else {
                int.parse().unwrap_or_default()
            },
            frac: kept.parse().unwrap_or_default(),
            frac_digits: kept.len() as u32,
            more: frac.len() > MAX_FRACTION,
        }
    }

    /// Nanos of the number times 10^p, rounded up.
    fn times_ten_to(&self, p: i32) -> u128 {
        let Some(digits) = self
            .int
            .checked_mul(10u128.pow(self.frac_digits))
            .and_then(|i| i.checked_add(self.frac))
        else {
            // So large an integer that its fraction is below what is counted.
            return Number {
                int: self.int,
                frac: 0,
                frac_digits: 0,
                more: true,
            }
            .times_ten_to(p);
        };
        if digits == 0 {
            return u128::from(self.more);
        }
        let p = p.saturating_add(9).saturating_sub(self.frac_digits as i32);
        let power = 10u128.checked_pow(p.unsigned_abs());
        match (p >= 0, power) {
            (true, Some(power)) => digits
                .checked_mul(power)
                .unwrap_or(MAX_NANOS)
                .saturating_add(u128::from(self.more)),
            (true, None) => MAX_NANOS,
            (false, Some(power)) => digits.div_ceil(power),
            (false, None) => 1,
        }
    }

    /// Nanos of the number times 2^p, rounded up.
    fn times_two_to(&self, p: u32) -> u128 {
        let int = self.int.checked_mul(NANO << p).unwrap_or(MAX_NANOS);
        let frac = if self.frac_digits <= 9 {
            (self.frac * 10u128.pow(9 - self.frac_digits)) << p
        } else {
            (self.frac << p).div_ceil(10u128.pow(self.frac_digits - 9))
        };
        int.saturating_add(frac)
            .saturating_add(u128::from(self.more))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.nanos < 0 { "-" } else { "" };
        let nanos = self.nanos.unsigned_abs();
        if nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::Binary && nanos >= 1024 * NANO {
            let (mut n, mut p) = (nanos.div_ceil(NANO), 0);
            while n % 1024 == 0 && p < BINARY.len() {
                (n, p) = (n / 1024, p + 1);
            }
            let unit = p
                .checked_sub(1)
                .and_then(|i| BINARY.get(i))
                .map_or("", |(u, _)| *u);
            return write!(f, "{sign}{n}{unit}");
        }
        // As few digits as a unit allows: whole thousands go into the unit.
        let (mut n, mut p) = (nanos, -9);
        while n % 1000 == 0 && p < 18 {
            (n, p) = (n / 1000, p + 3);
        }
        match self.format {
            Format::Exponent if p == 0 => write!(f, "{sign}{n}"),
            Format::Exponent => write!(f, "{sign}{n}e{p}"),
            _ => {
                let unit = DECIMAL
                    .iter()
                    .find(|(_, q)| *q == p)
                    .map_or("", |(u, _)| *u);
                write!(f, "{sign}{n}{unit}")
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parsing_and_canonical_text() {
        for (text, canonical, value, milli) in [
            ("0", "0", 0, 0),
            ("0Gi", "0", 0, 0),
            ("1", "1", 1, 1000),
            ("+1", "1", 1, 1000),
            ("-1", "-1", -1, -1000),
            ("-1.5", "-1500m", -1, -1500),
            ("0.5", "500m", 1, 500),
            (".5", "500m", 1, 500),
            ("5.", "5", 5, 5000),
            ("1000m", "1", 1, 1000),
            ("1500m", "1500m", 2, 1500),
            ("100u", "100u", 1, 1),
            ("1n", "1n", 1, 1),
            ("0.1n", "1n", 1, 1),
            ("1.0000000001", "1000000001n", 2, 1001),
            ("1000M", "1G", 1_000_000_000, 1_000_000_000_000),
            ("1500M", "1500M", 1_500_000_000, 1_500_000_000_000),
            ("1024Mi", "1Gi", 1 << 30, (1 << 30) * 1000),
            ("1.5Gi", "1536Mi", 3 << 29, (3 << 29) * 1000),
            ("0.1Ki", "102400m", 103, 102_400),
            ("0.5Mi", "512Ki", 1 << 19, (1 << 19) * 1000),
            ("1000Ki", "1000Ki", 1_024_000, 1_024_000_000),
            ("1e3", "1e3", 1000, 1_000_000),
            ("1E3", "1e3", 1000, 1_000_000),
            ("1e-3", "1e-3", 1, 1),
            ("12e5", "1200e3", 1_200_000, 1_200_000_000),
            ("1E", "1E", 1_000_000_000_000_000_000, i64::MAX),
            ("100E", "9223372036854775807", i64::MAX, i64::MAX),
            ("1e99", "9223372036854775807", i64::MAX, i64::MAX),
            (
                "99999999999999999999999999",
                "9223372036854775807",
                i64::MAX,
                i64::MAX,
            ),
            ("1e-99", "1e-9", 1, 1),
            ("0e99", "0", 0, 0),
            ("00.10", "100m", 1, 100),
            ("0.000000000000000000000001", "1n", 1, 1),
        ] {
            let q: Quantity = text.parse().unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(
                (q.to_string().as_str(), q.value(), q.milli()),
                (canonical, value, milli),
                "{text}"
            );
        }
    }

    #[test]
    fn text_that_is_none() {
        for text in [
            "", ".", "-", "1.2.3", "Gi", "1gi", "1K", "1 Gi", "1e", "1e+", "1e1.5", "1mi", "--1",
            "é", "1é", "1ee3",
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(ParseError), "{text}");
        }
    }

    #[test]
    fn amounts_compare_whatever_the_units() {
        let q = |s: &str| s.parse::<Quantity>().unwrap();
        assert_eq!(q("1Gi"), q("1073741824"));
        assert!(q("1G") < q("1Gi") && q("999m") < q("1") && q("-1") < q("0"));
        assert_eq!(q("1Gi").plus(q("512Mi")).to_string(), "1536Mi");
    }

    proptest! {
        #[test]
        fn canonical_text_parses_to_the_same(digits in "[0-9]{1,25}(\\.[0-9]{0,25})?", unit in prop::sample::select(vec!["n", "u", "m", "", "k", "M", "G", "E", "Ki", "Mi", "Gi", "Ei", "e3", "e-7"])) {
            let q: Quantity = format!("{digits}{unit}").parse().unwrap();
            let text = q.to_string();
            let again: Quantity = text.parse().unwrap();
            // Binary text is in whole units, rounded up.
            if q.format == Format::Binary && q.nanos > 1024 * NANO as i128 {
                prop_assert_eq!(again.value(), q.value());
            } else {
                prop_assert_eq!(again, q);
            }
            prop_assert_eq!(again.to_string(), text);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[0-9.eEinumkKMGTP+-]{0,12}|\\PC*") {
            if let Ok(q) = text.parse::<Quantity>() {
                let _ = (q.to_string(), q.milli());
            }
        }
    }
}
