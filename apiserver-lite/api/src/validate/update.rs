//! What may change in a pod that exists.

use serde_json::{Value, json};

use super::check_update;
use super::field::{At, Errors};
use crate::json;
use crate::status::Cause;

const SAYS: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A change of a pod.
pub(crate) fn pod_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        let (new, old) = (new.child("spec"), old.child("spec"));
        for list in ["containers", "initContainers"] {
            if new.items(list).count() != old.items(list).count() {
                errs.forbidden(
                    &new.child(list).path,
                    "pod updates may not add or remove containers",
                );
                return;
            }
        }
        deadline(&new, &old, errs);
        tolerations(&new, &old, errs);
        gates(&new, &old, errs);
        let gated = old.items("schedulingGates").next().is_some();
        if fixed(new.value, gated) != fixed(old.value, gated) {
            errs.forbidden("spec", SAYS);
        }
    })
}

/// The `spec` without what may change.
fn fixed(spec: &Value, gated: bool) -> Value {
    let mut spec = spec.clone();
    for list in ["/containers", "/initContainers"] {
        json::each(&mut spec, list, |c| {
            json::remove(c, "image");
            defaultless(c);
        });
    }
    for field in [
        "activeDeadlineSeconds",
        "tolerations",
        "schedulingGates",
        "ephemeralContainers",
    ] {
        json::remove(&mut spec, field);
    }
    if json::int(&spec, "/terminationGracePeriodSeconds").is_some_and(|n| n < 0) {
        json::set(&mut spec, "terminationGracePeriodSeconds", 1);
    }
    // Before it may be scheduled, a pod's choice of nodes may still be narrowed (KEP-3838).
    if gated {
        json::remove(&mut spec, "nodeSelector");
        json::remove(&mut spec, "affinity");
    }
    spec
}

/// Objects written by an earlier version may lack the default.
fn defaultless(container: &mut Value) {
    let policies = container.get_mut("resizePolicy");
    let Some(policies) = policies.and_then(Value::as_array_mut) else {
        return;
    };
    policies.retain(|p| json::text(p, "/restartPolicy") != "NotRequired");
    if policies.is_empty() {
        json::remove(container, "resizePolicy");
    }
}

fn deadline(new: &At<'_>, old: &At<'_>, errs: &mut Errors) {
    let (new, old) = (
        new.child("activeDeadlineSeconds"),
        old.child("activeDeadlineSeconds"),
    );
    match (new.int(), old.int()) {
        (Some(n), Some(o)) if n > o => {
            errs.invalid(&new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => errs.invalid(
            &At::new(&json!(null), new.path),
            "must not update from a positive integer to nil value",
        ),
        _ => {}
    }
}

fn tolerations(new: &At<'_>, old: &At<'_>, errs: &mut Errors) {
    let have: Vec<Value> = new
        .items("tolerations")
        .map(|t| timeless(t.value))
        .collect();
    if old
        .items("tolerations")
        .any(|t| !have.contains(&timeless(t.value)))
    {
        errs.forbidden(
            &new.child("tolerations").path,
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

fn timeless(toleration: &Value) -> Value {
    let mut t = toleration.clone();
    json::remove(&mut t, "tolerationSeconds");
    t
}

fn gates(new: &At<'_>, old: &At<'_>, errs: &mut Errors) {
    let had: Vec<&Value> = old.items("schedulingGates").map(|g| g.value).collect();
    for gate in new
        .items("schedulingGates")
        .filter(|g| !had.contains(&g.value))
    {
        let says = format!(
            "only deletion is allowed, but found new scheduling gate '{}'",
            gate.child("name").text()
        );
        errs.forbidden(&new.child("schedulingGates").path, &says);
    }
}
