//! Field selectors: `metadata.name=a,status.phase!=Running`, with `\` before `,`, `=` and `\` in values.

use std::fmt;

use serde_json::Value;

use crate::meta;
use crate::resource::Resource;

/// One term: a field must (or must not) have a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The field, such as `spec.nodeName`.
    pub field: String,
    /// Whether `!=` stood between.
    pub not: bool,
    /// The value.
    pub value: String,
}

/// A field selector: all terms must hold. The default one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    terms: Vec<Term>,
}

impl Fields {
    /// Parses the text form; which fields a kind has is asked by [`Fields::check`].
    ///
    /// # Errors
    /// A term without an operator, or a `\` before something else.
    pub fn parse(text: &str) -> Result<Fields, String> {
        let mut terms = Vec::new();
        for part in split(text) {
            if part.is_empty() {
                continue;
            }
            let (field, op, value) = operator(part)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            terms.push(Term {
                field: field.to_owned(),
                not: op == "!=",
                value: unescape(value)?,
            });
        }
        Ok(Fields { terms })
    }

    /// Whether a kind knows all fields.
    ///
    /// # Errors
    /// Upstream's words for the first it does not know.
    pub fn check(&self, row: &Resource) -> Result<(), String> {
        for t in &self.terms {
            let known = matches!(t.field.as_str(), "metadata.name" | "metadata.namespace")
                || row.strategy.selectable.iter().any(|(f, _)| *f == t.field);
            if known {
                continue;
            }
            return Err(if row.strategy.selectable.is_empty() {
                let field = &t.field;
                format!(
                    "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                )
            } else {
                format!("field label not supported: {}", t.field)
            });
        }
        Ok(())
    }

    /// The values that fields must have, without those they must not have.
    pub fn demands(self) -> Vec<(String, String)> {
        let demands = self.terms.into_iter().filter(|t| !t.not);
        demands.map(|t| (t.field, t.value)).collect()
    }

    /// Whether an object of the row matches; a field that the row does not know reads as `""`.
    pub fn matches(&self, row: &Resource, object: &Value) -> bool {
        self.terms.iter().all(|t| {
            let same = match t.field.as_str() {
                "metadata.name" => meta::name(object) == t.value,
                "metadata.namespace" => meta::namespace(object) == t.value,
                field => {
                    let get = row.strategy.selectable.iter().find(|(f, _)| *f == field);
                    get.map(|(_, get)| get(object)).unwrap_or_default() == t.value
                }
            };
            same != t.not
        })
    }

    /// The value a field must have, if a term says so: for taking one object, or one namespace, instead of a list.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|t| t.field == field && !t.not)
            .map(|t| t.value.as_str())
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.terms.iter().enumerate() {
            let sep = if i == 0 { "" } else { "," };
            let op = if t.not { "!=" } else { "=" };
            write!(f, "{sep}{}{op}{}", t.field, escape(&t.value))?;
        }
        Ok(())
    }
}

/// Splits at commas that no `\` precedes.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(text.get(start..i).unwrap_or_default());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

fn operator(part: &str) -> Option<(&str, &str, &str)> {
    for (i, _) in part.char_indices() {
        for op in ["!=", "==", "="] {
            let rest = part.get(i..)?;
            if rest.starts_with(op) {
                return Some((part.get(..i)?, op, rest.get(op.len()..)?));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                Some(e) => {
                    return Err(format!(
                        "invalid field selector: invalid escape sequence: \\{e}"
                    ));
                }
                None => return Err("invalid field selector: invalid escape sequence: \\".into()),
            },
            '=' => {
                return Err(format!(
                    "invalid field selector: unescaped character in value: {value}"
                ));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace(',', "\\,")
        .replace('=', "\\=")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn matching() {
        let table = crate::builtin();
        let pods = table.get("", "v1", "pods").unwrap();
        let o = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "x", "hostNetwork": true},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}});
        for (selector, matches) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,metadata.namespace=n", true),
            ("metadata.name!=a", false),
            ("spec.nodeName=x,status.phase!=Failed", true),
            ("spec.nodeName=", false),
            ("spec.nodeName!=", true),
            ("spec.hostNetwork=true", true),
            ("status.podIP=10.0.0.1", true),
        ] {
            let f = Fields::parse(selector).unwrap();
            assert_eq!(
                (f.check(pods), f.matches(pods, &o)),
                (Ok(()), matches),
                "{selector}"
            );
        }
    }

    #[test]
    fn wrong_fields_and_text() {
        let table = crate::builtin();
        let check = |plural, text| {
            Fields::parse(text)
                .and_then(|f| f.check(table.get("", "v1", plural).unwrap()))
                .unwrap_err()
        };
        assert_eq!(
            check("pods", "spec.foo=1"),
            "field label not supported: spec.foo"
        );
        assert_eq!(
            check("configmaps", "data=1"),
            "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert_eq!(
            check("pods", "a=b,c"),
            "invalid selector: 'a=b,c'; can't understand 'c'"
        );
        assert_eq!(
            check("pods", r"a=\b"),
            r"invalid field selector: invalid escape sequence: \b"
        );
        assert_eq!(
            check("pods", "a=b=c"),
            "invalid field selector: unescaped character in value: b=c"
        );
    }

    #[test]
    fn exact_values() {
        let f = Fields::parse(r"metadata.name=a\,b,metadata.namespace!=x").unwrap();
        assert_eq!(
            (f.exact("metadata.name"), f.exact("metadata.namespace")),
            (Some("a,b"), None)
        );
    }

    proptest! {
        #[test]
        fn printed_text_parses_to_the_same(terms in prop::collection::vec(("[a-z.]{1,9}", any::<bool>(), any::<String>()), 0..4)) {
            let terms = terms.into_iter().map(|(field, not, value)| Term { field, not, value }).collect();
            let f = Fields { terms };
            prop_assert_eq!(Fields::parse(&f.to_string()).unwrap(), f);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            let _ = Fields::parse(&text);
        }
    }
}
