//! Restart rules, resizes and pod-level resources: what is refused, and what is filled in.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{container, defaulted, pod, wrong};

#[test]
fn restart_rules() {
    let rule = |action: &str, operator: &str| json!({"action": action, "exitCodes": {"operator": operator, "values": [1]}});
    let rows: &[(&str, Value, &[&str])] = &[
        ("a policy", json!({"restartPolicy": "Never"}), &[]),
        (
            "another policy",
            json!({"restartPolicy": "Sometimes"}),
            &[
                "spec.containers[0].restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ],
        ),
        (
            "a rule",
            json!({"restartPolicy": "Never", "restartPolicyRules": [rule("Restart", "In")]}),
            &[],
        ),
        (
            "a rule without a policy",
            json!({"restartPolicyRules": [rule("Restart", "In")]}),
            &[
                "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            ],
        ),
        (
            "another action",
            json!({"restartPolicy": "Never", "restartPolicyRules": [rule("Stop", "In")]}),
            &[
                "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \"Restart\", \"RestartAllContainers\"",
            ],
        ),
        (
            "no operator",
            json!({"restartPolicy": "Never", "restartPolicyRules": [rule("Restart", "")]}),
            &[
                "spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: \"\": supported values: \"In\", \"NotIn\"",
            ],
        ),
        (
            "no codes",
            json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart"}]}),
            &[
                "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
            ],
        ),
        (
            "too many rules",
            json!({"restartPolicy": "Never", "restartPolicyRules": vec![rule("Restart", "In"); 21]}),
            &["spec.containers[0].restartPolicyRules: Too many: 21: must have at most 20 items"],
        ),
    ];
    for (name, fields, want) in rows {
        assert_eq!(wrong("pods", &container(fields.clone())), *want, "{name}");
    }
}

#[test]
fn resize_policies() {
    let policy = |name: &str, policy: &str| json!({"resourceName": name, "restartPolicy": policy});
    let rows: &[(&str, Value, &[&str])] = &[
        (
            "both",
            json!([
                policy("cpu", "NotRequired"),
                policy("memory", "RestartContainer")
            ]),
            &[],
        ),
        (
            "twice",
            json!([policy("cpu", "NotRequired"), policy("cpu", "NotRequired")]),
            &["spec.containers[0].resizePolicy[1]: Duplicate value: \"cpu\""],
        ),
        (
            "of something else",
            json!([policy("disk", "NotRequired")]),
            &[
                "spec.containers[0].resizePolicy[0].resourceName: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
            ],
        ),
        (
            "another policy",
            json!([policy("cpu", "Maybe")]),
            &[
                "spec.containers[0].resizePolicy[0].restartPolicy: Unsupported value: \"Maybe\": supported values: \"NotRequired\", \"RestartContainer\"",
            ],
        ),
    ];
    for (name, policies, want) in rows {
        let got = wrong("pods", &container(json!({"resizePolicy": policies})));
        assert_eq!(got, *want, "{name}");
    }
    let never = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1",
        "resizePolicy": [policy("cpu", "RestartContainer")]}]});
    assert_eq!(
        wrong("pods", &pod(never)),
        [
            "spec.containers[0].resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when `restartPolicy` is 'Never'"
        ]
    );
}

