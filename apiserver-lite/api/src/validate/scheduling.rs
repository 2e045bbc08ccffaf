//! Validation of what says where a pod may run: tolerations, affinity, spreading.

use super::field::{At, Errors};
use super::{label_selector, names};

/// Tolerations of a pod's `spec`.
pub(super) fn tolerations(spec: &At<'_>, errs: &mut Errors) {
    for t in spec.items("tolerations") {
        let (key, op, value, effect) = (
            t.child("key"),
            t.child("operator"),
            t.child("value"),
            t.child("effect"),
        );
        if key.text().is_empty() {
            if op.text() != "Exists" {
                errs.invalid(&op, "operator must be Exists when `key` is empty, which means \"match all values and all keys\"");
            }
        } else {
            errs.check(&key, names::qualified_name(key.text()));
        }
        if t.child("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            errs.invalid(
                &effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match op.text() {
            "" | "Equal" => errs.check(&value, names::label_value(value.text())),
            "Exists" if !value.text().is_empty() => {
                errs.invalid(&op, "value must be empty when `operator` is 'Exists'");
            }
            _ => errs.one_of(&op, &["Equal", "Exists"]),
        }
        errs.one_of(&effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

/// `affinity`: of nodes, to pods and against pods.
pub(super) fn affinity(at: &At<'_>, errs: &mut Errors) {
    let node = at.child("nodeAffinity");
    let required = node.child("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(&required, errs);
    }
    for p in node.items("preferredDuringSchedulingIgnoredDuringExecution") {
        weight(&p, errs);
        node_term(&p.child("preference"), errs);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = at.child(kind);
        for term in pods.items("requiredDuringSchedulingIgnoredDuringExecution") {
            pod_term(&term, errs);
        }
        for p in pods.items("preferredDuringSchedulingIgnoredDuringExecution") {
            weight(&p, errs);
            pod_term(&p.child("podAffinityTerm"), errs);
        }
    }
}

fn weight(p: &At<'_>, errs: &mut Errors) {
    let at = p.child("weight");
    if !at.int().is_some_and(|w| (1..=100).contains(&w)) {
        errs.invalid(&at, "must be in the range 1-100");
    }
}

/// A node selector: one of its terms must match.
pub(super) fn node_selector(at: &At<'_>, errs: &mut Errors) {
    if at.child("nodeSelectorTerms").is_zero() {
        errs.required(
            &at.child("nodeSelectorTerms"),
            "must have at least one node selector term",
        );
    }
    for term in at.items("nodeSelectorTerms") {
        node_term(&term, errs);
    }
}

fn node_term(term: &At<'_>, errs: &mut Errors) {
    for e in term.items("matchExpressions") {
        let (key, op, values) = (e.child("key"), e.child("operator"), e.child("values"));
        let count = values.value.as_array().map_or(0, Vec::len);
        match op.text() {
            "In" | "NotIn" if count == 0 => {
                errs.required(
                    &values,
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                errs.forbidden(
                    &values.path,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "Gt" | "Lt" if count != 1 => {
                errs.required(
                    &values,
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => errs.invalid(&op, "not a valid selector operator"),
        }
        errs.check(&key, names::qualified_name(key.text()));
    }
    for f in term.items("matchFields") {
        let key = f.child("key");
        if key.text() != "metadata.name" {
            errs.invalid(&key, "not a valid field selector key");
        }
    }
}

fn pod_term(term: &At<'_>, errs: &mut Errors) {
    label_selector(&term.child("labelSelector"), errs);
    label_selector(&term.child("namespaceSelector"), errs);
    for ns in term.items("namespaces") {
        errs.check(&ns, names::dns_label(ns.text()));
    }
    let key = term.child("topologyKey");
    if key.text().is_empty() {
        errs.required(&key, "can not be empty");
    } else {
        errs.check(&key, names::qualified_name(key.text()));
    }
}

/// `topologySpreadConstraints`.
pub(super) fn spread(spec: &At<'_>, errs: &mut Errors) {
    for c in spec.items("topologySpreadConstraints") {
        let (skew, key, domains) = (
            c.child("maxSkew"),
            c.child("topologyKey"),
            c.child("minDomains"),
        );
        if skew.int().unwrap_or_default() <= 0 {
            errs.invalid(&skew, "must be greater than zero");
        }
        if key.text().is_empty() {
            errs.required(&key, "can not be empty");
        }
        let when = c.child("whenUnsatisfiable");
        if when.text().is_empty() {
            errs.required(&when, "can not be empty");
        }
        errs.one_of(&when, &["DoNotSchedule", "ScheduleAnyway"]);
        if domains.int().is_some_and(|n| n <= 0) {
            errs.invalid(&domains, "must be greater than zero");
        }
        if domains.is_set() && when.text() != "DoNotSchedule" {
            errs.invalid(
                &domains,
                "can only use minDomains if whenUnsatisfiable=DoNotSchedule",
            );
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errs.one_of(&c.child(field), &["Honor", "Ignore"]);
        }
        label_selector(&c.child("labelSelector"), errs);
    }
}
