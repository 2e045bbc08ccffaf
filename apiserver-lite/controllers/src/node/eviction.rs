//! Taint-based eviction: a pod leaves a node with a `NoExecute` taint when it does not tolerate it, or no longer.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};
use serde_json::json;

use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::{Informer, Key};
use crate::runner::{Controller, Outcome, Work};

/// The controller, by pod.
pub struct TaintEviction {
    caches: Arc<Caches>,
    /// Taints from before count from now: the node may have come back while nobody looked.
    started: Timestamp,
}

impl TaintEviction {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let (queue, nodes) = (work.clone(), caches.nodes.clone());
        caches.pods.subscribe(move |c| {
            let moved = c
                .new
                .filter(|new| c.old.is_none_or(|old| node_of(old) != node_of(new)));
            let tainted = moved.filter(|p| !taints(&nodes, p).is_empty());
            tainted.into_iter().for_each(|p| queue.add(Key::of(p)));
        });
        let (queue, pods) = (work.clone(), caches.pods.clone());
        caches.nodes.subscribe(move |c| {
            let (Some(node), old) = (c.new, c.old.map(no_execute)) else {
                return;
            };
            if old.unwrap_or_default() != no_execute(node) {
                let on = |p: &&Arc<Pod>| node_of(p) == Some(&node.name_any());
                let all = pods.list("");
                all.iter()
                    .filter(on)
                    .for_each(|p| queue.add(Key::of(p.as_ref())));
            }
        });
        let it = Self {
            caches: caches.clone(),
            started: Timestamp::now(),
        };
        (it, work)
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let all = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    let all = all.into_iter().flatten();
    all.filter(|t| t.effect == "NoExecute").cloned().collect()
}

fn taints(nodes: &Informer<Node>, pod: &Pod) -> Vec<Taint> {
    let node = node_of(pod).and_then(|n| nodes.get(&Key::new("", n)));
    node.map(|n| no_execute(&n)).unwrap_or_default()
}

#[async_trait]
impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(pod) = self.caches.pods.get(key) else {
            return Ok(Outcome::default());
        };
        let taints = taints(&self.caches.nodes, &pod);
        Ok(plan(&pod, &taints, self.started, Timestamp::now()))
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// Decides for a pod on a node with `NoExecute` taints.
pub(super) fn plan(pod: &Pod, taints: &[Taint], started: Timestamp, now: Timestamp) -> Outcome {
    if pod.metadata.deletion_timestamp.is_some() || crate::pod::failed_now(pod) {
        return Outcome::default();
    }
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref());
    let tolerations = tolerations.unwrap_or_default();
    let ends = taints
        .iter()
        .filter_map(|t| end(t, tolerations, started, now));
    let Some(left) = ends.min().map(|end| end.saturating_sub(now.as_second())) else {
        return Outcome::default();
    };
    if left > 0 {
        return Outcome {
            actions: Vec::new(),
            again: Some(std::time::Duration::from_secs(left.unsigned_abs())),
        };
    }
    vec![
        disrupted(pod, now),
        Action::Event {
            about: Target::of(pod),
            kind: "Normal",
            reason: "TaintManagerEviction",
            message: format!("Marking for deletion Pod {}", Key::of(pod)),
        },
        Action::delete(Target::of(pod)),
    ]
    .into()
}

/// The second at which the pod has to leave because of a taint; `None`: never.
fn end(
    taint: &Taint,
    tolerations: &[Toleration],
    started: Timestamp,
    now: Timestamp,
) -> Option<i64> {
    let matching: Vec<_> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
    if matching.is_empty() {
        return Some(now.as_second());
    }
    let seconds = matching.iter().filter_map(|t| t.toleration_seconds).min()?;
    let added = taint.time_added.as_ref().map_or(now, |t| t.0);
    Some(
        added
            .max(started)
            .as_second()
            .saturating_add(seconds.max(0)),
    )
}

/// Whether a toleration takes a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let some = |s: &Option<String>| s.clone().filter(|s| !s.is_empty());
    some(&toleration.effect).is_none_or(|e| e == taint.effect)
        && some(&toleration.key).is_none_or(|k| k == taint.key)
        && match toleration.operator.as_deref() {
            Some("Exists") => true,
            _ => {
                toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
                    && some(&toleration.key).is_some()
            }
        }
}

/// Tells the pod's owner why it goes.
fn disrupted(pod: &Pod, now: Timestamp) -> Action {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.clone());
    let mut conditions = conditions.unwrap_or_default();
    conditions.retain(|c| c.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("DeletionByTaintManager".into()),
        message: Some("Taint manager: deleting due to NoExecute taint".into()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    });
    Action::status(
        Target::of(pod).unchanged(pod),
        json!({ "conditions": conditions }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value};

    #[test]
    fn pods_leave_when_their_time_is_over() {
        let at = |s: i64| Timestamp::from_second(s).expect("time");
        let taint = |key: &str, added: i64| -> Taint {
            from_value(json!({"key": key, "effect": "NoExecute", "timeAdded": at(added)}))
                .expect("taint")
        };
        let (stays, goes): (Option<Option<u64>>, _) = (None, Some(None));
        let for_30 = || json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}]);
        // (name, tolerations, taints, we began at, it is, None: stays, Some(None): goes, Some(Some(s)): in s seconds)
        let rows: Vec<(&str, Value, Vec<Taint>, i64, i64, Option<Option<u64>>)> = vec![
            ("no taint", json!([]), vec![], 0, 100, stays),
            (
                "not tolerated",
                json!([]),
                vec![taint("k", 100)],
                0,
                100,
                goes,
            ),
            (
                "tolerated for ever",
                json!([{"operator": "Exists"}]),
                vec![taint("k", 0)],
                0,
                100,
                stays,
            ),
            (
                "tolerated for a while",
                for_30(),
                vec![taint("k", 90)],
                0,
                100,
                Some(Some(20)),
            ),
            (
                "for long enough",
                for_30(),
                vec![taint("k", 70)],
                0,
                100,
                goes,
            ),
            (
                "one of two not",
                for_30(),
                vec![taint("k", 90), taint("l", 90)],
                0,
                100,
                goes,
            ),
            (
                "the shorter of two",
                json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 300},
                {"operator": "Exists", "tolerationSeconds": 40}]),
                vec![taint("k", 90)],
                0,
                100,
                Some(Some(30)),
            ),
            (
                "of another effect",
                json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]),
                vec![taint("k", 90)],
                0,
                100,
                goes,
            ),
            (
                "of another value",
                json!([{"key": "k", "value": "v"}]),
                vec![taint("k", 90)],
                0,
                100,
                goes,
            ),
            (
                "we were away: the time begins anew",
                for_30(),
                vec![taint("k", 10)],
                100,
                100,
                Some(Some(30)),
            ),
        ];
        for (name, tolerations, taints, started, now, want) in rows {
            let pod: Pod = from_value(json!({"metadata": {"name": "p", "namespace": "d"},
                "spec": {"containers": [], "tolerations": tolerations}}))
            .expect("pod");
            let outcome = plan(&pod, &taints, at(started), at(now));
            let deletes = outcome
                .actions
                .iter()
                .any(|a| matches!(a, Action::Delete { .. }));
            let seen = match (deletes, outcome.again) {
                (true, None) => goes,
                (false, None) => stays,
                (false, Some(again)) => Some(Some(again.as_secs())),
                other => panic!("{name}: {other:?}"),
            };
            assert_eq!(seen, want, "{name}");
        }
    }
}
