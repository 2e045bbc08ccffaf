//! The plan of a Deployment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::rollout::{self, Bounds, Scale};
use super::status::{self, Picture};
use super::template::{self, HASH, REVISION};
use crate::action::{Action, Target};
use crate::owner::{controller, controls, is_empty, reference};
use crate::runner::Outcome;

/// Decides for a Deployment among all ReplicaSets of its namespace; `running` counts the pods of its own sets.
pub fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    running: usize,
    now: Timestamp,
) -> Outcome {
    let Some(spec) = &deployment.spec else {
        return Outcome::default();
    };
    if is_empty(&spec.selector) {
        return vec![Action::Event {
            about: Target::of(deployment),
            kind: "Warning",
            reason: "SelectingAll",
            message: "This deployment is selecting all pods. A non-empty selector is required."
                .into(),
        }]
        .into();
    }
    let adopted = adopt(deployment, sets);
    let own: Vec<&ReplicaSet> = sets
        .iter()
        .map(Arc::as_ref)
        .filter(|s| controls(deployment, *s))
        .collect();
    let mut new = template::find_new(deployment, &own);
    let mut old: Vec<&ReplicaSet> = own
        .iter()
        .copied()
        .filter(|s| new.is_none_or(|n| n.uid() != s.uid()))
        .collect();
    old.sort_by_key(|s| template::revision(s.annotations()));
    let mut actions = adopted;
    if deployment.metadata.deletion_timestamp.is_none() {
        let paused = spec.paused == Some(true);
        let bounds = Bounds::of(spec);
        let number = old
            .iter()
            .map(|s| template::revision(s.annotations()))
            .max()
            .unwrap_or(0)
            + 1;
        let number = match new {
            Some(new) if paused => template::revision(new.annotations()),
            _ => number,
        };
        let (number, numbered) = number_set(deployment, new, number);
        if new.is_none() && !paused && rollout::may_create(spec, &old, running) {
            return create(deployment, spec, &old, number, &bounds, actions, now);
        }
        // A ReplicaSet that is numbered anew comes back as another version: its size is decided then.
        if numbered.is_none() {
            for scale in rollout::decide(deployment, spec, &mut new, &old, running, &bounds) {
                actions.extend(scaled(deployment, &scale, &bounds));
            }
        }
        actions.extend(numbered);
        if new.is_some() {
            actions.extend(number_deployment(deployment, number));
        }
        if status::complete(deployment, new, &old) {
            actions.extend(clean_up(spec, &old));
        }
    }
    finish(deployment, new, &old, None, actions, now)
}

