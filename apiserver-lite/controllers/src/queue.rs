//! The work queue: each key once, never by two workers at a time, with back-off after failures.
//! Time is an argument, so that all of it can be tested without waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// First and longest delay after failures of a key.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(60));

/// Keys to work on. `T` is a time: ordered, and moved on by a duration.
#[derive(Debug)]
pub struct Queue<K, T> {
    ready: VecDeque<K>,
    /// In `ready`, or to be put there when its worker is done.
    dirty: BTreeSet<K>,
    active: BTreeSet<K>,
    later: BTreeMap<(T, K), ()>,
    /// When each key in `later` comes: only the earliest time counts, as whoever works on it then decides anew.
    due: HashMap<K, T>,
    failures: HashMap<K, u32>,
}

impl<K: Ord + Clone + Hash, T: Ord + Copy + std::ops::Add<Duration, Output = T>> Default
    for Queue<K, T>
{
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            dirty: BTreeSet::new(),
            active: BTreeSet::new(),
            later: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Ord + Clone + Hash, T: Ord + Copy + std::ops::Add<Duration, Output = T>> Queue<K, T> {
    /// Adds a key; one that is being worked on comes again when that is done.
    pub fn add(&mut self, key: K) {
        if self.dirty.insert(key.clone()) && !self.active.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// Adds a key at a time, unless it comes earlier anyway.
    pub fn add_at(&mut self, key: K, at: T) {
        match self.due.get(&key) {
            Some(due) if *due <= at => return,
            Some(due) => drop(self.later.remove(&(*due, key.clone()))),
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.later.insert((at, key), ());
    }

    /// The next key to work on, or when to ask again.
    pub fn next(&mut self, now: T) -> Result<K, Option<T>> {
        while let Some(((at, _), ())) = self.later.first_key_value() {
            if *at > now {
                break;
            }
            if let Some(((_, key), ())) = self.later.pop_first() {
                self.due.remove(&key);
                self.add(key);
            }
        }
        let Some(key) = self.ready.pop_front() else {
            return Err(self.later.first_key_value().map(|((at, _), ())| *at));
        };
        self.dirty.remove(&key);
        self.active.insert(key.clone());
        Ok(key)
    }

    /// The work on a key is done; after a failure it comes again, later each time.
    pub fn done(&mut self, key: &K, ok: bool, now: T) {
        self.active.remove(key);
        if ok {
            self.failures.remove(key);
        } else {
            let failures = self.failures.entry(key.clone()).or_default();
            let delay = BACK_OFF
                .0
                .saturating_mul(1 << (*failures).min(20))
                .min(BACK_OFF.1);
            *failures += 1;
            self.add_at(key.clone(), now + delay);
        }
        if self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Q = Queue<&'static str, Duration>;
    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_key_is_worked_on_once_at_a_time() {
        let mut q = Q::default();
        q.add("a");
        q.add("a");
        q.add("b");
        assert_eq!(
            (q.next(ms(0)), q.next(ms(0)), q.next(ms(0))),
            (Ok("a"), Ok("b"), Err(None))
        );
        q.add("a");
        assert_eq!(q.next(ms(0)), Err(None), "still worked on");
        q.done(&"a", true, ms(0));
        assert_eq!(q.next(ms(0)), Ok("a"));
    }

    #[test]
    fn failures_come_back_later_each_time_and_success_forgets_them() {
        let mut q = Q::default();
        q.add("a");
        let mut now = ms(0);
        for delay in [5, 10, 20, 40] {
            assert_eq!(q.next(now), Ok("a"));
            q.done(&"a", false, now);
            assert_eq!(q.next(now), Err(Some(now + ms(delay))));
            now += ms(delay);
        }
        assert_eq!(q.next(now), Ok("a"));
        q.done(&"a", true, now);
        q.add("a");
        assert_eq!(q.next(now), Ok("a"));
        q.done(&"a", false, now);
        assert_eq!(q.next(now), Err(Some(now + ms(5))));
    }

    #[test]
    fn later_keys_come_in_their_order() {
        let mut q = Q::default();
        q.add_at("b", ms(20));
        q.add_at("a", ms(10));
        assert_eq!(q.next(ms(0)), Err(Some(ms(10))));
        assert_eq!((q.next(ms(30)), q.next(ms(30))), (Ok("a"), Ok("b")));
    }

    #[test]
    fn a_key_waits_once_for_the_earliest_time() {
        let mut q = Q::default();
        for at in [20, 10, 30] {
            q.add_at("a", ms(at));
        }
        assert_eq!(q.next(ms(0)), Err(Some(ms(10))));
        assert_eq!(q.next(ms(40)), Ok("a"));
        q.done(&"a", true, ms(40));
        assert_eq!(q.next(ms(40)), Err(None));
    }
}
