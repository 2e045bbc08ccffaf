//! Sets of fields, as `metadata.managedFields` holds them (`fieldsV1`).
//!
//! Rules: KEP-555 and the `fieldpath` package's documentation in structured-merge-diff.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// One step of a path, in the notation of `fieldsV1`: `f:name`, `k:{"name":"x"}`, `v:"x"`, `i:0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element(Box<str>);

impl Element {
    pub(crate) fn field(name: &str) -> Element {
        Element(format!("f:{name}").into())
    }

    pub(crate) fn value(value: &Value) -> Element {
        Element(format!("v:{value}").into())
    }

    pub(crate) fn index(at: usize) -> Element {
        Element(format!("i:{at}").into())
    }

    /// An item told apart by its keys. They are written in order of their names, so that equal keys are equal texts.
    pub(crate) fn keys(keys: &BTreeMap<&str, Value>) -> Element {
        let pairs: Vec<String> = keys
            .iter()
            .map(|(key, value)| format!("{}:{value}", Value::from(*key)))
            .collect();
        Element(format!("k:{{{}}}", pairs.join(",")).into())
    }

    /// The element of a text that came from outside, in canonical notation.
    fn parse(text: &str) -> Option<Element> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Element::field(rest)),
            "v" => serde_json::from_str(rest).ok().map(|v| Element::value(&v)),
            "i" => rest.parse().ok().map(Element::index),
            "k" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
                let keys = keys
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.clone()));
                Some(Element::keys(&keys.collect()))
            }
            _ => None,
        }
    }

    /// The name, if the element is a field.
    pub(crate) fn as_field(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }
}

/// As in upstream's conflict messages: `.name`, `[name="x"]`, `[="x"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, rest) = self.0.split_once(':').unwrap_or(("", &self.0));
        match kind {
            "f" => write!(out, ".{rest}"),
            "v" => write!(out, "[={rest}]"),
            "k" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(out, "[{}]", pairs.join(","))
            }
            _ => write!(out, "[{rest}]"),
        }
    }
}

/// A set of paths: which of the elements are in it, and what of their inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set(BTreeMap<Element, Node>);

/// An element in a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// The element itself is in the set.
    pub(crate) member: bool,
    pub(crate) children: Set,
}

impl Node {
    /// Just the element.
    pub(crate) fn leaf() -> Node {
        Node {
            member: true,
            children: Set::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl Set {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, element: &Element) -> Option<&Node> {
        self.0.get(element)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Element, &Node)> {
        self.0.iter()
    }

    /// Adds what a node holds; empty nodes are not kept.
    pub(crate) fn add(&mut self, element: Element, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.0.get_mut(&element) {
            Some(known) => {
                known.member |= node.member;
                for (element, node) in node.children.0 {
                    known.children.add(element, node);
                }
            }
            None => drop(self.0.insert(element, node)),
        }
    }

    /// Removes the element and all inside it.
    pub(crate) fn remove(&mut self, element: &Element) {
        self.0.remove(element);
    }

    pub(crate) fn union(&self, other: &Set) -> Set {
        let mut all = self.clone();
        for (element, node) in &other.0 {
            all.add(element.clone(), node.clone());
        }
        all
    }

    pub(crate) fn difference(&self, other: &Set) -> Set {
        let mut rest = Set::default();
        for (element, node) in &self.0 {
            let left = match other.get(element) {
                None => node.clone(),
                Some(gone) => Node {
                    member: node.member && !gone.member,
                    children: node.children.difference(&gone.children),
                },
            };
            rest.add(element.clone(), left);
        }
        rest
    }

    pub(crate) fn intersection(&self, other: &Set) -> Set {
        let mut common = Set::default();
        for (element, node) in &self.0 {
            if let Some(also) = other.get(element) {
                let node = Node {
                    member: node.member && also.member,
                    children: node.children.intersection(&also.children),
                };
                common.add(element.clone(), node);
            }
        }
        common
    }

    /// Every path in the set, as text, in order.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = vec![];
        self.collect(String::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: String, paths: &mut Vec<String>) {
        for (element, node) in &self.0 {
            let path = format!("{prefix}{element}");
            if node.member {
                paths.push(path.clone());
            }
            node.children.collect(path, paths);
        }
    }

    /// The set of a `fieldsV1` object. `None`: it is not one.
    pub(crate) fn parse(fields: &Value) -> Option<Set> {
        let mut set = Set::default();
        for (key, value) in fields.as_object()? {
            if key == "." {
                continue;
            }
            let inner = value.as_object()?;
            let node = Node {
                member: inner.is_empty() || inner.contains_key("."),
                children: Set::parse(value)?,
            };
            set.add(Element::parse(key)?, node);
        }
        Some(set)
    }

    /// The set as a `fieldsV1` object.
    pub(crate) fn to_value(&self) -> Value {
        let mut fields = Map::new();
        for (element, node) in &self.0 {
            let mut inner = node.children.to_value();
            if let Value::Object(inner) = &mut inner
                && node.member
                && !inner.is_empty()
            {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            fields.insert(element.0.to_string(), inner);
        }
        Value::Object(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set() -> impl Strategy<Value = Set> {
        let element = prop_oneof![
            "[a-c]".prop_map(|name| Element::field(&name)),
            "[a-c]".prop_map(|name| Element::value(&name.into())),
            "[a-c]".prop_map(|name| Element::keys(&[("name", Value::from(name))].into())),
        ];
        let leaf = Just(Set::default());
        leaf.prop_recursive(3, 32, 4, move |inner| {
            prop::collection::vec((element.clone(), any::<bool>(), inner), 0..4).prop_map(|nodes| {
                let mut set = Set::default();
                for (element, member, children) in nodes {
                    set.add(element, Node { member, children });
                }
                set
            })
        })
    }

    proptest! {
        #[test]
        fn algebra(a in set(), b in set(), c in set()) {
            prop_assert_eq!(a.union(&b), b.union(&a));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(a.union(&b).union(&c), a.union(&b.union(&c)));
            prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
            prop_assert!(a.difference(&b).intersection(&b).is_empty());
            prop_assert!(a.difference(&a).is_empty());
            prop_assert_eq!(a.union(&a), a.clone());
            prop_assert_eq!(a.intersection(&b.union(&c)), a.intersection(&b).union(&a.intersection(&c)));
        }

        #[test]
        fn fields_v1_round_trip(a in set()) {
            prop_assert_eq!(Set::parse(&a.to_value()), Some(a));
        }
    }

    #[test]
    fn notation() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {"v:\"x\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:ports": {
                "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}}}}}},
        });
        let set = Set::parse(&fields).expect("a set");
        assert_eq!(
            set.paths(),
            [
                ".metadata.finalizers[=\"x\"]",
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.containers[name=\"c\"]",
                ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"]",
            ]
        );
        for wrong in [
            json!([]),
            json!({"x:a": {}}),
            json!({"f:a": 1}),
            json!({"k:[": {}}),
        ] {
            assert_eq!(Set::parse(&wrong), None, "{wrong}");
        }
    }
}
