//! ReplicaSet: as many pods of a template as wanted. Deletes the ones that are missed least.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};
use serde_json::json;

use crate::action::{Action, Target};
use crate::informer::{Change, Informer, Key};
use crate::owner::{controller, controller_key, controls, reference, selects};
use crate::pod::{active, age_of_readiness, available, child, failed_now, is_ready};
use crate::runner::{Controller, Outcome, Work};

/// Most pods made or deleted in one go; what is left follows at once.
const BURST: usize = 500;

/// The controller.
pub struct ReplicaSets {
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
}

impl ReplicaSets {
    /// Wires the controller to the caches.
    pub fn new(sets: Arc<Informer<ReplicaSet>>, pods: Arc<Informer<Pod>>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        sets.subscribe(move |c| c.states().for_each(|s| queue.add(Key::of(s))));
        let (queue, all) = (work.clone(), sets.clone());
        pods.subscribe(move |c| wake(c, &all, &queue));
        (Self { sets, pods }, work)
    }
}

/// A pod wakes its owner; one without an owner whoever may adopt it.
fn wake(change: &Change<'_, Pod>, sets: &Informer<ReplicaSet>, queue: &Work) {
    for pod in change.states() {
        match controller_key::<ReplicaSet>(pod) {
            Some(owner) => queue.add(owner),
            None if controller(pod).is_none() => {
                let all = sets.list(&pod.namespace().unwrap_or_default());
                all.iter()
                    .filter(|s| matches(s, pod))
                    .for_each(|s| queue.add(Key::of(s.as_ref())));
            }
            None => {}
        }
    }
}

fn matches(set: &ReplicaSet, pod: &Pod) -> bool {
    set.spec
        .as_ref()
        .is_some_and(|s| selects(&s.selector, pod.labels()))
}

#[async_trait]
impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(set) = self.sets.get(key) else {
            return Ok(Outcome::default());
        };
        let pods: Vec<Arc<Pod>> = self.pods.list(&key.namespace);
        Ok(plan(&set, &pods, Timestamp::now()))
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        match resource.kind.as_str() {
            "Pod" => drop(object.try_parse().map(|o| self.pods.wrote(o))),
            "ReplicaSet" => drop(object.try_parse().map(|o| self.sets.wrote(o))),
            _ => {}
        }
    }
}

