//! Selectors over labels.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// An object's labels.
pub type Labels = BTreeMap<String, String>;

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The value is one of the list.
    In,
    /// The label is absent, or its value none of the list.
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

/// One term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is asked.
    pub op: Op,
    /// For the operators that take values.
    pub values: Vec<String>,
}

impl Requirement {
    /// A requirement as the API writes it. An operator that is none never holds.
    pub fn parse(key: &str, op: &str, values: Option<&Vec<String>>) -> Self {
        let op = match op {
            "In" => Some(Op::In),
            "NotIn" => Some(Op::NotIn),
            "Exists" => Some(Op::Exists),
            "DoesNotExist" => Some(Op::DoesNotExist),
            "Gt" => Some(Op::Gt),
            "Lt" => Some(Op::Lt),
            _ => None,
        };
        let Some(op) = op else { return Self::never() };
        Self {
            key: key.into(),
            op,
            values: values.cloned().unwrap_or_default(),
        }
    }

    /// The label is there with this value.
    pub fn equals(key: &str, value: &str) -> Self {
        Self {
            key: key.into(),
            op: Op::In,
            values: vec![value.into()],
        }
    }

    /// Nothing is one of an empty list.
    fn never() -> Self {
        Self {
            key: String::new(),
            op: Op::In,
            values: Vec::new(),
        }
    }

    /// Whether it holds for a label's value (`None`: absent).
    pub fn holds(&self, value: Option<&str>) -> bool {
        let is_listed = |value: &str| self.values.iter().any(|listed| listed == value);
        let compare = |is_right: fn(&i64, &i64) -> bool| {
            let limit = self.values.first().and_then(|limit| limit.parse().ok());
            let value = value.and_then(|value| value.parse().ok());
            value
                .zip(limit)
                .is_some_and(|(value, limit)| is_right(&value, &limit))
        };
        match self.op {
            Op::In => value.is_some_and(is_listed),
            Op::NotIn => !value.is_some_and(is_listed),
            Op::Exists => value.is_some(),
            Op::DoesNotExist => value.is_none(),
            Op::Gt => compare(i64::gt),
            Op::Lt => compare(i64::lt),
        }
    }
}

/// All requirements must hold; without any, everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub Vec<Requirement>);

impl Selector {
    /// Matches no labels.
    pub fn nothing() -> Self {
        Self(vec![Requirement::never()])
    }

    /// Labels that must all be there.
    pub fn from_map(map: Option<&Labels>) -> Self {
        let pairs = map.into_iter().flatten();
        Self(
            pairs
                .map(|(key, value)| Requirement::equals(key, value))
                .collect(),
        )
    }

    /// The API's `LabelSelector`.
    pub fn from_label_selector(selector: &LabelSelector) -> Self {
        let mut this = Self::from_map(selector.match_labels.as_ref());
        let expressions = selector.match_expressions.iter().flatten();
        this.0.extend(
            expressions.map(|e| Requirement::parse(&e.key, &e.operator, e.values.as_ref())),
        );
        this
    }

    /// Whether labels match.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0
            .iter()
            .all(|r| r.holds(labels.get(&r.key).map(String::as_str)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators() {
        let cases = [
            ("In", &["a", "b"][..], Some("b"), true),
            ("In", &["a", "b"], Some("c"), false),
            ("In", &["a"], None, false),
            ("NotIn", &["a"], Some("b"), true),
            ("NotIn", &["a"], Some("a"), false),
            ("NotIn", &["a"], None, true),
            ("Exists", &[], Some(""), true),
            ("Exists", &[], None, false),
            ("DoesNotExist", &[], Some(""), false),
            ("DoesNotExist", &[], None, true),
            ("Gt", &["10"], Some("11"), true),
            ("Gt", &["10"], Some("10"), false),
            ("Gt", &["10"], Some("many"), false),
            ("Lt", &["10"], Some("9"), true),
            ("Lt", &["10"], None, false),
            ("Near", &["10"], Some("10"), false),
        ];
        for (op, values, value, wanted) in cases {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            let requirement = Requirement::parse("k", op, Some(&values));
            assert_eq!(
                requirement.holds(value),
                wanted,
                "{op} {values:?} of {value:?}"
            );
        }
    }
}
