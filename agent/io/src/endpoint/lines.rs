//! Lines of a CRI log, `<RFC 3339 time> <stdout|stderr> <P|F> <text>`: chosen and formatted. Pure.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::Refusal;

/// The query of `/containerLogs`, as the API's `PodLogOptions`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Query {
    #[serde(deserialize_with = "boolean")]
    pub(super) follow: bool,
    #[serde(deserialize_with = "boolean")]
    pub(super) previous: bool,
    #[serde(deserialize_with = "boolean")]
    pub(super) timestamps: bool,
    pub(super) tail_lines: Option<i64>,
    pub(super) since_seconds: Option<i64>,
    pub(super) since_time: Option<String>,
    pub(super) limit_bytes: Option<i64>,
    pub(super) stream: Option<String>,
}

/// Go's booleans in a query: `?follow=true`, `?follow=1`, and a bare `?follow`.
fn boolean<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(!matches!(
        text.as_str(),
        "0" | "f" | "F" | "false" | "False" | "FALSE"
    ))
}

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Stdout,
    Stderr,
}

/// Which lines are shown, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) tail: Option<u64>,
    since: Option<Timestamp>,
    timestamps: bool,
    limit: Option<u64>,
    stream: Option<&'static str>,
}

impl Selection {
    /// Checks the query as upstream's validation does.
    pub(super) fn new(query: &Query, now: Timestamp) -> Result<Self, Refusal> {
        let bad =
            |what: &str| Refusal::new(422, "Invalid", format!("PodLogOptions is invalid: {what}"));
        let since = match (query.since_seconds, &query.since_time) {
            (Some(_), Some(_)) => {
                return Err(bad(
                    "at most one of `sinceTime` or `sinceSeconds` may be specified",
                ));
            }
            (Some(s), None) if s < 1 => return Err(bad("sinceSeconds: must be greater than 0")),
            (Some(s), None) => now.checked_sub(SignedDuration::from_secs(s)).ok(),
            (None, Some(t)) => Some(
                t.parse()
                    .map_err(|_| bad("sinceTime: must be an RFC 3339 time"))?,
            ),
            (None, None) => None,
        };
        let stream = match query.stream.as_deref() {
            None | Some("All" | "") => None,
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            Some(_) => {
                return Err(bad(
                    "stream: supported values: \"All\", \"Stdout\", \"Stderr\"",
                ));
            }
        };
        if stream.is_some() && query.tail_lines.is_some() {
            return Err(bad(
                "`tailLines` and specific `stream` are mutually exclusive",
            ));
        }
        let tail = query.tail_lines.map(|n| {
            u64::try_from(n).map_err(|_| bad("tailLines: must be greater than or equal to 0"))
        });
        let limit = query
            .limit_bytes
            .map(|n| u64::try_from(n).ok().filter(|n| *n > 0));
        if limit == Some(None) {
            return Err(bad("limitBytes: must be greater than 0"));
        }
        Ok(Self {
            tail: tail.transpose()?,
            since,
            timestamps: query.timestamps,
            limit: limit.flatten(),
            stream,
        })
    }
}

/// Formats lines one after the other; a long line comes in several partial ones.
pub(super) struct Formatter {
    selection: Selection,
    inside: bool,
    left: Option<u64>,
}

impl Formatter {
    pub(super) fn new(selection: Selection) -> Self {
        let left = selection.limit;
        Self {
            selection,
            inside: false,
            left,
        }
    }

    /// Whether `limitBytes` is reached.
    pub(super) fn done(&self) -> bool {
        self.left == Some(0)
    }

    /// What one raw line (without its newline) shows; nothing if it is not chosen. A line that is not in the
    /// format is left out: the writer was cut off.
    pub(super) fn format(&mut self, raw: &[u8]) -> Option<(Origin, Vec<u8>)> {
        let mut parts = raw.splitn(4, |b| *b == b' ');
        let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
        let text = parts.next().unwrap_or_default();
        let origin = match stream {
            b"stdout" => Origin::Stdout,
            b"stderr" => Origin::Stderr,
            _ => return None,
        };
        if self
            .selection
            .stream
            .is_some_and(|s| s.as_bytes() != stream)
        {
            return None;
        }
        if let Some(since) = self.selection.since {
            let at: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
            if at < since {
                return None;
            }
        }
        let mut out = Vec::with_capacity(raw.len() + 1);
        if self.selection.timestamps && !self.inside {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        // The tag may carry more after a colon; only a first `P` means that the line goes on.
        self.inside = tag.split(|b| *b == b':').next() == Some(b"P");
        if !self.inside {
            out.push(b'\n');
        }
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        Some((origin, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(query: &Query, lines: &[&str]) -> String {
        let now = "2026-11-21T10:00:10Z".parse().expect("time");
        let mut formatter = Formatter::new(Selection::new(query, now).expect("selection"));
        let shown = lines
            .iter()
            .filter_map(|l| formatter.format(l.as_bytes()))
            .flat_map(|(_, b)| b);
        String::from_utf8(shown.collect()).expect("text")
    }

    #[test]
    fn lines_are_chosen_and_formatted() {
        let lines = [
            "2026-11-21T10:00:00.000000001Z stdout F one",
            "2026-11-21T10:00:05Z stderr P half ",
            "2026-11-21T10:00:05Z stderr F whole",
            "broken",
            "2026-11-21T10:00:09Z stdout F ",
        ];
        let q = Query::default;
        let table = [
            (q(), "one\nhalf whole\n\n"),
            (
                Query {
                    stream: Some("Stderr".into()),
                    ..q()
                },
                "half whole\n",
            ),
            (
                Query {
                    since_seconds: Some(6),
                    ..q()
                },
                "half whole\n\n",
            ),
            (
                Query {
                    since_time: Some("2026-11-21T10:00:06Z".into()),
                    ..q()
                },
                "\n",
            ),
            (
                Query {
                    limit_bytes: Some(6),
                    ..q()
                },
                "one\nha",
            ),
            (
                Query {
                    timestamps: true,
                    since_seconds: Some(6),
                    ..q()
                },
                "2026-11-21T10:00:05Z half whole\n2026-11-21T10:00:09Z \n",
            ),
        ];
        for (query, want) in table {
            assert_eq!(show(&query, &lines), want, "{query:?}");
        }
    }

    #[test]
    fn wrong_queries_are_refused() {
        let q = Query::default;
        for query in [
            Query {
                since_seconds: Some(0),
                ..q()
            },
            Query {
                since_seconds: Some(1),
                since_time: Some("2026-11-21T10:00:06Z".into()),
                ..q()
            },
            Query {
                since_time: Some("yesterday".into()),
                ..q()
            },
            Query {
                tail_lines: Some(-1),
                ..q()
            },
            Query {
                limit_bytes: Some(0),
                ..q()
            },
            Query {
                stream: Some("Both".into()),
                ..q()
            },
            Query {
                stream: Some("Stdout".into()),
                tail_lines: Some(1),
                ..q()
            },
        ] {
            assert!(
                Selection::new(&query, Timestamp::UNIX_EPOCH).is_err(),
                "{query:?}"
            );
        }
    }
}
