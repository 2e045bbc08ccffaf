//! CertificateSigningRequests: approvers write the approval, signers the certificate, and neither the other's.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::json::{at, fill_text, items, set, text};

/// What only the approval subresource decides.
const DECISIONS: &[&str] = &["Approved", "Denied"];

/// The approval changes conditions only; the status anything but the decisions there are.
pub(super) fn prepare_status(new: &mut Value, old: &Value, subresource: &str, now: Timestamp) {
    let is_decision = |c: &Value| DECISIONS.contains(&text(c, "/type"));
    let mut asked = items(new, "/status/conditions").to_vec();
    for condition in &mut asked {
        date(condition, items(old, "/status/conditions"), now);
    }
    if subresource == "approval" {
        let mut status = at(old, "/status").clone();
        if !status.is_object() {
            status = json!({});
        }
        status["conditions"] = json!(asked);
        set(new, "status", status);
        return;
    }
    let decided = items(old, "/status/conditions").iter();
    let mut conditions: Vec<Value> = decided.filter(|c| is_decision(c)).cloned().collect();
    conditions.extend(asked.into_iter().filter(|c| !is_decision(c)));
    if conditions.is_empty() {
        return;
    }
    if !at(new, "/status").is_object() {
        set(new, "status", json!({}));
    }
    if let Some(status) = new.get_mut("status") {
        set(status, "conditions", conditions);
    }
}

/// Fills in when a condition was written, and since when it is what it is.
fn date(condition: &mut Value, before: &[Value], now: Timestamp) {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let same = before.iter().find(|b| {
        ["/type", "/status"]
            .iter()
            .all(|f| text(b, f) == text(condition, f))
    });
    let since = same
        .map_or("", |b| text(b, "/lastTransitionTime"))
        .to_owned();
    fill_text(condition, "lastUpdateTime", &now);
    fill_text(
        condition,
        "lastTransitionTime",
        if since.is_empty() { &now } else { &since },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approvers_and_signers_write_their_own() {
        let conditions = |types: &[&str]| -> Value {
            let at = "1970-01-01T00:00:00Z";
            let dated = |t| json!({"type": t, "status": "True", "lastUpdateTime": at, "lastTransitionTime": at});
            types.iter().map(dated).collect()
        };
        let old =
            json!({"status": {"certificate": "b2xk", "conditions": conditions(&["Approved"])}});
        for (subresource, asked, want) in [
            (
                "approval",
                json!({"certificate": "bmV3", "conditions": conditions(&["Approved", "Denied"])}),
                json!({"certificate": "b2xk", "conditions": conditions(&["Approved", "Denied"])}),
            ),
            (
                "status",
                json!({"certificate": "bmV3", "conditions": conditions(&["Denied", "Failed"])}),
                json!({"certificate": "bmV3", "conditions": conditions(&["Approved", "Failed"])}),
            ),
            (
                "status",
                json!({"certificate": "bmV3"}),
                json!({"certificate": "bmV3", "conditions": conditions(&["Approved"])}),
            ),
        ] {
            let mut new = json!({"status": asked});
            prepare_status(&mut new, &old, subresource, Timestamp::UNIX_EPOCH);
            assert_eq!(new["status"], want, "{subresource} {asked}");
        }
        let mut first = json!({"status": {"certificate": "bmV3"}});
        prepare_status(&mut first, &json!({}), "status", Timestamp::UNIX_EPOCH);
        assert_eq!(first, json!({"status": {"certificate": "bmV3"}}));
    }

    #[test]
    fn conditions_are_dated() {
        let day = |d: u8| format!("2026-01-0{d}T00:00:00Z");
        let old = json!({"status": {"conditions": [{"type": "Failed", "status": "True", "lastTransitionTime": day(1)}]}});
        let mut new = json!({"status": {"conditions": [
            {"type": "Failed", "status": "True"},
            {"type": "Other", "status": "True", "lastUpdateTime": day(2)},
        ]}});
        prepare_status(&mut new, &old, "status", day(3).parse().expect("time"));
        let times = |i: usize| {
            let time = |f: &str| new["status"]["conditions"][i][f].clone();
            (time("lastUpdateTime"), time("lastTransitionTime"))
        };
        assert_eq!(times(0), (json!(day(3)), json!(day(1))));
        assert_eq!(times(1), (json!(day(2)), json!(day(3))));
    }
}
