//! The pending pods: ready ones, ones that wait out a back-off, ones that no node fits until something changes.
//!
//! ```text
//!        add                    pop                    fails: nothing changed
//!   ---------> ready (priority, time) -> in flight ----------------------------> unschedulable
//!                ^   ^                      |                                        |
//!        time up |   | no back-off left     | fails: a change came in between        | a change that may help,
//!                |   +------------------+   v                                        | or five minutes
//!             back-off <----------------+---+----------------------------------------+
//! ```
//!
//! Pods with scheduling gates wait aside until those are lifted. Pure: the time is an argument.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::framework::Change;
use crate::model::Pod;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Upstream's `podMaxInUnschedulablePodsDuration`: a hint may be wrong, so nothing waits forever.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    attempts: u32,
    /// When it came to the queue: what counts among equals.
    since: Instant,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    /// Until.
    Backoff(Instant),
    /// Since, and which changes may help.
    Unschedulable {
        since: Instant,
        helps: Change,
    },
    /// What has changed since it was taken.
    InFlight(Change),
    Gated,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    ready: BTreeSet<(Reverse<i32>, Instant, String)>,
    backoff: BTreeSet<(Instant, String)>,
    unschedulable: BTreeSet<(Instant, String)>,
}

impl Queue {
    /// A pending pod, new or changed. A change of its own may make an unschedulable pod schedulable.
    pub fn add(&mut self, pod: Arc<Pod>, now: Instant) {
        let is_gated = !pod.gates.is_empty();
        let Some(entry) = self.entries.get_mut(&pod.uid) else {
            let place = if is_gated { Place::Gated } else { Place::Ready };
            let uid = pod.uid.clone();
            self.entries.insert(
                uid.clone(),
                Entry {
                    pod,
                    attempts: 0,
                    since: now,
                    place: Place::Gated,
                },
            );
            return self.put(&uid, place);
        };
        let is_other = concerns_scheduling(&entry.pod, &pod);
        let (place, uid) = (entry.place, pod.uid.clone());
        match place {
            Place::Ready | Place::Backoff(_) if entry.pod.priority == pod.priority => {
                entry.pod = pod
            }
            Place::Ready | Place::Backoff(_) => {
                self.take_out(&uid);
                self.replace(&uid, pod);
                self.put(&uid, place);
            }
            Place::InFlight(changes) => {
                entry.pod = pod;
                let own = if is_other { Change::OWN } else { Change::NONE };
                entry.place = Place::InFlight(changes | own);
            }
            Place::Gated if is_gated => entry.pod = pod,
            Place::Gated => {
                entry.pod = pod;
                self.put(&uid, Place::Ready);
            }
            Place::Unschedulable { since, .. } => {
                entry.pod = pod;
                if is_other {
                    self.retry(&uid, since, now);
                }
            }
        }
    }

