//! Making room by evicting pods of lower priority (upstream's `DefaultPreemption`). Pure.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;

use crate::framework::{Cycle, Diagnosis, tally};
use crate::model::Pod;
use crate::snapshot::{NodeState, Snapshot};

/// At most so many nodes are tried.
const MAX_NODES: usize = 100;

/// Room that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// On this node.
    pub node: String,
    /// By these pods' leaving.
    pub victims: Vec<Arc<Pod>>,
}

/// Why no room is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// In upstream's words; follows `preemption: ` in the pod's condition.
    pub why: String,
    /// Victims of an earlier turn are still on their way out: the pod keeps its nomination.
    pub is_underway: bool,
}

/// Where to make room for a pod that fits nowhere.
///
/// # Errors
/// Why nowhere.
pub fn find(pod: &Pod, snapshot: &Snapshot, diagnosis: &Diagnosis) -> Result<Room, NoRoom> {
    let refuse = |why: &str, is_underway| {
        Err(NoRoom {
            why: why.into(),
            is_underway,
        })
    };
    if !pod.may_preempt {
        return refuse("not eligible due to preemptionPolicy=Never.", false);
    }
    if is_underway(pod, snapshot) {
        return refuse(
            "not eligible due to a terminating pod on the nominated node.",
            true,
        );
    }
    let is_resolvable = |state: &&Arc<NodeState>| {
        diagnosis
            .refusals
            .get(&state.node.name)
            .is_some_and(|refusal| refusal.is_resolvable)
    };
    let hopeful: Vec<_> = snapshot.nodes.iter().filter(is_resolvable).collect();
    let candidates = hopeful
        .iter()
        .take(MAX_NODES)
        .filter_map(|state| victims(pod, snapshot, state));
    let best = candidates.min_by_key(cost);
    best.map(|candidate| candidate.room).ok_or_else(|| {
        let reasons: Vec<String> = diagnosis
            .refusals
            .values()
            .map(|refusal| match refusal.is_resolvable {
                true => "No preemption victims found for incoming pod".into(),
                false => "Preemption is not helpful for scheduling".into(),
            })
            .collect();
        NoRoom {
            why: tally(reasons.len(), reasons.iter()),
            is_underway: false,
        }
    })
}

/// Room is being made already: victims of an earlier turn are still on their way out.
fn is_underway(pod: &Pod, snapshot: &Snapshot) -> bool {
    let nominated = snapshot
        .nodes
        .iter()
        .find(|s| pod.nominated.as_ref() == Some(&s.node.name));
    let mut pods = nominated.into_iter().flat_map(|state| state.pods.values());
    pods.any(|other| other.is_terminating && other.priority < pod.priority)
}

struct Candidate {
    room: Room,
    violations: usize,
}

/// The fewest pods whose leaving lets the pod in: all of lower priority leave, then as many as possible come back,
/// those first whose budget does not allow them to go, then by priority and age.
fn victims(pod: &Pod, snapshot: &Snapshot, state: &NodeState) -> Option<Candidate> {
    let mut left = state.clone();
    let lower: Vec<Arc<Pod>> = state
        .pods
        .values()
        .filter(|other| other.priority < pod.priority)
        .cloned()
        .collect();
    lower.iter().for_each(|other| drop(left.remove(&other.uid)));
    let fits = |left: &NodeState| {
        let snapshot = snapshot.with(left.clone());
        Cycle::new(pod, &snapshot).check(left).is_ok()
    };
    if lower.is_empty() || !fits(&left) {
        return None;
    }
    let mut ranked = ranked(lower, snapshot);
    ranked
        .sort_by_key(|(other, is_protected)| (!is_protected, Reverse(other.priority), age(other)));
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (other, is_protected) in ranked {
        left.add(other.clone());
        if !fits(&left) {
            left.remove(&other.uid);
            violations += usize::from(is_protected);
            victims.push(other);
        }
    }
    victims.sort_by_key(|victim| (Reverse(victim.priority), age(victim)));
    Some(Candidate {
        room: Room {
            node: state.node.name.clone(),
            victims,
        },
        violations,
    })
}

/// Each pod with whether a budget forbids that it goes, when those before it go as well.
fn ranked(mut pods: Vec<Arc<Pod>>, snapshot: &Snapshot) -> Vec<(Arc<Pod>, bool)> {
    pods.sort_by_key(|pod| (Reverse(pod.priority), age(pod)));
    let mut allowed: Vec<_> = snapshot.budgets.values().map(|b| (b, b.allowed)).collect();
    let is_protected = |pod: &Pod| {
        let mut protected = false;
        for (budget, left) in &mut allowed {
            if budget.namespace == pod.namespace && budget.selector.matches(&pod.labels) {
                *left -= 1;
                protected |= *left < 0;
            }
        }
        protected
    };
    let flags: Vec<bool> = pods
        .iter()
        .map(|pod| pod.as_ref())
        .map(is_protected)
        .collect();
    pods.into_iter().zip(flags).collect()
}

fn age(pod: &Pod) -> Timestamp {
    pod.started.unwrap_or(Timestamp::MAX)
}

/// Upstream's order: fewest broken budgets, lowest highest priority, lowest sum of priorities, fewest victims, and
/// the latest start of the most important one.
fn cost(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
    let victims = &candidate.room.victims;
    // Priorities may be negative; without an offset more victims would then be cheaper.
    let sum = victims
        .iter()
        .map(|v| i64::from(v.priority) - i64::from(i32::MIN))
        .sum();
    let first = victims.first();
    (
        candidate.violations,
        first.map_or(i32::MIN, |victim| victim.priority),
        sum,
        victims.len(),
        Reverse(first.map_or(Timestamp::MAX, |victim| age(victim))),
    )
}

#[cfg(test)]
#[path = "preemption_tests.rs"]
mod tests;
