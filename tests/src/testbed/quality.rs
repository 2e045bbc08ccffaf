//! How good a link is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a link does to packets, in both directions. The default is a perfect one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quality {
    /// How many of a hundred packets are lost.
    pub loss: Percent,
    /// How much later packets arrive.
    pub delay: Delay,
    /// How much passes at most.
    pub rate: Option<Rate>,
}

impl Quality {
    /// Nothing is lost, late or held up.
    pub fn is_perfect(&self) -> bool {
        *self == Self::default()
    }
}

/// Hundredths of a percent: the finest step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Percent(u32);

impl Percent {
    /// In steps of a hundredth of a percent: 0 to 10,000.
    pub fn in_ten_thousand(self) -> u32 {
        self.0
    }
}

impl TryFrom<f64> for Percent {
    type Error = String;

    fn try_from(percent: f64) -> Result<Self, String> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!(
                "loss: {percent} is not between 0 and 100 (percent)"
            ));
        }
        // Within 0..=10,000, as just seen.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Self((percent * 100.0).round() as u32))
    }
}

impl From<Percent> for f64 {
    fn from(percent: Percent) -> Self {
        Self::from(percent.0) / 100.0
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim_end_matches('%').parse::<f64>();
        number
            .map_err(|_| format!("loss: {text:?} is no number of percent, as 10 or 0.5"))?
            .try_into()
    }
}

/// A time as `20ms` or `1s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Delay(pub Duration);

/// Units of a delay and their length.
const TIMES: [(&str, Duration); 3] = [
    ("us", Duration::from_micros(1)),
    ("ms", Duration::from_millis(1)),
    ("s", Duration::from_secs(1)),
];

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("delay: {text:?} is no whole number of us, ms or s up to 10s, as 20ms");
        let (number, unit) = measured(text, &TIMES).ok_or_else(wrong)?;
        let delay = u32::try_from(number).ok().and_then(|n| unit.checked_mul(n));
        let delay = delay.filter(|d| *d <= Duration::from_secs(10));
        delay.map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Delay {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0.as_micros())
    }
}

impl From<Delay> for String {
    fn from(delay: Delay) -> Self {
        delay.to_string()
    }
}

/// Bits a second, as `10mbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(pub u64);

/// Units of a rate and how many bits a second they are.
const RATES: [(&str, u64); 3] = [
    ("kbit", 1_000),
    ("mbit", 1_000_000),
    ("gbit", 1_000_000_000),
];

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("rate: {text:?} is no whole number of kbit, mbit or gbit above 0, as 10mbit")
        };
        let (number, unit) = measured(text, &RATES).ok_or_else(wrong)?;
        let rate = unit.checked_mul(number).filter(|r| *r > 0);
        rate.map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}kbit", self.0 / 1_000)
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

/// A whole number and its unit, one of a table's.
fn measured<T: Copy>(text: &str, units: &[(&str, T)]) -> Option<(u64, T)> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, unit) = units.iter().find(|(name, _)| *name == unit)?;
    Some((number.parse().ok()?, *unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read() {
        let table = [
            ("{}", Some(Quality::default())),
            (
                "{loss: 10, delay: 20ms, rate: 10mbit}",
                Some(Quality {
                    loss: Percent(1_000),
                    delay: Delay(Duration::from_millis(20)),
                    rate: Some(Rate(10_000_000)),
                }),
            ),
            ("{loss: 101}", None),
            ("{loss: -1}", None),
            ("{loss: .nan}", None),
            ("{delay: 20}", None),
            ("{delay: 20h}", None),
            ("{delay: 11s}", None),
            ("{delay: 99999999999999999999s}", None),
            ("{rate: 0mbit}", None),
            ("{rate: mbit}", None),
            ("{rate: 18446744073709551615gbit}", None),
        ];
        for (text, wanted) in table {
            let read = serde_yaml_ng::from_str::<Quality>(text);
            assert_eq!(read.as_ref().ok(), wanted.as_ref(), "{text}: {read:?}");
            if let Ok(quality) = read {
                let again = serde_yaml_ng::to_string(&quality).unwrap();
                assert_eq!(serde_yaml_ng::from_str::<Quality>(&again).unwrap(), quality);
            }
        }
        assert_eq!("0.5%".parse::<Percent>().unwrap().in_ten_thousand(), 50);
    }
}