    fn replace(&mut self, uid: &str, pod: Arc<Pod>) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.pod = pod;
        }
    }

    /// A pod that is gone, or bound.
    pub fn remove(&mut self, uid: &str) {
        self.take_out(uid);
        self.entries.remove(uid);
    }

    /// A pending pod.
    pub fn get(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.entries.get(uid).map(|entry| &entry.pod)
    }

    /// UIDs of the pending pods.
    pub fn uids(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// The next pod to schedule. It stays known until `failed` or `remove`.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<Pod>> {
        self.flush(now);
        let (.., uid) = self.ready.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.attempts += 1;
        entry.place = Place::InFlight(Change::NONE);
        Some(entry.pod.clone())
    }

    /// No node fits a pod that was popped; one of these changes may help.
    pub fn failed(&mut self, uid: &str, helps: Change, now: Instant) {
        let Some(Entry {
            place: Place::InFlight(changes),
            ..
        }) = self.entries.get(uid)
        else {
            return;
        };
        if changes.intersects(helps | Change::OWN) {
            return self.retry(uid, now, now);
        }
        self.put(uid, Place::Unschedulable { since: now, helps });
    }

    /// A popped pod failed for a reason that has nothing to do with nodes: again after the back-off.
    pub fn try_again(&mut self, uid: &str, now: Instant) {
        if self.entries.contains_key(uid) {
            self.retry(uid, now, now);
        }
    }

    /// The cluster changed: pods that this may help are tried again.
    pub fn changed(&mut self, change: Change, now: Instant) {
        let mut again = Vec::new();
        for (uid, entry) in &mut self.entries {
            match &mut entry.place {
                Place::InFlight(changes) => *changes = *changes | change,
                Place::Unschedulable { since, helps } if helps.intersects(change) => {
                    again.push((uid.clone(), *since));
                }
                _ => {}
            }
        }
        again
            .into_iter()
            .for_each(|(uid, since)| self.retry(&uid, since, now));
    }

    /// When `pop` may have something that it has not now.
    pub fn wake_at(&self) -> Option<Instant> {
        let backoff = self.backoff.first().map(|(until, _)| *until);
        let oldest = self
            .unschedulable
            .first()
            .map(|(since, _)| *since + MAX_UNSCHEDULABLE);
        backoff.into_iter().chain(oldest).min()
    }

    fn flush(&mut self, now: Instant) {
        while let Some(uid) = due(&self.backoff, now, Duration::ZERO) {
            self.put(&uid, Place::Ready);
        }
        while let Some(uid) = due(&self.unschedulable, now, MAX_UNSCHEDULABLE) {
            self.put(&uid, Place::Ready);
        }
    }

    /// To the ready ones, or to the back-off if that, counted from the last failure, is not over.
    fn retry(&mut self, uid: &str, failed: Instant, now: Instant) {
        let attempts = self.entries.get(uid).map_or(0, |entry| entry.attempts);
        let until = failed + backoff(attempts);
        self.put(
            uid,
            if until > now {
                Place::Backoff(until)
            } else {
                Place::Ready
            },
        );
    }

    fn put(&mut self, uid: &str, place: Place) {
        self.take_out(uid);
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        entry.place = place;
        match place {
            Place::Ready => {
                self.ready
                    .insert((Reverse(entry.pod.priority), entry.since, uid.into()));
            }
            Place::Backoff(until) => {
                self.backoff.insert((until, uid.into()));
            }
            Place::Unschedulable { since, .. } => {
                self.unschedulable.insert((since, uid.into()));
            }
            Place::InFlight(_) | Place::Gated => {}
        }
    }

    fn take_out(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else {
            return;
        };
        match entry.place {
            Place::Ready => {
                self.ready
                    .remove(&(Reverse(entry.pod.priority), entry.since, uid.to_owned()));
            }
            Place::Backoff(until) => {
                self.backoff.remove(&(until, uid.to_owned()));
            }
            Place::Unschedulable { since, .. } => {
                self.unschedulable.remove(&(since, uid.to_owned()));
            }
            Place::InFlight(_) | Place::Gated => {}
        }
    }
}

/// The first pod whose time came so long ago.
fn due(set: &BTreeSet<(Instant, String)>, now: Instant, after: Duration) -> Option<String> {
    set.first()
        .filter(|(at, _)| *at + after <= now)
        .map(|(_, uid)| uid.clone())
}

/// 1 s, 2 s, 4 s, ... at most 10 s.
fn backoff(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(10);
    (FIRST_BACKOFF * 2_u32.pow(doublings)).min(MAX_BACKOFF)
}

