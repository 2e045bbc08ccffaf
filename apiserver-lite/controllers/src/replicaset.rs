//! ReplicaSet and ReplicationController: as many pods of a template as wanted. Deletes the ones that are missed least.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::action::{Action, Target};
use crate::claim::{self, claim};
use crate::informer::{Informer, Key};
use crate::owner::{controls, selects};
use crate::pod::{active, age_of_readiness, available, child, failed_now, is_ready};
use crate::runner::{Controller, Outcome, Work};

/// Most pods made or deleted in one go; what is left follows at once.
const BURST: usize = 500;

/// What both kinds say.
pub struct Wish<'a> {
    replicas: i32,
    min_ready: i64,
    template: Option<&'a PodTemplateSpec>,
    status: Option<ReplicaSetStatus>,
}

/// A kind that wants so many pods of a template.
pub trait Replicated:
    Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + Sync + 'static
{
    /// The controller's name.
    const CONTROLLER: &'static str;

    /// What it says; `None` without a spec.
    fn wish(&self) -> Option<Wish<'_>>;

    /// Whether its selector names a pod.
    fn takes(&self, pod: &Pod) -> bool;
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";

    fn wish(&self) -> Option<Wish<'_>> {
        let spec = self.spec.as_ref()?;
        Some(Wish {
            replicas: spec.replicas.unwrap_or(1),
            min_ready: spec.min_ready_seconds.unwrap_or(0).into(),
            template: spec.template.as_ref(),
            status: self.status.clone(),
        })
    }

    fn takes(&self, pod: &Pod) -> bool {
        let spec = self.spec.as_ref();
        spec.is_some_and(|s| selects(&s.selector, pod.labels()))
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = "replication-controller";

    fn wish(&self) -> Option<Wish<'_>> {
        let spec = self.spec.as_ref()?;
        // The two statuses have the same fields.
        let status = self.status.as_ref();
        let status =
            status.and_then(|s| serde_json::from_value(serde_json::to_value(s).ok()?).ok());
        Some(Wish {
            replicas: spec.replicas.unwrap_or(1),
            min_ready: spec.min_ready_seconds.unwrap_or(0).into(),
            template: spec.template.as_ref(),
            status,
        })
    }

    fn takes(&self, pod: &Pod) -> bool {
        let selector = self.spec.as_ref().and_then(|s| s.selector.as_ref());
        let selector = selector.filter(|s| !s.is_empty());
        selector.is_some_and(|s| s.iter().all(|(k, v)| pod.labels().get(k) == Some(v)))
    }
}

/// The controller of one of the kinds.
pub struct Replicas<S> {
    sets: Arc<Informer<S>>,
    pods: Arc<Informer<Pod>>,
    /// Why the API refused a pod, by the set that wanted it.
    refused: Mutex<HashMap<Key, String>>,
    work: Work,
}

impl<S: Replicated> Replicas<S> {
    /// Wires the controller to the caches.
    pub fn new(sets: Arc<Informer<S>>, pods: Arc<Informer<Pod>>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        sets.subscribe(move |c| c.states().for_each(|s| queue.add(Key::of(s))));
        let (queue, all) = (work.clone(), sets.clone());
        pods.subscribe(move |c| claim::wake(c, &all, S::takes, &queue));
        let it = Self {
            sets,
            pods,
            refused: Mutex::default(),
            work: work.clone(),
        };
        (it, work)
    }
}

#[async_trait]
impl<S: Replicated> Controller for Replicas<S> {
    fn name(&self) -> &'static str {
        S::CONTROLLER
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(set) = self.sets.get(key) else {
            return Ok(Outcome::default());
        };
        let pods: Vec<Arc<Pod>> = self.pods.list(&key.namespace);
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = refused.get(key).cloned();
        Ok(plan(set.as_ref(), &pods, refused, Timestamp::now()))
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        if resource.kind == "Pod" {
            drop(object.try_parse().map(|o| self.pods.wrote(o)));
        } else if resource.kind == S::kind(&()) {
            drop(object.try_parse().map(|o| self.sets.wrote(o)));
        }
    }

    fn refused(&self, key: &Key, why: Option<&str>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(refused.insert(key.clone(), why.to_owned())),
            // The condition goes with it.
            None if refused.remove(key).is_some() => self.work.add(key.clone()),
            None => {}
        }
    }
}

