//! For how long nodes have been silent: by our own clock, since the last *change* of what they say, as their
//! clocks may be wrong. Time in which we did not look ourselves does not count against them.

use std::collections::HashMap;
use std::ops::Add;
use std::time::Duration;

/// What a node last said: its lease's and its status' times.
pub(super) type Stamp = (Option<jiff::Timestamp>, Option<jiff::Timestamp>);

/// Observations of nodes. `T` is a time.
pub(super) struct Watchtower<T> {
    seen: HashMap<String, (Stamp, T)>,
    last: Option<T>,
    away: Duration,
}

impl<T: Copy + Ord + Add<Duration, Output = T> + std::ops::Sub<Output = Duration>> Watchtower<T> {
    /// `away`: a longer pause between two looks means that we were away (stopped, suspended, overloaded).
    pub(super) fn new(away: Duration) -> Self {
        Self {
            seen: HashMap::new(),
            last: None,
            away,
        }
    }

    /// We look now.
    pub(super) fn tick(&mut self, now: T) {
        let pause = self.last.map_or(Duration::ZERO, |last| now - last);
        if pause > self.away {
            tracing::info!(?pause, "was away, giving nodes that time");
            for (_, at) in self.seen.values_mut() {
                *at = (*at + pause).min(now);
            }
        }
        self.last = Some(now);
    }

    /// For how long a node that says this now has been silent.
    pub(super) fn observe(&mut self, node: &str, stamp: Stamp, now: T) -> Duration {
        match self.seen.get(node) {
            Some((old, at)) if *old == stamp => now - *at,
            _ => {
                self.seen.insert(node.to_owned(), (stamp, now));
                Duration::ZERO
            }
        }
    }

    /// Forgets all other nodes.
    pub(super) fn keep(&mut self, nodes: &[String]) {
        self.seen.retain(|n, _| nodes.contains(n));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_while_we_look() {
        let s = Duration::from_secs;
        let stamp = |n: i64| (jiff::Timestamp::from_second(n).ok(), None);
        let mut tower = Watchtower::<Duration>::new(s(15));
        let mut look = |at, said| {
            tower.tick(s(at));
            tower.observe("n", stamp(said), s(at))
        };
        // (name, we look at, the node said, silent for)
        let rows = [
            ("first seen, with an old stamp", 100, 1, 0),
            ("nothing new", 110, 1, 10),
            ("nothing new still", 120, 1, 20),
            ("we were away for 80 s", 200, 1, 20),
            ("and look again", 210, 1, 30),
            ("a sign", 211, 2, 0),
            ("a clock set back is a sign too", 212, 1, 0),
        ];
        for (name, at, said, silent) in rows {
            assert_eq!(look(at, said), s(silent), "{name}");
        }
    }
}
