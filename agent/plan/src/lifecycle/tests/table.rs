//! Tables of pods' lives: each line of `rows/*.txt` is a pod, what happens to it, and what is seen then.
//!
//! ```text
//! name | pod | what happens | what is seen
//! ```
//!
//! A pod is its restart policy, its containers (`i!` an init container, `s*` a sidecar) and fields of its spec. In
//! braces stands what a container has: `start`, `live`, `ready` (probes; `live:3` with a grace of its own), `own=Never`,
//! `rule=In:3,4`, `all=In:3` (restarts all), `cpu=100m`, `limit=200m`, `memory=1Gi`, `restarts=cpu` (on a resize).

use std::sync::Arc;

use serde_json::{Value, json};

use super::world::World;
use crate::observed::{AttemptState, Hook, ProbeVerdict};
use crate::resize::Decision;
use crate::{Failure, Stage};

fn quoted(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

fn container(word: &str) -> (char, Value) {
    let (head, more) = word.split_once('{').unwrap_or((word, ""));
    let role = head.chars().last().filter(|c| "!*".contains(*c));
    let name = head.trim_end_matches(['!', '*']);
    let mut c = json!({"name": name, "image": "img:1"});
    if role == Some('*') {
        c["restartPolicy"] = json!("Always");
    }
    for flag in more
        .trim_end_matches('}')
        .split('+')
        .filter(|f| !f.is_empty())
    {
        let (key, value) = flag
            .split_once(['=', ':'])
            .map_or((flag, ""), |(k, v)| (k, v));
        match key {
            "start" | "live" | "ready" => {
                let field = match key {
                    "start" => "startupProbe",
                    "live" => "livenessProbe",
                    _ => "readinessProbe",
                };
                c[field] = json!({"tcpSocket": {"port": 1}});
                if !value.is_empty() {
                    c[field]["terminationGracePeriodSeconds"] = quoted(value);
                }
            }
            "own" => c["restartPolicy"] = json!(value),
            "rule" | "all" => {
                let (operator, codes) = value.split_once(':').expect("operator:codes");
                let action = if key == "all" {
                    "RestartAllContainers"
                } else {
                    "Restart"
                };
                let codes: Vec<i32> = codes.split(',').filter_map(|n| n.parse().ok()).collect();
                let rule =
                    json!({"action": action, "exitCodes": {"operator": operator, "values": codes}});
                match c["restartPolicyRules"].as_array_mut() {
                    Some(rules) => rules.push(rule),
                    None => c["restartPolicyRules"] = json!([rule]),
                }
            }
            "cpu" | "memory" => c["resources"]["requests"][key] = json!(value),
            "limit" => c["resources"]["limits"]["cpu"] = json!(value),
            "top" => c["resources"]["limits"]["memory"] = json!(value),
            "restarts" => {
                c["resizePolicy"] =
                    json!([{"resourceName": value, "restartPolicy": "RestartContainer"}]);
            }
            other => panic!("no container has {other}"),
        }
    }
    (role.unwrap_or(' '), c)
}

fn pod(text: &str) -> Value {
    let mut words = text.split_whitespace();
    let mut spec = json!({"restartPolicy": words.next().expect("a policy"), "containers": []});
    for word in words {
        let field = word.split_once('=').filter(|(f, _)| !f.contains('{'));
        if let Some((field, value)) = field {
            spec[field] = quoted(value);
            continue;
        }
        let (role, c) = container(word);
        let list = if role == ' ' {
            "containers"
        } else {
            "initContainers"
        };
        match spec[list].as_array_mut() {
            Some(all) => all.push(c),
            None => spec[list] = json!([c]),
        }
    }
    spec
}

/// Ends what runs as the kernel does when its namespace or the machine goes.
fn lose(w: &mut World, code: i32) {
    let names: Vec<String> = w.observed.containers.keys().cloned().collect();
    for name in names {
        if w.observed.latest(&name).is_some_and(|a| a.is_running()) {
            w.end(&name, code);
        }
    }
}

fn probe(w: &mut World, name: &str, kind: &str, good: bool) {
    let mut verdict = w.observed.probes.get(name).cloned().unwrap_or_default();
    if verdict.attempt != w.run(name).attempt {
        verdict = ProbeVerdict::default();
    }
    match kind {
        "start" => verdict.startup = Some(good),
        "live" => verdict.liveness = Some(good),
        _ => verdict.readiness = Some(good),
    }
    w.verdict(name, verdict);
}

fn set_hook(w: &mut World, name: &str, how: &str) {
    let AttemptState::Running { post_start, .. } = &mut w.run(name).state else {
        panic!("{name} does not run");
    };
    *post_start = match how {
        "running" => Hook::Running,
        "failed" => Hook::Failed("why".into()),
        _ => Hook::Done,
    };
}

/// One thing that happens. Most are followed by all that the plan does about them.
fn happen(w: &mut World, step: &str) {
    let words: Vec<&str> = step.split_whitespace().collect();
    let number = |text: &str| text.parse::<i32>().expect("a number");
    match words[..] {
        ["up"] => {}
        ["turn"] => return drop(w.turn()),
        ["mark"] => return drop((w.took(), w.events.clear())),
        ["exit", name, code] => w.end(name, number(code)),
        ["oom", name] => {
            w.end(name, 137);
            if let AttemptState::Exited { oom, .. } = &mut w.run(name).state {
                *oom = true;
            }
        }
        ["wait", seconds] => return drop(w.wait(number(seconds).into())),
        ["delete"] => return drop(w.delete()),
        ["delete", grace] => {
            w.pod.metadata.deletion_grace_period_seconds = Some(number(grace).into());
            return drop(w.delete());
        }
        ["shorten", grace] => {
            w.pod.metadata.deletion_grace_period_seconds = Some(number(grace).into());
        }
        ["die"] => return drop(w.die()),
        ["die", name] => w.end(name, 137),
        ["gone"] => w.observed.orphan = true,
        ["probe", name, kind, verdict] => return probe(w, name, kind, verdict == "good"),
        ["hook", name, how] => set_hook(w, name, how),
        ["image", name] => w.bad_images = vec![Box::leak(name.to_owned().into_boxed_str())],
        ["images"] => w.bad_images.clear(),
        ["broken", name, reason] => w.fail(name, reason),
        ["mended", name] => _ = w.observed.failures.remove(name),
        ["reboot"] => {
            w.pass(1);
            lose(w, 255);
            w.observed.sandbox = Stage::Absent;
            w.observed.cgroup = Stage::Absent;
            w.observed.figures = Stage::Absent;
        }
        ["holder"] => {
            w.pass(1);
            lose(w, 137);
            w.observed.sandbox = Stage::Failed(Failure {
                reason: String::new(),
                message: String::new(),
                at: w.now,
                retry_at: w.now,
            });
        }
        ["agent"] => {
            w.observed.backoffs.clear();
            w.observed.images.clear();
            w.observed.failures.clear();
            w.observed.killing.clear();
            w.observed.anew.clear();
            w.observed.allocated.clear();
            w.observed.resize_errors.clear();
            w.observed.figures = Stage::Absent;
        }
        ["lost", name] => _ = w.observed.containers.remove(name),
        ["refused", reason] => {
            let status = json!({"phase": "Failed", "reason": reason, "message": "why"});
            w.observed.status = Arc::new(serde_json::from_value(status).expect("a status"));
        }
        ["evicted"] => {
            let status = Arc::make_mut(&mut w.observed.status);
            status.phase = Some("Failed".into());
            status.reason = Some("Evicted".into());
            status.message = Some("why".into());
        }
        ["condition", kind, status] => {
            let theirs = json!({"type": kind, "status": status});
            let status = Arc::make_mut(&mut w.observed.status);
            let all = status.conditions.get_or_insert_default();
            all.retain(|c| c.type_ != kind);
            all.push(serde_json::from_value(theirs).expect("a condition"));
        }
        ["newimage", name] => w.change(name, |c| c.image = Some("img:2".into())),
        ["resize", name, ref figures @ ..] => {
            let (_, new) = container(&format!("{name}{{{}}}", figures.join("+")));
            let new = serde_json::from_value(new["resources"].clone()).expect("resources");
            return w.change(name, |c| c.resources = Some(new));
        }
        ["room", "no"] => return w.room = |_| Decision::Deferred("full".into()),
        ["room", "never"] => return w.room = |_| Decision::Infeasible("too small".into()),
        ["room"] => return w.room = |_| Decision::Fits,
        ["nofit", name] => w.bad_resizes = vec![Box::leak(name.to_owned().into_boxed_str())],
        ["fits"] => w.bad_resizes.clear(),
        _ => panic!("what is {step:?}?"),
    }
    w.settle();
}

/// What is seen of one thing, in the words of the table.
fn seen(w: &mut World, key: &str) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    match key {
        "phase" => return w.phase().to_owned(),
        "reason" => return or_none(w.observed.status.reason.clone()),
        "took" => return w.took().join(","),
        "events" => return std::mem::take(&mut w.events).join(","),
        "finished" => return w.finished.to_string(),
        "ip" => return or_none(w.observed.status.pod_ip.clone()),
        "wake" => {
            let at = w.turn().wake_at;
            return or_none(at.map(|at| at.duration_since(w.now).as_secs().to_string()));
        }
        _ => {}
    }
    if key.starts_with(char::is_uppercase) {
        let (kind, part) = key.split_once('.').unwrap_or((key, ""));
        let all = w.observed.status.conditions.iter().flatten();
        let Some(c) = all.into_iter().find(|c| c.type_ == kind) else {
            return "-".into();
        };
        return match (part, &c.reason) {
            ("message", _) => or_none(c.message.clone()).replace(' ', "_"),
            (_, Some(reason)) => format!("{}/{reason}", c.status),
            (_, None) => c.status.clone(),
        };
    }
    let (name, part) = key.split_once('.').unwrap_or((key, ""));
    let s = w.status(name);
    let last = s.last_state.as_ref().and_then(|s| s.terminated.clone());
    let figure = |l: Option<&std::collections::BTreeMap<String, _>>| {
        use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
        or_none(l.and_then(|l| l.get("cpu")).map(|q: &Quantity| q.0.clone()))
    };
    match part {
        "" => w.state(name),
        "restarts" => s.restart_count.to_string(),
        "ready" => s.ready.to_string(),
        "started" => (s.started == Some(true)).to_string(),
        "last" => {
            or_none(last.map(|t| format!("{}/{}", t.reason.unwrap_or_default(), t.exit_code)))
        }
        "exit" => {
            let end = s.state.and_then(|s| s.terminated);
            or_none(end.map(|t| t.exit_code.to_string()))
        }
        "message" => {
            let message = s.state.and_then(|s| s.waiting).and_then(|s| s.message);
            or_none(message).replace(' ', "_")
        }
        "runs" => w
            .observed
            .containers
            .get(name)
            .map_or(0, Vec::len)
            .to_string(),
        "allocated" => figure(s.allocated_resources.as_ref()),
        "cpu" => figure(s.resources.as_ref().and_then(|r| r.requests.as_ref())),
        "limit" => figure(s.resources.as_ref().and_then(|r| r.limits.as_ref())),
        other => panic!("nothing is seen of {other}"),
    }
}

#[test]
fn lives() {
    let tables = [
        ("phases", include_str!("rows/phases.txt")),
        ("restarts", include_str!("rows/restarts.txt")),
        ("ends", include_str!("rows/ends.txt")),
        ("probes", include_str!("rows/probes.txt")),
        ("resizes", include_str!("rows/resizes.txt")),
    ];
    let mut wrong = Vec::new();
    for (file, text) in tables {
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [name, spec, script, want] = cells[..] else {
                panic!("{file}:{}: four cells", number + 1);
            };
            let mut w = World::new(pod(spec));
            script.split(';').for_each(|s| happen(&mut w, s.trim()));
            for fact in want.split_whitespace() {
                let (key, value) = fact.split_once('=').expect("key=value");
                let is = seen(&mut w, key);
                if is.replace(' ', "~") != value {
                    wrong.push(format!(
                        "{file}:{} {name}: {key} is {is}, not {value}",
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
