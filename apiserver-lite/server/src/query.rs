//! The query string: decoded once, read by name.

use keelson_api::Status;

/// Decoded query parameters, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    raw: String,
    malformed: Option<String>,
}

impl Query {
    /// Parses a query string.
    pub(crate) fn parse(raw: &str) -> Query {
        let mut query = Query {
            raw: raw.to_owned(),
            ..Query::default()
        };
        for pair in raw.split('&').filter(|p| !p.is_empty()) {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            match (percent_decode(k, true), percent_decode(v, true)) {
                (Some(k), Some(v)) => query.pairs.push((k, v)),
                _ => query.malformed = Some(pair.to_owned()),
            }
        }
        query
    }

    /// A pair that does not decode is refused: without it, a selector would select everything.
    pub(crate) fn check(&self) -> Result<(), Status> {
        let Some(pair) = &self.malformed else {
            return Ok(());
        };
        Err(Status::bad_request(format!(
            "invalid query: {pair:?} is no percent-encoded UTF-8"
        )))
    }

    /// As it came, for passing on.
    pub(crate) fn raw(&self) -> &str {
        &self.raw
    }

    /// The first value of a parameter; empty values count as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(k, v)| k == name && !v.is_empty())
            .map(|(_, v)| v.as_str())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    /// A boolean: present without a value, `1` or `true` (upstream takes everything but `false` and `0`).
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.all(name)
            .next()
            .is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "strconv.ParseInt: parsing {text:?}: invalid syntax ({name})"
            ))
        })
    }

    /// Whether the write is to be tried only. Anything but `All` is refused.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        let mut found = false;
        for value in self.all("dryRun") {
            if value != "All" {
                return Err(unsupported("dryRun", value, "\"All\""));
            }
            found = true;
        }
        Ok(found)
    }
}

fn unsupported(field: &'static str, value: &str, supported: &str) -> Status {
    let cause = keelson_api::Cause {
        reason: "FieldValueNotSupported",
        field: field.to_owned(),
        message: format!("Unsupported value: {value:?}: supported values: {supported}"),
    };
    Status::invalid("meta.k8s.io", "CreateOptions", "", vec![cause])
}

/// Percent-decodes; `plus`: `+` is a space, as in query strings. `None`: not UTF-8 or broken.
pub(crate) fn percent_decode(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if plus => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes() {
        let q = Query::parse("a=1&b=x%20y+z&command=ls&command=-l&watch&bad=%zz&dryRun=All");
        assert_eq!(q.get("a"), Some("1"));
        assert_eq!(q.get("b"), Some("x y z"));
        assert_eq!(q.all("command").collect::<Vec<_>>(), ["ls", "-l"]);
        assert!(q.flag("watch") && !q.flag("nothing"));
        assert_eq!(q.get("bad"), None);
        assert_eq!(q.dry_run(), Ok(true));
        assert!(Query::parse("dryRun=Some").dry_run().is_err());
        assert!(Query::parse("limit=x").number("limit").is_err());
    }
}
