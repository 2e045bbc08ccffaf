//! Validation: an object to a list of causes, with upstream's field paths and words.

mod batch;
mod cluster;
mod config;
mod container;
pub mod field;
mod handler;
mod meta;
pub mod names;
mod network;
mod pod;
mod policy;
mod resize;
mod scheduling;
mod service;
mod storage;
mod update;
mod volume;
mod workloads;

use serde_json::Value;

pub(crate) use batch::{cron_job, job, job_update};
pub(crate) use cluster::*;
pub(crate) use config::*;
pub use meta::{object_meta, object_meta_update};
pub(crate) use network::*;
pub(crate) use pod::{pod, pod_template};
pub(crate) use policy::*;
pub(crate) use resize::aggregate;
pub use resize::pod_resize;
pub(crate) use service::{service, service_update};
pub(crate) use storage::*;
pub(crate) use update::pod_update;
pub(crate) use workloads::*;

use crate::quantity::Quantity;
use crate::resource::Resource;
use crate::selector::Labels;
use crate::status::Cause;
use field::{At, Errors};

/// Checks a new object: `metadata`, then what its kind says.
pub fn create(row: &Resource, v: &Value) -> Vec<Cause> {
    let mut errs = object_meta(v, row);
    errs.extend(row.strategy.validate.into_iter().flat_map(|f| f(v)));
    errs
}

/// Checks a change of the main resource: the new object by itself, then against the old one.
pub fn update(row: &Resource, new: &Value, old: &Value) -> Vec<Cause> {
    let mut errs = create(row, new);
    errs.extend(object_meta_update(new, old));
    errs.extend(
        row.strategy
            .validate_update
            .into_iter()
            .flat_map(|f| f(new, old)),
    );
    errs
}

/// Runs a check of a whole object.
fn check(v: &Value, f: impl FnOnce(&At<'_>, &mut Errors)) -> Vec<Cause> {
    let mut errs = Errors::default();
    f(&At::root(v), &mut errs);
    errs.0
}

/// Runs a check of a change.
fn check_update(
    new: &Value,
    old: &Value,
    f: impl FnOnce(&At<'_>, &At<'_>, &mut Errors),
) -> Vec<Cause> {
    let mut errs = Errors::default();
    f(&At::root(new), &At::root(old), &mut errs);
    errs.0
}

/// A port's number, if it is set.
fn port(at: &At<'_>, errs: &mut Errors) {
    if let Some(n) = at.int() {
        errs.check(at, names::port(n));
    }
}

/// A port's number or name.
fn port_or_name(at: &At<'_>, errs: &mut Errors) {
    match at.value {
        Value::Number(_) => port(at, errs),
        Value::String(s) => errs.check(at, names::port_name(s)),
        _ => {}
    }
}

/// A count or a percentage, not negative.
fn count_or_percent(at: &At<'_>, errs: &mut Errors) {
    match at.value {
        Value::Number(_) => errs.non_negative(at),
        Value::String(s) => errs.check(at, names::percent(s)),
        _ => {}
    }
}

/// A quantity, not negative.
fn quantity(at: &At<'_>, errs: &mut Errors) -> Option<Quantity> {
    match Quantity::from_value(at.value) {
        Ok(q) if q.signum() < 0 => {
            errs.invalid(at, "must be greater than or equal to 0");
            None
        }
        Ok(q) => Some(q),
        Err(e) => {
            errs.invalid(at, &e.to_string());
            None
        }
    }
}

/// A `LabelSelector` object.
fn label_selector(at: &At<'_>, errs: &mut Errors) {
    for (key, value) in at.entries("matchLabels") {
        let path = at.child("matchLabels").path;
        for why in names::qualified_name(key) {
            errs.invalid_value(&path, key, &why);
        }
        for why in names::label_value(value.text()) {
            errs.invalid_value(&path, value.text(), &why);
        }
    }
    for e in at.items("matchExpressions") {
        let (values, op) = (e.child("values"), e.child("operator"));
        match op.text() {
            "In" | "NotIn" if values.is_zero() => {
                errs.required(
                    &values,
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
            "Exists" | "DoesNotExist" if !values.is_zero() => {
                errs.forbidden(
                    &values.path,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errs.invalid(&op, "not a valid selector operator"),
        }
        errs.check(
            &e.child("key"),
            names::qualified_name(e.child("key").text()),
        );
        for v in e.items("values") {
            errs.check(&v, names::label_value(v.text()));
        }
    }
}

/// Whether a selector matches the labels of a template.
fn selects(selector: &Value, labels: &Value) -> bool {
    let matches = |l: &Labels| l.matches_with(|k| labels.get(k).and_then(Value::as_str));
    Labels::from_object(selector).is_ok_and(|l| matches(&l))
}

/// Lists of names in which none may stand twice.
#[derive(Default)]
struct Seen(std::collections::BTreeSet<String>);

impl Seen {
    /// Reports a name that was there before; an empty one counts not.
    fn unique(&mut self, at: &At<'_>, errs: &mut Errors) {
        if !at.text().is_empty() && !self.0.insert(at.text().to_owned()) {
            errs.duplicate(at);
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}
