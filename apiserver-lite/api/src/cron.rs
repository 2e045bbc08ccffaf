//! Cron schedules: five fields, or a descriptor such as `@daily`, in the words and with the meaning of the library that
//! upstream uses (robfig/cron).

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};

struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Minute, hour, day of month, month, day of week.
const FIELDS: [Field; 5] = [
    Field {
        min: 0,
        max: 59,
        names: &[],
    },
    Field {
        min: 0,
        max: 23,
        names: &[],
    },
    Field {
        min: 1,
        max: 31,
        names: &[],
    },
    Field {
        min: 1,
        max: 12,
        names: MONTHS,
    },
    Field {
        min: 0,
        max: 6,
        names: DAYS,
    },
];

/// Descriptors and what they stand for.
const DESCRIPTORS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// How many years are searched for a date: 29 February comes after eight at most, upstream gives up after five.
const YEARS: i16 = 5;

/// When something is to happen, again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule(Kind);

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// Minute, hour, day of month, month, day of week.
    Fields([Values; 5]),
    Every(Duration),
}

/// Values of a field, as bits.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Values {
    bits: u64,
    /// Written as `*` or `?`: of the two kinds of day, such a one leaves the choice to the other.
    any: bool,
}

impl Values {
    fn has(self, n: i8) -> bool {
        u32::try_from(n).is_ok_and(|n| self.bits >> n & 1 == 1)
    }
}

/// A time zone by its name; without one UTC. `None`: there is no such zone.
pub fn zone(name: Option<&str>) -> Option<TimeZone> {
    match name {
        None => Some(TimeZone::UTC),
        Some("" | "Local") => None,
        Some(name) => TimeZone::get(name).ok(),
    }
}

impl Schedule {
    /// Reads a schedule; the error says what cannot be read.
    pub fn parse(schedule: &str) -> Result<Self, String> {
        if let Some(every) = schedule.strip_prefix("@every ") {
            let every = duration(every);
            let every = every.ok_or_else(|| format!("failed to parse duration {schedule}"))?;
            // Below a second there is nothing, as upstream rounds.
            let whole = Duration::from_secs(every.as_secs().max(1));
            return Ok(Self(Kind::Every(whole)));
        }
        if schedule.starts_with('@') {
            let known = DESCRIPTORS.iter().find(|(name, _)| *name == schedule);
            let (_, fields) =
                known.ok_or_else(|| format!("unrecognized descriptor: {schedule}"))?;
            return Self::parse(fields);
        }
        let parts: Vec<&str> = schedule.split_whitespace().collect();
        if parts.len() != FIELDS.len() {
            return Err(format!(
                "expected exactly 5 fields, found {}: [{}]",
                parts.len(),
                parts.join(" ")
            ));
        }
        let mut fields = [Values {
            bits: 0,
            any: false,
        }; 5];
        for ((part, field), values) in parts.iter().zip(&FIELDS).zip(&mut fields) {
            for range in part.split(',').filter(|p| !p.is_empty()) {
                let more = field.range(range)?;
                values.bits |= more.bits;
                values.any |= more.any;
            }
        }
        Ok(Self(Kind::Fields(fields)))
    }

    /// The first time after another, in that one's zone. `None`: there is none in years.
    ///
    /// An hour that a change of the clocks leaves out is left out; one that comes twice counts twice.
    pub fn next(&self, after: &Zoned) -> Option<Zoned> {
        let [minutes, hours, _, months, _] = match &self.0 {
            Kind::Fields(fields) => *fields,
            Kind::Every(every) => {
                let whole = after.checked_sub(i64::from(after.subsec_nanosecond()).nanoseconds());
                return whole.ok()?.checked_add(*every).ok();
            }
        };
        let past = i64::from(after.second()).seconds();
        let past = past.nanoseconds(after.subsec_nanosecond());
        let mut at = after.checked_sub(past).ok()?.checked_add(1.minute()).ok()?;
        let last = after.year().saturating_add(YEARS);
        while at.year() <= last {
            let date = at.date();
            let day = |date: jiff::civil::Date| date.to_zoned(at.time_zone().clone()).ok();
            if !months.has(at.month()) {
                at = day(date.last_of_month().tomorrow().ok()?)?;
            } else if !self.is_on(date) {
                at = day(date.tomorrow().ok()?)?;
            } else if !hours.has(at.hour()) {
                let rest = 60 - i64::from(at.minute());
                at = at.checked_add(rest.minutes()).ok()?;
            } else if !minutes.has(at.minute()) {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                return Some(at);
            }
        }
        None
    }

    /// Whether a day is meant: if both kinds of day are given, either will do.
    fn is_on(&self, date: jiff::civil::Date) -> bool {
        let Kind::Fields([_, _, days, _, weekdays]) = &self.0 else {
            return true;
        };
        let day = days.has(date.day());
        let weekday = weekdays.has(date.weekday().to_sunday_zero_offset());
        if days.any || weekdays.any {
            day && weekday
        } else {
            day || weekday
        }
    }
}

