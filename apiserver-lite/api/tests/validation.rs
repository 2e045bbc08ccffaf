//! Validation: an object to fields and reasons, in upstream's words.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{container, defaulted, pod, wrong, wrong_update};

#[test]
fn metadata() {
    let cm = |meta: Value| json!({"metadata": meta});
    let rows: &[(Value, &[&str])] = &[
        (json!({"name": "a", "namespace": "n"}), &[]),
        (
            json!({"namespace": "n"}),
            &["metadata.name: Required value: name or generateName is required"],
        ),
        (
            json!({"name": "a"}),
            &["metadata.namespace: Required value"],
        ),
        (
            json!({"name": "a", "generateName": "a-", "namespace": "n"}),
            &[],
        ),
        (
            json!({"name": "a", "namespace": "n", "finalizers": ["x"]}),
            &[
                "metadata.finalizers: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
            ],
        ),
        (
            json!({"name": "a", "namespace": "n", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x"}]}),
            &["metadata.ownerReferences[0].uid: Invalid value: \"\": uid must not be empty"],
        ),
        (
            json!({"name": "a", "namespace": "n", "annotations": {"a": "x".repeat(262_144)}}),
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
        ),
    ];
    for (meta, want) in rows {
        assert_eq!(wrong("configmaps", &cm(meta.clone())), *want, "{meta}");
    }
    let label = wrong(
        "configmaps",
        &cm(json!({"name": "a", "namespace": "n", "labels": {"a": "-"}})),
    );
    assert!(
        label
            .concat()
            .starts_with("metadata.labels: Invalid value: \"-\": a valid label must be"),
        "{label:?}"
    );
    assert_eq!(
        wrong("namespaces", &cm(json!({"name": "a", "namespace": "n"}))),
        ["metadata.namespace: Forbidden: not allowed on this type"]
    );
    assert!(
        wrong("pods", &json!({"metadata": {"name": "A_"}}))
            .concat()
            .starts_with("metadata.name: Invalid value: \"A_\": a lowercase RFC 1123 subdomain")
    );
    assert!(
        wrong("services", &json!({"metadata": {"name": "1a"}}))
            .concat()
            .starts_with("metadata.name: Invalid value: \"1a\": a DNS-1035 label")
    );
}

#[test]
fn changes_of_metadata() {
    let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "1", "resourceVersion": "5", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let mut new = old.clone();
    new["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("deletionTimestamp");
    new["metadata"]["uid"] = json!("2");
    new["metadata"]["finalizers"] = json!(["a/b"]);
    let says = keelson_api::validate::object_meta_update(&new, &old);
    let says: Vec<String> = says
        .into_iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect();
    assert_eq!(
        says,
        [
            "metadata.uid: Invalid value: \"2\": field is immutable",
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a/b\"}",
        ]
    );
}

#[test]
fn pods() {
    let rows: &[(Value, &[&str])] = &[
        (json!({}), &[]),
        (
            json!({"containers": []}),
            &["spec.containers: Required value"],
        ),
        (
            json!({"restartPolicy": "Sometimes"}),
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            json!({"dnsPolicy": "None"}),
            &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}}),
            &[],
        ),
        (
            json!({"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]}),
            &["spec.containers[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"activeDeadlineSeconds": 0}),
            &[
                "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            ],
        ),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}),
            &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            json!({"volumes": [{"name": "v", "secret": {}}]}),
            &["spec.volumes[0].secret.secretName: Required value"],
        ),
        (
            json!({"volumes": [{"name": "v"}, {"name": "v"}]}),
            &["spec.volumes[1].name: Duplicate value: \"v\""],
        ),
        (
            json!({"volumes": [{"name": "v", "configMap": {"name": "a", "items": [{"key": "k", "path": "../x"}]}}]}),
            &[
                "spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
            ],
        ),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}}]}),
            &[
                "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
            ],
        ),
        (
            json!({"tolerations": [{"operator": "Equal"}]}),
            &[
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ],
        ),
        (
            json!({"tolerations": [{"key": "a", "effect": "Never"}]}),
            &[
                "spec.tolerations[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ],
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}),
            &[
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            ],
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}),
            &[
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
            ],
        ),
        (
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": ""}]}}}),
            &[
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
            ],
        ),
        (
            json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}),
            &[
                "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            json!({"nodeName": "n", "schedulingGates": [{"name": "g"}]}),
            &[
                "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
            ],
        ),
        (
            json!({"securityContext": {"fsGroup": -1}}),
            &[
                "spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ],
        ),
        (
            json!({"initContainers": [{"name": "i", "image": "i", "livenessProbe": {"tcpSocket": {"port": 1}}}]}),
            &[
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
    ];
    for (spec, want) in rows {
        assert_eq!(wrong("pods", &pod(spec.clone())), *want, "{spec}");
    }
}

#[test]
fn containers() {
    let c = "spec.containers[0]";
    let rows: &[(Value, &[&str])] = &[
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}]}),
            &[],
        ),
        (json!({"name": ""}), &["{c}.name: Required value"]),
        (json!({"image": ""}), &["{c}.image: Required value"]),
        (
            json!({"image": " a"}),
            &["{c}.image: Invalid value: \" a\": must not have leading or trailing whitespace"],
        ),
        (
            json!({"imagePullPolicy": "x"}),
            &[
                "{c}.imagePullPolicy: Unsupported value: \"x\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            json!({"volumeMounts": [{"name": "w", "mountPath": "/a"}]}),
            &["{c}.volumeMounts[0].name: Not found: \"w\""],
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]}),
            &["{c}.volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique"],
        ),
        (
            json!({"ports": [{"containerPort": 70000}]}),
            &[
                "{c}.ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            json!({"ports": [{}]}),
            &["{c}.ports[0].containerPort: Required value"],
        ),
        (
            json!({"ports": [{"name": "a", "containerPort": 1}, {"name": "a", "containerPort": 2}]}),
            &["{c}.ports[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"env": [{"name": ""}]}),
            &["{c}.env[0].name: Required value"],
        ),
        (
            json!({"env": [{"name": "a", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            &[
                "{c}.env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ],
        ),
        (
            json!({"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}}]}),
            &[],
        ),
        (
            json!({"env": [{"name": "a", "valueFrom": {"secretKeyRef": {"name": "s"}}}]}),
            &["{c}.env[0].valueFrom.secretKeyRef.key: Required value"],
        ),
        (
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}),
            &[
                "{c}.resources.requests[cpu]: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            json!({"resources": {"requests": {"cpu": "-1"}}}),
            &[
                "{c}.resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        ),
        (
            json!({"resources": {"requests": {"cpu": "x"}}}),
            &[
                "{c}.resources.requests[cpu]: Invalid value: \"x\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ],
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "4Mi", "memory": "1Mi"}}}),
            &[],
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "4Mi"}}}),
            &["{c}.resources: Forbidden: HugePages require cpu or memory"],
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "3Mi", "memory": "1Mi"}, "requests": {"hugepages-2Mi": "4Mi"}}}),
            &[
                "{c}.resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                "{c}.resources.requests[hugepages-2Mi]: Invalid value: \"4Mi\": must be less than or equal to hugepages-2Mi limit of 3Mi",
            ],
        ),
        (
            json!({"resources": {"limits": {"foo": "1"}}}),
            &[
                "{c}.resources.limits[foo]: Invalid value: \"foo\": must be a standard resource for containers",
                "{c}.resources.requests[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            ],
        ),
        (
            json!({"livenessProbe": {}}),
            &["{c}.livenessProbe: Required value: must specify a handler type"],
        ),
        (
            json!({"livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}}),
            &["{c}.livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            json!({"readinessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}),
            &["{c}.readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"],
        ),
        (
            json!({"lifecycle": {"preStop": {"httpGet": {"port": 0}}}}),
            &[
                "{c}.lifecycle.preStop.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}}),
            &[
                "{c}.securityContext.allowPrivilegeEscalation: Invalid value: false: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ],
        ),
    ];
    for (fields, want) in rows {
        let want: Vec<String> = want.iter().map(|w| w.replace("{c}", c)).collect();
        assert_eq!(wrong("pods", &container(fields.clone())), want, "{fields}");
    }
}

#[test]
fn changes_of_pods() {
    let old = pod(json!({"tolerations": [{"key": "a"}]}));
    let change = |f: fn(&mut Value)| {
        let mut new = old.clone();
        f(&mut new["spec"]);
        wrong_update("pods", &new, &old)
    };
    assert!(change(|s| s["containers"][0]["image"] = json!("j")).is_empty());
    assert!(
        change(|s| s["tolerations"] = json!([{"key": "a", "tolerationSeconds": 1}, {"key": "b"}]))
            .is_empty()
    );
    assert!(change(|s| s["activeDeadlineSeconds"] = json!(5)).is_empty());
    assert!(
        change(|s| s["tolerations"] = json!([]))
            .concat()
            .starts_with("spec.tolerations: Forbidden")
    );
    assert!(
        change(|s| s["nodeName"] = json!("n"))
            .concat()
            .starts_with("spec: Forbidden: pod updates may not change fields other than")
    );
    assert_eq!(
        change(|s| s["containers"] = json!([])),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    assert!(
        change(|s| s["schedulingGates"] = json!([{"name": "g"}]))
            .concat()
            .contains("new scheduling gate 'g'")
    );
}

#[test]
fn services() {
    let rows: &[(Value, &[&str])] = &[
        (json!({"ports": [{"port": 80}]}), &[]),
        (json!({}), &["spec.ports: Required value"]),
        (json!({"clusterIP": "None"}), &[]),
        (
            json!({"type": "X", "ports": [{"port": 80}]}),
            &[
                "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 81}]}),
            &["spec.ports[1].name: Required value"],
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            json!({"ports": [{"port": 0, "targetPort": 1}]}),
            &["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"],
        ),
        (
            json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
            &[
                "spec.clusterIP: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ],
        ),
        (
            json!({"type": "ExternalName"}),
            &["spec.externalName: Required value"],
        ),
        (json!({"type": "ExternalName", "externalName": "a.b."}), &[]),
        (
            json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
            &[
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            &[
                "spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
    ];
    for (spec, want) in rows {
        let v = defaulted(
            "services",
            json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec}),
        );
        assert_eq!(wrong("services", &v), *want, "{spec}");
    }
    let with =
        |ip: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}});
    assert_eq!(
        wrong_update("services", &with("10.0.0.2"), &with("10.0.0.1")),
        ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
    );
}

#[test]
fn workloads() {
    let workload = |plural: &str, spec: Value| {
        let mut v = json!({"metadata": {"name": "w", "namespace": "n"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        spec.as_object()
            .unwrap()
            .iter()
            .for_each(|(k, f)| v["spec"][k] = f.clone());
        wrong(plural, &defaulted(plural, v))
    };
    for plural in ["deployments", "replicasets", "statefulsets", "daemonsets"] {
        assert!(workload(plural, json!({})).is_empty(), "{plural}");
        let other = workload(plural, json!({"selector": {"matchLabels": {"a": "c"}}}));
        assert_eq!(
            other,
            [
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(
            workload(plural, json!({"selector": null})),
            ["spec.selector: Required value"]
        );
    }
    assert_eq!(
        workload("deployments", json!({"replicas": -1})),
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
    );
    assert_eq!(
        workload(
            "deployments",
            json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}})
        ),
        [
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"
        ]
    );
    assert_eq!(
        workload(
            "deployments",
            json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}})
        ),
        [
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"
        ]
    );
    assert_eq!(
        workload(
            "deployments",
            json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5})
        ),
        ["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"]
    );
    let template = json!({"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    assert_eq!(
        workload("deployments", template),
        [
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""
        ]
    );
    assert_eq!(
        workload("jobs", json!({})),
        [
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
        ]
    );
    let mounts = json!({"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]});
    assert!(workload("statefulsets", mounts).is_empty());
    let s = |a: &str| json!({"spec": {"selector": {"matchLabels": {"a": a}}}});
    assert_eq!(
        wrong_update("deployments", &s("x"), &s("y")),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"x\"}}: field is immutable"]
    );
    assert!(
        wrong_update(
            "statefulsets",
            &json!({"spec": {"serviceName": "x"}}),
            &json!({"spec": {}})
        )
        .concat()
        .starts_with("spec: Forbidden: updates to statefulset spec for fields other than")
    );
}

#[test]
fn config_and_others() {
    let object = |fields: Value| {
        let mut v = json!({"metadata": {"name": "a", "namespace": "n"}});
        fields
            .as_object()
            .unwrap()
            .iter()
            .for_each(|(k, f)| v[k] = f.clone());
        v
    };
    let rows: &[(&str, Value, &[&str])] = &[
        (
            "configmaps",
            json!({"data": {"a": "x".repeat(1_048_577)}}),
            &[": Too long: may not be more than 1048576 bytes"],
        ),
        (
            "configmaps",
            json!({"data": {"..": ""}}),
            &["data[..]: Invalid value: \"..\": must not be '..'"],
        ),
        (
            "secrets",
            json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
            &["data[tls.key]: Required value"],
        ),
        (
            "secrets",
            json!({"type": "kubernetes.io/service-account-token"}),
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
        (
            "secrets",
            json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}),
            &[],
        ),
        (
            "leases",
            json!({"spec": {"leaseDurationSeconds": 0}}),
            &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
        ),
        (
            "roles",
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"]}]}),
            &["rules[0].verbs: Required value: verbs must contain at least one value"],
        ),
        (
            "poddisruptionbudgets",
            json!({"spec": {"minAvailable": "x"}}),
            &[
                "spec.minAvailable: Invalid value: \"x\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            ],
        ),
        (
            "endpointslices",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}]}),
            &["endpoints[0].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address"],
        ),
        (
            "networkpolicies",
            json!({"spec": {"ingress": [{"from": [{}]}]}}),
            &["spec.ingress[0].from[0]: Required value: must specify a peer"],
        ),
        (
            "ingresses",
            json!({"spec": {}}),
            &[
                "spec.rules: Invalid value: null: either `defaultBackend` or `rules` must be specified",
            ],
        ),
        (
            "persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadWriteOnce"]}}),
            &["spec.resources[storage]: Required value"],
        ),
    ];
    for (plural, fields, want) in rows {
        assert_eq!(wrong(plural, &object(fields.clone())), *want, "{plural}");
    }
    let frozen = json!({"immutable": true, "data": {"a": "b"}});
    let says = wrong_update("configmaps", &json!({"data": {"a": "c"}}), &frozen);
    assert_eq!(
        says,
        [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set"
        ]
    );
    assert_eq!(
        wrong_update("secrets", &json!({"type": "b"}), &json!({"type": "a"})),
        ["type: Invalid value: \"b\": field is immutable"]
    );
    let class = json!({"metadata": {"name": "x"}, "value": 5, "preemptionPolicy": "Never"});
    assert_eq!(
        wrong_update(
            "priorityclasses",
            &json!({"value": 6, "preemptionPolicy": "Never"}),
            &class
        ),
        ["value: Forbidden: may not be changed in an update."]
    );
}

