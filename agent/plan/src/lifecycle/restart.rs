//! Whether a container that ended is started again.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, PodSpec};

/// Whether the policy starts a container again that ended with `code`.
/// A container's own policy and rules (KEP-5307) win over the pod's. An init container that succeeded is
/// done; `Always` means `OnFailure` for it.
pub fn should_restart(spec: &PodSpec, container: &Container, init: bool, code: i32) -> bool {
    let sidecar = init && container.restart_policy.as_deref() == Some("Always");
    if sidecar {
        return true;
    }
    if init && code == 0 {
        return false;
    }
    if let Some(rule) = rule(container, code) {
        return matches!(rule.action.as_str(), "Restart" | ALL);
    }
    let policy = container
        .restart_policy
        .as_deref()
        .or(spec.restart_policy.as_deref());
    match policy.unwrap_or("Always") {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

/// The action that restarts the whole pod in place (KEP-5532).
const ALL: &str = "RestartAllContainers";

/// Whether a container that ended with `code` has all containers started again.
pub(super) fn restarts_all(container: &Container, code: i32) -> bool {
    rule(container, code).is_some_and(|r| r.action == ALL)
}

fn rule(container: &Container, code: i32) -> Option<&ContainerRestartRule> {
    let rules = container.restart_policy_rules.iter().flatten();
    rules.into_iter().find(|r| matches(r, code))
}

fn matches(rule: &ContainerRestartRule, code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else {
        return false;
    };
    let listed = codes.values.iter().flatten().any(|v| *v == code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ContainerRestartRuleOnExitCodes;

    #[test]
    fn policies() {
        let rule = ContainerRestartRule {
            action: "Restart".into(),
            exit_codes: Some(ContainerRestartRuleOnExitCodes {
                operator: "In".into(),
                values: Some(vec![42]),
            }),
        };
        // name, pod's policy, own policy, rule, init, code, want
        let rows = [
            ("always, success", "Always", None, false, false, 0, true),
            (
                "on failure, success",
                "OnFailure",
                None,
                false,
                false,
                0,
                false,
            ),
            (
                "on failure, failure",
                "OnFailure",
                None,
                false,
                false,
                1,
                true,
            ),
            ("never", "Never", None, false, false, 1, false),
            ("init succeeded", "Always", None, false, true, 0, false),
            ("init failed, always", "Always", None, false, true, 1, true),
            ("init failed, never", "Never", None, false, true, 1, false),
            (
                "sidecar of a never pod",
                "Never",
                Some("Always"),
                false,
                true,
                0,
                true,
            ),
            (
                "own policy wins",
                "Never",
                Some("OnFailure"),
                false,
                false,
                3,
                true,
            ),
            ("rule hits", "Never", Some("Never"), true, false, 42, true),
            (
                "rule misses",
                "Never",
                Some("Never"),
                true,
                false,
                41,
                false,
            ),
        ];
        for (name, policy, own, with_rule, init, code, want) in rows {
            let spec = PodSpec {
                restart_policy: Some(policy.into()),
                ..Default::default()
            };
            let container = Container {
                restart_policy: own.map(Into::into),
                restart_policy_rules: with_rule.then(|| vec![rule.clone()]),
                ..Default::default()
            };
            assert_eq!(
                should_restart(&spec, &container, init, code),
                want,
                "{name}"
            );
        }
    }
}