/// Decides for a ReplicaSet among all pods of its namespace.
pub fn plan(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> Outcome {
    let Some(spec) = &set.spec else {
        return Outcome::default();
    };
    let min_ready = i64::from(spec.min_ready_seconds.unwrap_or(0));
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let mut actions = ownership(set, pods);
    let own: Vec<&Pod> = pods
        .iter()
        .map(Arc::as_ref)
        .filter(|p| controls(set, *p) && matches(set, p))
        .collect();
    let living: Vec<&Pod> = own.iter().copied().filter(|p| active(p)).collect();
    if set.metadata.deletion_timestamp.is_none() {
        scale(set, &living, wanted, now, &mut actions);
    }
    let status = status(set, &own, min_ready, now);
    if set.status.as_ref() != Some(&status) {
        actions.push(Action::whole_status(
            Target::of(set),
            set.status.as_ref(),
            &status,
        ));
    }
    // A pod that is ready but not yet for long enough becomes available without an event.
    let soon = living
        .iter()
        .filter(|p| is_ready(p))
        .filter_map(|p| age_of_readiness(p, now))
        .map(|age| min_ready - age);
    let again = soon
        .filter(|left| *left > 0)
        .min()
        .map(|s| Duration::from_secs(s.unsigned_abs()));
    Outcome { actions, again }
}

/// Adopts pods that nobody controls, and lets go of own ones that the selector takes no more.
fn ownership(set: &ReplicaSet, pods: &[Arc<Pod>]) -> Vec<Action> {
    let mut actions = Vec::new();
    for pod in pods
        .iter()
        .filter(|p| p.metadata.deletion_timestamp.is_none())
    {
        let owners = |list: Vec<_>| json!({"metadata": {"ownerReferences": list}});
        if controls(set, pod.as_ref()) && !matches(set, pod) {
            let others = pod
                .owner_references()
                .iter()
                .filter(|r| Some(&r.uid) != set.metadata.uid.as_ref())
                .cloned()
                .collect();
            actions.push(Action::patch(
                Target::of(pod.as_ref()).unchanged(pod.as_ref()),
                owners(others),
            ));
        } else if controller(pod.as_ref()).is_none()
            && matches(set, pod)
            && active(pod)
            && set.metadata.deletion_timestamp.is_none()
        {
            let all = pod
                .owner_references()
                .iter()
                .cloned()
                .chain([reference(set)])
                .collect();
            actions.push(Action::patch(
                Target::of(pod.as_ref()).unchanged(pod.as_ref()),
                owners(all),
            ));
        }
    }
    actions
}

fn scale(
    set: &ReplicaSet,
    living: &[&Pod],
    wanted: usize,
    now: Timestamp,
    actions: &mut Vec<Action>,
) {
    let event = |reason, message| Action::Event {
        about: Target::of(set),
        kind: "Normal",
        reason,
        message,
    };
    if living.len() < wanted {
        let template = set.spec.as_ref().and_then(|s| s.template.as_ref());
        for _ in 0..(wanted - living.len()).min(BURST) {
            actions.push(Action::create_told(&child(set, template), Target::of(set)));
        }
    } else {
        let mut order = living.to_vec();
        order.sort_by_cached_key(|p| rank(p, living, now));
        for pod in order.iter().take((living.len() - wanted).min(BURST)) {
            actions.push(Action::delete(Target::of(*pod)));
            actions.push(event(
                "SuccessfulDelete",
                format!("Deleted pod: {}", pod.name_any()),
            ));
        }
    }
}

/// Smallest first to go: not assigned, pending, not ready, cheaper to delete, doubled up on its node, ready for
/// a shorter time, restarted more often, younger.
fn rank(pod: &Pod, living: &[&Pod], now: Timestamp) -> impl Ord + use<> {
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
    let phase = pod
        .status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .unwrap_or("Pending");
    let running = match phase {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost: i32 = pod
        .annotations()
        .get("controller.kubernetes.io/pod-deletion-cost")
        .and_then(|c| c.parse().ok())
        .unwrap_or(0);
    let together = living
        .iter()
        .filter(|o| {
            is_ready(o) && o.spec.as_ref().and_then(|s| s.node_name.as_ref()) == node.as_ref()
        })
        .count();
    let restarts = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let restarts = restarts
        .into_iter()
        .flatten()
        .map(|c| c.restart_count)
        .max()
        .unwrap_or(0);
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (
        node.is_some(),
        running,
        is_ready(pod),
        cost,
        Reverse(together),
        age_of_readiness(pod, now).unwrap_or(0),
        Reverse(restarts),
        Reverse(created),
        pod.name_any(),
    )
}

fn status(set: &ReplicaSet, own: &[&Pod], min_ready: i64, now: Timestamp) -> ReplicaSetStatus {
    let template = set
        .spec
        .as_ref()
        .and_then(|s| s.template.as_ref())
        .and_then(|t| t.metadata.as_ref());
    let labels = template.and_then(|m| m.labels.clone()).unwrap_or_default();
    let living: Vec<_> = own.iter().filter(|p| active(p)).collect();
    let count = |f: &dyn Fn(&Pod) -> bool| {
        i32::try_from(living.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX)
    };
    let going = own
        .iter()
        .filter(|p| p.metadata.deletion_timestamp.is_some() && !failed_now(p))
        .count();
    let old = set.status.as_ref();
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&|p| {
            labels.iter().all(|(k, v)| p.labels().get(k) == Some(v))
        }))
        .filter(|n| *n > 0),
        ready_replicas: Some(count(&is_ready)).filter(|n| *n > 0),
        available_replicas: Some(count(&|p| available(p, min_ready, now))).filter(|n| *n > 0),
        terminating_replicas: Some(i32::try_from(going).unwrap_or(i32::MAX)),
        observed_generation: set.metadata.generation,
        conditions: old.and_then(|s| s.conditions.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value};

    fn set(replicas: i32) -> ReplicaSet {
        from_value(json!({"metadata": {"name": "web", "namespace": "d", "uid": "u1", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})).expect("set")
    }

    fn pod(name: &str, change: impl Fn(&mut Value)) -> Arc<Pod> {
        let mut v = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}, "resourceVersion": "1",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u1", "controller": true}]},
            "spec": {"containers": [], "nodeName": "n"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        change(&mut v);
        Arc::new(from_value(v).expect("pod"))
    }

    fn now() -> Timestamp {
        "2026-01-02T00:00:00Z".parse().expect("time")
    }

    fn verbs(outcome: &Outcome) -> Vec<String> {
        let verb = |a: &Action| match a {
            Action::Create { .. } => Some("create".to_owned()),
            Action::Delete { target, .. } => Some(format!("delete {}", target.key.name)),
            Action::Patch {
                target,
                subresource: None,
                ..
            } => Some(format!("patch {}", target.key.name)),
            _ => None,
        };
        outcome.actions.iter().filter_map(verb).collect()
    }

    #[test]
    fn as_many_as_wanted_and_the_least_missed_go_first() {
        type Change = fn(&mut Value);
        let whole: Change = |_| ();
        let pending: Change = |v| v["status"] = json!({"phase": "Pending"});
        let unassigned: Change = |v| v["spec"]["nodeName"] = json!(null);
        let cheap: Change = |v| {
            v["metadata"]["annotations"] =
                json!({"controller.kubernetes.io/pod-deletion-cost": "-5"})
        };
        let younger: Change =
            |v| v["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T12:00:00Z");
        let going: Change = |v| v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let failed: Change = |v| v["status"]["phase"] = json!("Failed");
        let foreign: Change = |v| v["metadata"]["ownerReferences"][0]["uid"] = json!("u2");
        let orphan: Change = |v| v["metadata"]["ownerReferences"] = json!([]);
        let relabelled: Change = |v| v["metadata"]["labels"] = json!({"app": "other"});
        let cases: &[(&str, i32, &[Change], &[&str])] = &[
            ("makes what lacks", 2, &[], &["create", "create"]),
            ("content", 2, &[whole, whole], &[]),
            (
                "one too many: pending goes",
                1,
                &[whole, pending],
                &["delete p1"],
            ),
            (
                "not assigned before pending",
                1,
                &[pending, unassigned],
                &["delete p1"],
            ),
            ("cheap one goes", 1, &[whole, cheap], &["delete p1"]),
            (
                "ready for a shorter time goes",
                1,
                &[whole, younger],
                &["delete p1"],
            ),
            (
                "one being deleted does not count",
                2,
                &[whole, going],
                &["create"],
            ),
            ("a failed one does not count", 1, &[failed], &["create"]),
            ("another's does not count", 1, &[foreign], &["create"]),
            ("an orphan is adopted", 0, &[orphan], &["patch p0"]),
            (
                "a relabelled one is let go",
                1,
                &[relabelled],
                &["patch p0", "create"],
            ),
        ];
        for (name, replicas, changes, want) in cases {
            let pods: Vec<_> = changes
                .iter()
                .enumerate()
                .map(|(i, c)| pod(&format!("p{i}"), c))
                .collect();
            assert_eq!(verbs(&plan(&set(*replicas), &pods, now())), *want, "{name}");
        }
    }

    #[test]
    fn status_counts_and_availability_waits() {
        let mut s = set(2);
        if let Some(spec) = s.spec.as_mut() {
            spec.min_ready_seconds = Some(60);
        }
        let fresh = pod("b", |v| {
            v["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T23:59:30Z")
        });
        let outcome = plan(&s, &[pod("a", |_| ()), fresh], now());
        let Some(Action::Patch {
            patch,
            subresource: Some("status"),
            ..
        }) = outcome.actions.last()
        else {
            panic!("{outcome:?}")
        };
        assert_eq!(patch["status"]["readyReplicas"], 2);
        assert_eq!(patch["status"]["availableReplicas"], 1);
        assert_eq!(outcome.again, Some(Duration::from_secs(30)));
    }
}