#[test]
fn changes_of_jobs() {
    let base = json!({"spec": {"completions": 2, "parallelism": 1, "suspend": true,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}});
    type Edit = fn(&mut Value);
    let rows: &[(&str, Edit, Edit, &str)] = &[
        ("nothing", |_| (), |_| (), ""),
        (
            "parallelism",
            |_| (),
            |v| v["spec"]["parallelism"] = json!(9),
            "",
        ),
        (
            "completions",
            |_| (),
            |v| v["spec"]["completions"] = json!(3),
            "spec.completions",
        ),
        (
            "an elastic one's completions",
            |v| v["spec"]["completionMode"] = json!("Indexed"),
            |v| v["spec"]["completions"] = json!(1),
            "",
        ),
        (
            "where it runs",
            |_| (),
            |v| v["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"}),
            "",
        ),
        (
            "labels, which it had none of",
            |_| (),
            |v| v["spec"]["template"]["metadata"] = json!({"labels": {"a": "b"}}),
            "",
        ),
        (
            "where it runs, once it has started",
            |v| v["status"] = json!({"startTime": "2026-01-01T00:00:00Z"}),
            |v| v["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"}),
            "spec.template",
        ),
        (
            "where it runs, when it may start",
            |v| v["spec"]["suspend"] = json!(false),
            |v| v["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"}),
            "spec.template",
        ),
        (
            "what it runs",
            |_| (),
            |v| v["spec"]["template"]["spec"]["containers"][0]["image"] = json!("i"),
            "spec.template",
        ),
    ];
    for (name, edit, change, want) in rows {
        let mut old = base.clone();
        edit(&mut old);
        let mut new = old.clone();
        change(&mut new);
        let says = wrong_update("jobs", &new, &old);
        let fields: Vec<&str> = says.iter().filter_map(|s| s.split(':').next()).collect();
        assert_eq!(fields.join(" "), *want, "{name}: {says:?}");
    }
}

