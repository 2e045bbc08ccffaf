//! Label selectors by upstream's rules (apimachinery's `LabelSelectorAsSelector`): an empty one selects everything, one
//! that does not fit is an error and never a selector.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Longest name part of a key, and longest value, in bytes.
const LABEL_BYTES: usize = 63;
/// Longest prefix of a key, in bytes.
const PREFIX_BYTES: usize = 253;

/// An object's labels, ordered by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// As the API gives them.
    pub fn new(map: Option<&BTreeMap<String, String>>) -> Self {
        let pairs = map.into_iter().flatten();
        Self(
            pairs
                .map(|(k, v)| (k.as_str().into(), v.as_str().into()))
                .collect(),
        )
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }
}

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Op {
    /// The value is one of the list.
    In,
    /// The label is absent, or its value none of the list.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Requirement {
    key: Box<str>,
    op: Op,
    /// Sorted.
    values: Box<[Box<str>]>,
}

impl Requirement {
    fn new(key: &str, op: Op, values: &[String]) -> Result<Self, String> {
        if !is_key(key) {
            return Err(format!("{key:?} is no label key"));
        }
        let takes_values = matches!(op, Op::In | Op::NotIn);
        if takes_values == values.is_empty() {
            let need = if takes_values { "needs" } else { "takes no" };
            return Err(format!("operator of {key:?} {need} values"));
        }
        if let Some(value) = values.iter().find(|v| !is_value(v)) {
            return Err(format!("{value:?} is no label value"));
        }
        let mut values: Vec<Box<str>> = values.iter().map(|v| v.as_str().into()).collect();
        values.sort();
        values.dedup();
        Ok(Self {
            key: key.into(),
            op,
            values: values.into(),
        })
    }

    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = |v: &str| self.values.iter().any(|listed| **listed == *v);
        match self.op {
            Op::In => value.is_some_and(listed),
            Op::NotIn => !value.is_some_and(listed),
            Op::Exists => value.is_some(),
            Op::DoesNotExist => value.is_none(),
        }
    }
}

/// A label selector: all its requirements must hold. Two that ask the same in another order are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Box<[Requirement]>);

impl Selector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Whether it selects everything, whatever the labels.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The API's `LabelSelector`.
    ///
    /// # Errors
    /// An operator that is none, a key or value that does not fit, values where none belong or none where some do.
    pub fn parse(selector: &LabelSelector) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Op::In, std::slice::from_ref(value))?);
        }
        for e in selector.match_expressions.iter().flatten() {
            let op = match e.operator.as_str() {
                "In" => Op::In,
                "NotIn" => Op::NotIn,
                "Exists" => Op::Exists,
                "DoesNotExist" => Op::DoesNotExist,
                other => return Err(format!("{other:?} is no operator of a label selector")),
            };
            let values = e.values.as_deref().unwrap_or_default();
            requirements.push(Requirement::new(&e.key, op, values)?);
        }
        requirements.sort();
        requirements.dedup();
        Ok(Self(requirements.into()))
    }

    /// Whether labels match.
    pub fn matches(&self, labels: &Labels) -> bool {
        #[cfg(test)]
        MATCHES.with(|m| m.set(m.get() + 1));
        self.0.iter().all(|r| r.holds(labels))
    }
}

