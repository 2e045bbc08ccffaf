//! The syntax of cron schedules: five fields, or a descriptor such as `@daily`, in the words of the
//! library that upstream uses.

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

const DESCRIPTORS: &[&str] = &[
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

/// Whether a schedule can be read; says what cannot.
pub(super) fn parse(schedule: &str) -> Result<(), String> {
    if schedule.starts_with('@') {
        return match schedule.strip_prefix("@every ") {
            Some(d) if is_duration(d) => Ok(()),
            Some(_) => Err(format!("failed to parse duration {schedule}")),
            None if DESCRIPTORS.contains(&schedule) => Ok(()),
            None => Err(format!("unrecognized descriptor: {schedule}")),
        };
    }
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            parts.len(),
            parts.join(" ")
        ));
    }
    parts.iter().zip(&FIELDS).try_for_each(|(part, field)| {
        part.split(',')
            .filter(|p| !p.is_empty())
            .try_for_each(|p| field.range(p))
    })
}

/// `1h30m`: numbers with units, as Go writes durations.
fn is_duration(s: &str) -> bool {
    let mut rest = s;
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h"]
            .into_iter()
            .find(|u| {
                digits.strip_prefix(u).is_some_and(|after| {
                    after.is_empty() || after.starts_with(|c: char| c.is_ascii_digit())
                })
            });
        match unit.and_then(|u| digits.strip_prefix(u)) {
            Some(after) if digits.len() < rest.len() => rest = after,
            _ => return false,
        }
    }
    !s.is_empty()
}

impl Field {
    /// `*`, `?`, `a`, `a-b`, each with `/step` or without.
    fn range(&self, expr: &str) -> Result<(), String> {
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
        Ok(())
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
    fn schedules() {
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
                parse(schedule).err().unwrap_or_default(),
                says,
                "{schedule}"
            );
        }
    }
}
