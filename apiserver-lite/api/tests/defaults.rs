//! Defaults: what is written, and what is read back.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{defaulted, pod, row};

#[test]
fn a_pod_of_one_container() {
    let v = pod(json!({}));
    assert_eq!(
        v["spec"],
        json!({"containers": [{"name": "c", "image": "i:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30})
    );
}

#[test]
fn fields_of_pods() {
    let rows: &[(Value, &str, Value)] = &[
        (
            json!({"containers": [{"image": "a"}]}),
            "/containers/0/imagePullPolicy",
            json!("Always"),
        ),
        (
            json!({"containers": [{"image": "r:5000/a"}]}),
            "/containers/0/imagePullPolicy",
            json!("Always"),
        ),
        (
            json!({"containers": [{"image": "a:latest"}]}),
            "/containers/0/imagePullPolicy",
            json!("Always"),
        ),
        (
            json!({"containers": [{"image": "a@sha256:0"}]}),
            "/containers/0/imagePullPolicy",
            json!("IfNotPresent"),
        ),
        (
            json!({"containers": [{"image": "r:5000/a:1"}]}),
            "/containers/0/imagePullPolicy",
            json!("IfNotPresent"),
        ),
        (
            json!({"containers": [{"ports": [{"containerPort": 80}]}]}),
            "/containers/0/ports/0",
            json!({"containerPort": 80, "protocol": "TCP"}),
        ),
        (
            json!({"hostNetwork": true, "containers": [{"ports": [{"containerPort": 80}]}]}),
            "/containers/0/ports/0/hostPort",
            json!(80),
        ),
        (
            json!({"containers": [{"livenessProbe": {"httpGet": {"port": 1}}}]}),
            "/containers/0/livenessProbe",
            json!({"httpGet": {"port": 1, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}),
        ),
        (
            json!({"containers": [{"lifecycle": {"preStop": {"httpGet": {"port": 1}}}}]}),
            "/containers/0/lifecycle/preStop/httpGet/scheme",
            json!("HTTP"),
        ),
        (
            json!({"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}, "requests": {"cpu": "100m"}}}]}),
            "/containers/0/resources",
            json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}}),
        ),
        (
            json!({"containers": [{"env": [{"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}),
            "/containers/0/env/0/valueFrom/fieldRef/apiVersion",
            json!("v1"),
        ),
        (
            json!({"serviceAccount": "a"}),
            "/serviceAccountName",
            json!("a"),
        ),
        (
            json!({"serviceAccountName": "a"}),
            "/serviceAccount",
            json!("a"),
        ),
        (
            json!({"volumes": [{"name": "v"}]}),
            "/volumes/0",
            json!({"name": "v", "emptyDir": {}}),
        ),
        (
            json!({"volumes": [{"configMap": {"name": "x"}}]}),
            "/volumes/0/configMap/defaultMode",
            json!(420),
        ),
        (
            json!({"volumes": [{"hostPath": {"path": "/"}}]}),
            "/volumes/0/hostPath/type",
            json!(""),
        ),
        (
            json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            "/volumes/0/projected",
            json!({"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}),
        ),
        (
            json!({"dnsPolicy": "Default", "terminationGracePeriodSeconds": 0}),
            "/terminationGracePeriodSeconds",
            json!(0),
        ),
    ];
    for (spec, pointer, want) in rows {
        let v = pod(spec.clone());
        assert_eq!(v["spec"].pointer(pointer), Some(want), "{spec}");
    }
}

#[test]
fn templates_do_not_get_what_only_pods_get() {
    let spec = json!({"hostNetwork": true, "containers": [{"resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80}]}]});
    let v = defaulted("deployments", json!({"spec": {"template": {"spec": spec}}}));
    let pod = &v["spec"]["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Always");
    assert_eq!(
        (
            &pod["enableServiceLinks"],
            &pod["containers"][0]["resources"]["requests"],
            &pod["containers"][0]["ports"][0]["hostPort"]
        ),
        (&Value::Null, &Value::Null, &Value::Null)
    );
}

#[test]
fn other_kinds() {
    let rolling = |max: Value, surge: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": max, "maxSurge": surge}});
    let rows: &[(&str, Value, Value)] = &[
        (
            "deployments",
            json!({"spec": {}}),
            json!({"spec": {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "strategy": rolling(json!("25%"), json!("25%"))}}),
        ),
        (
            "deployments",
            json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}}),
            json!({"spec": {"replicas": 0, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "strategy": {"type": "Recreate"}}}),
        ),
        (
            "replicasets",
            json!({"spec": {}}),
            json!({"spec": {"replicas": 1}}),
        ),
        (
            "daemonsets",
            json!({"spec": {}}),
            json!({"spec": {"revisionHistoryLimit": 10, "updateStrategy": rolling(json!(1), json!(0))}}),
        ),
        (
            "statefulsets",
            json!({"spec": {}}),
            json!({"spec": {"replicas": 1, "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}}}),
        ),
        (
            "jobs",
            json!({"spec": {}}),
            json!({"spec": {"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false, "podReplacementPolicy": "TerminatingOrFailed"}}),
        ),
        (
            "jobs",
            json!({"spec": {"parallelism": 2}}),
            json!({"spec": {"parallelism": 2, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false, "podReplacementPolicy": "TerminatingOrFailed"}}),
        ),
        (
            "cronjobs",
            json!({"spec": {}}),
            json!({"spec": {"concurrencyPolicy": "Allow", "suspend": false, "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1}}),
        ),
        (
            "replicationcontrollers",
            json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1, "selector": {"a": "b"}, "template": {"metadata": {"labels": {"a": "b"}}}}}),
        ),
        (
            "services",
            json!({"spec": {"ports": [{"port": 80}]}}),
            json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}}),
        ),
        (
            "services",
            json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 1, "protocol": "UDP", "targetPort": "dns"}]}}),
            json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}, "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true, "ports": [{"port": 1, "protocol": "UDP", "targetPort": "dns"}]}}),
        ),
        (
            "services",
            json!({"spec": {"type": "ExternalName"}}),
            json!({"spec": {"type": "ExternalName", "sessionAffinity": "None"}}),
        ),
        (
            "namespaces",
            json!({"metadata": {"name": "a"}}),
            json!({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}}}),
        ),
        (
            "nodes",
            json!({"spec": {"podCIDR": "10.0.0.0/24"}, "status": {"capacity": {"cpu": "2000m"}}}),
            json!({"spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}, "status": {"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"}}}),
        ),
        (
            "secrets",
            json!({"stringData": {"a": "b"}, "data": {"a": "eA==", "c": "eQ=="}}),
            json!({"type": "Opaque", "data": {"a": "Yg==", "c": "eQ=="}}),
        ),
        (
            "persistentvolumeclaims",
            json!({"spec": {"resources": {"requests": {"storage": "1024Mi"}}}}),
            json!({"spec": {"volumeMode": "Filesystem", "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}}),
        ),
        (
            "endpointslices",
            json!({"ports": [{"port": 1}], "endpoints": [{"addresses": ["10.0.0.1"]}]}),
            json!({"ports": [{"port": 1, "name": "", "protocol": "TCP"}], "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {}}]}),
        ),
        (
            "networkpolicies",
            json!({"spec": {"egress": [{"ports": [{"port": 53}]}]}}),
            json!({"spec": {"policyTypes": ["Ingress", "Egress"], "egress": [{"ports": [{"port": 53, "protocol": "TCP"}]}]}}),
        ),
        (
            "rolebindings",
            json!({"roleRef": {"kind": "Role"}, "subjects": [{"kind": "User"}, {"kind": "ServiceAccount"}]}),
            json!({"roleRef": {"kind": "Role", "apiGroup": "rbac.authorization.k8s.io"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io"}, {"kind": "ServiceAccount"}]}),
        ),
        (
            "limitranges",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "min": {"memory": "1Mi"}}]}}),
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "min": {"memory": "1Mi"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1", "memory": "1Mi"}}]}}),
        ),
        (
            "horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 3}}),
            json!({"spec": {"maxReplicas": 3, "minReplicas": 1, "metrics": [{"type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]}}),
        ),
    ];
    for (plural, v, want) in rows {
        let once = defaulted(plural, v.clone());
        assert_eq!(&once, want, "{plural} {v}");
        assert_eq!(
            defaulted(plural, once.clone()),
            once,
            "{plural}: twice is as once"
        );
    }
}

#[test]
fn creation() {
    let create = |plural: &str, mut v: Value| {
        row(plural).strategy.prepare_create.unwrap()(&mut v);
        v
    };
    let with = |r: Value| json!({"spec": {"containers": [{"resources": r}]}, "status": {"phase": "Running"}});
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "0"}}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}),
            "Burstable",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
            "Guaranteed",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}),
            "Burstable",
        ),
    ] {
        assert_eq!(
            create("pods", with(resources.clone()))["status"],
            json!({"phase": "Pending", "qosClass": class}),
            "{resources}"
        );
    }
    let ns = create("namespaces", json!({}));
    assert_eq!(
        ns,
        json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
    );
    let job = create(
        "jobs",
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {}}}),
    );
    assert_eq!(
        job["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
    );
    assert_eq!(
        job["spec"]["template"]["metadata"]["labels"]["job-name"],
        "j"
    );
}

#[test]
fn updates_keep_what_was_allocated() {
    let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}]}, "status": {"a": 1}});
    let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}, "status": {"b": 1}});
    row("services").strategy.prepare_update.unwrap()(&mut new, &old);
    let want = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}, {"port": 81, "protocol": "TCP"}]}, "status": {"a": 1}});
    assert_eq!(new, want);
}

#[test]
fn grace_of_pods() {
    let grace = row("pods").strategy.grace.unwrap();
    for (node, phase, own, asked, want) in [
        ("", "Pending", 30, None, 0),
        ("n", "Running", 30, None, 30),
        ("n", "Running", 30, Some(5), 5),
        ("n", "Running", 30, Some(0), 0),
        ("n", "Succeeded", 30, Some(5), 0),
        ("n", "Running", -1, None, 1),
    ] {
        let pod = json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": own}, "status": {"phase": phase}});
        assert_eq!(grace(&pod, asked), want, "{pod} {asked:?}");
    }
}
