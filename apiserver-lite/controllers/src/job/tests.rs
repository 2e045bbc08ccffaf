use super::*;
use crate::action::Action;
use serde_json::{Value, from_value, json};

type Edit = fn(&mut Value);

const SAME: Edit = |_| ();

fn job(edit: impl Fn(&mut Value)) -> Job {
    let mut v = json!({"metadata": {"name": "j", "namespace": "n", "uid": "u", "resourceVersion": "1"},
        "spec": {"parallelism": 2, "completions": 3, "backoffLimit": 6, "selector": {"matchLabels": {"j": "j"}},
            "template": {"metadata": {"labels": {"j": "j"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}},
        "status": {"startTime": "2026-01-01T00:00:00Z"}});
    edit(&mut v);
    from_value(v).expect("job")
}

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().expect("time")
}

/// `name`, then: `#3` of index 3, `+` succeeded, `x` failed an hour ago, `X` failed just now (`X42`: with that code),
/// `~` being deleted, `!` without our finalizer, `?` of other labels, `o` controlled by nobody.
fn pod(text: &str) -> Arc<Pod> {
    let name: String = text.chars().take(2).collect();
    let rest = &text[2..];
    let has = |c| rest.contains(c);
    let phase = match () {
        () if has('+') => "Succeeded",
        () if has('x') || has('X') => "Failed",
        () => "Running",
    };
    let digits = |c: char| -> Option<String> {
        let after = rest.split_once(c)?.1;
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        (!digits.is_empty()).then_some(digits)
    };
    let at = if has('X') {
        "2026-01-01T00:59:58Z"
    } else {
        "2026-01-01T00:00:01Z"
    };
    let code: i32 = digits('X').map_or(1, |d| d.parse().expect("code"));
    let ended =
        json!({"terminated": {"exitCode": if has('+') { 0 } else { code }, "finishedAt": at}});
    let state = if phase == "Running" {
        json!({"running": {}})
    } else {
        ended
    };
    let mut v = json!({"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1",
            "labels": {"j": if has('?') { "other" } else { "j" }}, "annotations": {},
            "finalizers": if has('!') { json!([]) } else { json!([FINALIZER]) },
            "ownerReferences": if has('o') { json!([]) } else {
                json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": true}]) }},
        "spec": {"containers": []},
        "status": {"phase": phase, "containerStatuses": [{"name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state}]}});
    if let Some(index) = digits('#') {
        v["metadata"]["annotations"][indexes::INDEX] = json!(index);
    }
    if has('~') {
        v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
    }
    Arc::new(from_value(v).expect("pod"))
}

fn pods(text: &str) -> Vec<Arc<Pod>> {
    text.split_whitespace().map(pod).collect()
}

/// What a plan does: `free p0`, `-p0`, `+` (of index 2: `+2`), `take p0`, `drop p0`; then what the status becomes.
fn steps(outcome: &Outcome) -> String {
    let step = |a: &Action| match a {
        Action::Create { object, .. } => {
            let index = object["metadata"]["annotations"][indexes::INDEX].as_str();
            Some(format!("+{}", index.unwrap_or_default()))
        }
        Action::Delete { target, .. } => Some(format!("-{}", target.key.name)),
        Action::Patch {
            target,
            patch,
            subresource: None,
        } => {
            let verb = match patch["metadata"].get("ownerReferences") {
                None => "free",
                Some(Value::Null) => "drop",
                Some(_) => "take",
            };
            Some(format!("{verb} {}", target.key.name))
        }
        _ => None,
    };
    let all: Vec<String> = outcome.actions.iter().filter_map(step).collect();
    all.join(" ")
}

fn written(outcome: &Outcome) -> Value {
    let status = outcome.actions.iter().find_map(|a| match a {
        Action::Patch {
            patch,
            subresource: Some("status"),
            target,
        } => {
            assert!(target.version.is_some(), "counts are based on a version");
            Some(patch["status"].clone())
        }
        _ => None,
    });
    status.unwrap_or_default()
}

/// Conditions that hold, with their reasons.
fn conditions(status: &Value) -> String {
    let all = status["conditions"].as_array().into_iter().flatten();
    let text = |c: &Value, f: &str| c[f].as_str().unwrap_or_default().to_owned();
    let all = all.filter(|c| c["status"] == "True");
    let all = all.map(|c| format!("{}:{}", text(c, "type"), text(c, "reason")));
    all.collect::<Vec<_>>().join(" ")
}

const INDEXED: Edit = |v| v["spec"]["completionMode"] = json!("Indexed");
const SUSPENDED: Edit = |v| v["spec"]["suspend"] = json!(true);
const QUEUE: Edit = |v| v["spec"]["completions"] = json!(null);
const LAST_TRY: Edit = |v| {
    v["spec"]["backoffLimit"] = json!(0);
};
const PER_INDEX: Edit = |v| {
    INDEXED(v);
    v["spec"]["backoffLimitPerIndex"] = json!(0);
    v["spec"]["backoffLimit"] = json!(i32::MAX);
};
const POLICY: Edit = |v| {
    v["spec"]["podReplacementPolicy"] = json!("Failed");
    v["spec"]["podFailurePolicy"] = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [43]}}]});
};

#[test]
fn which_pods_there_are() {
    let rows: &[(&str, Edit, &str, &str)] = &[
        ("as many as may run", SAME, "", "+ +"),
        ("content", SAME, "p0 p1", ""),
        ("one is being deleted", SAME, "p0 p1~!", "+"),
        ("not more than are wanted", SAME, "p0+! p1+! p2", "+"),
        (
            "too many are let go uncounted",
            SAME,
            "p0 p1 p2",
            "free p0 -p0",
        ),
        (
            "the next after one that succeeded",
            SAME,
            "p0+ p1",
            "free p0 +",
        ),
        ("a failed one is replaced", SAME, "p0x p1", "free p0 +"),
        ("not at once", SAME, "p0X p1", "free p0"),
        ("an orphan", SAME, "p0 p1o", "take p1 +"),
        (
            "one that is not selected any more",
            SAME,
            "p0 p1?",
            "drop p1 +",
        ),
        (
            "none while suspended",
            SUSPENDED,
            "p0 p1",
            "free p0 -p0 free p1 -p1",
        ),
        ("a work queue", QUEUE, "", "+ +"),
        ("there is no more work", QUEUE, "p0+ p1", "free p0"),
        ("indexes in their order", INDEXED, "", "+0 +1"),
        ("the one that lacks", INDEXED, "p0#1", "+0"),
        ("an index that is done", INDEXED, "p0#0+ p1#1", "free p0 +2"),
        (
            "twice the same index",
            INDEXED,
            "p0#0 p1#0",
            "free p0 -p0 +1",
        ),
        (
            "an index that there is not",
            INDEXED,
            "p0#7 p1#0",
            "free p0 -p0 +1",
        ),
        ("a failed index", PER_INDEX, "p0#0x p1#1", "free p0 +2"),
        ("a pod may still succeed", POLICY, "p0~ p1", ""),
        ("all is over", LAST_TRY, "p0x p1", "free p0 free p1 -p1"),
        (
            "of a Job that goes, nothing is made",
            |v| v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            "p0 p1+",
            "free p0 free p1",
        ),
        (
            "another's Job",
            |v| v["spec"]["managedBy"] = json!("x.y/z"),
            "p0+",
            "",
        ),
        (
            "an ended one lets go",
            |v| v["status"]["conditions"] = json!([{"type": "Complete", "status": "True"}]),
            "p0+",
            "free p0",
        ),
    ];
    for (name, edit, there, want) in rows {
        let outcome = plan(&job(edit), &pods(there), now());
        // The order among pods that are equal is of no interest.
        assert_eq!(steps(&outcome), *want, "{name}");
    }
}

#[test]
fn how_it_ends() {
    let with = |status: Value| move |v: &mut Value| v["status"] = status.clone();
    let three = with(json!({"startTime": "2026-01-01T00:00:00Z", "succeeded": 3}));
    let rows: &[(&str, &dyn Fn(&mut Value), &str, &str)] = &[
        ("not yet", &SAME, "p0", ""),
        (
            "enough",
            &three,
            "",
            "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached",
        ),
        (
            "enough, but one still ends",
            &three,
            "p0~!",
            "SuccessCriteriaMet:CompletionsReached",
        ),
        (
            "enough, but one is not counted",
            &three,
            "p0+",
            "SuccessCriteriaMet:CompletionsReached",
        ),
        (
            "too many failures",
            &LAST_TRY,
            "p0x",
            "FailureTarget:BackoffLimitExceeded",
        ),
        (
            "too many failures, all counted",
            &|v| {
                LAST_TRY(v);
                v["status"]["failed"] = json!(1)
            },
            "",
            "FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded",
        ),
        (
            "too late",
            &|v| v["spec"]["activeDeadlineSeconds"] = json!(3600),
            "p0",
            "FailureTarget:DeadlineExceeded",
        ),
        (
            "in time",
            &|v| v["spec"]["activeDeadlineSeconds"] = json!(3601),
            "p0",
            "",
        ),
        (
            "no deadline while suspended",
            &|v| {
                SUSPENDED(v);
                v["spec"]["activeDeadlineSeconds"] = json!(1)
            },
            "",
            "Suspended:JobSuspended",
        ),
        (
            "a failed index does not end all",
            &PER_INDEX,
            "p0#0x p1#1",
            "",
        ),
        (
            "all indexes ended",
            &PER_INDEX,
            "p0#0x p1#1+ p2#2+",
            "FailureTarget:FailedIndexes",
        ),
        (
            "too many indexes failed",
            &|v| {
                PER_INDEX(v);
                v["spec"]["maxFailedIndexes"] = json!(0)
            },
            "p0#0x",
            "FailureTarget:MaxFailedIndexesExceeded",
        ),
        (
            "a fatal code",
            &POLICY,
            "p0X42",
            "FailureTarget:PodFailurePolicy",
        ),
        (
            "a code that is nothing",
            &|v| {
                POLICY(v);
                LAST_TRY(v)
            },
            "p0X43",
            "",
        ),
        (
            "the leader's success is enough",
            &|v| {
                INDEXED(v);
                v["spec"]["successPolicy"] = json!({"rules": [{"succeededIndexes": "0"}]})
            },
            "p0#0+ p1#1",
            "SuccessCriteriaMet:SuccessPolicy",
        ),
        (
            "a verdict stays",
            &|v| {
                v["status"]["conditions"] = json!([{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}])
            },
            "",
            "FailureTarget:DeadlineExceeded Failed:DeadlineExceeded",
        ),
        (
            "nothing to do",
            &|v| v["spec"]["completions"] = json!(0),
            "",
            "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached",
        ),
        (
            "restarts in place count",
            &|v| {
                v["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure");
                v["spec"]["backoffLimit"] = json!(0)
            },
            "p0",
            "",
        ),
    ];
    for (name, edit, there, want) in rows {
        let status = written(&plan(&job(edit), &pods(there), now()));
        assert_eq!(conditions(&status), *want, "{name}");
    }
}

/// A JSON merge patch (RFC 7386).
fn merge(to: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *to = patch.clone();
        return;
    };
    if !to.is_object() {
        *to = json!({});
    }
    for (key, new) in fields {
        if new.is_null() {
            drop(to.as_object_mut().expect("object").remove(key));
        } else {
            merge(&mut to[key], new);
        }
    }
}

/// Plays a whole life in which each write is followed by a crash: whatever is lost, the counts are right.
#[test]
fn each_pod_is_counted_once_over_crashes() {
    for crash_after in 1..4 {
        let mut job = job(|v| v["spec"]["completions"] = json!(9));
        let mut there = pods("p0+ p1+ p2x p3~");
        for round in 0..60 {
            let outcome = plan(&job, &there, now());
            // Only the first writes of a plan come through.
            for action in outcome.actions.iter().take(1 + (round + crash_after) % 3) {
                let Action::Patch {
                    patch,
                    target,
                    subresource,
                } = action
                else {
                    continue;
                };
                if subresource.is_some() {
                    let mut v = json!(job);
                    merge(&mut v, patch);
                    job = from_value(v).expect("job");
                } else {
                    assert_eq!(patch["metadata"], json!({"finalizers": null}));
                    // A pod without its finalizer may vanish at once.
                    there.retain(|p| p.name_any() != target.key.name);
                }
            }
        }
        let status = job.status.expect("status");
        assert_eq!(
            (status.succeeded, status.failed),
            (Some(2), Some(2)),
            "{crash_after}"
        );
        let left = status.uncounted_terminated_pods.unwrap_or_default();
        assert_eq!((left.succeeded, left.failed), (None, None));
    }
}

#[test]
fn an_indexed_pod_knows_its_index() {
    let outcome = plan(&job(INDEXED), &pods("p0#0"), now());
    let made = outcome.actions.iter().find_map(|a| match a {
        Action::Create { object, .. } => Some(object.clone()),
        _ => None,
    });
    let made = made.expect("a pod");
    assert_eq!(made["metadata"]["generateName"], "j-1-");
    assert_eq!(made["metadata"]["labels"][indexes::INDEX], "1");
    assert_eq!(made["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(made["spec"]["hostname"], "j-1");
    let env = &made["spec"]["containers"][0]["env"][0];
    assert_eq!(env["name"], "JOB_COMPLETION_INDEX");
    let path = "metadata.labels['batch.kubernetes.io/job-completion-index']";
    assert_eq!(env["valueFrom"]["fieldRef"]["fieldPath"], path);
}

#[test]
fn lists_of_indexes() {
    for (text, want) in [
        ("", ""),
        ("0", "0"),
        ("0-1", "0,1"),
        ("1,3-5,7", "1,3-5,7"),
        ("0,1,2,9", "0-2,9"),
        ("8-99", "8,9"),
        ("a,-1,3", "3"),
    ] {
        assert_eq!(indexes::show(&indexes::parse(text, 10)), want, "{text}");
    }
}

#[test]
fn an_ended_job_goes_in_its_time() {
    let ended = |ttl: i64| {
        job(move |v| {
            v["spec"]["ttlSecondsAfterFinished"] = json!(ttl);
            v["status"]["conditions"] = json!([{"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:59:00Z"}]);
        })
    };
    assert_eq!(steps(&plan(&ended(60), &[], now())), "-j");
    let later = plan(&ended(90), &[], now());
    assert_eq!(steps(&later), "");
    assert_eq!(later.again, Some(std::time::Duration::from_secs(30)));
}

#[test]
fn what_nobody_counts_is_let_go() {
    let key = Key::new("n", "j");
    let freed = |job: Option<&Job>, there: &str| {
        let outcome = Outcome::from(pods::abandoned(&key, job, &pods(there)));
        steps(&outcome)
    };
    assert_eq!(freed(None, "p0 p1+ p2!"), "free p0 free p1");
    assert_eq!(freed(Some(&job(SAME)), "p0 p1+"), "");
    let namesake = job(|v| v["metadata"]["uid"] = json!("other"));
    assert_eq!(freed(Some(&namesake), "p0"), "free p0");
}
