//! What is remembered of other servers' answers, within bounds. The time is an argument.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;

use crate::stored::Stored;

/// How long an answer is kept beyond its time, for when nobody answers (RFC 8767).
const STALE: Duration = Duration::from_secs(3600);
/// How long a server that did not answer is left alone while there is a stale answer (RFC 8767 section 5).
const RECHECK: Duration = Duration::from_secs(30);
/// How long a failure is remembered (RFC 9520), as in CoreDNS.
const FAILURE: Duration = Duration::from_secs(5);
/// Bytes of an entry beside key and answer, roughly.
const OVERHEAD: usize = 128;

/// Remembered answers.
#[derive(Debug)]
pub(crate) struct Cache {
    max_entries: usize,
    max_bytes: usize,
    bytes: usize,
    entries: HashMap<Arc<[u8]>, Entry>,
    /// All keys; the one that came first is looked at first when there is no more room.
    queue: VecDeque<Arc<[u8]>>,
}

#[derive(Debug)]
struct Entry {
    stored: Arc<Stored>,
    since: Instant,
    ttl: Duration,
    /// It was asked for since it was looked at last.
    used: bool,
    /// Nobody answered: not to be asked again before then.
    not_before: Option<Instant>,
}

/// What is remembered of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// An answer, and how many seconds ago it came.
    Fresh(Arc<Stored>, u32),
    /// An answer whose time is over, and whether to ask again.
    Stale(Arc<Stored>, bool),
}

impl Cache {
    /// An empty one that holds this much.
    pub(crate) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            max_entries,
            max_bytes,
            bytes: 0,
            entries: HashMap::new(),
            queue: VecDeque::new(),
        }
    }

    /// Looks a question up.
    pub(crate) fn get(&mut self, key: &[u8], now: Instant) -> Found {
        let Some(entry) = self.entries.get_mut(key) else {
            return Found::Nothing;
        };
        entry.used = true;
        let age = now.saturating_duration_since(entry.since);
        if age < entry.ttl {
            return Found::Fresh(
                entry.stored.clone(),
                u32::try_from(age.as_secs()).unwrap_or(u32::MAX),
            );
        }
        if entry.is_over(now) {
            return Found::Nothing;
        }
        Found::Stale(
            entry.stored.clone(),
            entry.not_before.is_none_or(|t| t <= now),
        )
    }

    /// Remembers an answer. Gives how many others it had to forget for it.
    pub(crate) fn put(
        &mut self,
        key: &Arc<[u8]>,
        stored: Arc<Stored>,
        ttl: Duration,
        now: Instant,
    ) -> u64 {
        let size = size_of_entry(key, &stored);
        if size > self.max_bytes {
            return 0;
        }
        let entry = Entry {
            stored,
            since: now,
            ttl,
            used: false,
            not_before: None,
        };
        match self.entries.insert(key.clone(), entry) {
            Some(old) => self.bytes -= size_of_entry(key, &old.stored),
            None => self.queue.push_back(key.clone()),
        }
        self.bytes += size;
        let mut forgotten = 0;
        while self.entries.len() > self.max_entries || self.bytes > self.max_bytes {
            if !self.forget_one(now) {
                break;
            }
            forgotten += 1;
        }
        forgotten
    }

    /// Nobody answered: what there is holds a while longer, and where there is nothing the failure is remembered.
    pub(crate) fn failed(&mut self, key: &Arc<[u8]>, now: Instant) {
        match self.entries.get_mut(key) {
            Some(entry) if !entry.is_over(now) => entry.not_before = Some(now + RECHECK),
            _ => {
                _ = self.put(
                    key,
                    Arc::new(Stored::of_code(ResponseCode::ServFail)),
                    FAILURE,
                    now,
                )
            }
        }
    }

    /// Forgets what is of no use any more.
    pub(crate) fn purge(&mut self, now: Instant) {
        let bytes = &mut self.bytes;
        self.entries.retain(|key, entry| {
            let over = entry.is_over(now);
            if over {
                *bytes -= size_of_entry(key, &entry.stored);
            }
            !over
        });
        let entries = &self.entries;
        self.queue.retain(|key| entries.contains_key(key));
    }

    /// How many answers there are, and how many that there is nothing.
    pub(crate) fn len(&self) -> (usize, usize) {
        let denials = self
            .entries
            .values()
            .filter(|e| e.stored.is_denial())
            .count();
        (self.entries.len() - denials, denials)
    }

    /// Forgets the first that was not asked for of late.
    fn forget_one(&mut self, now: Instant) -> bool {
        while let Some(key) = self.queue.pop_front() {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            if entry.used && !entry.is_over(now) {
                entry.used = false;
                self.queue.push_back(key);
                continue;
            }
            self.bytes -= size_of_entry(&key, &entry.stored);
            self.entries.remove(&key);
            return true;
        }
        false
    }
}

