//! Which thresholds are crossed, since when, and what the node reports meanwhile.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{Condition, Observations, Threshold};

/// What is remembered from look to look. After a restart it begins anew: a grace period runs again, a
/// condition ends early.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Since when each threshold has been crossed, in their order.
    since: Vec<Option<Timestamp>>,
    /// Those that were acted on the last time: they hold until the minimum is reclaimed.
    met: Vec<bool>,
    /// When the signals last called for a condition.
    pressed: BTreeMap<Condition, Timestamp>,
}

/// What a look at the signals gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Conditions that hold, in order.
    pub pressure: Vec<Condition>,
    /// The threshold to act on now, by its place.
    pub act: Option<usize>,
}

impl State {
    /// Takes in what was observed. A condition holds for `transition` after its signal recovered, so that it does
    /// not come and go with every pod.
    pub fn look(
        &mut self,
        thresholds: &[Threshold],
        seen: &Observations,
        transition: SignedDuration,
        now: Timestamp,
    ) -> Look {
        self.since.resize(thresholds.len(), None);
        self.met.resize(thresholds.len(), false);
        let mut look = Look::default();
        let places = thresholds
            .iter()
            .zip(self.since.iter_mut().zip(&mut self.met));
        for (place, (t, (since, met))) in places.enumerate() {
            let crossed = is_crossed(t, seen, false) || (*met && is_crossed(t, seen, true));
            *since = crossed.then(|| since.unwrap_or(now));
            let lasted = |at: Timestamp| t.grace.is_none_or(|g| now.duration_since(at) >= g);
            *met = since.is_some_and(lasted);
            if crossed {
                self.pressed.insert(t.signal.condition(), now);
            }
            if *met {
                look.act.get_or_insert(place);
            }
        }
        self.pressed
            .retain(|_, at| *at == now || now.duration_since(*at) < transition);
        look.pressure = self.pressed.keys().copied().collect();
        look
    }
}

/// Whether any threshold would still be crossed with its minimum on top: reclaiming has to go on.
pub(super) fn any_crossed(thresholds: &[Threshold], seen: &Observations) -> bool {
    thresholds.iter().any(|t| is_crossed(t, seen, true))
}

/// A signal that was not read is not too low.
fn is_crossed(t: &Threshold, seen: &Observations, with_minimum: bool) -> bool {
    let Some(o) = seen.get(&t.signal) else {
        return false;
    };
    let minimum = t.reclaim.as_ref().filter(|_| with_minimum);
    let wanted = t.value.of(o.capacity) + minimum.map_or(0, |m| m.of(o.capacity));
    o.available < wanted
}

impl Look {
    /// Whether enough was reclaimed without touching a pod.
    pub fn is_relieved(thresholds: &[Threshold], seen: &Observations) -> bool {
        !any_crossed(thresholds, seen)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Amount, Observation, Signal};
    use super::*;

    fn threshold(signal: Signal, value: u64, grace: i64, reclaim: u64) -> Threshold {
        let amount = |n: u64| Amount::Quantity(n, n.to_string());
        Threshold {
            signal,
            value: amount(value),
            grace: (grace > 0).then(|| SignedDuration::from_secs(grace)),
            reclaim: (reclaim > 0).then(|| amount(reclaim)),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("time")
    }

    fn see(memory: u64, disk: u64) -> Observations {
        let of = |available| Observation {
            available,
            capacity: 1000,
        };
        [
            (Signal::MemoryAvailable, of(memory)),
            (Signal::NodefsAvailable, of(disk)),
        ]
        .into()
    }

    /// Steps of time, memory and disk; what follows: the conditions and the signal acted on.
    type Story = &'static [(i64, u64, u64, &'static [Condition], Option<Signal>)];

    fn tell(name: &str, thresholds: &[Threshold], story: Story) {
        let mut state = State::default();
        for (seconds, memory, disk, pressure, act) in story {
            let transition = SignedDuration::from_secs(300);
            let look = state.look(thresholds, &see(*memory, *disk), transition, at(*seconds));
            let signal = look.act.map(|i| thresholds[i].signal);
            assert_eq!(
                (look.pressure.as_slice(), signal),
                (*pressure, *act),
                "{name} at {seconds}"
            );
        }
    }

    #[test]
    fn stories() {
        use Condition::{Disk, Memory};
        use Signal::{MemoryAvailable, NodefsAvailable};
        let hard = [
            threshold(MemoryAvailable, 100, 0, 0),
            threshold(NodefsAvailable, 100, 0, 0),
        ];
        tell(
            "a hard threshold acts at once, its condition outlasts it",
            &hard,
            &[
                (0, 100, 100, &[], None),
                (10, 99, 100, &[Memory], Some(MemoryAvailable)),
                (20, 500, 100, &[Memory], None),
                (309, 500, 100, &[Memory], None),
                (310, 500, 100, &[], None),
            ],
        );
        tell(
            "memory comes first",
            &hard,
            &[
                (0, 500, 50, &[Disk], Some(NodefsAvailable)),
                (10, 50, 50, &[Disk, Memory], Some(MemoryAvailable)),
                (20, 500, 50, &[Disk, Memory], Some(NodefsAvailable)),
            ],
        );
        tell(
            "a soft one has to last; it begins anew when it was gone for a moment",
            &[threshold(MemoryAvailable, 100, 60, 0)],
            &[
                (0, 50, 500, &[Memory], None),
                (59, 50, 500, &[Memory], None),
                (60, 50, 500, &[Memory], Some(MemoryAvailable)),
                (70, 100, 500, &[Memory], None),
                (80, 50, 500, &[Memory], None),
                (140, 50, 500, &[Memory], Some(MemoryAvailable)),
            ],
        );
        tell(
            "what was acted on holds until the minimum is there as well",
            &[threshold(NodefsAvailable, 100, 0, 50)],
            &[
                (0, 500, 120, &[], None),
                (10, 500, 99, &[Disk], Some(NodefsAvailable)),
                (20, 500, 149, &[Disk], Some(NodefsAvailable)),
                (30, 500, 150, &[Disk], None),
                (40, 500, 120, &[Disk], None),
            ],
        );
    }

    #[test]
    fn relief_counts_the_minimum_of_every_threshold() {
        let soft = [
            threshold(Signal::NodefsAvailable, 100, 0, 50),
            threshold(Signal::MemoryAvailable, 200, 60, 0),
        ];
        let rows = [
            ("enough", 200, 150, true),
            ("the minimum is missing", 200, 149, false),
            ("another one, its grace still runs", 199, 150, false),
        ];
        for (name, memory, disk, want) in rows {
            assert_eq!(Look::is_relieved(&soft, &see(memory, disk)), want, "{name}");
        }
        assert!(Look::is_relieved(&soft, &Observations::new()), "unread");
    }

    #[test]
    fn parts_are_of_the_capacity() {
        let tenth = Threshold {
            value: Amount::Part(0.1),
            ..threshold(Signal::NodefsAvailable, 0, 0, 0)
        };
        assert!(is_crossed(&tenth, &see(0, 99), false));
        assert!(!is_crossed(&tenth, &see(0, 100), false));
    }
}
