//! Exponential back-off as a value: for restarts of a container and for pulls of an image.

use jiff::{SignedDuration, Timestamp};

/// How a kind of back-off grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Curve {
    /// The first delay.
    pub initial: SignedDuration,
    /// The largest delay; after twice this long without a failure the curve starts again.
    pub max: SignedDuration,
}

/// Restarts and image pulls: 10 s doubling to 5 min, forgotten after 10 min (upstream's `MaxContainerBackOff`).
pub const CONTAINER: Curve = Curve {
    initial: SignedDuration::from_secs(10),
    max: SignedDuration::from_secs(300),
};
/// Volumes: half a second doubling to about two minutes.
pub const VOLUME: Curve = Curve {
    initial: SignedDuration::from_millis(500),
    max: SignedDuration::from_secs(122),
};
/// Sandboxes: the network may come a moment later than the node.
pub const SANDBOX: Curve = Curve {
    initial: SignedDuration::from_secs(1),
    max: SignedDuration::from_secs(30),
};

/// Where on its curve something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The delay that counts from the last failure.
    pub delay: SignedDuration,
    /// When it last grew.
    pub updated: Timestamp,
}

impl Backoff {
    /// The entry after one more failure (or restart) at `at`.
    pub fn next(previous: Option<Self>, curve: Curve, at: Timestamp) -> Self {
        let delay = match previous {
            Some(p) if at.duration_since(p.updated) <= curve.max + curve.max => {
                (p.delay + p.delay).min(curve.max)
            }
            _ => curve.initial,
        };
        Self { delay, updated: at }
    }

    /// When the wait that began at `since` is over, if it still counts: an entry older than twice the
    /// longest delay does not.
    pub fn until(self, curve: Curve, since: Timestamp) -> Option<Timestamp> {
        let expired = since.duration_since(self.updated) > curve.max + curve.max;
        if expired {
            None
        } else {
            since.checked_add(self.delay).ok()
        }
    }
}

/// A delay in Go's notation, as upstream's messages have it: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(d: SignedDuration) -> String {
    let seconds = d.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) if d.subsec_millis() > 0 => format!("{}ms", d.as_millis()),
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// The same, to the millisecond: `1m2.05s`, `534ms`.
pub fn go_milliseconds(d: SignedDuration) -> String {
    let ms = d.as_millis();
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (minutes, rest) = (ms / 60_000, ms % 60_000);
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match minutes {
        0 => format!("{seconds}s"),
        m if m < 60 => format!("{m}m{seconds}s"),
        m => format!("{}h{}m{seconds}s", m / 60, m % 60),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_to_the_millisecond() {
        for (ms, want) in [
            (0, "0ms"),
            (534, "534ms"),
            (1000, "1s"),
            (10_050, "10.05s"),
            (62_050, "1m2.05s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_milliseconds(SignedDuration::from_millis(ms)), want);
        }
    }

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("in range")
    }

    #[test]
    fn doubles_to_five_minutes_and_is_forgotten_after_ten() {
        let mut entry = None;
        let mut seen = Vec::new();
        for i in 0..7 {
            let b = Backoff::next(entry, CONTAINER, at(i * 300));
            seen.push(go_duration(b.delay));
            entry = Some(b);
        }
        assert_eq!(
            seen,
            ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]
        );
        let last = entry.expect("set");
        assert_eq!(last.until(CONTAINER, at(1810)), Some(at(2110)));
        assert_eq!(last.until(CONTAINER, at(1800 + 601)), None);
        assert_eq!(
            Backoff::next(entry, CONTAINER, at(1800 + 601)).delay,
            CONTAINER.initial
        );
    }
}
