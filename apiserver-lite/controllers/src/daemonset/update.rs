//! How pods of an older revision are replaced: one after the other, or with the new one made beside the old one.

use k8s_openapi::api::apps::v1::DaemonSetSpec;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::plan::Place;
use crate::pod::failed_now;
use crate::revision::HASH;

/// What an update may do, and what it takes for a pod to be well.
pub(super) struct Update<'a> {
    by_hand: bool,
    /// Pods beside old ones.
    surge: usize,
    /// Pods that may be missing.
    unavailable: usize,
    hash: &'a str,
    well: &'a dyn Fn(&Pod) -> bool,
}

/// A step of an update.
pub(super) enum Step<'a> {
    /// Delete an old pod.
    Delete(&'a Pod),
    /// Make a new pod on a node.
    Create(&'a str),
}

impl<'a> Update<'a> {
    pub(super) fn new(
        spec: &DaemonSetSpec,
        places: &[Place<'_>],
        hash: &'a str,
        well: &'a dyn Fn(&Pod) -> bool,
    ) -> Self {
        let strategy = spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let wanted = places.iter().filter(|p| p.wanted).count();
        let of = |value: Option<&IntOrString>| match value {
            Some(IntOrString::Int(n)) => usize::try_from(*n).ok(),
            Some(IntOrString::String(s)) => {
                let percent: usize = s.trim_end_matches('%').parse().unwrap_or(0);
                Some((wanted * percent).div_ceil(100))
            }
            None => None,
        };
        let unavailable = of(rolling.and_then(|r| r.max_unavailable.as_ref()));
        let by_hand = strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete");
        let surge = of(rolling.and_then(|r| r.max_surge.as_ref())).unwrap_or(0);
        Self {
            by_hand,
            surge: if by_hand { 0 } else { surge },
            // With neither nothing would ever move.
            unavailable: unavailable.unwrap_or(1).max(1),
            hash,
            well,
        }
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod.labels().get(HASH).is_some_and(|h| h == self.hash)
    }

    /// Of living pods on one node, oldest first, those that are too many. A new one beside an old one is not, until it
    /// is well or the old one is not.
    pub(super) fn superfluous<'p>(&self, here: &[&'p Pod]) -> Vec<&'p Pod> {
        if self.surge == 0 {
            return here.iter().skip(1).copied().collect();
        }
        let (new, old): (Vec<&Pod>, Vec<&Pod>) = here.iter().copied().partition(|p| self.is_new(p));
        let over = new
            .first()
            .zip(old.first())
            .is_some_and(|(new, old)| (self.well)(new) || !(self.well)(old));
        let kept = usize::from(!over);
        let surplus = new.iter().skip(1).chain(old.iter().skip(kept));
        surplus.copied().collect()
    }

    /// What comes next.
    pub(super) fn steps<'p>(&self, places: &'p [Place<'_>]) -> Vec<Step<'p>> {
        let wanted: Vec<&Place<'_>> = places.iter().filter(|p| p.wanted).collect();
        match (self.by_hand, self.surge) {
            (true, _) => Vec::new(),
            (false, 0) => self.delete(&wanted),
            (false, _) => self.create(&wanted),
        }
    }

    /// Deletes old pods: those that are not well at once, others as far as availability allows.
    fn delete<'p>(&self, wanted: &[&'p Place<'_>]) -> Vec<Step<'p>> {
        let mut room = self.unavailable;
        let (mut steps, mut candidates) = (Vec::new(), Vec::new());
        for place in wanted {
            let first = place.pods.iter().find(|p| !failed_now(p));
            match first.filter(|p| !self.is_new(p)) {
                Some(pod) if pod.metadata.deletion_timestamp.is_none() => {
                    if (self.well)(pod) {
                        candidates.push(Step::Delete(pod));
                    } else {
                        steps.push(Step::Delete(pod));
                        room = room.saturating_sub(1);
                    }
                }
                _ if first.is_some_and(|p| (self.well)(p)) => {}
                _ => room = room.saturating_sub(1),
            }
        }
        candidates.truncate(room);
        steps.into_iter().chain(candidates).collect()
    }

    /// Makes new pods beside old ones: where those are not well at once, elsewhere as many as may be beside.
    fn create<'p>(&self, wanted: &[&'p Place<'_>]) -> Vec<Step<'p>> {
        let mut room = self.surge;
        let (mut steps, mut candidates) = (Vec::new(), Vec::new());
        for place in wanted {
            let living = || {
                let all = place.pods.iter().filter(|p| !failed_now(p));
                all.filter(|p| p.metadata.deletion_timestamp.is_none())
            };
            let old = living().find(|p| !self.is_new(p));
            match (old, living().any(|p| self.is_new(p))) {
                (Some(_), true) => room = room.saturating_sub(1),
                (Some(old), false) if (self.well)(old) => {
                    candidates.push(Step::Create(place.node));
                }
                (Some(_), false) => steps.push(Step::Create(place.node)),
                (None, _) => {}
            }
        }
        candidates.truncate(room);
        steps.into_iter().chain(candidates).collect()
    }
}
