//! The pod's conditions.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodCondition, PodStatus};

use super::time;
use crate::lifecycle::{Context, app_was_made, eviction, is_sidecar};

/// A condition's value, reason and message.
struct Value {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Value {
    fn yes() -> Self {
        Self {
            holds: true,
            reason: None,
            message: None,
        }
    }

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self {
            holds: false,
            reason: Some(reason),
            message,
        }
    }
}

/// The conditions this agent writes.
pub const OURS: [&str; 8] = [
    RESTARTING,
    PENDING,
    IN_PROGRESS,
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];
/// All containers start again (KEP-5532).
const RESTARTING: &str = "AllContainersRestarting";
pub(super) const PENDING: &str = "PodResizePending";
pub(super) const IN_PROGRESS: &str = "PodResizeInProgress";

/// What is under way for a while: a restart of all, a resize that waits, and one that is made (KEP-1287); nothing is
/// said when there is none.
fn passing(ctx: &Context<'_>, phase: Option<&str>) -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    let over = super::is_final(phase) || ctx.pod.metadata.deletion_timestamp.is_some();
    if over || ctx.observed.orphan {
        return all;
    }
    if crate::lifecycle::all::in_progress(ctx) {
        all.push((RESTARTING, Value::yes()));
    }
    if let Some(pending) = &ctx.observed.pending {
        let value = Value {
            holds: true,
            reason: Some(pending.reason),
            message: Some(pending.message.clone()),
        };
        all.push((PENDING, value));
    }
    if crate::lifecycle::resize::in_progress(ctx) {
        let mut errors = ctx.observed.resize_errors.values();
        let error = errors.next().map(|f| f.message.clone());
        let value = Value {
            holds: true,
            reason: error.is_some().then_some("Error"),
            message: error,
        };
        all.push((IN_PROGRESS, value));
    }
    all
}

/// Brings the agent's own conditions up to date; those of others stay as they are.
pub(super) fn update(ctx: &Context<'_>, status: &mut PodStatus, refused: bool) {
    if refused {
        return;
    }
    let containers = containers_ready(ctx, status);
    let ready = ready(ctx, status, &containers);
    let wanted = [
        ("PodReadyToStartContainers", sandbox(ctx)),
        ("Initialized", initialized(ctx, status)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Value::yes()),
    ];
    let old = status.conditions.take().unwrap_or_default();
    let mut all: Vec<PodCondition> = passing(ctx, status.phase.as_deref())
        .into_iter()
        .chain(wanted)
        .map(|(name, v)| condition(ctx, name, v, &old))
        .collect();
    all.extend(disruption(ctx, &old));
    let known = |c: &PodCondition| {
        OURS.contains(&c.type_.as_str()) || all.iter().any(|o| o.type_ == c.type_)
    };
    let theirs: Vec<PodCondition> = old.iter().filter(|c| !known(c)).cloned().collect();
    all.extend(theirs);
    status.conditions = Some(all);
}

/// The node ends the pod for its own need, which is no failure of the pod's (KEP-3329).
const DISRUPTION: (&str, &str) = ("DisruptionTarget", "TerminationByKubelet");

fn disruption(ctx: &Context<'_>, old: &[PodCondition]) -> Option<PodCondition> {
    let message = eviction(ctx).filter(|e| e.disruption)?.message;
    let value = Value {
        holds: true,
        reason: Some(DISRUPTION.1),
        message: Some(message),
    };
    Some(condition(ctx, DISRUPTION.0, value, old))
}

/// Whether the status says so.
pub(crate) fn is_disrupted(status: &PodStatus) -> bool {
    let mut all = status.conditions.iter().flatten();
    all.any(|c| c.type_ == DISRUPTION.0 && c.reason.as_deref() == Some(DISRUPTION.1))
}

fn condition(ctx: &Context<'_>, name: &str, value: Value, old: &[PodCondition]) -> PodCondition {
    let text = if value.holds { "True" } else { "False" };
    let same = old.iter().find(|c| c.type_ == name && c.status == text);
    PodCondition {
        type_: name.to_owned(),
        status: text.to_owned(),
        last_probe_time: None,
        last_transition_time: same
            .and_then(|c| c.last_transition_time.clone())
            .or_else(|| Some(time(ctx.now))),
        message: value.message,
        observed_generation: ctx.pod.metadata.generation,
        reason: value.reason.map(str::to_owned),
    }
}