#[test]
fn quotas_and_ingress_classes() {
    let quota = |spec: Value| json!({"metadata": {"name": "q", "namespace": "n"}, "spec": spec});
    let rows: &[(Value, &[&str])] = &[
        (
            json!({"hard": {"pods": "1", "requests.cpu": "1", "count/x.y": "1", "a.b/c": "1", "hugepages-2Mi": "1"}}),
            &[],
        ),
        (
            json!({"hard": {"foo": "1"}}),
            &["spec.hard[foo]: Invalid value: \"foo\": must be a standard resource for quotas"],
        ),
        (
            json!({"hard": {"pods": "1"}, "scopes": ["Terminating", "NotTerminating"]}),
            &[
                "spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes",
            ],
        ),
    ];
    for (spec, expected) in rows {
        assert_eq!(
            wrong("resourcequotas", &quota(spec.clone())),
            *expected,
            "{spec}"
        );
    }
    let scoped = |scopes: Value| quota(json!({"hard": {"pods": "1"}, "scopes": scopes}));
    let (old, new) = (scoped(json!(["Terminating"])), scoped(json!([])));
    assert_eq!(wrong_update("resourcequotas", &new, &old).len(), 1);
    assert!(wrong_update("resourcequotas", &old, &old).is_empty());

    let class =
        |controller: &str| json!({"metadata": {"name": "c"}, "spec": {"controller": controller}});
    assert_eq!(
        wrong_update("ingressclasses", &class("a/b"), &class("a/c")),
        ["spec.controller: Invalid value: \"a/b\": field is immutable"]
    );
}

