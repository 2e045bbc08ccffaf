//! Label selectors: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`, and `LabelSelector` objects.

use std::fmt;

use serde_json::Value;

use crate::validate::names;
use crate::{json, meta};

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The value is one of the list.
    In,
    /// The label is absent or its value none of the list.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The value is an integer above the given one.
    Gt,
    /// The value is an integer below the given one.
    Lt,
}

/// One term of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is asked.
    pub op: Op,
    /// Values, sorted, for the operators that take any.
    pub values: Vec<String>,
}

/// A label selector: all requirements must hold. The default one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Labels {
    /// Parses the text form.
    ///
    /// # Errors
    /// Upstream's words for what was found and what was expected.
    pub fn parse(text: &str) -> Result<Labels, String> {
        let mut p = Parser {
            tokens: lex(text),
            at: 0,
        };
        let requirements = p.selector()?;
        Ok(Labels {
            requirements,
            nothing: false,
        })
    }

    /// A `LabelSelector` object: `null` matches nothing, an empty one everything.
    ///
    /// # Errors
    /// An operator that is none, or keys or values that do not fit.
    pub fn from_object(v: &Value) -> Result<Labels, String> {
        if v.is_null() {
            return Ok(Labels {
                requirements: vec![],
                nothing: true,
            });
        }
        let mut requirements = Vec::new();
        for (key, value) in json::entries(v, "/matchLabels") {
            requirements.push(Requirement::new(
                key,
                Op::In,
                vec![value.as_str().unwrap_or_default().to_owned()],
            )?);
        }
        for e in json::items(v, "/matchExpressions") {
            let op = match json::text(e, "/operator") {
                "In" => Op::In,
                "NotIn" => Op::NotIn,
                "Exists" => Op::Exists,
                "DoesNotExist" => Op::DoesNotExist,
                other => {
                    return Err(format!(
                        "\"{other}\" is not a valid label selector operator"
                    ));
                }
            };
            let values = json::texts(e, "/values")
                .into_iter()
                .map(str::to_owned)
                .collect();
            requirements.push(Requirement::new(json::text(e, "/key"), op, values)?);
        }
        Ok(Labels {
            requirements,
            nothing: false,
        })
    }

    /// A plain map of labels (`spec.selector` of Services and ReplicationControllers); an empty one matches everything.
    pub fn from_map(v: &Value) -> Labels {
        let requirements = json::entries(v, "")
            .map(|(k, v)| Requirement {
                key: k.to_owned(),
                op: Op::In,
                values: vec![v.as_str().unwrap_or_default().to_owned()],
            })
            .collect();
        Labels {
            requirements,
            nothing: false,
        }
    }

    /// Whether an object's labels match.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_with(|key| meta::label(object, key))
    }

    /// Whether labels match, given by a look-up.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.holds(label(&r.key)))
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// The terms.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let sep = if i == 0 { "" } else { "," };
            write!(f, "{sep}{r}")?;
        }
        Ok(())
    }
}

impl Requirement {
    /// Checks and makes a requirement.
    ///
    /// # Errors
    /// Key, number of values or values that do not fit.
    pub fn new(key: &str, op: Op, mut values: Vec<String>) -> Result<Requirement, String> {
        if let Some(why) = names::qualified_name(key).first() {
            return Err(format!("key: Invalid value: \"{key}\": {why}"));
        }
        let list = || {
            format!(
                "[{}]",
                values
                    .iter()
                    .map(|v| format!("\"{v}\""))
                    .collect::<Vec<_>>()
                    .join(",")
            )
        };
        match op {
            Op::In | Op::NotIn if values.is_empty() => {
                return Err(format!(
                    "values: Invalid value: {}: for 'in', 'notin' operators, values set can't be empty",
                    list()
                ));
            }
            Op::Exists | Op::DoesNotExist if !values.is_empty() => {
                return Err(format!(
                    "values: Invalid value: {}: values set must be empty for exists and does not exist",
                    list()
                ));
            }
            Op::Gt | Op::Lt => match values.as_slice() {
                [v] if v.parse::<i64>().is_ok() => {}
                [v] => {
                    return Err(format!(
                        "values[0]: Invalid value: \"{v}\": for 'Gt', 'Lt' operators, the value must be an integer"
                    ));
                }
                _ => {
                    return Err(format!(
                        "values: Invalid value: {}: for 'Gt', 'Lt' operators, exactly one value is required",
                        list()
                    ));
                }
            },
            _ => {}
        }
        for (i, v) in values.iter().enumerate() {
            if let Some(why) = names::label_value(v).first() {
                return Err(format!("values[{i}][{key}]: Invalid value: \"{v}\": {why}"));
            }
        }
        values.sort();
        values.dedup();
        Ok(Requirement {
            key: key.to_owned(),
            op,
            values,
        })
    }

