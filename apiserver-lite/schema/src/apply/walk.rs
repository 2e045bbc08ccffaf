//! Walks over typed values: which fields a value has, what differs between two, merging one into another, and
//! taking fields out.
//!
//! Rules: the `typed` package's documentation in structured-merge-diff.

use super::set::{Element, Node, Set};
use crate::facts::{self, Topology};
use crate::model::{ListType, Struct, Type};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

type Object = Map<String, Value>;

/// A value and its type, seen by whether ownership goes into it.
enum Shape<'a> {
    /// Owned as a whole.
    Leaf,
    Object(&'a Object, Option<&'static Struct>),
    List(&'a [Value], &'static ListType),
}

fn shape(ty: Type, value: &Value) -> Shape<'_> {
    match (ty, value) {
        (Type::Named(named), Value::Object(map)) if !named.body().atomic => {
            Shape::Object(map, Some(named.body()))
        }
        (Type::Map(of), Value::Object(map)) if !of.atomic => Shape::Object(map, None),
        (Type::List(of), Value::Array(items)) if of.topology != Topology::Atomic => {
            Shape::List(items, of)
        }
        _ => Shape::Leaf,
    }
}

fn child(ty: Type, element: &Element) -> Type {
    match ty {
        Type::List(list) => list.item,
        _ => element.as_field().map_or(Type::Any, |name| ty.child(name)),
    }
}

/// The items of a list with what tells them apart.
pub(crate) fn index<'a>(list: &ListType, items: &'a [Value]) -> Vec<(Element, &'a Value)> {
    items
        .iter()
        .enumerate()
        .map(|(at, item)| (element(list, at, item), item))
        .collect()
}

fn element(list: &ListType, at: usize, item: &Value) -> Element {
    let Topology::Keys(names) = list.topology else {
        return Element::value(item);
    };
    let keys: BTreeMap<&str, Value> = names
        .iter()
        .filter_map(|name| {
            let value = item.get(*name).filter(|value| !value.is_null()).cloned();
            let value = value.or_else(|| facts::key_default(name).map(Value::from));
            value.map(|value| (*name, value))
        })
        .collect();
    if keys.is_empty() {
        Element::index(at)
    } else {
        Element::keys(&keys)
    }
}

/// The fields a value has.
pub(crate) fn fields(ty: Type, value: &Value) -> Set {
    field_node(ty, value).children
}

fn field_node(ty: Type, value: &Value) -> Node {
    let mut children = Set::default();
    match shape(ty, value) {
        Shape::Leaf => return Node::leaf(),
        Shape::Object(map, known) => {
            for (key, value) in map {
                let mut node = field_node(ty.child(key), value);
                let named = known.is_some_and(|known| known.field(key).is_some());
                let empty = value.as_object().is_some_and(Map::is_empty);
                node.member |= !named || empty || value.is_null();
                children.add(Element::field(key), node);
            }
        }
        Shape::List(items, list) => {
            for (element, item) in index(list, items) {
                let mut node = field_node(list.item, item);
                node.member = true;
                children.add(element, node);
            }
        }
    }
    Node {
        member: false,
        children,
    }
}

/// What two values differ in.
#[derive(Default)]
pub(crate) struct Diff<T> {
    pub(crate) added: T,
    pub(crate) removed: T,
    pub(crate) modified: T,
}

impl Diff<Set> {
    /// Fields that have a new value.
    pub(crate) fn changed(&self) -> Set {
        self.added.union(&self.modified)
    }
}

/// What changed from `old` to `new`.
pub(crate) fn compare(ty: Type, old: &Value, new: &Value) -> Diff<Set> {
    let nodes = compare_nodes(ty, Some(old), Some(new));
    Diff {
        added: nodes.added.children,
        removed: nodes.removed.children,
        modified: nodes.modified.children,
    }
}

fn compare_nodes(ty: Type, old: Option<&Value>, new: Option<&Value>) -> Diff<Node> {
    let mut diff: Diff<Node> = Diff::default();
    if old == new {
        return diff;
    }
    let children = pairs(ty, old, new);
    match (old, new, children) {
        (None, None, _) => {}
        (Some(old), Some(new), None) => diff.modified.member = old != new,
        (Some(_), Some(_), Some(children)) => descend(&mut diff, children),
        (None, Some(_), children) => {
            diff.added.member = true;
            descend(&mut diff, children.unwrap_or_default());
        }
        (Some(_), None, children) => {
            diff.removed.member = true;
            descend(&mut diff, children.unwrap_or_default());
        }
    }
    diff
}

type Pair<'a> = (Element, Type, Option<&'a Value>, Option<&'a Value>);

fn descend(diff: &mut Diff<Node>, children: Vec<Pair<'_>>) {
    for (element, ty, old, new) in children {
        let inner = compare_nodes(ty, old, new);
        diff.added.children.add(element.clone(), inner.added);
        diff.removed.children.add(element.clone(), inner.removed);
        diff.modified.children.add(element, inner.modified);
    }
}