/// `1h30m`: numbers with units, as Go writes durations.
fn duration(s: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let (mut rest, mut total) = (s, 0.0);
    while !rest.is_empty() {
        let after = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number: f64 = rest.get(..rest.len() - after.len())?.parse().ok()?;
        let mut units = UNITS.iter().filter_map(|(unit, seconds)| {
            let left = after.strip_prefix(unit)?;
            let ends = left.is_empty() || left.starts_with(|c: char| c.is_ascii_digit());
            ends.then_some((left, seconds))
        });
        let (left, seconds) = units.next()?;
        total += number * seconds;
        rest = left;
    }
    (!s.is_empty()).then(|| Duration::try_from_secs_f64(total).ok())?
}

impl Field {
    /// `*`, `?`, `a`, `a-b`, each with `/step` or without.
    fn range(&self, expr: &str) -> Result<Values, String> {
        let parts: Vec<&str> = expr.split('/').collect();
        let (range, step) = match parts.as_slice() {
            [range] => (*range, None),
            [range, step] => (*range, Some(*step)),
            _ => return Err(format!("too many slashes: {expr}")),
        };
        let bounds: Vec<&str> = range.split('-').collect();
        let (start, end) = match bounds.as_slice() {
            ["*" | "?"] => (self.min, self.max),
            [one] => {
                let n = self.number(one)?;
                (n, if step.is_some() { self.max } else { n })
            }
            [a, b] => (self.number(a)?, self.number(b)?),
            _ => return Err(format!("too many hyphens: {expr}")),
        };
        let step = step.map_or(Ok(1), int)?;
        if start < self.min {
            return Err(format!(
                "beginning of range ({start}) below minimum ({}): {expr}",
                self.min
            ));
        }
        if end > self.max {
            return Err(format!(
                "end of range ({end}) above maximum ({}): {expr}",
                self.max
            ));
        }
        if start > end {
            return Err(format!(
                "beginning of range ({start}) beyond end of range ({end}): {expr}"
            ));
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {expr}"));
        }
        let bits = (start..=end)
            .step_by(step as usize)
            .fold(0, |bits, n| bits | 1 << n);
        let any = matches!(bounds.as_slice(), ["*" | "?"]) && step == 1;
        Ok(Values { bits, any })
    }

    fn number(&self, s: &str) -> Result<u32, String> {
        let name = s.to_lowercase();
        match self.names.iter().position(|n| *n == name) {
            Some(i) => Ok(self.min + i as u32),
            None => int(s),
        }
    }
}

fn int(s: &str) -> Result<u32, String> {
    s.parse().map_err(|_| {
        format!("failed to parse int from {s}: strconv.Atoi: parsing \"{s}\": invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read() {
        for (schedule, says) in [
            ("* * * * *", ""),
            ("*/5 0-23/2 1,15 JAN-jun mon", ""),
            ("@hourly", ""),
            ("@every 1h30m", ""),
            ("@never", "unrecognized descriptor: @never"),
            ("@every x", "failed to parse duration @every x"),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
        ] {
            assert_eq!(
                Schedule::parse(schedule).err().unwrap_or_default(),
                says,
                "{schedule}"
            );
        }
    }

    #[test]
    fn the_next_times() {
        let utc = "2026-03-28T12:34:56+00:00[UTC]";
        let (spring, autumn) = (
            "2026-03-29T00:30:00+01:00[Europe/Berlin]",
            "2026-10-25T01:30:00+02:00[Europe/Berlin]",
        );
        for (schedule, after, want) in [
            ("* * * * *", utc, "03-28T12:35 03-28T12:36"),
            ("*/20 * * * *", utc, "03-28T12:40 03-28T13:00"),
            ("5/25 9-17/4 * * *", utc, "03-28T13:05 03-28T13:30"),
            ("@hourly", utc, "03-28T13:00 03-28T14:00"),
            ("@every 90s", utc, "03-28T12:36 03-28T12:37"),
            ("0 0 29 2 *", utc, "02-29T00:00"),
            ("0 0 31 2 *", utc, ""),
            ("0 8 1 jan,JUL *", utc, "07-01T08:00 01-01T08:00"),
            // 28 March 2026 is a Saturday.
            ("0 0 * * mon-fri", utc, "03-30T00:00 03-31T00:00"),
            ("0 0 30 * sun", utc, "03-29T00:00 03-30T00:00"),
            ("0 0 30 * *", utc, "03-30T00:00 04-30T00:00"),
            ("0 0 ? * sun", utc, "03-29T00:00 04-05T00:00"),
            // An hour is missing, an hour comes twice.
            ("30 2 * * *", spring, "03-30T02:30 03-31T02:30"),
            ("0 * * * *", spring, "03-29T01:00 03-29T03:00"),
            ("30 * * * *", autumn, "10-25T02:30 10-25T02:30 10-25T03:30"),
        ] {
            let Ok(schedule_) = Schedule::parse(schedule) else {
                assert_eq!(want, "", "{schedule}");
                continue;
            };
            let mut at: Zoned = after.parse().expect("time");
            let mut times = Vec::new();
            for _ in want.split_whitespace().chain(want.is_empty().then_some("")) {
                match schedule_.next(&at) {
                    Some(next) => at = next,
                    None => break,
                }
                times.push(at.strftime("%m-%dT%H:%M").to_string());
            }
            assert_eq!(times.join(" "), want, "{schedule}");
        }
    }

    #[test]
    fn zones() {
        assert!(zone(None).is_some() && zone(Some("Europe/Berlin")).is_some());
        for wrong in ["", "Local", "Mars/Olympus", "../etc/passwd"] {
            assert!(zone(Some(wrong)).is_none(), "{wrong}");
        }
    }
}