/// Takes ReplicaSets that nobody controls and the selector takes.
fn adopt(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Vec<Action> {
    let orphans = sets.iter().filter(|s| {
        controller(s.as_ref()).is_none()
            && super::matches(deployment, s)
            && s.metadata.deletion_timestamp.is_none()
    });
    let adopt = orphans
        .filter(|_| deployment.metadata.deletion_timestamp.is_none())
        .map(|s| {
            let all: Vec<_> = s
                .owner_references()
                .iter()
                .cloned()
                .chain([reference(deployment)])
                .collect();
            Action::patch(
                Target::of(s.as_ref()).unchanged(s.as_ref()),
                json!({"metadata": {"ownerReferences": all}}),
            )
        });
    adopt.collect()
}

/// The number that the new ReplicaSet has, and what puts it and the copied annotations there.
fn number_set(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    number: u64,
) -> (u64, Option<Action>) {
    let Some(new) = new else {
        return (number, None);
    };
    let number = number.max(template::revision(new.annotations()));
    let want = template::annotations(deployment, Some(new), number);
    let differing = differing(new.annotations(), &want);
    let patch = json!({"metadata": {"annotations": differing}});
    let action = (!differing.is_empty()).then(|| Action::patch(Target::of(new), patch));
    (number, action)
}

fn number_deployment(deployment: &Deployment, number: u64) -> Option<Action> {
    let is = template::revision(deployment.annotations());
    (is != number).then(|| {
        Action::patch(
            Target::of(deployment),
            json!({"metadata": {"annotations": {REVISION: number.to_string()}}}),
        )
    })
}

fn differing(have: &BTreeMap<String, String>, want: &BTreeMap<String, String>) -> Value {
    let all = want
        .iter()
        .filter(|(k, v)| have.get(*k) != Some(v))
        .map(|(k, v)| (k.clone(), json!(v)));
    Value::Object(all.collect())
}

impl IsEmpty for Value {
    fn is_empty(&self) -> bool {
        self.as_object().is_none_or(serde_json::Map::is_empty)
    }
}

trait IsEmpty {
    fn is_empty(&self) -> bool;
}

fn create(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    old: &[&ReplicaSet],
    number: u64,
    bounds: &Bounds,
    mut actions: Vec<Action>,
    now: Timestamp,
) -> Outcome {
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|s| s.collision_count)
        .unwrap_or(0);
    let hash = template::hash(&spec.template, collisions);
    let name = format!("{}-{hash}", deployment.name_any());
    let replicas = rollout::first_size(spec, old, bounds);
    let mut pods = spec.template.clone();
    pods.metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default()
        .insert(HASH.into(), hash.clone());
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH.into(), hash);
    let mut annotations = template::annotations(deployment, None, number);
    annotations.extend(template::sizes(bounds.replicas, bounds.most()));
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: deployment.namespace(),
            labels: pods.metadata.as_ref().and_then(|m| m.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(pods),
        }),
        status: None,
    };
    actions.push(Action::create(&set));
    actions.extend(number_deployment(deployment, number));
    if replicas > 0 {
        actions.push(event(
            deployment,
            format!("Scaled up replica set {name} from 0 to {replicas}"),
        ));
    }
    finish(deployment, None, old, Some(&name), actions, now)
}

fn event(deployment: &Deployment, message: String) -> Action {
    Action::Event {
        about: Target::of(deployment),
        kind: "Normal",
        reason: "ScalingReplicaSet",
        message,
    }
}

fn scaled(deployment: &Deployment, scale: &Scale<'_>, bounds: &Bounds) -> Vec<Action> {
    let is = rollout::size(scale.set);
    let noted = BTreeMap::from(template::sizes(bounds.replicas, bounds.most()));
    let mut patch = json!({"metadata": {"annotations": noted}});
    if is == scale.to {
        // A note about a size that is not the set's any more would end the scaling half done.
        let target = Target::of(scale.set).unchanged(scale.set);
        return vec![Action::patch(target, patch)];
    }
    patch["spec"] = json!({"replicas": scale.to});
    let way = if scale.to > is { "up" } else { "down" };
    let message = format!(
        "Scaled {way} replica set {} from {is} to {}",
        scale.set.name_any(),
        scale.to
    );
    vec![
        Action::patch(Target::of(scale.set).unchanged(scale.set), patch),
        event(deployment, message),
    ]
}

/// Old, empty ReplicaSets beyond the history that is kept, oldest first.
fn clean_up(spec: &DeploymentSpec, old: &[&ReplicaSet]) -> Vec<Action> {
    let keep = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(usize::MAX);
    let empty = old.iter().filter(|s| {
        let status = s.status.as_ref();
        let seen = status.and_then(|s| s.observed_generation) >= s.metadata.generation;
        rollout::size(s) == 0
            && status.is_some_and(|s| s.replicas == 0)
            && seen
            && s.metadata.deletion_timestamp.is_none()
    });
    let beyond = old.len().saturating_sub(keep);
    empty
        .take(beyond)
        .map(|s| Action::delete(Target::of(*s)))
        .collect()
}

fn finish(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    created: Option<&str>,
    mut actions: Vec<Action>,
    now: Timestamp,
) -> Outcome {
    let picture = Picture { new, old, created };
    let (status, again) = status::status(deployment, &picture, now);
    if deployment.status.as_ref() != Some(&status) {
        actions.push(Action::whole_status(
            Target::of(deployment),
            deployment.status.as_ref(),
            &status,
        ));
    }
    Outcome {
        actions,
        again: again.map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests;
