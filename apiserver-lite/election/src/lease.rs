//! Whether to take, renew or wait. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::Options;

/// What to do about the lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nobody holds it: write this.
    Take(LeaseSpec),
    /// We hold it: write this.
    Renew(LeaseSpec),
    /// Another holds it.
    Wait,
}

/// What to do about a lease (`None`: there is none yet) that has not changed for `unchanged`, by our own clock.
pub fn decide(
    lease: Option<&LeaseSpec>,
    unchanged: Duration,
    now: Timestamp,
    options: &Options,
) -> Step {
    let holder = lease
        .and_then(|lease| lease.holder_identity.as_deref())
        .unwrap_or_default();
    let wanted = LeaseSpec {
        holder_identity: Some(options.identity.clone()),
        lease_duration_seconds: Some(
            i32::try_from(options.lease_duration.as_secs())
                .unwrap_or(i32::MAX)
                .max(1),
        ),
        renew_time: Some(MicroTime(now)),
        ..lease.cloned().unwrap_or_default()
    };
    if holder == options.identity {
        return Step::Renew(wanted);
    }
    let promised = lease
        .and_then(|lease| lease.lease_duration_seconds)
        .unwrap_or_default();
    let is_held = unchanged < Duration::from_secs(u64::try_from(promised).unwrap_or_default());
    if !holder.is_empty() && is_held {
        return Step::Wait;
    }
    let transitions = lease.map_or(0, |lease| {
        lease
            .lease_transitions
            .unwrap_or_default()
            .saturating_add(1)
    });
    Step::Take(LeaseSpec {
        acquire_time: Some(MicroTime(now)),
        lease_transitions: Some(transitions),
        ..wanted
    })
}

/// The lease without us; `None` if it is not ours to give back.
pub fn released(lease: &LeaseSpec, now: Timestamp, identity: &str) -> Option<LeaseSpec> {
    (lease.holder_identity.as_deref() == Some(identity)).then(|| LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        renew_time: Some(MicroTime(now)),
        acquire_time: Some(MicroTime(now)),
        ..lease.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn lease(
        holder: &str,
        seconds: i32,
        acquired: i64,
        renewed: i64,
        transitions: i32,
    ) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(seconds),
            acquire_time: Some(MicroTime(at(acquired))),
            renew_time: Some(MicroTime(at(renewed))),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn decisions() {
        let options = Options::new("kube-system", "l", "me");
        let second = Duration::from_secs(1);
        let cases = [
            (
                "none yet",
                None,
                0,
                Step::Take(lease("me", 15, 100, 100, 0)),
            ),
            (
                "given back",
                Some(lease("", 1, 5, 5, 3)),
                0,
                Step::Take(lease("me", 15, 100, 100, 4)),
            ),
            (
                "ours",
                Some(lease("me", 15, 5, 98, 3)),
                2,
                Step::Renew(lease("me", 15, 5, 100, 3)),
            ),
            (
                "ours, run out",
                Some(lease("me", 15, 5, 9, 3)),
                90,
                Step::Renew(lease("me", 15, 5, 100, 3)),
            ),
            ("theirs", Some(lease("you", 15, 5, 98, 3)), 14, Step::Wait),
            // Their clock may be wrong: what counts is how long we have seen no renewal.
            (
                "theirs, old clock",
                Some(lease("you", 15, 5, 6, 3)),
                0,
                Step::Wait,
            ),
            (
                "theirs, run out",
                Some(lease("you", 15, 5, 98, 3)),
                15,
                Step::Take(lease("me", 15, 100, 100, 4)),
            ),
            (
                "theirs, longer promise",
                Some(lease("you", 60, 5, 98, 3)),
                59,
                Step::Wait,
            ),
            (
                "nobody's ever",
                Some(LeaseSpec::default()),
                0,
                Step::Take(lease("me", 15, 100, 100, 1)),
            ),
        ];
        for (name, is, unchanged, wanted) in cases {
            assert_eq!(
                decide(is.as_ref(), second * unchanged, at(100), &options),
                wanted,
                "{name}"
            );
        }
    }

    #[test]
    fn only_our_own_is_given_back() {
        assert_eq!(released(&lease("you", 15, 5, 98, 3), at(100), "me"), None);
        assert_eq!(
            released(&lease("me", 15, 5, 98, 3), at(100), "me"),
            Some(lease("", 1, 100, 100, 3))
        );
    }
}