    /// Whether it holds for a label's value (`None`: absent).
    pub fn holds(&self, label: Option<&str>) -> bool {
        let listed = |l: &str| self.values.iter().any(|v| v == l);
        let number = |s: &str| s.parse::<i64>().ok();
        let bound = || self.values.first().and_then(|v| number(v));
        match self.op {
            Op::In => label.is_some_and(listed),
            Op::NotIn => !label.is_some_and(listed),
            Op::Exists => label.is_some(),
            Op::DoesNotExist => label.is_none(),
            Op::Gt => label
                .and_then(number)
                .zip(bound())
                .is_some_and(|(l, b)| l > b),
            Op::Lt => label
                .and_then(number)
                .zip(bound())
                .is_some_and(|(l, b)| l < b),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match (self.op, self.values.len()) {
            (Op::In, 1) => write!(f, "{key}={values}"),
            (Op::NotIn, 1) => write!(f, "{key}!={values}"),
            (Op::In, _) => write!(f, "{key} in ({values})"),
            (Op::NotIn, _) => write!(f, "{key} notin ({values})"),
            (Op::Exists, _) => write!(f, "{key}"),
            (Op::DoesNotExist, _) => write!(f, "!{key}"),
            (Op::Gt, _) => write!(f, "{key}>{values}"),
            (Op::Lt, _) => write!(f, "{key}<{values}"),
        }
    }
}

/// The lexer's special characters; everything else up to one of them or a space is one word.
const SPECIAL: &str = "=!(),<>";

fn lex(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii_whitespace() {
            continue;
        }
        let mut token = String::from(c);
        if SPECIAL.contains(c) {
            // `==`, `!=`: the only two-character symbols.
            if matches!(c, '=' | '!') && chars.peek() == Some(&'=') {
                token.extend(chars.next());
            }
        } else {
            while let Some(n) = chars.next_if(|n| !n.is_ascii_whitespace() && !SPECIAL.contains(*n))
            {
                token.push(n);
            }
        }
        tokens.push(token);
    }
    tokens
}

struct Parser {
    tokens: Vec<String>,
    at: usize,
}

impl Parser {
    /// The next token, `""` at the end.
    fn peek(&self) -> &str {
        self.tokens
            .get(self.at)
            .map(String::as_str)
            .unwrap_or_default()
    }

    fn take(&mut self) -> String {
        let t = self.peek().to_owned();
        self.at += 1;
        t
    }

