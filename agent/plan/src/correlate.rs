//! Which events are told, and how: the same one again counts up, many similar ones become one, and an object that has
//! too many is told of seldom. The limits are those of upstream's recorder (`tools/record`, EventCorrelator).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use jiff::{SignedDuration, Timestamp};

use crate::event::Event;

/// Different messages of one reason within [`SIMILAR`]; from then on they are one event.
const DIFFERENT: usize = 10;
/// A series that was quiet for so long begins anew.
const SIMILAR: SignedDuration = SignedDuration::from_mins(10);
/// Events that an object may have at once.
const BURST: f64 = 25.0;
/// And from then on in a second: one in five minutes.
const REFILL: f64 = 1.0 / 300.0;
/// Things remembered of each sort, before old ones are forgotten.
const REMEMBERED: usize = 2000;
/// How combined messages begin.
const COMBINED: &str = "(combined from similar events): ";

/// Whom an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct About {
    /// The object's UID, or what else is one of a kind.
    pub object: String,
    /// The part of it: its field path.
    pub part: String,
}

/// What series an event belongs to: object, reason and type, and the message unless it is combined. Only the hash is
/// remembered, as there are several for every pod of the last minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

/// An event to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its series.
    pub key: Key,
    /// What it says.
    pub message: String,
    /// How often, with those that were not told.
    pub count: i32,
    /// The object in the API that counts it, if there is one.
    pub name: Option<String>,
}

#[derive(Debug, Default)]
struct Series {
    name: Option<String>,
    count: i32,
    last: Timestamp,
}

#[derive(Debug, Default)]
struct Messages {
    /// Their hashes.
    seen: Vec<u64>,
    last: Timestamp,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    left: f64,
    last: Timestamp,
}

impl Bucket {
    /// A full one.
    pub fn new(burst: f64, now: Timestamp) -> Self {
        Self {
            left: burst,
            last: now,
        }
    }

    /// Takes one, if there is one. `rate` come back each second.
    pub fn take(&mut self, rate: f64, burst: f64, now: Timestamp) -> bool {
        let passed = now.duration_since(self.last).as_secs_f64().max(0.0);
        self.left = (self.left + passed * rate).min(burst);
        self.last = now;
        let there = self.left >= 1.0;
        if there {
            self.left -= 1.0;
        }
        there
    }
}

/// What was told lately.
#[derive(Debug, Default)]
pub struct Correlator {
    hasher: RandomState,
    similar: HashMap<Key, Messages>,
    series: HashMap<Key, Series>,
    objects: HashMap<String, Bucket>,
}

impl Correlator {
    /// Takes an event; `None`: its object has too many.
    pub fn take(&mut self, about: &About, event: &Event, now: Timestamp) -> Option<Told> {
        self.sweep(now);
        let key = |message: Option<&str>| {
            let of = (about, event.warning, event.reason.as_ref(), message);
            Key(self.hasher.hash_one(of))
        };
        let (whole, single) = (key(None), key(Some(&event.message)));
        let (key, message) = if self.is_one_of_many(whole, &event.message, now) {
            (whole, format!("{COMBINED}{}", event.message))
        } else {
            (single, event.message.clone())
        };
        let series = self.series.entry(key).or_default();
        if now.duration_since(series.last) > SIMILAR {
            *series = Series::default();
        }
        series.count = series.count.saturating_add(1);
        series.last = now;
        let told = Told {
            message,
            count: series.count,
            name: series.name.clone(),
            key,
        };
        let bucket = self.objects.entry(about.object.clone());
        let bucket = bucket.or_insert_with(|| Bucket::new(BURST, now));
        bucket.take(REFILL, BURST, now).then_some(told)
    }

    /// The event of a series was written under this name.
    pub fn written(&mut self, key: &Key, name: &str) {
        if let Some(series) = self.series.get_mut(key) {
            series.name = Some(name.to_owned());
        }
    }

    fn is_one_of_many(&mut self, whole: Key, message: &str, now: Timestamp) -> bool {
        let message = self.hasher.hash_one(message);
        let messages = self.similar.entry(whole).or_default();
        if now.duration_since(messages.last) > SIMILAR {
            messages.seen.clear();
        }
        messages.last = now;
        if messages.seen.len() < DIFFERENT && !messages.seen.contains(&message) {
            messages.seen.push(message);
        }
        messages.seen.len() >= DIFFERENT
    }

