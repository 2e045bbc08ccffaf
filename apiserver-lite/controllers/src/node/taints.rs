//! The taints that a node's conditions call for.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::health::{Ready, condition};
use super::zone::Pace;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that are bad when true, and their taints.
const PRESSURE: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

/// All taints that the node should have, unless it has them; and whether that begins an eviction.
/// `may_evict`: it is this node's turn.
pub(super) fn plan(
    node: &Node,
    ready: Ready,
    pace: Pace,
    may_evict: bool,
    now: Timestamp,
) -> Option<(Vec<Taint>, bool)> {
    let old = node
        .spec
        .as_ref()
        .and_then(|s| s.taints.as_deref())
        .unwrap_or_default();
    let evicted = old
        .iter()
        .any(|t| is_lifecycle(t) && t.effect == "NoExecute");
    let trouble = match ready {
        Ready::True => None,
        Ready::False => Some(NOT_READY),
        Ready::Unknown => Some(UNREACHABLE),
    };
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    wanted.extend(trouble.map(|t| (t, "NoSchedule")));
    let evicts = trouble.is_some() && pace != Pace::Stop && (evicted || may_evict);
    wanted.extend(trouble.filter(|_| evicts).map(|t| (t, "NoExecute")));
    let pressed = |c: &str| condition(node, c).is_some_and(|c| c.status == "True");
    wanted.extend(
        PRESSURE
            .iter()
            .filter(|(c, _)| pressed(c))
            .map(|(_, t)| (*t, "NoSchedule")),
    );
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is = |t: &Taint, w: &(&str, &str)| t.key == w.0 && t.effect == w.1;
    let kept = old
        .iter()
        .filter(|t| !is_ours(t) || wanted.iter().any(|w| is(t, w)));
    let mut new: Vec<Taint> = kept.cloned().collect();
    for w in wanted {
        if !new.iter().any(|t| is(t, &w)) {
            new.push(Taint {
                key: w.0.into(),
                effect: w.1.into(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    (new != old).then_some((new, evicts && !evicted))
}

fn is_lifecycle(taint: &Taint) -> bool {
    taint.key == NOT_READY || taint.key == UNREACHABLE
}

/// Ours to add and to remove.
fn is_ours(taint: &Taint) -> bool {
    is_lifecycle(taint)
        || (taint.effect == "NoSchedule"
            && (taint.key == UNSCHEDULABLE || PRESSURE.iter().any(|(_, t)| *t == taint.key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    #[test]
    fn taints_follow_conditions() {
        let (go, wait) = (true, false);
        let taint = |short: &str| {
            let (key, effect) = short.split_once(':').expect("key:effect");
            json!({"key": if key.contains('/') { key.to_owned() } else { format!("node.kubernetes.io/{key}") }, "effect": effect})
        };
        type Row<'a> = (
            &'a str,
            &'a [&'a str],
            Value,
            Ready,
            Pace,
            bool,
            Option<(&'a [&'a str], bool)>,
        );
        let none = || json!({});
        let rows: &[Row<'_>] = &[
            ("well", &[], none(), Ready::True, Pace::Normal, go, None),
            (
                "joins: loses the taint it was made with",
                &["not-ready:NoSchedule"],
                none(),
                Ready::True,
                Pace::Normal,
                go,
                Some((&[], false)),
            ),
            (
                "not ready",
                &[],
                none(),
                Ready::False,
                Pace::Normal,
                go,
                Some((&["not-ready:NoSchedule", "not-ready:NoExecute"], true)),
            ),
            (
                "lost",
                &[],
                none(),
                Ready::Unknown,
                Pace::Normal,
                go,
                Some((&["unreachable:NoSchedule", "unreachable:NoExecute"], true)),
            ),
            (
                "lost, not its turn",
                &[],
                none(),
                Ready::Unknown,
                Pace::Normal,
                wait,
                Some((&["unreachable:NoSchedule"], false)),
            ),
            (
                "lost with all others: eviction is called off",
                &["unreachable:NoSchedule", "unreachable:NoExecute"],
                none(),
                Ready::Unknown,
                Pace::Stop,
                go,
                Some((&["unreachable:NoSchedule"], false)),
            ),
            (
                "lost with most others: what has begun goes on",
                &["unreachable:NoSchedule", "unreachable:NoExecute"],
                none(),
                Ready::Unknown,
                Pace::Hold,
                wait,
                None,
            ),
            (
                "lost after not ready: no second turn needed",
                &["not-ready:NoSchedule", "not-ready:NoExecute"],
                none(),
                Ready::Unknown,
                Pace::Normal,
                wait,
                Some((&["unreachable:NoSchedule", "unreachable:NoExecute"], false)),
            ),
            (
                "back",
                &["unreachable:NoSchedule", "unreachable:NoExecute"],
                none(),
                Ready::True,
                Pace::Normal,
                go,
                Some((&[], false)),
            ),
            (
                "others' taints stay",
                &["x/y:NoExecute", "unreachable:NoSchedule"],
                none(),
                Ready::True,
                Pace::Normal,
                go,
                Some((&["x/y:NoExecute"], false)),
            ),
            (
                "cordoned",
                &[],
                json!({"spec": {"unschedulable": true}}),
                Ready::True,
                Pace::Normal,
                go,
                Some((&["unschedulable:NoSchedule"], false)),
            ),
            (
                "uncordoned",
                &["unschedulable:NoSchedule"],
                none(),
                Ready::True,
                Pace::Normal,
                go,
                Some((&[], false)),
            ),
            (
                "short of memory",
                &[],
                json!({"status": {"conditions": [{"type": "MemoryPressure", "status": "True"}]}}),
                Ready::True,
                Pace::Normal,
                go,
                Some((&["memory-pressure:NoSchedule"], false)),
            ),
        ];
        for (name, old, more, ready, pace, may_evict, want) in rows {
            let mut v = json!({"metadata": {"name": "n"}, "spec": {}});
            for (part, fields) in more.as_object().expect("object") {
                v[part] = fields.clone();
            }
            v["spec"]["taints"] = old.iter().map(|t| taint(t)).collect();
            let node: Node = from_value(v).expect("node");
            let seen = plan(&node, *ready, *pace, *may_evict, Timestamp::UNIX_EPOCH);
            let plain = |t: &Taint| json!({"key": t.key, "effect": t.effect});
            let seen = seen.map(|(t, e)| (t.iter().map(plain).collect::<Vec<_>>(), e));
            let want = want.map(|(t, e)| (t.iter().map(|t| taint(t)).collect::<Vec<_>>(), e));
            assert_eq!(seen, want, "{name}");
        }
    }
}