#[test]
fn events_of_the_new_group() {
    let event = json!({"metadata": {"name": "e", "namespace": "default"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingComponent": "a.b/c", "reportingInstance": "i", "action": "Do", "reason": "R", "type": "Normal"});
    let table = keelson_api::builtin();
    let events = |v: &Value| -> Vec<String> {
        let row = table.get("events.k8s.io", "v1", "events").unwrap();
        let causes = row.strategy.validate.unwrap()(v);
        let text = |c: keelson_api::Cause| format!("{}: {}", c.field, c.message);
        causes.into_iter().map(text).collect()
    };
    assert!(events(&event).is_empty());
    for (field, want) in [
        ("eventTime", "eventTime: Required value"),
        ("reportingComponent", "reportingController: Required value"),
        ("reportingInstance", "reportingInstance: Required value"),
        ("action", "action: Required value"),
        ("reason", "reason: Required value"),
    ] {
        let mut less = event.clone();
        less.as_object_mut().unwrap().remove(field);
        assert_eq!(events(&less), [want]);
        assert!(wrong("/events", &less).is_empty(), "{field}");
    }
    let mut typed = event.clone();
    typed["type"] = json!("x");
    assert_eq!(
        events(&typed),
        ["type: Invalid value: \"x\": has invalid value: "]
    );
}