fn sandbox(ctx: &Context<'_>) -> Value {
    let holds = ctx.observed.sandbox.ready().is_some();
    Value {
        holds,
        reason: None,
        message: None,
    }
}

fn find<'a>(
    statuses: &'a Option<Vec<ContainerStatus>>,
    c: &Container,
) -> Option<&'a ContainerStatus> {
    statuses.iter().flatten().find(|s| s.name == c.name)
}

fn started(s: &ContainerStatus) -> bool {
    s.started == Some(true)
}

/// `containers with unready status: [a b]`, and those without any status before it.
fn lists(unknown: &[&str], bad: &[&str], word: &str) -> Option<String> {
    let part = |names: &[&str], word: &str| {
        format!("containers with {word} status: [{}]", names.join(" "))
    };
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(part(unknown, "unknown"));
    }
    if !bad.is_empty() {
        parts.push(part(bad, word));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn initialized(ctx: &Context<'_>, status: &PodStatus) -> Value {
    if status.phase.as_deref() == Some("Succeeded") {
        return Value {
            holds: true,
            reason: Some("PodCompleted"),
            message: None,
        };
    }
    if app_was_made(ctx) {
        return Value::yes();
    }
    let (mut unknown, mut bad) = (Vec::new(), Vec::new());
    for c in ctx.spec.init_containers.iter().flatten() {
        match find(&status.init_container_statuses, c) {
            None => unknown.push(c.name.as_str()),
            Some(s) if is_sidecar(c) && !started(s) => bad.push(c.name.as_str()),
            Some(s) if !is_sidecar(c) && !s.ready => bad.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    match lists(&unknown, &bad, "incomplete") {
        None => Value::yes(),
        message => Value::no("ContainersNotInitialized", message),
    }
}

fn containers_ready(ctx: &Context<'_>, status: &PodStatus) -> Value {
    match status.phase.as_deref() {
        Some("Succeeded") => return Value::no("PodCompleted", None),
        Some("Failed") => return Value::no("PodFailed", None),
        _ => {}
    }
    let (mut unknown, mut bad) = (Vec::new(), Vec::new());
    let sidecars = ctx
        .spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| is_sidecar(c));
    let sidecars = sidecars.map(|c| (c, find(&status.init_container_statuses, c)));
    let apps = ctx
        .spec
        .containers
        .iter()
        .map(|c| (c, find(&status.container_statuses, c)));
    for (c, found) in sidecars.chain(apps) {
        match found {
            None => unknown.push(c.name.as_str()),
            Some(s) if !s.ready => bad.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    match lists(&unknown, &bad, "unready") {
        None => Value::yes(),
        message => Value::no("ContainersNotReady", message),
    }
}

/// Readiness gates come from conditions that others write (KEP-580).
fn ready(ctx: &Context<'_>, status: &PodStatus, containers: &Value) -> Value {
    if !containers.holds {
        return Value {
            holds: false,
            reason: containers.reason,
            message: containers.message.clone(),
        };
    }
    let gates = ctx
        .spec
        .readiness_gates
        .iter()
        .flatten()
        .map(|g| g.condition_type.as_str());
    let missing: Vec<String> = gates
        .filter_map(|gate| gate_message(status, gate))
        .collect();
    if missing.is_empty() {
        Value::yes()
    } else {
        Value::no("ReadinessGatesNotReady", Some(missing.join(", ")))
    }
}

fn gate_message(status: &PodStatus, gate: &str) -> Option<String> {
    match status.conditions.iter().flatten().find(|c| c.type_ == gate) {
        None => Some(format!(
            "corresponding condition of pod readiness gate \"{gate}\" does not exist."
        )),
        Some(c) if c.status != "True" => Some(format!(
            "the status of pod readiness gate \"{gate}\" is not \"True\", but {}",
            c.status
        )),
        Some(_) => None,
    }
}
