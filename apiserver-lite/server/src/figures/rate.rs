//! From two readings to what is in use. Pure.

use jiff::{SignedDuration, Timestamp};

use super::text::{Key, Point, Sample};

/// Within this time the last answer is given again.
pub(super) const FRESH: SignedDuration = SignedDuration::from_secs(10);
/// A reading older than this tells nothing of the present.
pub(super) const STALE: SignedDuration = SignedDuration::from_secs(60);
/// The shortest time over which CPU use is told.
pub(super) const LEAST: SignedDuration = SignedDuration::from_millis(900);

/// The two last readings of a node.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The one before the last.
    pub(super) before: Sample,
    /// The last.
    pub(super) last: Sample,
}

/// What has to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing.
    Nothing,
    /// One more reading.
    One,
    /// Two, with a moment between them.
    Two,
}

/// What a question now needs.
pub(super) fn need(known: Option<&Known>, now: Timestamp) -> Need {
    let Some(known) = known else {
        return Need::Two;
    };
    let age = now.duration_since(known.last.node.at);
    match () {
        // A clock that was set back makes a reading of the future.
        () if age < SignedDuration::ZERO || age > STALE => Need::Two,
        () if age > FRESH => Need::One,
        () => Need::Nothing,
    }
}

/// What something uses, and over which time that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Use {
    /// The end of that time.
    pub(super) at: Timestamp,
    /// Its length.
    pub(super) window: SignedDuration,
    /// CPU, billionths of a core.
    pub(super) cpu: i64,
    /// Working set, bytes.
    pub(super) memory: i64,
}

/// What the node uses.
pub(super) fn of_node(known: &Known) -> Option<Use> {
    between(Some(&known.before.node), &known.last.node)
}

/// What a container uses. One that has started since the first reading is measured from its start.
pub(super) fn of_container(known: &Known, key: &Key) -> Option<Use> {
    between(
        known.before.containers.get(key),
        known.last.containers.get(key)?,
    )
}

fn between(before: Option<&Point>, last: &Point) -> Option<Use> {
    // Less CPU time than before, or another start: another run.
    let same = |b: &&Point| b.cpu <= last.cpu && b.started == last.started && b.at < last.at;
    let (since, cpu) = match before.filter(same) {
        Some(before) => (before.at, last.cpu - before.cpu),
        None if last.started > 0.0 => {
            let ms = (last.started * 1000.0) as i64;
            (Timestamp::from_millisecond(ms).ok()?, last.cpu)
        }
        None => return None,
    };
    let window = last.at.duration_since(since);
    if window < LEAST || last.memory <= 0.0 {
        return None;
    }
    Some(Use {
        at: last.at,
        window,
        cpu: (cpu * 1e9 / window.as_secs_f64()) as i64,
        memory: last.memory as i64,
    })
}

/// A duration as Go writes it, to the millisecond.
pub(super) fn go(window: SignedDuration) -> String {
    let ms = window.as_millis();
    let (minutes, rest) = (ms / 60_000, ms % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    while seconds.ends_with('0') {
        seconds.pop();
    }
    let seconds = seconds.trim_end_matches('.');
    match (minutes, ms) {
        (0, ..1000) => format!("{ms}ms"),
        (0, _) => format!("{seconds}s"),
        (m, _) if m < 60 => format!("{m}m{seconds}s"),
        (m, _) => format!("{}h{}m{seconds}s", m / 60, m % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(ms: i64, cpu: f64, started: f64) -> Point {
        Point {
            at: Timestamp::from_millisecond(ms).expect("time"),
            cpu,
            memory: 5.0,
            started,
        }
    }

    #[test]
    fn readings_are_made_when_they_are_needed() {
        let sample = |ms| Sample {
            node: point(ms, 1.0, 0.0),
            ..Sample::default()
        };
        let known = Known {
            before: sample(1_000),
            last: sample(100_000),
        };
        for (name, known, ms, want) in [
            ("the first question", None, 100_000, Need::Two),
            ("at once", Some(&known), 100_000, Need::Nothing),
            ("soon", Some(&known), 110_000, Need::Nothing),
            ("later", Some(&known), 111_000, Need::One),
            ("still", Some(&known), 160_000, Need::One),
            ("much later", Some(&known), 161_000, Need::Two),
            ("a clock set back", Some(&known), 99_000, Need::Two),
        ] {
            let now = Timestamp::from_millisecond(ms).expect("time");
            assert_eq!(need(known, now), want, "{name}");
        }
    }

    #[test]
    fn what_is_used_between_two_readings() {
        let rows = [
            (
                "half a core",
                Some(point(0, 1.0, 0.5)),
                point(2000, 2.0, 0.5),
                Some((500_000_000, 2000)),
            ),
            (
                "idle",
                Some(point(0, 1.0, 0.5)),
                point(2000, 1.0, 0.5),
                Some((0, 2000)),
            ),
            (
                "not measured from its start",
                None,
                point(2000, 2.0, 0.0),
                None,
            ),
            (
                "from its start",
                None,
                point(3000, 2.0, 1.0),
                Some((1_000_000_000, 2000)),
            ),
            (
                "another run",
                Some(point(0, 9.0, 0.5)),
                point(3000, 2.0, 1.0),
                Some((1_000_000_000, 2000)),
            ),
            ("just started", None, point(1500, 1.0, 1.0), None),
            (
                "the same reading",
                Some(point(2000, 2.0, 0.0)),
                point(2000, 2.0, 0.0),
                None,
            ),
        ];
        for (name, before, last, want) in rows {
            let found = between(before.as_ref(), &last);
            let found = found.map(|u| (u.cpu, u.window.as_millis()));
            assert_eq!(found, want, "{name}");
        }
        let empty = Point {
            memory: 0.0,
            ..point(2000, 2.0, 0.0)
        };
        assert_eq!(
            between(Some(&point(0, 1.0, 0.0)), &empty),
            None,
            "it has ended"
        );
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (ms, want) in [
            (999, "999ms"),
            (1000, "1s"),
            (1050, "1.05s"),
            (10_010, "10.01s"),
            (60_000, "1m0s"),
            (61_500, "1m1.5s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go(SignedDuration::from_millis(ms)), want);
        }
    }
}
