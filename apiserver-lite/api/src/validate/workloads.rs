//! Validation of Deployments, ReplicaSets, StatefulSets, DaemonSets and their like.

use serde_json::{Value, json};

use super::field::{At, Errors};
use super::{
    Seen, check, check_update, count_or_percent, label_selector, names, pod, selects, storage,
};
use crate::json;
use crate::status::Cause;

/// A Deployment.
pub(crate) fn deployment(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        errs.non_negative(&spec.child("replicas"));
        selector(&spec, "deployment", errs);
        template(&spec, "Deployment", errs);
        rolling(
            &spec.child("strategy"),
            &["Recreate", "RollingUpdate"],
            "Recreate",
            errs,
        );
        for field in [
            "minReadySeconds",
            "revisionHistoryLimit",
            "progressDeadlineSeconds",
        ] {
            errs.non_negative(&spec.child(field));
        }
        let deadline = spec.child("progressDeadlineSeconds");
        let ready = spec.child("minReadySeconds").int().unwrap_or_default();
        if deadline.int().is_some_and(|d| d <= ready) {
            errs.invalid(&deadline, "must be greater than minReadySeconds");
        }
    })
}

/// A ReplicaSet.
pub(crate) fn replica_set(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        errs.non_negative(&spec.child("replicas"));
        errs.non_negative(&spec.child("minReadySeconds"));
        selector(&spec, "deployment", errs);
        template(&spec, "ReplicaSet", errs);
    })
}

/// A ReplicationController.
pub(crate) fn replication_controller(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        errs.non_negative(&spec.child("replicas"));
        errs.non_negative(&spec.child("minReadySeconds"));
        let (labels, selector) = (
            spec.child("template.metadata.labels"),
            spec.child("selector"),
        );
        if selector.is_zero() {
            errs.required(&selector, "");
        } else if !selects(&json!({"matchLabels": selector.value}), labels.value) {
            errs.invalid(&labels, "`selector` does not match template `labels`");
        }
        template(&spec, "ReplicationController", errs);
    })
}

/// A StatefulSet.
pub(crate) fn stateful_set(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        errs.required_one_of(
            &spec.child("podManagementPolicy"),
            &["OrderedReady", "Parallel"],
            "",
        );
        rolling(
            &spec.child("updateStrategy"),
            &["OnDelete", "RollingUpdate"],
            "OnDelete",
            errs,
        );
        errs.non_negative(&spec.child("updateStrategy.rollingUpdate.partition"));
        for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
            errs.non_negative(&spec.child(field));
        }
        for field in ["whenDeleted", "whenScaled"] {
            errs.one_of(
                &spec.child(&format!("persistentVolumeClaimRetentionPolicy.{field}")),
                &["Delete", "Retain"],
            );
        }
        selector(&spec, "statefulset", errs);
        let claims: Vec<At<'_>> = spec.items("volumeClaimTemplates").collect();
        let mut seen = Seen::default();
        for claim in &claims {
            seen.unique(&claim.child("metadata.name"), errs);
            storage::claim_spec(&claim.child("spec"), errs);
        }
        // Mounts may refer to claims, which become volumes of the pods.
        let with_claims = with_claim_volumes(spec.value, &claims);
        template(&At::new(&with_claims, "spec"), "StatefulSet", errs);
    })
}

fn with_claim_volumes(spec: &Value, claims: &[At<'_>]) -> Value {
    let mut spec = spec.clone();
    let names: Vec<&str> = claims
        .iter()
        .map(|c| c.child("metadata.name").text())
        .filter(|n| !n.is_empty())
        .collect();
    if let Some(pod) = json::object_at(&mut spec, "/template/spec") {
        let mut volumes = json::items(pod, "/volumes").to_vec();
        volumes.retain(|v| !names.contains(&json::text(v, "/name")));
        volumes.extend(
            names
                .iter()
                .map(|n| json!({"name": n, "persistentVolumeClaim": {"claimName": n}})),
        );
        json::set(pod, "volumes", volumes);
    }
    spec
}

/// A DaemonSet.
pub(crate) fn daemon_set(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        selector(&spec, "daemonset", errs);
        template(&spec, "DaemonSet", errs);
        rolling(
            &spec.child("updateStrategy"),
            &["OnDelete", "RollingUpdate"],
            "OnDelete",
            errs,
        );
        for field in ["minReadySeconds", "revisionHistoryLimit"] {
            errs.non_negative(&spec.child(field));
        }
    })
}

