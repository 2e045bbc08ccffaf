//! Defaults of workloads: apps, batch, autoscaling.

use serde_json::{Value, json};

use super::{pod_template, quantities, storage::claim_spec};
use crate::json::{
    at, each, entries, fill, fill_text, has, is_zero, items, object, object_at, set, text,
};

/// A Deployment.
pub(crate) fn deployment(v: &mut Value) {
    let Some(spec) = object(v, "spec") else {
        return;
    };
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = object(spec, "strategy") {
        fill_text(strategy, "type", "RollingUpdate");
        rolling(
            strategy,
            &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))],
        );
    }
    pod_template(spec);
}

/// A ReplicaSet.
pub(crate) fn replica_set(v: &mut Value) {
    let Some(spec) = object(v, "spec") else {
        return;
    };
    fill(spec, "replicas", 1);
    pod_template(spec);
}

/// A ReplicationController: selector and labels come from its template.
pub(crate) fn replication_controller(v: &mut Value) {
    let labels = at(v, "/spec/template/metadata/labels").clone();
    if !is_zero(&labels) {
        if is_zero(at(v, "/spec/selector"))
            && let Some(spec) = object(v, "spec")
        {
            set(spec, "selector", labels.clone());
        }
        labels_from(v, labels);
    }
    replica_set(v);
}

/// A StatefulSet.
pub(crate) fn stateful_set(v: &mut Value) {
    let Some(spec) = object(v, "spec") else {
        return;
    };
    fill_text(spec, "podManagementPolicy", "OrderedReady");
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = object(spec, "updateStrategy") {
        fill_text(strategy, "type", "RollingUpdate");
        rolling(strategy, &[("partition", json!(0))]);
    }
    if let Some(policy) = object(spec, "persistentVolumeClaimRetentionPolicy") {
        fill_text(policy, "whenDeleted", "Retain");
        fill_text(policy, "whenScaled", "Retain");
    }
    each(spec, "/volumeClaimTemplates", |claim| {
        if let Some(spec) = object_at(claim, "/spec") {
            claim_spec(spec);
        }
        if let Some(status) = object(claim, "status") {
            fill_text(status, "phase", "Pending");
        }
    });
    pod_template(spec);
}

/// A DaemonSet.
pub(crate) fn daemon_set(v: &mut Value) {
    let Some(spec) = object(v, "spec") else {
        return;
    };
    fill(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = object(spec, "updateStrategy") {
        fill_text(strategy, "type", "RollingUpdate");
        rolling(
            strategy,
            &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))],
        );
    }
    pod_template(spec);
}

/// Fills the figures of a rolling update, if that is the strategy.
fn rolling(strategy: &mut Value, figures: &[(&str, Value)]) {
    if text(strategy, "/type") != "RollingUpdate" {
        return;
    }
    let Some(rolling) = object(strategy, "rollingUpdate") else {
        return;
    };
    for (field, default) in figures {
        fill(rolling, field, default.clone());
    }
}

/// A Job.
pub(crate) fn job(v: &mut Value) {
    let labels = at(v, "/spec/template/metadata/labels").clone();
    if !is_zero(&labels) {
        labels_from(v, labels);
    }
    let Some(spec) = object(v, "spec") else {
        return;
    };
    if !has(spec, "/completions") && !has(spec, "/parallelism") {
        set(spec, "completions", 1);
    }
    fill(spec, "parallelism", 1);
    let per_index = has(spec, "/backoffLimitPerIndex");
    fill(
        spec,
        "backoffLimit",
        if per_index { i64::from(i32::MAX) } else { 6 },
    );
    fill(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    let policy = if has(spec, "/podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    fill(spec, "podReplacementPolicy", policy);
    each(spec, "/podFailurePolicy/rules", |rule| {
        each(rule, "/onPodConditions", |c| fill_text(c, "status", "True"));
    });
    pod_template(spec);
}

/// A CronJob; the Job in it gets its own when it is made.
pub(crate) fn cron_job(v: &mut Value) {
    let Some(spec) = object(v, "spec") else {
        return;
    };
    fill_text(spec, "concurrencyPolicy", "Allow");
    fill(spec, "suspend", false);
    fill(spec, "successfulJobsHistoryLimit", 3);
    fill(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = object_at(spec, "/jobTemplate/spec") {
        pod_template(job);
    }
}

/// A HorizontalPodAutoscaler.
pub(crate) fn horizontal_pod_autoscaler(v: &mut Value) {
    let Some(spec) = object(v, "spec") else {
        return;
    };
    fill(spec, "minReplicas", 1);
    if items(spec, "/metrics").is_empty() {
        let cpu =
            json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}});
        set(
            spec,
            "metrics",
            json!([{"type": "Resource", "resource": cpu}]),
        );
    }
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    if let Some(behavior) = object_at(spec, "/behavior") {
        if let Some(up) = object(behavior, "scaleUp") {
            fill(up, "stabilizationWindowSeconds", 0);
            scaling(up, json!([pods, percent]));
        }
        if let Some(down) = object(behavior, "scaleDown") {
            scaling(down, json!([percent]));
        }
    }
}

fn scaling(rules: &mut Value, policies: Value) {
    fill(rules, "selectPolicy", "Max");
    if items(rules, "/policies").is_empty() {
        set(rules, "policies", policies);
    }
}

/// A workload without labels takes those of its template.
fn labels_from(v: &mut Value, labels: Value) {
    if entries(v, "/metadata/labels").next().is_none()
        && let Some(meta) = object(v, "metadata")
    {
        set(meta, "labels", labels);
    }
}

/// A quota: nothing but canonical quantities.
pub(crate) fn resource_quota(v: &mut Value) {
    for map in ["/spec/hard", "/status/hard", "/status/used"] {
        quantities(v, map);
    }
}