/// Decides for a set among all pods of its namespace; `refused` says why the API took no pod last time.
pub fn plan<S: Replicated>(
    set: &S,
    pods: &[Arc<Pod>],
    refused: Option<String>,
    now: Timestamp,
) -> Outcome {
    let Some(wish) = set.wish() else {
        return Outcome::default();
    };
    let min_ready = wish.min_ready;
    let mut actions = claim(set, pods, &|p| set.takes(p), &active, None);
    let own: Vec<&Pod> = pods
        .iter()
        .map(Arc::as_ref)
        .filter(|p| controls(set, *p) && set.takes(p))
        .collect();
    let living: Vec<&Pod> = own.iter().copied().filter(|p| active(p)).collect();
    let stays = set.meta().deletion_timestamp.is_none();
    let scaling = if stays {
        scale(set, &wish, &living, now)
    } else {
        Vec::new()
    };
    let mut status = status(set, &wish, &own, now);
    status.conditions = conditions(&wish, refused.as_deref(), living.len(), now);
    // A refusal is told before the API is tried again.
    if wish.status.as_ref() != Some(&status) {
        let target = Target::of(set);
        actions.push(Action::whole_status(target, wish.status.as_ref(), &status));
    }
    actions.extend(scaling);
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

/// `ReplicaFailure` while the API refuses what is wanted. Its text is kept while the reason is the same.
fn conditions(
    wish: &Wish<'_>,
    refused: Option<&str>,
    living: usize,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    const FAILURE: &str = "ReplicaFailure";
    let old = wish.status.as_ref().and_then(|s| s.conditions.clone());
    let lacks = i64::try_from(living).unwrap_or(i64::MAX) < i64::from(wish.replicas);
    let mut all = old.unwrap_or_default();
    match refused.filter(|_| lacks) {
        None => all.retain(|c| c.type_ != FAILURE),
        Some(_) if all.iter().any(|c| c.type_ == FAILURE) => {}
        Some(why) => all.push(ReplicaSetCondition {
            type_: FAILURE.into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(why.to_owned()),
            last_transition_time: Some(Time(now)),
        }),
    }
    Some(all).filter(|a| !a.is_empty())
}

fn scale<S: Replicated>(set: &S, wish: &Wish<'_>, living: &[&Pod], now: Timestamp) -> Vec<Action> {
    let wanted = usize::try_from(wish.replicas).unwrap_or(0);
    let mut actions = Vec::new();
    let event = |reason, message| Action::Event {
        about: Target::of(set),
        kind: "Normal",
        reason,
        message,
    };
    if living.len() < wanted {
        for _ in 0..(wanted - living.len()).min(BURST) {
            actions.push(Action::create_told(
                &child(set, wish.template),
                Target::of(set),
            ));
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
    actions
}

/// Smallest first to go: not assigned, pending, not ready, cheaper to delete, doubled up on its node, ready for
/// a shorter time, restarted more often, younger.
pub(crate) fn rank(pod: &Pod, living: &[&Pod], now: Timestamp) -> impl Ord + use<> {
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

fn status<S: Replicated>(
    set: &S,
    wish: &Wish<'_>,
    own: &[&Pod],
    now: Timestamp,
) -> ReplicaSetStatus {
    let template = wish.template.and_then(|t| t.metadata.as_ref());
    let labels = template.and_then(|m| m.labels.clone()).unwrap_or_default();
    let living: Vec<_> = own.iter().filter(|p| active(p)).collect();
    let count = |f: &dyn Fn(&Pod) -> bool| {
        i32::try_from(living.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX)
    };
    let going = own
        .iter()
        .filter(|p| p.metadata.deletion_timestamp.is_some() && !failed_now(p))
        .count();
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&|p| {
            labels.iter().all(|(k, v)| p.labels().get(k) == Some(v))
        }))
        .filter(|n| *n > 0),
        ready_replicas: Some(count(&is_ready)).filter(|n| *n > 0),
        available_replicas: Some(count(&|p| available(p, wish.min_ready, now))).filter(|n| *n > 0),
        // ReplicationControllers do not tell it.
        terminating_replicas: (S::kind(&()) == "ReplicaSet")
            .then(|| i32::try_from(going).unwrap_or(i32::MAX)),
        observed_generation: set.meta().generation,
        conditions: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

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
            assert_eq!(
                verbs(&plan(&set(*replicas), &pods, None, now())),
                *want,
                "{name}"
            );
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
        let outcome = plan(&s, &[pod("a", |_| ()), fresh], None, now());
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

    fn written(outcome: &Outcome) -> Value {
        let status = outcome.actions.iter().find_map(|a| match a {
            Action::Patch {
                patch,
                subresource: Some("status"),
                ..
            } => Some(patch["status"].clone()),
            _ => None,
        });
        status.expect("status")
    }

    #[test]
    fn a_replication_controller_is_the_same_and_tells_refusals_first() {
        let rc = |replicas: i32, status: Value| -> ReplicationController {
            from_value(json!({"metadata": {"name": "web", "namespace": "d", "uid": "u1", "generation": 1},
                "spec": {"replicas": replicas, "selector": {"app": "web"}, "template": {"metadata": {"labels": {"app": "web"}}}},
                "status": status})).expect("rc")
        };
        let own = |v: &mut Value| {
            v["metadata"]["ownerReferences"][0]["kind"] = json!("ReplicationController")
        };
        let pods = [pod("a", own)];
        let why = Some("exceeded quota".to_owned());
        let told = plan(&rc(2, json!({})), &pods, why.clone(), now());
        let condition = &written(&told)["conditions"][0];
        let text = |f: &str| condition[f].as_str().unwrap_or_default();
        assert_eq!(
            (
                text("type"),
                text("status"),
                text("reason"),
                text("message")
            ),
            ("ReplicaFailure", "True", "FailedCreate", "exceeded quota")
        );
        assert!(matches!(told.actions.last(), Some(Action::Create { .. })));
        // It is kept while it holds, and goes with its cause.
        let status = written(&told);
        let again = Some("exceeded quota, other figures".to_owned());
        let same = plan(&rc(2, status.clone()), &pods, again, now());
        assert_eq!(same.actions.len(), 1, "{same:?}");
        for (replicas, refused) in [(2, None), (1, why)] {
            let gone = plan(&rc(replicas, status.clone()), &pods, refused, now());
            assert_eq!(written(&gone)["conditions"], Value::Null);
        }
        let none = rc(1, json!({})).spec.map(|mut s| {
            s.selector = None;
            ReplicationController {
                spec: Some(s),
                ..ReplicationController::default()
            }
        });
        assert!(!none.expect("rc").takes(&pods[0]), "no selector takes none");
    }
}
