//! Columns of workloads: apps, batch and autoscaling.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    AGE, Col, NAME, NONE, UNKNOWN, UNSET, age_at, label_text, number, or, selector_text,
    text_or_none,
};
use crate::json::{at, flag, has, int, items, text};
use crate::meta;
use crate::print::human_duration;

const CONTAINERS: Col = Col::text("Containers", |v, _| {
    names(v, "/spec/template/spec/containers", "/name")
})
.wide();
const IMAGES: Col = Col::text("Images", |v, _| {
    names(v, "/spec/template/spec/containers", "/image")
})
.wide();
const SELECTOR: Col = Col::text("Selector", |v, _| selector_text(v, "/spec/selector")).wide();

pub(crate) const DEPLOYMENT: &[Col] = &[
    NAME,
    Col::text("Ready", |v, _| ready_of(v)),
    Col::int("Up-to-date", |v, _| number(v, "/status/updatedReplicas")),
    Col::int("Available", |v, _| number(v, "/status/availableReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const REPLICA_SET: &[Col] = &[
    NAME,
    Col::int("Desired", |v, _| number(v, "/spec/replicas")),
    Col::int("Current", |v, _| number(v, "/status/replicas")),
    Col::int("Ready", |v, _| number(v, "/status/readyReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const REPLICATION_CONTROLLER: &[Col] = &[
    NAME,
    Col::int("Desired", |v, _| number(v, "/spec/replicas")),
    Col::int("Current", |v, _| number(v, "/status/replicas")),
    Col::int("Ready", |v, _| number(v, "/status/readyReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    Col::text("Selector", |v, _| label_text(v, "/spec/selector")).wide(),
];

pub(crate) const STATEFUL_SET: &[Col] = &[
    NAME,
    Col::text("Ready", |v, _| ready_of(v)),
    AGE,
    CONTAINERS,
    IMAGES,
];

pub(crate) const DAEMON_SET: &[Col] = &[
    NAME,
    Col::int("Desired", |v, _| {
        number(v, "/status/desiredNumberScheduled")
    }),
    Col::int("Current", |v, _| {
        number(v, "/status/currentNumberScheduled")
    }),
    Col::int("Ready", |v, _| number(v, "/status/numberReady")),
    Col::int("Up-to-date", |v, _| {
        number(v, "/status/updatedNumberScheduled")
    }),
    Col::int("Available", |v, _| number(v, "/status/numberAvailable")),
    Col::text("Node Selector", |v, _| {
        label_text(v, "/spec/template/spec/nodeSelector")
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const JOB: &[Col] = &[
    NAME,
    Col::text("Status", |v, _| json!(job_status(v))),
    Col::text("Completions", |v, _| json!(completions(v))),
    Col::text("Duration", |v, now| json!(job_duration(v, now))),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const CRON_JOB: &[Col] = &[
    NAME,
    Col::text("Schedule", |v, _| json!(text(v, "/spec/schedule"))),
    Col::text("Timezone", |v, _| text_or_none(v, "/spec/timeZone")),
    Col::text("Suspend", |v, _| {
        json!(if flag(v, "/spec/suspend") {
            "True"
        } else {
            "False"
        })
    }),
    Col::int("Active", |v, _| json!(items(v, "/status/active").len())),
    Col::text("Last Schedule", |v, now| {
        if has(v, "/status/lastScheduleTime") {
            age_at(v, "/status/lastScheduleTime", now)
        } else {
            json!(NONE)
        }
    }),
    AGE,
    Col::text("Containers", |v, _| {
        names(
            v,
            "/spec/jobTemplate/spec/template/spec/containers",
            "/name",
        )
    })
    .wide(),
    Col::text("Images", |v, _| {
        names(
            v,
            "/spec/jobTemplate/spec/template/spec/containers",
            "/image",
        )
    })
    .wide(),
    Col::text("Selector", |v, _| {
        selector_text(v, "/spec/jobTemplate/spec/selector")
    })
    .wide(),
];

pub(crate) const CONTROLLER_REVISION: &[Col] = &[
    NAME,
    Col::text("Controller", |v, _| json!(controller(v))),
    Col::int("Revision", |v, _| number(v, "/revision")),
    AGE,
];

pub(crate) const POD_TEMPLATE: &[Col] = &[
    NAME,
    Col::text("Containers", |v, _| {
        names(v, "/template/spec/containers", "/name")
    }),
    Col::text("Images", |v, _| {
        names(v, "/template/spec/containers", "/image")
    }),
    Col::text("Pod Labels", |v, _| {
        label_text(v, "/template/metadata/labels")
    }),
];

pub(crate) const HORIZONTAL_POD_AUTOSCALER: &[Col] = &[
    NAME,
    Col::text("Reference", |v, _| {
        json!(format!(
            "{}/{}",
            text(v, "/spec/scaleTargetRef/kind"),
            text(v, "/spec/scaleTargetRef/name")
        ))
    }),
    Col::text("Targets", |v, _| json!(targets(v))),
    Col::text("MinPods", |v, _| {
        int(v, "/spec/minReplicas").map_or(json!(UNSET), |n| json!(n.to_string()))
    }),
    Col::int("MaxPods", |v, _| number(v, "/spec/maxReplicas")),
    Col::int("Replicas", |v, _| number(v, "/status/currentReplicas")),
    AGE,
];

fn names(v: &Value, containers: &str, field: &str) -> Value {
    let list: Vec<&str> = items(v, containers)
        .iter()
        .map(|c| text(c, field))
        .collect();
    json!(list.join(","))
}

fn ready_of(v: &Value) -> Value {
    json!(format!(
        "{}/{}",
        int(v, "/status/readyReplicas").unwrap_or_default(),
        int(v, "/spec/replicas").unwrap_or_default()
    ))
}

fn controller(v: &Value) -> String {
    meta::controller(v).map_or(NONE.into(), |o| {
        let group = text(o, "/apiVersion")
            .split_once('/')
            .map_or("", |(g, _)| g);
        let dot = if group.is_empty() { "" } else { "." };
        format!(
            "{}{dot}{group}/{}",
            text(o, "/kind").to_lowercase(),
            text(o, "/name")
        )
    })
}

fn job_status(v: &Value) -> &'static str {
    let is = |kind: &str| {
        items(v, "/status/conditions")
            .iter()
            .any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
    };
    // A job that is being deleted counts as such only while nothing else is known of it.
    let terms: [(&str, &'static str); 5] = [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ];
    let known = terms
        .iter()
        .find(|(kind, _)| is(kind))
        .map(|(_, shown)| *shown);
    match known {
        Some(s @ ("Complete" | "Failed")) => s,
        _ if meta::is_deleting(v) => "Terminating",
        other => other.unwrap_or("Running"),
    }
}

fn completions(v: &Value) -> String {
    let done = int(v, "/status/succeeded").unwrap_or_default();
    match (
        int(v, "/spec/completions"),
        int(v, "/spec/parallelism").unwrap_or_default(),
    ) {
        (Some(n), _) => format!("{done}/{n}"),
        (None, p) if p > 1 => format!("{done}/1 of {p}"),
        (None, _) => format!("{done}/1"),
    }
}

fn job_duration(v: &Value, now: Timestamp) -> String {
    let Some(start) = meta::time(v, "/status/startTime") else {
        return String::new();
    };
    let end = meta::time(v, "/status/completionTime").unwrap_or(now);
    human_duration(end.as_second() - start.as_second())
}

/// `cpu: 10%/80%, memory: <unknown>/1Gi`, at most two and how many more.
fn targets(v: &Value) -> String {
    let metrics = items(v, "/spec/metrics");
    if metrics.is_empty() {
        return NONE.into();
    }
    let shown: Vec<String> = metrics
        .iter()
        .enumerate()
        .take(2)
        .map(|(i, m)| target(m, current(v, i)))
        .collect();
    let more = metrics.len().saturating_sub(2);
    let shown = shown.join(", ");
    if more > 0 {
        format!("{shown} + {more} more...")
    } else {
        shown
    }
}

fn current(v: &Value, i: usize) -> &Value {
    items(v, "/status/currentMetrics")
        .get(i)
        .unwrap_or(&Value::Null)
}

fn target(metric: &Value, current: &Value) -> String {
    let (field, label) = match text(metric, "/type") {
        "Resource" => ("resource", format!("{}: ", text(metric, "/resource/name"))),
        "ContainerResource" => (
            "containerResource",
            format!("{}: ", text(metric, "/containerResource/name")),
        ),
        "External" => ("external", String::new()),
        "Pods" => ("pods", String::new()),
        "Object" => ("object", String::new()),
        _ => return "<unknown type>".into(),
    };
    let (want, have) = (
        at(metric, &format!("/{field}/target")),
        at(current, &format!("/{field}/current")),
    );
    if let Some(percent) = int(want, "/averageUtilization") {
        let have = int(have, "/averageUtilization").map_or(UNKNOWN.into(), |n| format!("{n}%"));
        return format!("{label}{have}/{percent}%");
    }
    if has(want, "/averageValue") {
        let avg = if matches!(field, "external" | "object") {
            " (avg)"
        } else {
            ""
        };
        return format!(
            "{label}{}/{}{avg}",
            or(text(have, "/averageValue"), UNKNOWN),
            text(want, "/averageValue")
        );
    }
    format!(
        "{label}{}/{}",
        or(text(have, "/value"), UNKNOWN),
        text(want, "/value")
    )
}