/// Whether two states of a pod differ in more than what we write to its status ourselves.
fn concerns_scheduling(was: &Pod, is: &Pod) -> bool {
    let status = |pod: &Pod| Pod {
        refusal: None,
        nominated: None,
        ..pod.clone()
    };
    status(was) != status(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i32) -> Arc<Pod> {
        Arc::new(Pod {
            uid: uid.into(),
            priority,
            ..Pod::default()
        })
    }

    struct Clock(Instant);

    impl Clock {
        fn at(&self, millis: u64) -> Instant {
            self.0 + Duration::from_millis(millis)
        }
    }

    fn start() -> (Queue, Clock) {
        (Queue::default(), Clock(Instant::now()))
    }

    fn popped(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now).map(|pod| pod.uid.clone())).collect()
    }

    #[test]
    fn priority_then_time() {
        let (mut queue, clock) = start();
        for (uid, priority, at) in [
            ("late", 0, 2),
            ("early", 0, 1),
            ("high", 5, 3),
            ("gone", 9, 0),
        ] {
            queue.add(pod(uid, priority), clock.at(at));
        }
        queue.remove("gone");
        queue.add(pod("late", 0), clock.at(0));
        assert_eq!(popped(&mut queue, clock.at(9)), ["high", "early", "late"]);
    }

    #[test]
    fn backoff_doubles_up_to_ten_seconds() {
        let (mut queue, clock) = start();
        queue.add(pod("a", 0), clock.at(0));
        let mut now = 0;
        for wanted in [1000, 2000, 4000, 8000, 10_000, 10_000] {
            assert_eq!(popped(&mut queue, clock.at(now)), ["a"]);
            queue.try_again("a", clock.at(now));
            assert_eq!(queue.wake_at(), Some(clock.at(now + wanted)));
            assert_eq!(popped(&mut queue, clock.at(now + wanted - 1)), [""; 0]);
            now += wanted;
        }
    }

    #[test]
    fn unschedulable_pods_wait_for_a_change_that_may_help() {
        let (mut queue, clock) = start();
        queue.add(pod("a", 0), clock.at(0));
        queue.pop(clock.at(0));
        queue.failed("a", Change::NODE_ADDED | Change::POD_GONE, clock.at(0));
        queue.changed(Change::NODE_LABELS, clock.at(5000));
        assert_eq!(popped(&mut queue, clock.at(20_000)), [""; 0]);
        // The back-off of the failure is long over.
        queue.changed(Change::POD_GONE, clock.at(20_000));
        assert_eq!(popped(&mut queue, clock.at(20_000)), ["a"]);
        // Now it is not.
        queue.failed("a", Change::NODE_ADDED, clock.at(20_000));
        queue.changed(Change::NODE_ADDED, clock.at(20_001));
        assert_eq!(popped(&mut queue, clock.at(21_999)), [""; 0]);
        assert_eq!(popped(&mut queue, clock.at(22_000)), ["a"]);
        // Without any change after five minutes.
        queue.failed("a", Change::NODE_ADDED, clock.at(30_000));
        assert_eq!(queue.wake_at(), Some(clock.at(330_000)));
        assert_eq!(popped(&mut queue, clock.at(330_000)), ["a"]);
    }

    #[test]
    fn a_change_while_in_flight_is_not_lost() {
        let (mut queue, clock) = start();
        queue.add(pod("a", 0), clock.at(0));
        queue.pop(clock.at(0));
        queue.changed(Change::NODE_ADDED, clock.at(1));
        queue.failed("a", Change::NODE_ADDED, clock.at(2));
        assert_eq!(popped(&mut queue, clock.at(1002)), ["a"]);
    }

    #[test]
    fn a_pods_own_change_moves_it_unless_it_is_our_status() {
        let (mut queue, clock) = start();
        queue.add(pod("a", 0), clock.at(0));
        queue.pop(clock.at(0));
        queue.failed("a", Change::NODE_ADDED, clock.at(0));
        let refused = Pod {
            refusal: Some("no".into()),
            ..Pod::clone(&pod("a", 0))
        };
        queue.add(Arc::new(refused.clone()), clock.at(5000));
        assert_eq!(popped(&mut queue, clock.at(5000)), [""; 0]);
        queue.add(
            Arc::new(Pod {
                labels: [("k".into(), "v".into())].into(),
                ..refused
            }),
            clock.at(5000),
        );
        assert_eq!(popped(&mut queue, clock.at(5000)), ["a"]);
    }

    #[test]
    fn gates_hold_a_pod_back() {
        let (mut queue, clock) = start();
        let gated = Pod {
            gates: vec!["g".into()],
            ..Pod::clone(&pod("a", 0))
        };
        queue.add(Arc::new(gated), clock.at(0));
        assert_eq!(popped(&mut queue, clock.at(1)), [""; 0]);
        queue.add(pod("a", 0), clock.at(2));
        assert_eq!(popped(&mut queue, clock.at(2)), ["a"]);
    }
}
