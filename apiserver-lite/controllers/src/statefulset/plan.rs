//! The plan of a StatefulSet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use super::identity;
use crate::action::{Action, Target};
use crate::claim::claim;
use crate::owner::controls;
use crate::pod::{active, age_of_readiness, available, failed_now, is_ready, retry_in};
use crate::revision::{self, HASH};
use crate::runner::Outcome;

/// What there is in the set's namespace.
#[derive(Default)]
pub struct Around {
    /// Pods.
    pub pods: Vec<Arc<Pod>>,
    /// Claims.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// Revisions.
    pub revisions: Vec<Arc<ControllerRevision>>,
}

struct Plan<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    around: &'a Around,
    own: BTreeMap<i32, &'a Pod>,
    /// Revision that new pods get, and the one they had before the update began.
    update: String,
    current: String,
    now: Timestamp,
}

/// Decides for a StatefulSet.
pub fn plan(set: &StatefulSet, around: &Around, now: Timestamp) -> Outcome {
    let Some(spec) = &set.spec else {
        return Outcome::default();
    };
    let own: BTreeMap<i32, &Pod> = around
        .pods
        .iter()
        .filter(|p| controls(set, p.as_ref()) && super::takes(set, p))
        .filter_map(|p| Some((identity::ordinal(set, p)?, p.as_ref())))
        .collect();
    let collisions = set.status.as_ref().and_then(|s| s.collision_count);
    let (update, revision) = revision::ensure(
        set,
        &spec.template,
        collisions.unwrap_or(0),
        &around.revisions,
    );
    let current = set.status.as_ref().and_then(|s| s.current_revision.clone());
    let current = current
        .filter(|c| !c.is_empty())
        .unwrap_or_else(|| update.clone());
    let it = Plan {
        set,
        spec,
        around,
        own,
        update,
        current,
        now,
    };
    let takes = |p: &Pod| super::takes(set, p);
    let mut actions = claim(set, &around.pods, &takes, &active, None);
    actions.extend(revision);
    // Told before pods are made: the API may refuse them.
    let status = it.status();
    if set.status.as_ref() != Some(&status) {
        actions.push(Action::whole_status(
            Target::of(set),
            set.status.as_ref(),
            &status,
        ));
    }
    if set.metadata.deletion_timestamp.is_none() {
        actions.extend(it.act());
        let used = [it.update.as_str(), it.current.as_str()];
        let limit = spec.revision_history_limit;
        actions.extend(revision::clean_up(set, &around.revisions, &used, limit));
    }
    Outcome {
        actions,
        again: it.soon(),
    }
}