fn selector(spec: &At<'_>, kind: &str, errs: &mut Errors) {
    let selector = spec.child("selector");
    if !selector.is_set() {
        errs.required(&selector, "");
        return;
    }
    label_selector(&selector, errs);
    if selector.child("matchLabels").is_zero() && selector.child("matchExpressions").is_zero() {
        errs.invalid(&selector, &format!("empty selector is invalid for {kind}"));
    }
    let labels = spec.child("template.metadata.labels");
    if !selects(selector.value, labels.value) {
        errs.invalid(&labels, "`selector` does not match template `labels`");
    }
}

fn template(spec: &At<'_>, kind: &str, errs: &mut Errors) {
    let template = spec.child("template");
    pod::template(&template, errs);
    errs.one_of(&template.child("spec.restartPolicy"), &["Always"]);
    let deadline = template.child("spec.activeDeadlineSeconds");
    if deadline.is_set() {
        errs.forbidden(
            &deadline.path,
            &format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

/// A strategy: its type, and the figures of a rolling update. `plain` is the type that takes none.
fn rolling(at: &At<'_>, types: &[&str], plain: &str, errs: &mut Errors) {
    let (kind, rolling) = (at.child("type"), at.child("rollingUpdate"));
    errs.required_one_of(&kind, types, "");
    if kind.text() == plain && rolling.is_set() {
        let name = if plain == "Recreate" {
            "strategy `type`"
        } else {
            "updateStrategy"
        };
        errs.forbidden(
            &rolling.path,
            &format!("may not be specified when {name} is '{plain}'"),
        );
        return;
    }
    let (unavailable, surge) = (rolling.child("maxUnavailable"), rolling.child("maxSurge"));
    count_or_percent(&unavailable, errs);
    count_or_percent(&surge, errs);
    let percent = |at: &At<'_>| {
        at.text()
            .strip_suffix('%')
            .and_then(|n| n.parse::<u32>().ok())
    };
    if percent(&unavailable).is_some_and(|n| n > 100) {
        errs.invalid(&unavailable, "must not be greater than 100%");
    }
    let none = |at: &At<'_>| at.int() == Some(0) || percent(at) == Some(0);
    if none(&unavailable) && none(&surge) {
        errs.invalid(&unavailable, "may not be 0 when `maxSurge` is 0");
    }
}

/// A change of a Deployment, ReplicaSet or DaemonSet: the selector stays.
pub(crate) fn selector_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        errs.immutable(
            &new.child("spec.selector"),
            old.child("spec.selector").value,
        );
    })
}

/// A change of a StatefulSet.
pub(crate) fn stateful_set_update(new: &Value, old: &Value) -> Vec<Cause> {
    const MAY: &[&str] = &[
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    check_update(new, old, |new, old, errs| {
        let fixed = |at: &At<'_>| {
            let mut spec = at.child("spec").value.clone();
            MAY.iter().for_each(|f| {
                json::remove(&mut spec, f);
            });
            json::each(&mut spec, "/volumeClaimTemplates", |claim| {
                json::remove(claim, "status");
            });
            spec
        };
        if fixed(new) != fixed(old) {
            errs.forbidden("spec", "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
        }
    })
}

/// A change of a ControllerRevision: its data stays.
pub(crate) fn controller_revision_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        errs.immutable(&new.child("data"), old.child("data").value)
    })
}

/// A HorizontalPodAutoscaler.
pub(crate) fn horizontal_pod_autoscaler(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        let (min, max) = (spec.child("minReplicas"), spec.child("maxReplicas"));
        if min.int().is_some_and(|n| n < 1) {
            errs.invalid(&min, "must be greater than or equal to 1");
        }
        if max.int().unwrap_or_default() < 1 {
            errs.invalid(&max, "must be greater than 0");
        }
        if max.int().unwrap_or_default() < min.int().unwrap_or(1) {
            errs.invalid(&max, "must be greater than or equal to `minReplicas`");
        }
        for field in ["kind", "name"] {
            let at = spec.child("scaleTargetRef").child(field);
            if at.text().is_empty() {
                errs.required(&at, "");
            } else {
                errs.check(&at, names::path_segment(at.text()));
            }
        }
    })
}
