//! Strategic merge patch: a merge patch that knows which lists are maps in disguise.
//!
//! Rules: `contributors/devel/sig-api-machinery/strategic-merge-patch.md` of kubernetes/community.

use crate::PatchError;
use crate::facts::Patch;
use crate::model::Type;
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;
type Result<T> = std::result::Result<T, PatchError>;

/// Merges a patch into an object of that type.
pub(crate) fn merge(ty: Type, live: &Value, patch: &Value) -> Result<Value> {
    let (Value::Object(live), Value::Object(patch)) = (live, patch) else {
        return Err(PatchError::Malformed("Invalid JSON document".into()));
    };
    merge_objects(ty, live.clone(), patch.clone()).map(Value::Object)
}

fn merge_objects(ty: Type, mut live: Object, mut patch: Object) -> Result<Object> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            // Merging is what happens anyway.
            Some("merge") => merge_objects(ty, live, patch),
            _ => Err(bad_directive(&directive, &patch)),
        };
    }
    retain_keys(&mut live, &mut patch)?;
    merge_ordered(ty, &mut live, &mut patch)?;
    for (key, value) in patch {
        match key.strip_prefix(DELETE_FROM_LIST) {
            Some(field) => delete_from_list(&mut live, field, &value)?,
            None if value.is_null() => drop(live.remove(&key)),
            None => {
                let merged = match live.remove(&key) {
                    Some(old) => merge_values(ty, &key, old, value)?,
                    None => added(value),
                };
                live.insert(key, merged);
            }
        }
    }
    Ok(live)
}

/// What a patch leaves when there is nothing to merge it into.
fn added(mut value: Value) -> Value {
    without_directives(&mut value);
    value
}

fn merge_values(ty: Type, key: &str, live: Value, patch: Value) -> Result<Value> {
    let strategy = strategy(ty, key);
    let child = ty.child(key);
    match (live, patch) {
        (Value::Object(live), Value::Object(patch)) if !strategy.replace => {
            merge_objects(child, live, patch).map(Value::Object)
        }
        (Value::Array(live), Value::Array(patch)) if strategy.merge => {
            merge_lists(child, strategy, live, patch).map(Value::Array)
        }
        (_, patch) => Ok(added(patch)),
    }
}

fn strategy(ty: Type, key: &str) -> Patch {
    ty.as_struct()
        .and_then(|known| known.field(key))
        .map(|field| field.patch)
        .unwrap_or_default()
}

fn item_type(list: Type) -> Type {
    match list {
        Type::List(list) => list.item,
        _ => Type::Any,
    }
}

/// `$retainKeys`: what is not in the list goes; the patch may not set what goes.
fn retain_keys(live: &mut Object, patch: &mut Object) -> Result<()> {
    let Some(list) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let refuse = || PatchError::Malformed("invalid patch format of retainKeys".into());
    let keys = list.as_array().ok_or_else(refuse)?;
    let kept = |key: &str| keys.iter().any(|item| item.as_str() == Some(key));
    let outside = patch.iter().any(|(key, value)| {
        !value.is_null()
            && !key.starts_with(ELEMENT_ORDER)
            && !key.starts_with(DELETE_FROM_LIST)
            && !kept(key)
    });
    if outside {
        return Err(refuse());
    }
    live.retain(|key, _| kept(key));
    Ok(())
}

/// Lists with a `$setElementOrder` are merged here and taken out of the patch.
fn merge_ordered(ty: Type, live: &mut Object, patch: &mut Object) -> Result<()> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|key| key.starts_with(ELEMENT_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            _ => {
                return Err(PatchError::Malformed(
                    "invalid patch format of setElementOrder list".into(),
                ));
            }
        };
        let key = directive.trim_start_matches(ELEMENT_ORDER);
        let before = match live.get(key) {
            Some(Value::Array(items)) => items.clone(),
            _ => vec![],
        };
        let strategy = strategy(ty, key);
        let merged = match (live.remove(key), patch.remove(key)) {
            (_, Some(Value::Null)) | (None, None) => continue,
            (Some(old), Some(new)) => {
                check_order(&new, &order, strategy.key)?;
                merge_values(ty, key, old, new)?
            }
            (Some(old), None) => old,
            (None, Some(new)) => {
                check_order(&new, &order, strategy.key)?;
                added(new)
            }
        };
        let merged = match merged {
            Value::Array(items) => Value::Array(in_order(items, &order, &before, strategy.key)),
            other => other,
        };
        live.insert(key.to_owned(), merged);
    }
    Ok(())
}