    fn is_word(token: &str) -> bool {
        !token.is_empty() && !token.starts_with(|c| SPECIAL.contains(c))
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        loop {
            let t = self.peek();
            if t.is_empty() {
                return Ok(out);
            }
            if !Self::is_word(t) && t != "!" {
                return Err(format!(
                    "found '{t}', expected: !, identifier, or 'end of string'"
                ));
            }
            out.push(
                self.requirement()
                    .map_err(|e| format!("unable to parse requirement: {e}"))?,
            );
            match self.take().as_str() {
                "" => return Ok(out),
                "," => {
                    let next = self.peek();
                    if !Self::is_word(next) && next != "!" {
                        return Err(format!("found '{next}', expected: identifier after ','"));
                    }
                }
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek() == "!";
        if absent {
            self.at += 1;
        }
        let key = self.take();
        if !Self::is_word(&key) {
            return Err(format!("found '{key}', expected: identifier"));
        }
        if absent {
            return Requirement::new(&key, Op::DoesNotExist, vec![]);
        }
        if matches!(self.peek(), "" | ",") {
            return Requirement::new(&key, Op::Exists, vec![]);
        }
        let (op, list) = match self.take().as_str() {
            "in" => (Op::In, true),
            "notin" => (Op::NotIn, true),
            "=" | "==" => (Op::In, false),
            "!=" => (Op::NotIn, false),
            ">" => (Op::Gt, false),
            "<" => (Op::Lt, false),
            other => {
                return Err(format!(
                    "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
                ));
            }
        };
        let values = if list {
            self.list()?
        } else {
            vec![self.value()?]
        };
        Requirement::new(&key, op, values)
    }

    /// A value after `=`: may be empty.
    fn value(&mut self) -> Result<String, String> {
        if matches!(self.peek(), "" | ",") {
            return Ok(String::new());
        }
        let t = self.take();
        if Self::is_word(&t) {
            Ok(t)
        } else {
            Err(format!("found '{t}', expected: identifier"))
        }
    }

    /// Values in brackets; an empty place is the empty value.
    fn list(&mut self) -> Result<Vec<String>, String> {
        let open = self.take();
        if open != "(" {
            return Err(format!("found '{open}' expected: '('"));
        }
        let mut out = Vec::new();
        loop {
            match self.peek() {
                "," | ")" => out.push(String::new()),
                t if Self::is_word(t) => out.push(self.take()),
                t => return Err(format!("found '{t}', expected: ',', ')' or identifier")),
            }
            match self.take().as_str() {
                "," => {}
                ")" => return Ok(out),
                t => return Err(format!("found '{t}', expected: ',' or ')'")),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn matching() {
        let o = json!({"metadata": {"labels": {"app": "web", "n": "5", "e": ""}}});
        for (selector, matches) in [
            ("", true),
            ("app=web", true),
            ("app==web,n=5", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db),x notin (y)", true),
            ("app", true),
            ("!app", false),
            ("!x", true),
            ("x", false),
            ("n>4", true),
            ("n>5", false),
            ("n<6", true),
            ("app>1", false),
            ("e=", true),
            ("e in (,a)", true),
            ("app in (),n", false),
            (" app = web , n ", true),
            ("in=x", false),
        ] {
            assert_eq!(
                Labels::parse(selector).unwrap().matches(&o),
                matches,
                "{selector}"
            );
        }
    }

    #[test]
    fn wrong_text() {
        for (selector, says) in [
            (
                "=a",
                "found '=', expected: !, identifier, or 'end of string'",
            ),
            ("a=b,", "found '', expected: identifier after ','"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            (
                "a in b",
                "unable to parse requirement: found 'b' expected: '('",
            ),
            (
                "a in (b",
                "unable to parse requirement: found '', expected: ',' or ')'",
            ),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "!",
                "unable to parse requirement: found '', expected: identifier",
            ),
        ] {
            assert_eq!(Labels::parse(selector).unwrap_err(), says, "{selector}");
        }
        assert!(
            Labels::parse("-a=b")
                .unwrap_err()
                .starts_with("unable to parse requirement: key: Invalid value: \"-a\": name part ")
        );
        assert!(
            Labels::parse("a=-b")
                .unwrap_err()
                .starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": ")
        );
    }

    #[test]
    fn objects() {
        let o = json!({"metadata": {"labels": {"app": "web"}}});
        for (selector, matches) in [
            (json!(null), false),
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "web"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}),
                false,
            ),
            (
                json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]}),
                false,
            ),
        ] {
            assert_eq!(
                Labels::from_object(&selector).unwrap().matches(&o),
                matches,
                "{selector}"
            );
        }
        let bad = json!({"matchExpressions": [{"key": "app", "operator": "Is"}]});
        assert_eq!(
            Labels::from_object(&bad).unwrap_err(),
            "\"Is\" is not a valid label selector operator"
        );
    }

    proptest! {
        #[test]
        fn printed_text_parses_to_the_same(terms in prop::collection::vec((0..6u8, "[a-z]{1,4}(/[A-Z]{1,3})?", prop::collection::vec("[a-z0-9]{0,3}", 1..4), -9..9i64), 0..5)) {
            let requirements = terms.into_iter().map(|(op, key, values, n)| match op {
                0 => Requirement::new(&key, Op::In, values),
                1 => Requirement::new(&key, Op::NotIn, values),
                2 => Requirement::new(&key, Op::Exists, vec![]),
                3 => Requirement::new(&key, Op::DoesNotExist, vec![]),
                4 => Requirement::new(&key, Op::Gt, vec![n.unsigned_abs().to_string()]),
                _ => Requirement::new(&key, Op::Lt, vec![n.unsigned_abs().to_string()]),
            }.unwrap()).collect();
            let labels = Labels { requirements, nothing: false };
            prop_assert_eq!(Labels::parse(&labels.to_string()).unwrap(), labels);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            let _ = Labels::parse(&text);
        }
    }
}
