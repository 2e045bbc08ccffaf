//! Events: `v1` is stored, `events.k8s.io/v1` names the same fields otherwise.

use serde_json::Value;

use crate::json;

/// Field of `v1`, field of `events.k8s.io/v1`.
const FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Stored form to `events.k8s.io/v1`.
pub(crate) fn to_events_v1(v: &mut Value) {
    for (core, events) in FIELDS {
        rename(v, core, events);
    }
    json::set(v, "apiVersion", "events.k8s.io/v1");
}

/// `events.k8s.io/v1` to the stored form.
pub(crate) fn from_events_v1(v: &mut Value) {
    for (core, events) in FIELDS {
        rename(v, events, core);
    }
    json::set(v, "apiVersion", "v1");
}

fn rename(v: &mut Value, from: &str, to: &str) {
    if let Some(x) = json::remove(v, from) {
        json::set(v, to, x);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn there_and_back() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"kind": "Pod"}, "message": "m",
            "reason": "R", "reportingComponent": "c", "reportingInstance": "i", "count": 2, "type": "Normal",
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:01Z", "eventTime": null,
            "source": {"component": "x"}, "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}});
        let mut v = core.clone();
        to_events_v1(&mut v);
        let events = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"kind": "Pod"}, "note": "m",
            "reason": "R", "reportingController": "c", "reportingInstance": "i", "deprecatedCount": 2, "type": "Normal",
            "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z", "deprecatedLastTimestamp": "2026-01-01T00:00:01Z",
            "eventTime": null, "deprecatedSource": {"component": "x"},
            "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}});
        assert_eq!(v, events);
        from_events_v1(&mut v);
        assert_eq!(v, core);
    }
}