/// The items of a patch must stand in the order list, in the same relative order.
fn check_order(patch: &Value, order: &[Value], key: Option<&str>) -> Result<()> {
    let items = patch.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rest = order.iter();
    let fits = items
        .iter()
        .filter(|item| item.get(DIRECTIVE).is_none())
        .all(|item| rest.any(|place| same(item, place, key)));
    if fits {
        return Ok(());
    }
    Err(PatchError::Unprocessable(format!(
        "The order in patch list:\n{patch}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
        Value::Array(order.to_vec())
    )))
}

fn delete_from_list(live: &mut Object, key: &str, gone: &Value) -> Result<()> {
    let Some(gone) = gone.as_array() else {
        return Err(PatchError::Malformed(
            "invalid patch format of primitive list".into(),
        ));
    };
    if let Some(Value::Array(items)) = live.get_mut(key) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn merge_lists(
    list: Type,
    strategy: Patch,
    live: Vec<Value>,
    mut patch: Vec<Value>,
) -> Result<Vec<Value>> {
    if patch.iter().any(Value::is_array) {
        return Err(PatchError::Unprocessable(
            "lists of lists are not supported".into(),
        ));
    }
    let Some(key) = strategy.key else {
        let mut merged = live.clone();
        for item in &patch {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(in_order(merged, &patch, &live, None));
    };
    let mut merged = live.clone();
    if apply_list_directives(&mut merged, &mut patch, key)? {
        return Ok(patch.into_iter().map(added).collect());
    }
    for item in patch.clone() {
        let Value::Object(item) = item else {
            return Err(no_merge_key(&item, key));
        };
        if !item.contains_key(key) {
            return Err(no_merge_key(&Value::Object(item), key));
        }
        let place = merged.iter_mut().find(|old| old.get(key) == item.get(key));
        match place {
            Some(place) => {
                let old = match place.take() {
                    Value::Object(old) => old,
                    _ => Object::new(),
                };
                *place = Value::Object(merge_objects(item_type(list), old, item)?);
            }
            None => merged.push(added(Value::Object(item))),
        }
    }
    Ok(in_order(merged, &patch, &live, Some(key)))
}

/// Carries out items that are orders (`{"$patch": "delete", "name": "x"}`) and takes them out of the patch.
/// Gives whether the patch replaces the whole list.
fn apply_list_directives(live: &mut Vec<Value>, patch: &mut Vec<Value>, key: &str) -> Result<bool> {
    let mut replace = false;
    for item in patch.iter() {
        match item.get(DIRECTIVE).map(Value::as_str) {
            None => {}
            Some(Some("replace")) => replace = true,
            Some(Some("delete")) => match item.get(key) {
                Some(wanted) => live.retain(|old| old.get(key) != Some(wanted)),
                None => return Err(no_merge_key(item, key)),
            },
            Some(Some("merge")) => {
                return Err(PatchError::Unprocessable(
                    "merging lists cannot yet be specified in the patch".into(),
                ));
            }
            Some(_) => {
                let directive = item.get(DIRECTIVE).unwrap_or(&Value::Null);
                return Err(bad_directive(directive, &Object::new()));
            }
        }
    }
    patch.retain(|item| item.get(DIRECTIVE).is_none());
    Ok(replace)
}

fn no_merge_key(item: &Value, key: &str) -> PatchError {
    PatchError::Unprocessable(format!(
        "map: {item} does not contain declared merge key: {key}"
    ))
}

fn bad_directive(directive: &Value, patch: &Object) -> PatchError {
    PatchError::Unprocessable(format!(
        "unknown patch type: {} in map: {}",
        directive.as_str().unwrap_or_default(),
        Value::Object(patch.clone())
    ))
}

fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

/// Puts the items named in `order` into that order, and weaves the others in where they stood before: an item that
/// only the server has comes first when it stood before the next named one.
fn in_order(items: Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|other| same(item, other, key));
    let (mut named, mut others): (Vec<_>, Vec<_>) = items
        .into_iter()
        .partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(before, item).unwrap_or(usize::MAX));

    let mut woven = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(next), Some(other)) = (named.peek(), others.peek()) {
        let other_first = match (place(before, other), place(before, next)) {
            (Some(other), Some(next)) => other < next,
            _ => false,
        };
        woven.extend(if other_first {
            others.next()
        } else {
            named.next()
        });
    }
    woven.extend(named);
    woven.extend(others);
    woven
}

/// Removes orders and nulls from what is taken over as it is.
fn without_directives(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| {
                !value.is_null()
                    && key != DIRECTIVE
                    && key != RETAIN_KEYS
                    && !key.starts_with(ELEMENT_ORDER)
                    && !key.starts_with(DELETE_FROM_LIST)
            });
            map.values_mut().for_each(without_directives);
        }
        Value::Array(items) => {
            items.retain(|item| item.get(DIRECTIVE).is_none());
            items.iter_mut().for_each(without_directives);
        }
        _ => {}
    }
}