    fn sweep(&mut self, now: Timestamp) {
        // A bucket that had time to fill is as good as a new one.
        let full = SignedDuration::from_secs((BURST / REFILL) as i64);
        forget(&mut self.similar, |m| m.last, now - SIMILAR);
        forget(&mut self.series, |s| s.last, now - SIMILAR);
        forget(&mut self.objects, |b| b.last, now - full);
    }
}

/// Forgets what is older than `since` when much is remembered; when that is not enough, the older half.
fn forget<K, V>(all: &mut HashMap<K, V>, last: impl Fn(&V) -> Timestamp, since: Timestamp) {
    if all.len() < REMEMBERED {
        return;
    }
    all.retain(|_, v| last(v) >= since);
    if all.len() >= REMEMBERED {
        let mut times: Vec<Timestamp> = all.values().map(&last).collect();
        let (_, &mut middle, _) = times.select_nth_unstable(REMEMBERED / 2);
        all.retain(|_, v| last(v) > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(object: &str) -> About {
        About {
            object: object.into(),
            part: "spec.containers{c}".into(),
        }
    }

    fn event(reason: &'static str, message: &str) -> Event {
        Event::warning(reason, "c", message.to_owned())
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("time")
    }

    #[test]
    fn the_same_counts_up_and_begins_anew() {
        let mut all = Correlator::default();
        let mut tell = |event: &Event, s| {
            let told = all.take(&about("u"), event, at(s)).expect("told");
            all.written(&told.key, "first");
            (told.count, told.name)
        };
        let (a, b) = (event("BackOff", "a"), event("BackOff", "b"));
        let first = Some("first".to_owned());
        let rows = [
            ("new", &a, 0, (1, None)),
            ("again", &a, 1, (2, first.clone())),
            ("another message", &b, 2, (1, None)),
            ("the first again", &a, 3, (3, first.clone())),
            ("another reason", &event("Failed", "a"), 3, (1, None)),
            ("still the same", &a, 600, (4, first)),
            ("after a long time", &a, 1201, (1, None)),
        ];
        for (name, event, s, want) in rows {
            assert_eq!(tell(event, s), want, "{name}");
        }
    }

    #[test]
    fn many_similar_ones_become_one() {
        let mut all = Correlator::default();
        let mut told = Vec::new();
        for n in 0..12 {
            let event = event("Failed", &format!("message {n}"));
            let t = all.take(&about("u"), &event, at(n)).expect("told");
            all.written(&t.key, "x");
            told.push((t.message, t.count));
        }
        assert_eq!(told[8], ("message 8".to_owned(), 1));
        assert_eq!(told[9], (format!("{COMBINED}message 9"), 1));
        assert_eq!(told[11], (format!("{COMBINED}message 11"), 3));
        let other = all.take(&about("v"), &event("Failed", "message 0"), at(12));
        assert_eq!(other.expect("told").message, "message 0");
        let late = all.take(&about("u"), &event("Failed", "message 0"), at(1000));
        assert_eq!(late.expect("told").message, "message 0");
    }

    #[test]
    fn an_object_with_too_many_is_told_of_seldom() {
        let mut all = Correlator::default();
        let e = event("BackOff", "again");
        let told = (0..100).filter(|_| all.take(&about("u"), &e, at(0)).is_some());
        assert_eq!(told.count(), 25);
        assert!(all.take(&about("u"), &e, at(299)).is_none());
        let next = all
            .take(&about("u"), &e, at(301))
            .expect("one in five minutes");
        assert_eq!(next.count, 102, "those in between are counted");
        assert!(all.take(&about("u"), &e, at(302)).is_none());
        assert!(
            all.take(&about("v"), &e, at(302)).is_some(),
            "another object"
        );
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut all = Correlator::default();
        for n in 0..REMEMBERED as i64 {
            all.take(&about(&n.to_string()), &event("A", "b"), at(0));
        }
        all.take(&about("new"), &event("A", "b"), at(8000));
        assert_eq!(
            (all.similar.len(), all.series.len(), all.objects.len()),
            (1, 1, 1)
        );
    }

    #[test]
    fn many_at_once_are_not_all_remembered() {
        let mut all = Correlator::default();
        for n in 0..5 * REMEMBERED as i64 {
            all.take(&about(&n.to_string()), &event("A", "b"), at(n / 100));
            let most = [all.similar.len(), all.series.len(), all.objects.len()];
            assert!(most.iter().all(|n| *n <= REMEMBERED), "{most:?}");
        }
        let newest = about(&(5 * REMEMBERED as i64 - 1).to_string());
        let again = all.take(&newest, &event("A", "b"), at(101)).expect("told");
        assert_eq!(again.count, 2, "the newest are remembered");
    }
}
