//! Validation of Jobs and CronJobs.

use serde_json::Value;

use super::field::{At, Errors};
use super::{check, check_update, names, pod, selects};
use crate::cron::{Schedule, zone};
use crate::json;
use crate::meta;
use crate::status::Cause;

/// Longest name of a CronJob: its Jobs get 11 characters more.
const MAX_CRON_JOB_NAME: usize = 52;

/// A Job.
pub(crate) fn job(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let spec = at.child("spec");
        job_spec(&spec, errs);
        let (selector, labels) = (
            spec.child("selector"),
            spec.child("template.metadata.labels"),
        );
        if selector.is_set() && !selects(selector.value, labels.value) {
            errs.invalid(&labels, "`selector` does not match template `labels`");
        }
    })
}

fn job_spec(spec: &At<'_>, errs: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
    ] {
        errs.non_negative(&spec.child(field));
    }
    errs.one_of(&spec.child("completionMode"), &["Indexed", "NonIndexed"]);
    if spec.child("completionMode").text() == "Indexed" && !spec.child("completions").is_set() {
        errs.required(
            &spec.child("completions"),
            "when completion mode is Indexed",
        );
    }
    errs.one_of(
        &spec.child("podReplacementPolicy"),
        &["Failed", "TerminatingOrFailed"],
    );
    let indexed = spec.child("completionMode").text() == "Indexed";
    for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
        if spec.child(field).is_set() && !indexed {
            errs.invalid(&spec.child(field), "requires indexed completion mode");
        }
    }
    pod::template(&spec.child("template"), errs);
    let never = spec.child("template.spec.restartPolicy").text() == "Never";
    if spec.child("podFailurePolicy").is_set() && !never {
        errs.invalid(
            &spec.child("template.spec.restartPolicy"),
            "only \"Never\" is supported when podFailurePolicy is specified",
        );
    }
    let policy = spec.child("template.spec.restartPolicy");
    match policy.text() {
        "OnFailure" | "Never" | "" => {}
        "Always" => errs.required(&policy, "valid values: \"OnFailure\", \"Never\""),
        _ => errs.one_of(&policy, &["OnFailure", "Never"]),
    }
}

/// A change of a Job: what it does stays.
pub(crate) fn job_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        let started = old.child("status.startTime").is_set();
        let (new, old) = (new.child("spec"), old.child("spec"));
        for field in [
            "selector",
            "completionMode",
            "podFailurePolicy",
            "successPolicy",
            "backoffLimitPerIndex",
            "managedBy",
        ] {
            errs.immutable(&new.child(field), old.child(field).value);
        }
        // An indexed job may grow and shrink with its parallelism (KEP-3715).
        let elastic = new.child("completionMode").text() == "Indexed"
            && new.child("completions").value == new.child("parallelism").value;
        if !elastic {
            errs.immutable(&new.child("completions"), old.child("completions").value);
        }
        let template = new.child("template");
        if started || !old.child("suspend").flag() {
            errs.immutable(&template, old.child("template").value);
        } else {
            let fixed = unplaced(template.value);
            let old = unplaced(old.child("template").value);
            errs.immutable(&At::new(&fixed, template.path), &old);
        }
    })
}

/// A template without what says where its pods run: that may change until a suspended Job starts (KEP-2926).
fn unplaced(template: &Value) -> Value {
    const MAY: [(&str, &[&str]); 3] = [
        ("/metadata", &["annotations", "labels"]),
        ("/spec", &["nodeSelector", "schedulingGates", "tolerations"]),
        ("/spec/affinity", &["nodeAffinity"]),
    ];
    let mut template = template.clone();
    for (parent, fields) in MAY {
        if let Some(parent) = json::object_at(&mut template, parent) {
            fields.iter().for_each(|f| drop(json::remove(parent, f)));
        }
    }
    // Without its parts the whole is as good as none.
    for (parent, field) in [("", "metadata"), ("/spec", "affinity")] {
        if let Some(parent) = json::object_at(&mut template, parent)
            && json::is_zero(&parent[field])
        {
            json::remove(parent, field);
        }
    }
    template
}

/// A CronJob.
pub(crate) fn cron_job(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        if meta::name(v).len() > MAX_CRON_JOB_NAME {
            errs.invalid(
                &at.child("metadata.name"),
                "must be no more than 52 characters",
            );
        }
        let spec = at.child("spec");
        let schedule = spec.child("schedule");
        if schedule.text().is_empty() {
            errs.required(&schedule, "");
        } else if schedule.text().contains("TZ") {
            errs.invalid(
                &schedule,
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            );
        } else if let Err(why) = Schedule::parse(schedule.text()) {
            errs.invalid(&schedule, &why);
        }
        let named = spec.child("timeZone");
        if named.is_set() && zone(Some(named.text())).is_none() {
            errs.invalid(&named, &format!("unknown time zone {}", named.text()));
        }
        for field in [
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "failedJobsHistoryLimit",
        ] {
            errs.non_negative(&spec.child(field));
        }
        errs.required_one_of(
            &spec.child("concurrencyPolicy"),
            &["Allow", "Forbid", "Replace"],
            "",
        );
        meta_of_template(&spec, errs);
        job_spec(&spec.child("jobTemplate.spec"), errs);
    })
}

fn meta_of_template(spec: &At<'_>, errs: &mut Errors) {
    for (key, at) in spec.entries("jobTemplate.metadata.labels") {
        errs.check(
            &At::new(&Value::String(key.to_owned()), at.path.clone()),
            names::qualified_name(key),
        );
    }
}
