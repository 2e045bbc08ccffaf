//! Probes as a state machine: results in, verdicts and the next time out.
//!
//! ```text
//! Waiting(initial delay, startup probe) -> every period: result -> streak reaches a threshold -> verdict
//! ```

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Probe};

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Holds the others back until it has succeeded.
    Startup,
    /// Kills when it fails.
    Liveness,
    /// Keeps a container out of services while it fails.
    Readiness,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The word in events: `Liveness probe failed: ...`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// The container's probe of this kind.
    pub fn of(self, c: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => c.startup_probe.as_ref(),
            Self::Liveness => c.liveness_probe.as_ref(),
            Self::Readiness => c.readiness_probe.as_ref(),
        }
    }
}

/// A probe's timing, with the API's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the container's start to the first try.
    pub initial_delay: SignedDuration,
    /// Between tries.
    pub period: SignedDuration,
    /// How long one try may take.
    pub timeout: SignedDuration,
    /// Successes in a row that count.
    pub success: u32,
    /// Failures in a row that count.
    pub failure: u32,
}

impl Timing {
    /// Reads a probe. The success threshold of startup and liveness is always 1.
    pub fn of(kind: Kind, probe: &Probe) -> Self {
        let seconds = |v: Option<i32>, default: i64| {
            SignedDuration::from_secs(v.map_or(default, i64::from).max(i64::from(default > 0)))
        };
        let count = |v: Option<i32>, default: u32| {
            v.and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n > 0)
                .unwrap_or(default)
        };
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success: if kind == Kind::Readiness {
                count(probe.success_threshold, 1)
            } else {
                1
            },
            failure: count(probe.failure_threshold, 3),
        }
    }
}

/// Probes are repeated at whole tenths of a second: those of a node that fall into one are woken together, which costs
/// a fraction of as many wake-ups. The first one is not kept waiting.
const SLOT: SignedDuration = SignedDuration::from_millis(100);

/// The first slot that does not begin before `at`.
fn slot(at: Timestamp) -> Timestamp {
    let rest = at.as_nanosecond().rem_euclid(SLOT.as_nanos());
    let wait = (SLOT.as_nanos() - rest) % SLOT.as_nanos();
    let wait = i64::try_from(wait).map_or(SignedDuration::ZERO, SignedDuration::from_nanos);
    at.checked_add(wait).unwrap_or(at)
}

/// One probe of one run of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    kind: Kind,
    timing: Timing,
    verdict: Option<bool>,
    last: Option<bool>,
    streak: u32,
    next: Timestamp,
}

impl State {
    /// A probe of a container that started at `started`.
    pub fn new(kind: Kind, timing: Timing, started: Timestamp) -> Self {
        Self {
            kind,
            timing,
            verdict: None,
            last: None,
            streak: 0,
            next: started.checked_add(timing.initial_delay).unwrap_or(started),
        }
    }

    /// What it says: `None` until a threshold was reached. Until then liveness counts as good, the others not.
    pub fn verdict(&self) -> Option<bool> {
        self.verdict
    }

    /// When to try; `None` when it has done its work (a startup probe that succeeded, or a failed one that
    /// has the container killed) or must wait for the startup probe.
    pub fn next(&self, startup_passed: bool) -> Option<Timestamp> {
        let done = match self.kind {
            Kind::Startup => self.verdict.is_some(),
            Kind::Liveness => self.verdict == Some(false) || !startup_passed,
            Kind::Readiness => !startup_passed,
        };
        (!done).then_some(self.next)
    }

    /// A try that began at `began` could not be made: it says nothing about the container, and counts for nothing.
    pub fn skip(&mut self, began: Timestamp) {
        // From the time it was due, or every try would come a slot later than the one before.
        let from = match began.duration_since(self.next) < SLOT {
            true => self.next,
            false => began,
        };
        self.next = slot(from.checked_add(self.timing.period).unwrap_or(from));
    }

    /// Takes the result of a try that began at `began`. True when the verdict changed.
    pub fn record(&mut self, success: bool, began: Timestamp) -> bool {
        self.skip(began);
        self.streak = if self.last == Some(success) {
            self.streak + 1
        } else {
            1
        };
        self.last = Some(success);
        let threshold = if success {
            self.timing.success
        } else {
            self.timing.failure
        };
        if self.streak < threshold || self.verdict == Some(success) {
            return false;
        }
        self.verdict = Some(success);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + s).expect("in range")
    }

    fn timing(kind: Kind) -> Timing {
        let probe = Probe {
            initial_delay_seconds: Some(5),
            period_seconds: Some(2),
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..Default::default()
        };
        Timing::of(kind, &probe)
    }

    #[test]
    fn thresholds() {
        use Kind::{Liveness, Readiness, Startup};
        let rows: [(&str, Kind, &[bool], Option<bool>); 8] = [
            ("nothing yet", Readiness, &[], None),
            ("one success of two", Readiness, &[true], None),
            ("two successes", Readiness, &[true, true], Some(true)),
            ("streak broken", Readiness, &[true, false, true], None),
            (
                "ready survives two failures",
                Readiness,
                &[true, true, false, false],
                Some(true),
            ),
            (
                "three failures",
                Readiness,
                &[true, true, false, false, false],
                Some(false),
            ),
            ("liveness needs one success", Liveness, &[true], Some(true)),
            (
                "startup fails late",
                Startup,
                &[false, false, false],
                Some(false),
            ),
        ];
        for (name, kind, results, want) in rows {
            let mut state = State::new(kind, timing(kind), at(0));
            for (i, r) in results.iter().enumerate() {
                state.record(*r, at(i as i64));
            }
            assert_eq!(state.verdict(), want, "{name}");
        }
    }

    #[test]
    fn times() {
        let mut liveness = State::new(Kind::Liveness, timing(Kind::Liveness), at(0));
        assert_eq!(liveness.next(false), None, "startup first");
        assert_eq!(liveness.next(true), Some(at(5)), "initial delay");
        liveness.record(true, at(6));
        assert_eq!(
            liveness.next(true),
            Some(at(8)),
            "period from the begin of the last try"
        );
        let mut startup = State::new(Kind::Startup, timing(Kind::Startup), at(0));
        startup.record(true, at(5));
        assert_eq!(startup.next(false), None, "done");
    }

    #[test]
    fn slots() {
        let ms = |ms: i64| Timestamp::from_millisecond(1_000_000 + ms).expect("in range");
        let rows = [
            ("on the slot", 0, 5_000, 7_000),
            ("never before it is due", 1, 5_001, 7_100),
            ("a little late: no drift", 0, 5_030, 7_000),
            ("very late: from then on", 0, 5_130, 7_200),
        ];
        for (name, started, began, next) in rows {
            let mut state = State::new(Kind::Liveness, timing(Kind::Liveness), ms(started));
            assert_eq!(state.next(true), Some(ms(started + 5_000)), "{name}");
            state.record(true, ms(began));
            assert_eq!(state.next(true), Some(ms(next)), "{name}");
        }
    }

    #[test]
    fn defaults() {
        let t = Timing::of(
            Kind::Liveness,
            &Probe {
                timeout_seconds: Some(0),
                ..Default::default()
            },
        );
        let s = |t: SignedDuration| t.as_secs();
        assert_eq!(
            (
                s(t.initial_delay),
                s(t.period),
                s(t.timeout),
                t.success,
                t.failure
            ),
            (0, 10, 1, 1, 3)
        );
    }
}
