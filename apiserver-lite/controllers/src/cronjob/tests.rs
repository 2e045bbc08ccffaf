use super::*;
use crate::action::Action;
use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, from_value, json};

type Edit = fn(&mut Value);

const SAME: Edit = |_| ();

/// Every ten minutes, made at 00:05.
fn cron(edit: impl Fn(&mut Value)) -> CronJob {
    let mut v = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:05:00Z"},
        "spec": {"schedule": "*/10 * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {"spec": {"containers": []}}}}}});
    edit(&mut v);
    from_value(v).expect("cron job")
}

/// A time of 2026-01-01, or with its date.
fn at(text: &str) -> Timestamp {
    let text = if text.contains('T') {
        text.to_owned()
    } else {
        format!("2026-01-01T{text}")
    };
    format!("{text}:00Z").parse().expect("time")
}

/// `name@00:10` began then, and then: `+` completed, `x` failed, `h` was made by hand.
fn job(text: &str) -> Arc<Job> {
    let (name, rest) = text.split_once('@').expect("name@time");
    let start = format!("2026-01-01T{}:00Z", &rest[..5]);
    let condition = match rest.chars().nth(5) {
        Some('+') => json!([{"type": "Complete", "status": "True"}]),
        Some('x') => json!([{"type": "Failed", "status": "True"}]),
        _ => json!([]),
    };
    let hand = rest.ends_with('h').then_some("manual");
    Arc::new(from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name,
            "annotations": hand.map(|h| json!({"cronjob.kubernetes.io/instantiate": h})),
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "u", "controller": true}]},
        "status": {"startTime": start, "completionTime": rest.contains('+').then_some(start.as_str()), "conditions": condition}})).expect("job"))
}

/// `+00:10` makes the Job of that time, `-name` deletes one, `!Reason` tells.
fn steps(outcome: &Outcome) -> String {
    let step = |a: &Action| match a {
        Action::Create { object, .. } => {
            let due = object["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].as_str();
            let due = due.expect("when it was due");
            let minutes = object["metadata"]["name"]
                .as_str()
                .and_then(|n| n.strip_prefix("c-"));
            let time: Timestamp = due.parse().expect("time");
            assert_eq!(
                minutes.map(str::to_owned),
                Some((time.as_second() / 60).to_string())
            );
            assert_eq!(object["metadata"]["labels"]["a"], "b");
            Some(format!("+{}", &due[11..16]))
        }
        Action::Delete { target, .. } => Some(format!("-{}", target.key.name)),
        Action::Event { reason, .. } if !reason.starts_with("Successful") => {
            Some(format!("!{reason}"))
        }
        _ => None,
    };
    outcome
        .actions
        .iter()
        .filter_map(step)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn when_jobs_are_made() {
    let forbid: Edit = |v| v["spec"]["concurrencyPolicy"] = json!("Forbid");
    let replace: Edit = |v| v["spec"]["concurrencyPolicy"] = json!("Replace");
    let served: Edit = |v| v["status"] = json!({"lastScheduleTime": "2026-01-01T00:10:00Z"});
    let rows: &[(&str, Edit, &str, &str, &str, Option<u64>)] = &[
        ("not yet", SAME, "00:09", "", "", Some(60)),
        ("on time", SAME, "00:10", "", "+00:10", Some(600)),
        (
            "the last of those missed",
            SAME,
            "00:55",
            "",
            "+00:50",
            Some(300),
        ),
        ("served", served, "00:19", "", "", Some(60)),
        (
            "served, a time later",
            served,
            "00:20",
            "",
            "+00:20",
            Some(600),
        ),
        (
            "made before a crash",
            SAME,
            "00:12",
            "c-29453770@00:10",
            "",
            Some(480),
        ),
        (
            "beside another",
            SAME,
            "00:20",
            "c-1@00:10",
            "+00:20",
            Some(600),
        ),
        (
            "not beside another",
            forbid,
            "00:20",
            "c-1@00:10",
            "!JobAlreadyActive",
            Some(600),
        ),
        (
            "beside one made by hand",
            forbid,
            "00:20",
            "x@00:10h",
            "+00:20",
            Some(600),
        ),
        (
            "after another",
            forbid,
            "00:20",
            "c-1@00:10+",
            "+00:20",
            Some(600),
        ),
        (
            "instead of another",
            replace,
            "00:20",
            "c-1@00:10",
            "-c-1 +00:20",
            Some(600),
        ),
        (
            "suspended",
            |v| v["spec"]["suspend"] = json!(true),
            "00:20",
            "",
            "",
            None,
        ),
        (
            "being deleted",
            |v| v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            "00:20",
            "",
            "",
            None,
        ),
        (
            "too late",
            |v| v["spec"]["startingDeadlineSeconds"] = json!(60),
            "00:15",
            "",
            "",
            Some(300),
        ),
        (
            "late",
            |v| v["spec"]["startingDeadlineSeconds"] = json!(400),
            "00:15",
            "",
            "+00:10",
            Some(300),
        ),
        (
            "in another zone",
            |v| {
                v["spec"]["schedule"] = json!("0 9 * * *");
                v["spec"]["timeZone"] = json!("Asia/Tokyo")
            },
            "00:06",
            "",
            "",
            Some(86_040),
        ),
        (
            "asleep for years",
            SAME,
            "2029-01-01T00:03",
            "",
            "!TooManyMissedTimes +00:00",
            Some(420),
        ),
    ];
    for (name, edit, now, jobs, want, again) in rows {
        let jobs: Vec<_> = jobs.split_whitespace().map(job).collect();
        let outcome = plan(&cron(edit), &jobs, at(now));
        assert_eq!(steps(&outcome), *want, "{name}");
        assert_eq!(outcome.again.map(|a| a.as_secs()), *again, "{name}");
    }
}

#[test]
fn what_is_kept_and_told() {
    let jobs: Vec<_> = [
        "a@00:01+", "b@00:02+", "d@00:03+", "e@00:01x", "f@00:02x", "g@00:04", "h@00:04h",
    ]
    .map(job)
    .to_vec();
    let known = cron(
        |v| v["status"] = json!({"active": [{"name": "d", "uid": "d"}, {"name": "g", "uid": "g"}, {"name": "z", "uid": "z"}]}),
    );
    let outcome = plan(&known, &jobs, at("00:06"));
    assert_eq!(steps(&outcome), "!SawCompletedJob !MissingJob -a -e");
    let Some(Action::Patch { patch, .. }) = outcome.actions.last() else {
        panic!("{outcome:?}")
    };
    let active = patch["status"]["active"].as_array().expect("active");
    assert_eq!((active.len(), &active[0]["name"]), (1, &json!("g")));
    assert_eq!(
        patch["status"]["lastSuccessfulTime"],
        "2026-01-01T00:03:00Z"
    );
}
