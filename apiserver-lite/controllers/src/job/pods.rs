//! Pods of a Job: how they are made, how long the next one waits, which ones nobody counts any more.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::ResourceExt;

use super::{FINALIZER, NAME_LABEL, indexes, is_held, takes};
use crate::action::Action;
use crate::claim::release;
use crate::informer::Key;
use crate::owner::{controller, controller_key};
use crate::pod::child;

/// Delay after the first failure, and the longest, in seconds.
const BACK_OFF: (i64, i64) = (10, 600);
const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";

pub(super) fn has_succeeded(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded")
}

pub(super) fn has_failed(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed")
}

/// A new pod; `index`: of an indexed Job, with the failures of that index so far where they matter.
pub(super) fn make(job: &Job, index: Option<(i32, Option<i32>)>) -> Pod {
    let mut pod = child(job, job.spec.as_ref().map(|s| &s.template));
    let meta = &mut pod.metadata;
    let finalizers = meta.finalizers.get_or_insert_default();
    finalizers.push(FINALIZER.into());
    let Some((index, failures)) = index else {
        return pod;
    };
    let name = format!("{}-{index}", job.name_any());
    meta.generate_name = Some(format!("{name}-"));
    let labels = meta.labels.get_or_insert_default();
    labels.insert(indexes::INDEX.into(), index.to_string());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(indexes::INDEX.into(), index.to_string());
    if let Some(failures) = failures {
        annotations.insert(indexes::FAILURES.into(), failures.to_string());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    let all = spec.init_containers.iter_mut().flatten();
    all.chain(&mut spec.containers).for_each(tell_index);
    pod
}

fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|e| e.name == INDEX_ENV) {
        return;
    }
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{}']", indexes::INDEX),
        ..ObjectFieldSelector::default()
    };
    env.push(EnvVar {
        name: INDEX_ENV.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(field),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}

/// For how many seconds no new pod may be made: 10 after a failure, twice as many after each further one, until one
/// succeeds.
pub(super) fn delay<'a>(pods: impl Iterator<Item = &'a Pod>, now: Timestamp) -> Option<i64> {
    let (mut succeeded, mut failed) = (None, Vec::new());
    for pod in pods {
        if has_succeeded(pod) {
            succeeded = succeeded.max(end(pod));
        } else if has_failed(pod) {
            failed.extend(end(pod));
        }
    }
    failed.retain(|at| Some(*at) > succeeded);
    let last = failed.iter().max()?;
    let doublings = u32::try_from(failed.len() - 1).unwrap_or(u32::MAX).min(16);
    let wait = (BACK_OFF.0 << doublings).min(BACK_OFF.1);
    let left = last.as_second() + wait - now.as_second();
    (left > 0).then_some(left)
}

/// When a pod ended, as well as can be known.
fn end(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref();
    let containers = status.and_then(|s| s.container_statuses.as_ref());
    let ended = containers.into_iter().flatten().filter_map(|c| {
        let terminated = c.state.as_ref()?.terminated.as_ref()?;
        terminated.finished_at.as_ref().map(|t| t.0)
    });
    let meta = &pod.metadata;
    let deleted = meta.deletion_timestamp.as_ref().map(|t| t.0);
    let created = meta.creation_timestamp.as_ref().map(|t| t.0);
    ended.max().or(deleted).or(created)
}

/// Lets pods go whose Job is gone: they wait to be counted in vain.
pub(super) fn abandoned(key: &Key, job: Option<&Job>, pods: &[Arc<Pod>]) -> Vec<Action> {
    let uid = job.and_then(|j| j.metadata.uid.as_ref());
    let lost = pods
        .iter()
        .filter(|p| is_held(p))
        .filter(|p| match controller(p.as_ref()) {
            Some(owner) => {
                controller_key::<Job>(p.as_ref()).as_ref() == Some(key) && Some(&owner.uid) != uid
            }
            None => {
                p.labels().get(NAME_LABEL) == Some(&key.name) && !job.is_some_and(|j| takes(j, p))
            }
        });
    lost.map(|p| release(p, FINALIZER)).collect()
}
