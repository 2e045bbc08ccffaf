//! CPU in use at the moment: the difference of two readings. The earlier one is that of whoever asked before, so that
//! nothing is read when nobody asks; for the first there is no rate yet.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

/// Readings nearer to each other than this give no new rate.
const LEAST: SignedDuration = SignedDuration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Timestamp,
    total: u64,
    rate: Option<u64>,
}

/// The last readings, by cgroup.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<String, Reading>>);

/// One answer's look at the rates.
pub(super) struct Look<'a> {
    rates: &'a Rates,
    fresh: HashMap<String, Reading>,
}

impl Rates {
    /// Begins an answer; what it does not ask about is forgotten at its end.
    pub(super) fn look(&self) -> Look<'_> {
        Look {
            rates: self,
            fresh: HashMap::new(),
        }
    }
}

impl Look<'_> {
    /// Nanoseconds of CPU time a second.
    pub(super) fn rate(&mut self, cgroup: &str, at: Timestamp, total: u64) -> Option<u64> {
        let known = self.rates.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = next(known.get(cgroup).copied(), at, total);
        self.fresh.insert(cgroup.to_owned(), reading);
        reading.rate
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let mut known = self.rates.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = std::mem::take(&mut self.fresh);
    }
}

fn next(last: Option<Reading>, at: Timestamp, total: u64) -> Reading {
    let fresh = Reading {
        at,
        total,
        rate: None,
    };
    // A smaller total is that of another run in the same place.
    let Some(last) = last.filter(|l| l.total <= total && l.at <= at) else {
        return fresh;
    };
    let passed = at.duration_since(last.at);
    if passed < LEAST {
        return last;
    }
    let rate = (total - last.total) as f64 / passed.as_secs_f64();
    Reading {
        rate: Some(rate as u64),
        ..fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_a_second_apart() {
        let at = |ms| Timestamp::from_millisecond(ms).expect("time");
        let rates = Rates::default();
        let asked = [
            ("the first", 0, 100, None),
            ("too soon", 500, 1_000_000, None),
            (
                "two seconds later",
                2000,
                4_000_000_100,
                Some(2_000_000_000),
            ),
            (
                "too soon: the last",
                2500,
                9_000_000_000,
                Some(2_000_000_000),
            ),
            ("idle", 4000, 4_000_000_100, Some(0)),
            ("begun anew", 6000, 5, None),
        ];
        for (name, ms, total, want) in asked {
            assert_eq!(rates.look().rate("a", at(ms), total), want, "{name}");
        }
        rates.look().rate("b", at(9000), 1);
        assert_eq!(rates.look().rate("a", at(9500), 9), None, "was forgotten");
    }
}