impl Entry {
    /// It can't even be a stale answer. Failures are never.
    fn is_over(&self, now: Instant) -> bool {
        let stale = if self.stored.code == ResponseCode::ServFail {
            Duration::ZERO
        } else {
            STALE
        };
        now.saturating_duration_since(self.since) >= self.ttl + stale
    }
}

fn size_of_entry(key: &[u8], stored: &Stored) -> usize {
    OVERHEAD + key.len() + stored.size()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Arc<[u8]> {
        n.to_be_bytes().to_vec().into()
    }

    fn answer() -> Arc<Stored> {
        Arc::new(Stored::of_code(ResponseCode::NoError))
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn an_answer_ages_goes_stale_and_is_forgotten() {
        let (mut cache, start) = (Cache::new(10, 100_000), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(cache.get(&key(1), start), Found::Nothing);
        cache.put(&key(1), answer(), MINUTE, start);
        assert_eq!(cache.get(&key(1), after(59)), Found::Fresh(answer(), 59));
        assert_eq!(cache.get(&key(1), after(60)), Found::Stale(answer(), true));
        cache.failed(&key(1), after(61));
        assert_eq!(
            cache.get(&key(1), after(90)),
            Found::Stale(answer(), false),
            "left alone"
        );
        assert_eq!(
            cache.get(&key(1), after(91)),
            Found::Stale(answer(), true),
            "asked again"
        );
        assert_eq!(cache.get(&key(1), after(3660)), Found::Nothing);
        cache.purge(after(3660));
        assert_eq!(
            (cache.entries.len(), cache.queue.len(), cache.bytes),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_failure_is_remembered_for_a_short_time() {
        let (mut cache, start) = (Cache::new(10, 100_000), Instant::now());
        cache.failed(&key(1), start);
        let Found::Fresh(stored, 0) = cache.get(&key(1), start) else {
            panic!("not remembered")
        };
        assert_eq!(stored.code, ResponseCode::ServFail);
        assert_eq!(cache.get(&key(1), start + FAILURE), Found::Nothing);
        cache.failed(&key(1), start + FAILURE);
        assert!(
            matches!(cache.get(&key(1), start + FAILURE), Found::Fresh(..)),
            "and again"
        );
    }

    #[test]
    fn there_is_never_more_than_fits() {
        let now = Instant::now();
        let mut cache = Cache::new(3, 100_000);
        for n in 0..3 {
            assert_eq!(cache.put(&key(n), answer(), MINUTE, now), 0);
        }
        assert_eq!(
            cache.put(&key(2), answer(), MINUTE, now),
            0,
            "replacing takes no room"
        );
        cache.get(&key(0), now);
        assert_eq!(cache.put(&key(3), answer(), MINUTE, now), 1);
        let kept = |cache: &mut Cache| {
            (0..4)
                .filter(|n| cache.get(&key(*n), now) != Found::Nothing)
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&mut cache), [0, 2, 3], "what was asked for stays");
        let one = size_of_entry(&key(0), &answer());
        let mut small = Cache::new(100, 2 * one);
        for n in 0..50 {
            small.put(&key(n), answer(), MINUTE, now);
            assert!(small.bytes <= 2 * one && small.entries.len() == small.queue.len());
        }
        assert_eq!(small.len(), (0, 2));
        let mut none = Cache::new(10, one - 1);
        none.put(&key(0), answer(), MINUTE, now);
        assert_eq!(none.get(&key(0), now), Found::Nothing);
    }
}
