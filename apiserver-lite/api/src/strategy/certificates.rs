//! CertificateSigningRequests: approvers write the approval, signers the certificate, and neither the other's.

use serde_json::{Value, json};

use crate::json::{at, items, set, text};

/// What only the approval subresource decides.
const DECISIONS: &[&str] = &["Approved", "Denied"];

/// The approval changes conditions only; the status anything but the decisions there are.
pub(super) fn prepare_status(new: &mut Value, old: &Value, subresource: &str) {
    let is_decision = |c: &Value| DECISIONS.contains(&text(c, "/type"));
    let asked = items(new, "/status/conditions").to_vec();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approvers_and_signers_write_their_own() {
        let conditions = |types: &[&str]| -> Value {
            types
                .iter()
                .map(|t| json!({"type": t, "status": "True"}))
                .collect()
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
            prepare_status(&mut new, &old, subresource);
            assert_eq!(new["status"], want, "{subresource} {asked}");
        }
        let mut first = json!({"status": {"certificate": "bmV3"}});
        prepare_status(&mut first, &json!({}), "status");
        assert_eq!(first, json!({"status": {"certificate": "bmV3"}}));
    }
}
