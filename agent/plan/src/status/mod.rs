//! The pod's status as the API shows it. Phases, conditions, reasons and their texts are upstream's
//! (pod lifecycle, "Pod conditions", KEP-3085 for `PodReadyToStartContainers`).

mod conditions;
mod containers;
mod phase;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::event::{self, Event};
use crate::lifecycle::{self, Context, Final, Goal};
use crate::names;
use crate::resize;
use crate::resources;

pub use conditions::OURS as CONDITIONS;
pub(crate) use conditions::is_disrupted;
pub use phase::is_final;
pub(crate) use phase::wanted as wanted_phase;

/// The status of a pod.
pub(crate) fn compute(ctx: &Context<'_>, goal: Goal) -> PodStatus {
    let before = &ctx.observed.status;
    let mut status = PodStatus::clone(before);
    status.observed_generation = ctx.pod.metadata.generation;
    status.qos_class = Some(resources::qos(ctx.spec).to_string());
    status.start_time = before.start_time.clone().or_else(|| Some(time(ctx.now)));
    addresses(ctx, &mut status);
    // A pod that was refused at the door never had containers.
    let refused = is_final(before.phase.as_deref()) && before.container_statuses.is_none();
    if !refused {
        let [init, apps, ephemeral] = containers::statuses(ctx, goal);
        status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
        status.init_container_statuses = (!init.is_empty()).then_some(init);
        status.container_statuses = Some(apps);
    }
    let phase = phase::reported(ctx, goal, &status);
    status.phase = Some(phase.into());
    let ended = is_final(before.phase.as_deref());
    match (goal, lifecycle::eviction(ctx).filter(|_| !ended)) {
        // Said before it is over: an agent that starts meanwhile goes on with it.
        (_, Some(e)) => {
            status.reason = Some(e.reason.into());
            status.message = Some(e.message);
        }
        (Goal::Finish(Final::Deadline), None) => {
            status.reason = Some("DeadlineExceeded".into());
            status.message = Some(event::DEADLINE_MESSAGE.into());
        }
        // A pod that ran too long has failed, whoever ends it then.
        _ if before.reason.as_deref() == Some("DeadlineExceeded") => {}
        _ if !ended => (status.reason, status.message) = (None, None),
        _ => {}
    }
    conditions::update(ctx, &mut status, refused);
    status
}

/// Whether the API says something of a pod that only its node can know, while the node was away: that it is not ready
/// as its node was lost.
pub fn is_disowned(api: &PodStatus, own: &PodStatus) -> bool {
    let ready = |s: &PodStatus| {
        let all = s.conditions.iter().flatten();
        all.into_iter().find(|c| c.type_ == "Ready").cloned()
    };
    let lost = ready(api).filter(|c| c.reason.as_deref() == Some("NodeLost"));
    lost.is_some() && lost != ready(own)
}

fn addresses(ctx: &Context<'_>, status: &mut PodStatus) {
    let hosts: Vec<String> = ctx
        .observed
        .host_ips
        .iter()
        .map(ToString::to_string)
        .collect();
    if let Some(first) = hosts.first() {
        status.host_ip = Some(first.clone());
        status.host_ips = Some(hosts.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    }
    let Some(sandbox) = ctx.observed.sandbox.ready() else {
        return;
    };
    let ips: Vec<String> = sandbox.ips.iter().map(ToString::to_string).collect();
    status.pod_ip = ips.first().cloned();
    status.pod_ips =
        (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect());
}

/// Back-offs that have begun since the last status: people are told once each time.
pub(crate) fn transitions(ctx: &Context<'_>, status: &PodStatus) -> Vec<Event> {
    let old = names::waiting_reasons(&ctx.observed.status);
    let spec_image = |name: &str| {
        let all = ctx
            .spec
            .init_containers
            .iter()
            .flatten()
            .chain(&ctx.spec.containers);
        all.filter(|c| c.name == name)
            .find_map(|c| c.image.clone())
            .unwrap_or_default()
    };
    let pod = names::pod_ref(ctx.pod);
    let mut events = resize_events(ctx, status);
    for (name, reason) in names::waiting_reasons(status) {
        if old.contains(&(name, reason)) {
            continue;
        }
        match reason {
            "CrashLoopBackOff" => events.push(event::restart_backoff(name, &pod)),
            "ImagePullBackOff" => {
                events.push(event::pull_backoff(name, &spec_image(name)));
                events.push(event::failed(name, "ImagePullBackOff"));
            }
            _ => {}
        }
    }
    events
}

fn resize_events(ctx: &Context<'_>, status: &PodStatus) -> Vec<Event> {
    let find = |status: &PodStatus, kind: &str| {
        let all = status.conditions.iter().flatten();
        all.into_iter()
            .find(|c| c.type_ == kind)
            .map(|c| (c.reason.clone(), c.message.clone()))
    };
    let tell = |step: &str, error: Option<&String>| {
        let error = error.map(String::as_str).unwrap_or_default();
        let details = resize::details(ctx.spec, ctx.pod.metadata.generation, error);
        event::resize(step, &details)
    };
    let [pending, progress] = [conditions::PENDING, conditions::IN_PROGRESS]
        .map(|kind| (find(&ctx.observed.status, kind), find(status, kind)));
    let mut events = Vec::new();
    if let (before, Some((reason, message))) = &pending
        && before.as_ref().map(|b| &b.0) != Some(reason)
    {
        events.push(tell(
            reason.as_deref().unwrap_or_default(),
            message.as_ref(),
        ));
    }
    match &progress {
        (None, Some((None, _))) => events.push(tell("Started", None)),
        (before, Some((Some(_), message))) if before != &progress.1 => {
            events.push(tell("Error", message.as_ref()));
        }
        (Some(_), None) if !is_final(status.phase.as_deref()) => {
            events.push(tell("Completed", None));
        }
        _ => {}
    }
    events
}

/// The API keeps whole seconds; more would make every status differ from the one read back.
pub(crate) fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
