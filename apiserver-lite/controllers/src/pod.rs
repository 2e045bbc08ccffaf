//! What controllers ask of pods.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use crate::owner::reference;

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// Ended, well or not.
pub fn failed_now(pod: &Pod) -> bool {
    matches!(phase(pod), Some("Failed" | "Succeeded"))
}

/// Neither ended nor about to be deleted.
pub fn active(pod: &Pod) -> bool {
    !failed_now(pod) && pod.metadata.deletion_timestamp.is_none()
}

fn ready(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether the pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    ready(pod).is_some()
}

/// For how many seconds the pod has been ready.
pub fn age_of_readiness(pod: &Pod, now: Timestamp) -> Option<i64> {
    let since = ready(pod)?.last_transition_time.as_ref()?.0;
    Some(now.as_second() - since.as_second())
}

/// Ready for at least so many seconds.
pub fn available(pod: &Pod, min_ready_seconds: i64, now: Timestamp) -> bool {
    is_ready(pod)
        && (min_ready_seconds == 0
            || age_of_readiness(pod, now).is_some_and(|age| age >= min_ready_seconds))
}

/// A pod that ended at once, as a node refused it, is not made anew sooner than so many seconds after it was made.
const RETRY: i64 = 5;

/// For how many seconds an ended pod is left alone before it is made anew.
pub fn retry_in(pod: &Pod, now: Timestamp) -> Option<i64> {
    let made = pod.creation_timestamp().map_or(now, |t| t.0);
    let left = made.as_second() + RETRY - now.as_second();
    (left > 0).then_some(left)
}

/// A pod of a template, controlled by `owner`, to be named by the server.
pub fn child<P: Resource<DynamicType = ()>>(owner: &P, template: Option<&PodTemplateSpec>) -> Pod {
    let meta = template
        .and_then(|t| t.metadata.clone())
        .unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name_any())),
            namespace: owner.namespace(),
            owner_references: Some(vec![reference(owner)]),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            ..ObjectMeta::default()
        },
        spec: template.and_then(|t| t.spec.clone()),
        status: None,
    }
}