#[cfg(test)]
thread_local! {
    /// How often a selector was asked: the measure of work in tests.
    pub(super) static MATCHES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.0.iter().enumerate() {
            let (key, values) = (&r.key, r.values.join(","));
            f.write_str(if i == 0 { "" } else { "," })?;
            match (r.op, r.values.len()) {
                (Op::In, 1) => write!(f, "{key}={values}")?,
                (Op::NotIn, 1) => write!(f, "{key}!={values}")?,
                (Op::In, _) => write!(f, "{key} in ({values})")?,
                (Op::NotIn, _) => write!(f, "{key} notin ({values})")?,
                (Op::Exists, _) => write!(f, "{key}")?,
                (Op::DoesNotExist, _) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

/// A label's key: a name, perhaps behind a DNS subdomain and a slash.
fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').unwrap_or(("prefix", key));
    let is_part = |part: &str| {
        let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        is_edged(part) && part.bytes().all(is_inner)
    };
    prefix.len() <= PREFIX_BYTES
        && prefix.split('.').all(is_part)
        && !name.is_empty()
        && is_value(name)
}

/// A label's value, or the name part of a key.
fn is_value(value: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    value.is_empty()
        || (value.len() <= LABEL_BYTES && is_edged(value) && value.bytes().all(is_inner))
}

/// Begins and ends with a letter or digit.
fn is_edged(text: &str) -> bool {
    let is_edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    is_edge(text.bytes().next()) && is_edge(text.bytes().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: serde_json::Value) -> Result<Selector, String> {
        Selector::parse(&serde_json::from_value(value).expect("selector"))
    }

    #[test]
    fn what_matches() {
        let labels = BTreeMap::from(
            [("app", "web"), ("n", "5"), ("e", "")].map(|(k, v)| (k.into(), v.into())),
        );
        let labels = Labels::new(Some(&labels));
        let one = |op: &str, key: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]});
        let cases = [
            ("empty selects everything", json!({}), true),
            ("label", json!({"matchLabels": {"app": "web"}}), true),
            ("other value", json!({"matchLabels": {"app": "db"}}), false),
            ("absent label", json!({"matchLabels": {"x": "web"}}), false),
            (
                "all must hold",
                json!({"matchLabels": {"app": "web", "n": "6"}}),
                false,
            ),
            ("empty value", json!({"matchLabels": {"e": ""}}), true),
            ("in", one("In", "app", &["db", "web"]), true),
            ("not in the list", one("In", "app", &["db"]), false),
            ("in, absent", one("In", "x", &["db"]), false),
            ("notin", one("NotIn", "app", &["db"]), true),
            ("notin, listed", one("NotIn", "app", &["db", "web"]), false),
            ("notin, absent", one("NotIn", "x", &["db"]), true),
            ("exists", one("Exists", "e", &[]), true),
            ("exists, absent", one("Exists", "x", &[]), false),
            ("does not exist", one("DoesNotExist", "x", &[]), true),
            (
                "does not exist, there",
                one("DoesNotExist", "app", &[]),
                false,
            ),
            (
                "labels and expressions",
                json!({"matchLabels": {"app": "web"},
                "matchExpressions": [{"key": "n", "operator": "In", "values": ["6"]}]}),
                false,
            ),
        ];
        for (name, selector, want) in cases {
            assert_eq!(
                parse(selector).expect(name).matches(&labels),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let one = |op: &str, key: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]});
        let cases = [
            (
                one("Is", "app", &["web"]),
                "\"Is\" is no operator of a label selector",
            ),
            (
                one("in", "app", &["web"]),
                "\"in\" is no operator of a label selector",
            ),
            (
                one("Gt", "app", &["1"]),
                "\"Gt\" is no operator of a label selector",
            ),
            (one("In", "app", &[]), "operator of \"app\" needs values"),
            (one("NotIn", "app", &[]), "operator of \"app\" needs values"),
            (
                one("Exists", "app", &["web"]),
                "operator of \"app\" takes no values",
            ),
            (
                one("DoesNotExist", "app", &["web"]),
                "operator of \"app\" takes no values",
            ),
            (one("In", "-app", &["web"]), "\"-app\" is no label key"),
            (one("In", "", &["web"]), "\"\" is no label key"),
            (one("In", "a/b/c", &["web"]), "\"a/b/c\" is no label key"),
            (
                one("In", "Example.com/b", &["web"]),
                "\"Example.com/b\" is no label key",
            ),
            (
                one("In", "app", &["web,db"]),
                "\"web,db\" is no label value",
            ),
            (
                json!({"matchLabels": {"app": "a b"}}),
                "\"a b\" is no label value",
            ),
            (
                json!({"matchLabels": {"app": "x".repeat(64)}}),
                &format!("{:?} is no label value", "x".repeat(64)),
            ),
        ];
        for (selector, want) in cases {
            assert_eq!(parse(selector.clone()).expect_err(want), want, "{selector}");
        }
    }

    #[test]
    fn the_same_question_is_the_same_selector() {
        let a = parse(json!({"matchLabels": {"b": "1", "example.com/a": "x"}})).expect("a");
        let b = parse(
            json!({"matchExpressions": [{"key": "example.com/a", "operator": "In", "values": ["x", "x"]},
            {"key": "b", "operator": "In", "values": ["1"]}, {"key": "b", "operator": "In", "values": ["1"]}]}),
        );
        assert_eq!(Ok(a.clone()), b);
        assert_eq!(a.to_string(), "b=1,example.com/a=x");
        let all = parse(
            json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["2", "1"]},
            {"key": "b", "operator": "NotIn", "values": ["1"]}, {"key": "c", "operator": "NotIn", "values": ["1", "2"]},
            {"key": "d", "operator": "Exists"}, {"key": "e", "operator": "DoesNotExist"}]}),
        );
        assert_eq!(
            all.expect("all").to_string(),
            "a in (1,2),b!=1,c notin (1,2),d,!e"
        );
    }
}
