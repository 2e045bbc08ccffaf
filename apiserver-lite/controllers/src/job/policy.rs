//! What a failed pod means (`podFailurePolicy`), and which successes are enough (`successPolicy`).

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::indexes::{self, Indexes};

/// What a failed pod means for its Job.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Judgement {
    /// One more failure.
    Count,
    /// Nothing.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed, and why.
    FailJob(String),
}

/// Judges a pod that is being deleted or has failed. Only those that ended are held against the rules.
pub(super) fn judge(spec: &JobSpec, pod: &Pod) -> Judgement {
    let rules = spec.pod_failure_policy.iter().flat_map(|p| &p.rules);
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if phase != Some("Failed") {
        return Judgement::Count;
    }
    for (at, rule) in rules.enumerate() {
        let Some(why) = matching(rule, pod) else {
            continue;
        };
        return match rule.action.as_str() {
            "FailJob" => Judgement::FailJob(format!("{why} matching FailJob rule at index {at}")),
            "FailIndex" => Judgement::FailIndex,
            "Ignore" => Judgement::Ignore,
            _ => Judgement::Count,
        };
    }
    Judgement::Count
}

fn matching(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = exit_code(codes, pod)?;
        return Some(format!(
            "Container {container} for pod {name} failed with exit code {code}"
        ));
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let patterns = rule.on_pod_conditions.iter().flatten();
    let mut met = patterns.filter_map(|p| {
        let status = p.status.as_deref().unwrap_or("True");
        let held = conditions
            .iter()
            .any(|c| c.type_ == p.type_ && c.status == status);
        held.then(|| format!("Pod {name} has condition {}", p.type_))
    });
    met.next()
}

/// The container whose exit code a rule means. A container that ended well is never meant.
fn exit_code<'a>(
    rule: &PodFailurePolicyOnExitCodesRequirement,
    pod: &'a Pod,
) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten();
    let all = all.chain(status.init_container_statuses.iter().flatten());
    let mut meant = all
        .filter(|c| rule.container_name.as_ref().is_none_or(|n| *n == c.name))
        .filter_map(|c| {
            let code = c.state.as_ref()?.terminated.as_ref()?.exit_code;
            let among = rule.values.contains(&code);
            let hit = if rule.operator == "NotIn" {
                !among
            } else {
                among
            };
            (code != 0 && hit).then_some((c.name.as_str(), code))
        });
    meant.next()
}

/// Which rule of the success policy is met.
pub(super) fn enough(spec: &JobSpec, completed: &Indexes) -> Option<usize> {
    let rules = &spec.success_policy.as_ref()?.rules;
    let completions = spec.completions.unwrap_or(0);
    rules.iter().position(|rule| {
        let named = rule.succeeded_indexes.as_ref();
        let named = named.map(|text| indexes::parse(text, completions));
        let done = match &named {
            Some(named) => named.intersection(completed).count(),
            None => completed.len(),
        };
        let wanted = rule.succeeded_count.and_then(|n| usize::try_from(n).ok());
        let wanted = wanted.or(named.map(|n| n.len()));
        wanted.is_some_and(|wanted| done >= wanted)
    })
}
