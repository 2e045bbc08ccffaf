//! Cells of `kubectl get`: what a row's columns say of an object.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resource::{Cell, Resource};

/// The cells of an object, one a column of the row. The object may be in the row's version or in the
/// stored form.
pub fn row(row: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let mut stored = Cow::Borrowed(object);
    if let Some(convert) = row.convert {
        (convert.to_stored)(stored.to_mut());
    }
    let object = stored.as_ref();
    row.columns
        .iter()
        .map(|c| cell(&c.cell, &c.kind, object, now))
        .collect()
}

fn cell(cell: &Cell, kind: &str, object: &Value, now: Timestamp) -> Value {
    match cell {
        Cell::Fn(f) => f(object, now),
        Cell::Path(path) => {
            let found = json_path(object, path);
            if kind == "date" {
                found
                    .as_str()
                    .map_or(Value::Null, |t| json!(age_of(t, now)))
            } else {
                found.clone()
            }
        }
    }
}

/// The value at a simple JSON path, as custom resource definitions give (`.spec.replicas`, `.status.conditions[0].type`,
/// `.metadata.labels['a\.b']`).
fn json_path<'a>(object: &'a Value, path: &str) -> &'a Value {
    const NULL: &Value = &Value::Null;
    let mut at = object;
    for part in path_parts(path) {
        at = match (at, part.parse::<usize>()) {
            (Value::Array(a), Ok(i)) => a.get(i),
            _ => at.get(part.as_str()),
        }
        .unwrap_or(NULL);
    }
    at
}

fn path_parts(path: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '.' | '[' => parts.push(String::new()),
            ']' | '\'' | '"' | '{' | '}' => {}
            '\\' => parts
                .last_mut()
                .into_iter()
                .for_each(|p| p.extend(chars.next())),
            c => parts.last_mut().into_iter().for_each(|p| p.push(c)),
        }
    }
    parts.retain(|p| !p.is_empty());
    parts
}

/// The age of a time given as text, `<unknown>` if it is none.
pub(crate) fn age_of(time: &str, now: Timestamp) -> String {
    time.parse::<Timestamp>().map_or_else(
        |_| "<unknown>".into(),
        |t| human_duration(now.as_second() - t.as_second()),
    )
}

/// A duration in seconds as people read it, two units at most (upstream's `duration.HumanDuration`).
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    match seconds {
        // Clocks that differ by a second or two are no reason to alarm anyone.
        ..=-2 => "<invalid>".into(),
        -1 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (599, "9m59s"),
            (600, "10m"),
            (10799, "179m"),
            (10800, "3h"),
            (11000, "3h3m"),
            (28800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_072_000 + 86_400, "2y1d"),
            (8 * 31_536_000, "8y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn paths_of_custom_resources() {
        let o = json!({"spec": {"a": [{"b": 1}]}, "metadata": {"labels": {"x.y/z": "v"}}});
        assert_eq!(json_path(&o, ".spec.a[0].b"), 1);
        assert_eq!(json_path(&o, r".metadata.labels['x\.y/z']"), "v");
        assert_eq!(json_path(&o, r".metadata.labels.x\.y/z"), "v");
        assert_eq!(json_path(&o, ".spec.none[3].b"), &Value::Null);
    }
}