#[test]
fn pod_level_resources() {
    let with = |own: Value, c: Value| json!({"resources": own, "containers": [{"name": "c", "image": "i:1", "resources": c}]});
    let rows: &[(&str, Value, &[&str])] = &[
        (
            "enough",
            with(
                json!({"requests": {"cpu": "1"}}),
                json!({"requests": {"cpu": "1"}}),
            ),
            &[],
        ),
        (
            "too little",
            with(
                json!({"requests": {"cpu": "1"}}),
                json!({"requests": {"cpu": "1500m"}}),
            ),
            &[
                "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 1500m",
            ],
        ),
        (
            "more than its limit",
            with(
                json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
                json!({}),
            ),
            &[
                "spec.resources.requests[cpu]: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            "a container's limit above",
            with(
                json!({"limits": {"memory": "1Gi"}}),
                json!({"limits": {"memory": "2Gi"}, "requests": {"memory": "1Gi"}}),
            ),
            &[
                "spec.resources.containers[0][memory].limits: Invalid value: \"2Gi\": must be less than or equal to pod limits of 1Gi",
            ],
        ),
        (
            "something else",
            with(json!({"requests": {"ephemeral-storage": "1Gi"}}), json!({})),
            &[
                "spec.resources.requests[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
            ],
        ),
        (
            "users of its own on the host's network",
            json!({"hostUsers": false, "hostNetwork": true}),
            &["spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false"],
        ),
    ];
    for (name, spec, want) in rows {
        assert_eq!(wrong("pods", &pod(spec.clone())), *want, "{name}");
    }
}

#[test]
fn filled_in() {
    // name, spec, pointer, value
    let c = |resources: Value| json!({"containers": [{"name": "c", "image": "i:1", "resources": resources}]});
    let default = |name: &str| json!({"resourceName": name, "restartPolicy": "NotRequired"});
    let policy = "/spec/containers/0/resizePolicy";
    let own = |own: Value, c: Value| json!({"resources": own, "containers": [{"name": "c", "image": "i:1", "resources": c}]});
    let rows = [
        ("no figures, no policy", c(json!({})), policy, Value::Null),
        (
            "a request",
            c(json!({"requests": {"cpu": "1"}})),
            policy,
            json!([default("cpu")]),
        ),
        (
            "a limit",
            c(json!({"limits": {"memory": "1Gi"}})),
            policy,
            json!([default("memory")]),
        ),
        (
            "both",
            c(json!({"limits": {"memory": "1Gi"}, "requests": {"cpu": "1"}})),
            policy,
            json!([default("cpu"), default("memory")]),
        ),
        (
            "the pod's request is its limit",
            own(json!({"limits": {"cpu": "2"}}), json!({})),
            "/spec/resources/requests",
            json!({"cpu": "2"}),
        ),
        (
            "the pod's request is its containers'",
            own(
                json!({"limits": {"cpu": "2"}}),
                json!({"requests": {"cpu": "1", "memory": "1Mi"}}),
            ),
            "/spec/resources/requests",
            json!({"cpu": "1", "memory": "1Mi"}),
        ),
        (
            "without limits nothing is asked for",
            own(json!({}), json!({"requests": {"cpu": "1"}})),
            "/spec/resources",
            json!({}),
        ),
    ];
    for (name, spec, pointer, want) in rows {
        let got = pod(spec);
        assert_eq!(
            got.pointer(pointer).unwrap_or(&Value::Null),
            &want,
            "{name}"
        );
    }
}

#[test]
fn resizes() {
    let of = |resources: Value| {
        let mut v = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [
            {"name": "c", "image": "i:1", "resources": resources}]}});
        v = defaulted("pods", v);
        v
    };
    let burstable = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}});
    let rows: &[(&str, Value, Value, &[&str])] = &[
        (
            "more",
            burstable.clone(),
            json!({"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"cpu": "3"}}),
            &[],
        ),
        (
            "a new limit",
            burstable.clone(),
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}),
            &[],
        ),
        (
            "a limit goes",
            burstable.clone(),
            json!({"requests": {"cpu": "1", "memory": "1Gi"}}),
            &["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"],
        ),
        (
            "a request goes",
            burstable.clone(),
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
            &[
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            ],
        ),
        (
            "another class",
            json!({}),
            json!({"requests": {"cpu": "1"}}),
            &[
                "spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing",
            ],
        ),
        (
            "something else",
            burstable,
            json!({"requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}, "limits": {"cpu": "2"}}),
            &["spec: Forbidden: only cpu and memory resources are mutable"],
        ),
    ];
    let says = |new: &Value, old: &Value| -> Vec<String> {
        let causes = keelson_api::validate::pod_resize(new, old);
        causes
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    };
    for (name, old, new, want) in rows {
        assert_eq!(says(&of(new.clone()), &of(old.clone())), *want, "{name}");
    }
    let old = of(json!({"requests": {"cpu": "1"}}));
    let mut mirror = old.clone();
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(
        says(&mirror, &mirror),
        [": Forbidden: static pods cannot be resized"]
    );
    let mut deaf = old.clone();
    deaf["status"] = json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]});
    assert_eq!(
        says(&deaf, &deaf),
        ["spec: Forbidden: Pod running on node without support for resize"]
    );
}