impl Plan<'_> {
    fn range(&self) -> std::ops::Range<i32> {
        let start = self
            .spec
            .ordinals
            .as_ref()
            .and_then(|o| o.start)
            .unwrap_or(0);
        start..start.saturating_add(self.spec.replicas.unwrap_or(1).max(0))
    }

    fn min_ready(&self) -> i64 {
        i64::from(self.spec.min_ready_seconds.unwrap_or(0))
    }

    /// Ready for long enough and here to stay.
    fn is_well(&self, pod: &Pod) -> bool {
        pod.metadata.deletion_timestamp.is_none() && available(pod, self.min_ready(), self.now)
    }

    /// Whether pods are made, deleted and replaced one after the other.
    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    /// Pods at and above this number are updated; `None`: only when somebody deletes them.
    fn partition(&self) -> Option<i32> {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let partition = rolling.and_then(|r| r.partition).unwrap_or(0);
        Some(self.range().start.saturating_add(partition))
    }

    /// The next steps: first the missing pods in ascending order, then those too many, then those of an older
    /// revision, both in descending order. Unless pods may be managed in parallel, one that is not well stops all
    /// that follows.
    fn act(&self) -> Vec<Action> {
        let ordered = self.is_ordered();
        let mut actions = Vec::new();
        for ordinal in self.range() {
            match self.own.get(&ordinal) {
                None => actions.extend(self.create(ordinal)),
                Some(pod) if self.is_over(pod) && retry_in(pod, self.now).is_none() => {
                    actions.push(Action::delete(Target::of(*pod)));
                }
                Some(pod) if self.is_well(pod) => continue,
                Some(_) => {}
            }
            if ordered {
                return actions;
            }
        }
        if self.shrink(&mut actions) {
            return actions;
        }
        if actions.is_empty() {
            actions.extend(self.replace());
        }
        actions
    }

    /// Deletes pods too many; whether what follows has to wait for that. Of those that are not well only the lowest
    /// may go, or a set that is unwell as a whole would lose all its pods one after the other.
    fn shrink(&self, actions: &mut Vec<Action>) -> bool {
        let range = self.range();
        let surplus = || self.own.iter().filter(|(o, _)| !range.contains(o));
        let lowest = surplus().find(|(_, p)| !self.is_well(p)).map(|(o, _)| o);
        for (ordinal, pod) in surplus().rev() {
            let going = pod.metadata.deletion_timestamp.is_some();
            let blocks = going || (!self.is_well(pod) && Some(ordinal) != lowest);
            if self.is_ordered() && blocks {
                return true;
            }
            if !going {
                actions.push(Action::delete(Target::of(*pod)));
                actions.push(self.event("SuccessfulDelete", "delete", pod));
            }
            if self.is_ordered() {
                return true;
            }
        }
        false
    }

    fn event(&self, reason: &'static str, verb: &str, pod: &Pod) -> Action {
        let (pod, set) = (pod.name_any(), self.set.name_any());
        Action::Event {
            about: Target::of(self.set),
            kind: "Normal",
            reason,
            message: format!("{verb} Pod {pod} in StatefulSet {set} successful"),
        }
    }

    fn replace(&self) -> Option<Action> {
        let partition = self.partition()?;
        for ordinal in self.range().rev().take_while(|o| *o >= partition) {
            let pod = self.own.get(&ordinal)?;
            if pod.metadata.deletion_timestamp.is_some() {
                return None;
            }
            if pod.labels().get(HASH) != Some(&self.update) {
                return Some(Action::delete(Target::of(*pod)));
            }
            if !self.is_well(pod) {
                return None;
            }
        }
        None
    }

    fn create(&self, ordinal: i32) -> Vec<Action> {
        let mut actions: Vec<Action> = identity::claims(self.set, ordinal)
            .iter()
            .map(|(_, claim)| claim)
            .filter(|c| {
                !self
                    .around
                    .claims
                    .iter()
                    .any(|h| h.name_any() == c.name_any())
            })
            .map(Action::create)
            .collect();
        // What the update has not come to yet is made as it was.
        let old = self.partition().is_some_and(|p| ordinal < p);
        let before = revision::template(&self.current, &self.around.revisions)
            .filter(|_| old && self.current != self.update);
        let (template, name) = match &before {
            Some(template) => (template, &self.current),
            None => (&self.spec.template, &self.update),
        };
        let pod = identity::pod(self.set, ordinal, template, name);
        actions.push(Action::create_told(&pod, Target::of(self.set)));
        actions
    }

    fn status(&self) -> StatefulSetStatus {
        let old = self.set.status.as_ref();
        let count = |f: &dyn Fn(&Pod) -> bool| {
            i32::try_from(self.own.values().filter(|p| f(p)).count()).unwrap_or(i32::MAX)
        };
        let lives = |p: &Pod| p.metadata.deletion_timestamp.is_none() && !failed_now(p);
        let of = |p: &Pod, r: &str| lives(p) && p.labels().get(HASH).is_some_and(|h| h == r);
        let updated = count(&|p| of(p, &self.update));
        let replicas = count(&|_| true);
        let wanted = self.spec.replicas.unwrap_or(1);
        let well = count(&|p| self.is_well(p));
        let rolling = self.partition().is_some();
        let done = rolling && updated == replicas && replicas == wanted && well == wanted;
        let current = if done { &self.update } else { &self.current };
        StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas,
            ready_replicas: Some(count(&|p| is_ready(p) && !failed_now(p))),
            available_replicas: Some(well),
            current_replicas: Some(count(&|p| of(p, current))),
            updated_replicas: Some(updated),
            current_revision: Some(current.clone()),
            update_revision: Some(self.update.clone()),
            collision_count: old.and_then(|s| s.collision_count).or(Some(0)),
            conditions: old.and_then(|s| s.conditions.clone()),
        }
    }

    /// Ended, and nobody deletes it.
    fn is_over(&self, pod: &Pod) -> bool {
        failed_now(pod) && pod.metadata.deletion_timestamp.is_none()
    }

    /// A ready pod becomes available, and an ended one may be made anew, without an event.
    fn soon(&self) -> Option<Duration> {
        let ready = self.own.values().filter(|p| is_ready(p));
        let left = ready
            .filter_map(|p| age_of_readiness(p, self.now))
            .map(|age| self.min_ready() - age);
        let ended = self.own.values().filter(|p| self.is_over(p));
        left.filter(|l| *l > 0)
            .chain(ended.filter_map(|p| retry_in(p, self.now)))
            .min()
            .map(|s| Duration::from_secs(s.unsigned_abs()))
    }
}