/// The children of both values side by side. `None`: the values are compared as wholes.
fn pairs<'a>(ty: Type, old: Option<&'a Value>, new: Option<&'a Value>) -> Option<Vec<Pair<'a>>> {
    let mut sides: BTreeMap<Element, (Option<&Value>, Option<&Value>)> = BTreeMap::new();
    for (side, value) in [(0, old), (1, new)] {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            continue;
        };
        let items: Vec<(Element, &Value)> = match shape(ty, value) {
            Shape::Leaf => return None,
            Shape::Object(map, _) => map.iter().map(|(k, v)| (Element::field(k), v)).collect(),
            Shape::List(items, list) => index(list, items),
        };
        for (element, value) in items {
            let slot = sides.entry(element).or_default();
            if side == 0 {
                slot.0 = Some(value);
            } else {
                slot.1 = Some(value);
            }
        }
    }
    // Two empty ones differ only by being there or not, which is a leaf's matter.
    (!sides.is_empty()).then(|| {
        sides
            .into_iter()
            .map(|(element, (old, new))| {
                let ty = child(ty, &element);
                (element, ty, old, new)
            })
            .collect()
    })
}

/// The live value with an applied configuration on top.
pub(crate) fn merge(ty: Type, live: &Value, applied: &Value) -> Value {
    match (shape(ty, live), shape(ty, applied)) {
        (Shape::Object(live, _), Shape::Object(applied, _)) => {
            let mut merged = live.clone();
            for (key, value) in applied {
                let value = match live.get(key) {
                    Some(old) => merge(ty.child(key), old, value),
                    None => value.clone(),
                };
                merged.insert(key.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::List(live, list), Shape::List(applied, _)) => {
            Value::Array(merge_lists(list, live, applied))
        }
        _ => applied.clone(),
    }
}

/// Merges two lists of items: applied items keep their order, items that only the live list has stay near their
/// neighbours.
fn merge_lists(list: &ListType, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let (left, right) = (index(list, live), index(list, applied));
    let old: BTreeMap<&Element, &Value> = left.iter().map(|(e, v)| (e, *v)).collect();
    let named: BTreeSet<&Element> = right.iter().map(|(e, _)| e).collect();
    let item = |element: &Element, value: &Value| match old.get(element) {
        Some(old) => merge(list.item, old, value),
        None => value.clone(),
    };
    let mut shared = right
        .iter()
        .map(|(e, _)| e)
        .filter(|e| old.contains_key(*e));
    let mut next_shared = shared.next();
    let mut merged = BTreeSet::new();
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let (mut l, mut r) = (0, 0);
    loop {
        let (here, there) = (left.get(l), right.get(r));
        if let (Some((mine, _)), Some((theirs, value))) = (here, there) {
            if mine == theirs {
                merged.insert(theirs);
                out.push(item(theirs, value));
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            if named.contains(mine) && next_shared.is_some_and(|next| next != mine) {
                l += 1;
                continue;
            }
        }
        if let Some((mine, value)) = here {
            if !named.contains(mine) {
                out.push((*value).clone());
                l += 1;
                continue;
            }
            if merged.contains(mine) {
                l += 1;
            }
        }
        match there {
            Some((theirs, value)) => {
                merged.insert(theirs);
                out.push(item(theirs, value));
                r += 1;
                if next_shared == Some(theirs) {
                    next_shared = shared.next();
                }
            }
            None if left.get(l).is_none() => return out,
            None => {}
        }
    }
}

/// The value without the fields of a set. `None`: nothing is left.
pub(crate) fn remove(ty: Type, value: &Value, gone: &Set) -> Option<Value> {
    match shape(ty, value) {
        Shape::Leaf => Some(value.clone()),
        Shape::Object(map, _) => {
            let rest: Object = map
                .iter()
                .filter_map(|(key, value)| {
                    remove_child(ty.child(key), value, gone.get(&Element::field(key)))
                        .map(|value| (key.clone(), value))
                })
                .collect();
            (!rest.is_empty()).then_some(Value::Object(rest))
        }
        Shape::List(items, list) => {
            let rest: Vec<Value> = index(list, items)
                .into_iter()
                .filter_map(|(element, item)| remove_child(list.item, item, gone.get(&element)))
                .collect();
            (!rest.is_empty()).then_some(Value::Array(rest))
        }
    }
}

fn remove_child(ty: Type, value: &Value, gone: Option<&Node>) -> Option<Value> {
    match gone {
        None => Some(value.clone()),
        Some(node) if node.member => None,
        Some(node) => remove(ty, value, &node.children),
    }
}

/// The set with every known field that has something inside it as a member of its own, so that what is left empty
/// goes too.
pub(crate) fn with_parents(ty: Type, set: &Set) -> Set {
    let mut all = Set::default();
    for (element, node) in set.iter() {
        let inner = child(ty, element);
        let known = element
            .as_field()
            .zip(ty.as_struct())
            .is_some_and(|(name, known)| known.field(name).is_some());
        let node = Node {
            member: node.member || (known && !node.children.is_empty()),
            children: with_parents(inner, &node.children),
        };
        all.add(element.clone(), node);
    }
    all
}

/// The first list with two items of the same keys, as upstream's complaint: `.spec.containers: duplicate entries for key [name="a"]`.
pub(crate) fn duplicate_item(ty: Type, value: &Value, path: &str) -> Option<String> {
    match shape(ty, value) {
        Shape::Leaf => None,
        Shape::Object(map, _) => map.iter().find_map(|(key, value)| {
            duplicate_item(ty.child(key), value, &format!("{path}.{key}"))
        }),
        Shape::List(items, list) => {
            let mut seen = BTreeSet::new();
            index(list, items).into_iter().find_map(|(element, item)| {
                let inside = duplicate_item(list.item, item, &format!("{path}{element}"));
                if seen.contains(&element) {
                    return Some(format!("{path}: duplicate entries for key {element}"));
                }
                seen.insert(element);
                inside
            })
        }
    }
}
