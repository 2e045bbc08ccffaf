//! Whether the proxy does its work, and whether its node should get traffic. All times are since any fixed point.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;

use crate::model::Family;

/// The cluster autoscaler's mark on a node that it is about to delete.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Changes that came and were written, for each family.
#[derive(Clone, Debug)]
pub struct Progress {
    timeout: Duration,
    /// When all was written last.
    updated: BTreeMap<Family, Duration>,
    /// Since when changes wait.
    queued: BTreeMap<Family, Duration>,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// No family is late.
    pub healthy: bool,
    /// When any family was written last; `None`: none was yet.
    pub updated: Option<Duration>,
    /// For each family that was ever written: whether it is not late, and when it was written last.
    pub families: BTreeMap<Family, (bool, Duration)>,
}

impl Progress {
    /// Nothing came yet. A change that waits for as long as `timeout` is late.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            updated: BTreeMap::new(),
            queued: BTreeMap::new(),
        }
    }

    /// A change came. The oldest that waits counts.
    pub fn queued(&mut self, family: Family, now: Duration) {
        self.queued.entry(family).or_insert(now);
    }

    /// All that came was written.
    pub fn updated(&mut self, family: Family, now: Duration) {
        self.queued.remove(&family);
        self.updated.insert(family, now);
    }

    /// How it stands. A family that was never written is still starting and not late, as upstream has it
    /// (`pkg/proxy/healthcheck`).
    pub fn verdict(&self, now: Duration) -> Verdict {
        let late = |family| {
            let since = self.queued.get(family);
            since.is_some_and(|since| now.saturating_sub(*since) >= self.timeout)
        };
        let families = self.updated.iter();
        let families: BTreeMap<_, _> = families.map(|(f, at)| (*f, (!late(f), *at))).collect();
        Verdict {
            healthy: families.values().all(|(healthy, _)| *healthy),
            updated: families.values().map(|(_, at)| *at).max(),
            families,
        }
    }
}

/// Whether load balancers may send traffic to a node: it is not being deleted, nor about to be.
pub fn eligible(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none()
        && !taints.into_iter().any(|t| t.key == TO_BE_DELETED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn late_is_what_waits_too_long_after_the_first_write() {
        use Family::{V4, V6};
        #[derive(Clone, Copy)]
        enum Step {
            Queued(Family),
            Updated(Family),
        }
        use Step::{Queued, Updated};
        // Steps at seconds; then, at a second: healthy, and when it was written last.
        type Case = (&'static str, &'static [(u64, Step)], u64, bool, Option<u64>);
        let cases: &[Case] = &[
            ("nothing yet", &[], 99, true, None),
            ("never written", &[(0, Queued(V4))], 99, true, None),
            (
                "written",
                &[(0, Queued(V4)), (1, Updated(V4))],
                99,
                true,
                Some(1),
            ),
            (
                "waits",
                &[(1, Updated(V4)), (5, Queued(V4))],
                14,
                true,
                Some(1),
            ),
            (
                "late",
                &[(1, Updated(V4)), (5, Queued(V4))],
                15,
                false,
                Some(1),
            ),
            (
                "the oldest counts",
                &[(1, Updated(V4)), (5, Queued(V4)), (14, Queued(V4))],
                15,
                false,
                Some(1),
            ),
            (
                "written late",
                &[(1, Updated(V4)), (5, Queued(V4)), (20, Updated(V4))],
                20,
                true,
                Some(20),
            ),
            (
                "the other family is late",
                &[
                    (1, Updated(V4)),
                    (1, Updated(V6)),
                    (2, Queued(V6)),
                    (9, Updated(V4)),
                ],
                12,
                false,
                Some(9),
            ),
        ];
        for (name, steps, now, healthy, updated) in cases {
            let mut progress = Progress::new(Duration::from_secs(10));
            for (at, step) in *steps {
                let at = Duration::from_secs(*at);
                match step {
                    Queued(family) => progress.queued(*family, at),
                    Updated(family) => progress.updated(*family, at),
                }
            }
            let verdict = progress.verdict(Duration::from_secs(*now));
            let got = (verdict.healthy, verdict.updated.map(|d| d.as_secs()));
            assert_eq!(got, (*healthy, *updated), "{name}");
        }
    }

    #[test]
    fn nodes_on_their_way_out_are_not_eligible() {
        let cases: &[(&str, Value, bool)] = &[
            ("plain", json!({"metadata": {}}), true),
            (
                "cordoned",
                json!({"spec": {"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}),
                true,
            ),
            (
                "being deleted",
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                false,
            ),
            (
                "about to be",
                json!({"spec": {"taints": [{"key": TO_BE_DELETED, "effect": "NoSchedule"}]}}),
                false,
            ),
        ];
        for (name, node, want) in cases {
            let node: Node = serde_json::from_value(node.clone()).expect(name);
            assert_eq!(eligible(&node), *want, "{name}");
        }
    }
}
