//! What a kind does beyond the generic. Its functions see the stored form of rows that convert; objects on their way
//! through a handler have the row's own.

use keelson_api::{Cause, Resource};
use serde_json::Value;

/// Changes an object in its stored form.
fn change(row: &Resource, object: &mut Value, change: impl FnOnce(&mut Value)) {
    let Some(convert) = row.convert else {
        return change(object);
    };
    (convert.to_stored)(object);
    change(object);
    (convert.from_stored)(object);
    crate::object::set_type(row, object);
}

/// Reads an object in its stored form.
pub(crate) fn stored<T>(row: &Resource, object: &Value, read: impl FnOnce(&Value) -> T) -> T {
    let Some(convert) = row.convert else {
        return read(object);
    };
    let mut object = object.clone();
    (convert.to_stored)(&mut object);
    read(&object)
}

/// Fills defaults.
pub(crate) fn default(row: &Resource, object: &mut Value) {
    if let Some(fill) = row.strategy.default {
        change(row, object, fill);
    }
}

/// Clears what is not the user's to say of a new object.
pub(crate) fn prepare_create(row: &Resource, object: &mut Value) {
    if let Some(prepare) = row.strategy.prepare_create {
        change(row, object, prepare);
    }
}

/// Keeps what an update may not change.
pub(crate) fn prepare_update(row: &Resource, new: &mut Value, old: &Value) {
    if let Some(prepare) = row.strategy.prepare_update {
        change(row, new, |new| stored(row, old, |old| prepare(new, old)));
    }
}

/// Keeps what a write of a subresource may not change.
pub(crate) fn prepare_status(
    row: &Resource,
    new: &mut Value,
    old: &Value,
    sub: &str,
    now: jiff::Timestamp,
) {
    if let Some(prepare) = row.strategy.prepare_status {
        change(row, new, |new| {
            stored(row, old, |old| prepare(new, old, sub, now));
        });
    }
}

/// Checks an object.
pub(crate) fn validate(row: &Resource, object: &Value) -> Vec<Cause> {
    let check = row.strategy.validate;
    check.map_or_else(Vec::new, |check| stored(row, object, check))
}

/// Checks a change, by `validate_update` or `validate_status` of the row.
pub(crate) fn validate_change(
    row: &Resource,
    check: Option<fn(&Value, &Value) -> Vec<Cause>>,
    new: &Value,
    old: &Value,
) -> Vec<Cause> {
    check.map_or_else(Vec::new, |check| {
        stored(row, new, |new| stored(row, old, |old| check(new, old)))
    })
}
