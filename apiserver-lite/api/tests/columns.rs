//! Cells as `kubectl get` prints them.
#![allow(clippy::unwrap_used)]

mod support;

use jiff::Timestamp;
use serde_json::{Value, json};
use support::row;

fn cells(plural: &str, v: &Value) -> String {
    let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
    let cells = keelson_api::print::row(&row(plural), v, now);
    cells
        .iter()
        .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned))
        .collect::<Vec<_>>()
        .join(" | ")
}

fn with(mut v: Value) -> Value {
    v["metadata"]["name"] = json!("x");
    v["metadata"]["creationTimestamp"] = json!("2026-11-21T09:58:30Z");
    v
}

#[test]
fn pods() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n1"});
    let running =
        |ready: bool| json!({"ready": ready, "state": {"running": {}}, "restartCount": 0});
    let rows: &[(Value, Value, &str)] = &[
        (json!({}), json!({"phase": "Pending"}), "0/2 | Pending | 0"),
        (
            json!({}),
            json!({"phase": "Running", "containerStatuses": [running(true), running(false)]}),
            "1/2 | Running | 0",
        ),
        (
            json!({}),
            json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}),
            "0/2 | ContainerCreating | 0",
        ),
        (
            json!({}),
            json!({"phase": "Running", "containerStatuses": [running(true), {"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"finishedAt": "2026-11-21T09:58:00Z"}}}]}),
            "1/2 | CrashLoopBackOff | 3 (2m ago)",
        ),
        (
            json!({}),
            json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}),
            "0/2 | Completed | 0",
        ),
        (
            json!({}),
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
            "0/2 | ExitCode:3 | 0",
        ),
        (
            json!({}),
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"signal": 9, "exitCode": 137}}}]}),
            "0/2 | Signal:9 | 0",
        ),
        (
            json!({}),
            json!({"phase": "Failed", "reason": "Evicted"}),
            "0/2 | Evicted | 0",
        ),
        (
            json!({}),
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [running(true), {"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}),
            "1/2 | Running | 0",
        ),
        (
            json!({}),
            json!({"phase": "Running", "containerStatuses": [running(true), {"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}),
            "1/2 | NotReady | 0",
        ),
        (
            json!({"initContainers": [{"name": "i"}, {"name": "j"}]}),
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}),
            "0/2 | Init:1/2 | 0",
        ),
        (
            json!({"initContainers": [{"name": "i"}]}),
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            "0/2 | Init:CrashLoopBackOff | 2",
        ),
        (
            json!({"initContainers": [{"name": "i"}]}),
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
            "0/2 | Init:Error | 0",
        ),
        (
            json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}]}),
            json!({"phase": "Running", "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "state": {"running": {}}}], "containerStatuses": [running(true), running(true)]}),
            "3/3 | Running | 0",
        ),
        (
            json!({}),
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
            "0/2 | SchedulingGated | 0",
        ),
    ];
    for (more, status, want) in rows {
        let mut v = with(json!({"spec": spec, "status": status}));
        more.as_object()
            .unwrap()
            .iter()
            .for_each(|(k, f)| v["spec"][k] = f.clone());
        assert_eq!(
            cells("pods", &v),
            format!("x | {want} | 90s | <none> | n1 | <none> | <none>"),
            "{status}"
        );
    }
    let mut v =
        with(json!({"spec": spec, "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}}));
    v["metadata"]["deletionTimestamp"] = json!("2026-11-21T09:59:00Z");
    assert_eq!(
        cells("pods", &v),
        "x | 0/2 | Terminating | 0 | 90s | 10.0.0.1 | n1 | <none> | <none>"
    );
}

#[test]
fn other_kinds() {
    let template =
        json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}});
    let selector = json!({"matchLabels": {"app": "x"}});
    let rows: &[(&str, Value, &str)] = &[
        (
            "deployments",
            json!({"spec": {"replicas": 3, "selector": selector, "template": template}, "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}}),
            "x | 2/3 | 3 | 1 | 90s | a,b | i,j | app=x",
        ),
        (
            "replicasets",
            json!({"spec": {"replicas": 3, "selector": selector, "template": template}, "status": {"replicas": 2}}),
            "x | 3 | 2 | 0 | 90s | a,b | i,j | app=x",
        ),
        (
            "statefulsets",
            json!({"spec": {"replicas": 1, "template": template}}),
            "x | 0/1 | 90s | a,b | i,j",
        ),
        (
            "daemonsets",
            json!({"spec": {"selector": selector, "template": template}, "status": {"desiredNumberScheduled": 2}}),
            "x | 2 | 0 | 0 | 0 | 0 | <none> | 90s | a,b | i,j | app=x",
        ),
        (
            "jobs",
            json!({"spec": {"completions": 2, "selector": selector, "template": template}, "status": {"succeeded": 1, "startTime": "2026-11-21T09:59:00Z"}}),
            "x | Running | 1/2 | 60s | 90s | a,b | i,j | app=x",
        ),
        (
            "cronjobs",
            json!({"spec": {"schedule": "* * * * *"}}),
            "x | * * * * * | <none> | False | 0 | <none> | 90s |  |  | <none>",
        ),
        (
            "services",
            json!({"spec": {"type": "NodePort", "clusterIP": "10.43.0.1", "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
            "x | NodePort | 10.43.0.1 | <none> | 80:30000/TCP,53/UDP | 90s | <none>",
        ),
        (
            "services",
            json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.1"}}),
            "x | LoadBalancer | 10.43.0.1 | <pending> | <none> | 90s | <none>",
        ),
        (
            "services",
            json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}),
            "x | ExternalName | <none> | a.b | <none> | 90s | <none>",
        ),
        (
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "::1"}], "ports": [{"port": 1}, {"port": 2}]}]}),
            "x | 1.1.1.1:1,1.1.1.1:2,[::1]:1 + 1 more... | 90s",
        ),
        (
            "endpointslices",
            json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["1.1.1.1"]}]}),
            "x | IPv4 | 80 | 1.1.1.1 | 90s",
        ),
        (
            "nodes",
            json!({"spec": {"unschedulable": true}, "metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "nodeInfo": {"kubeletVersion": "v1"}}}),
            "x | Ready,SchedulingDisabled | control-plane | 90s | v1 | 10.0.0.1 | <none> | <unknown> | <unknown> | <unknown>",
        ),
        (
            "nodes",
            json!({}),
            "x | Unknown | <none> | 90s |  | <none> | <none> | <unknown> | <unknown> | <unknown>",
        ),
        (
            "namespaces",
            json!({"status": {"phase": "Active"}}),
            "x | Active | 90s",
        ),
        (
            "configmaps",
            json!({"data": {"a": ""}, "binaryData": {"b": ""}}),
            "x | 2 | 90s",
        ),
        (
            "secrets",
            json!({"type": "Opaque", "data": {"a": ""}}),
            "x | Opaque | 1 | 90s",
        ),
        (
            "/events",
            json!({"type": "Warning", "reason": "R", "message": "m\n", "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "c", "host": "h"}, "firstTimestamp": "2026-11-21T09:00:00Z", "lastTimestamp": "2026-11-21T09:59:50Z", "count": 4}),
            "10s | Warning | R | pod/p |  | c, h | m | 60m | 4 | x",
        ),
        (
            "events.k8s.io/events",
            json!({"note": "m", "regarding": {"kind": "Pod", "name": "p"}, "eventTime": "2026-11-21T09:59:50.000000Z"}),
            "10s |  |  | pod/p |  |  | m | 10s | 1 | x",
        ),
        (
            "persistentvolumeclaims",
            json!({"spec": {"volumeName": "v", "storageClassName": "s", "volumeMode": "Filesystem"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}),
            "x | Bound | v | 1Gi | RWO | s | <unset> | 90s | Filesystem",
        ),
        (
            "storageclasses",
            json!({"provisioner": "p", "metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
            "x (default) | p | Delete | <unset> | false | 90s",
        ),
        (
            "rolebindings",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]}),
            "x | Role/r | 90s | u |  | n/s",
        ),
        (
            "poddisruptionbudgets",
            json!({"spec": {"minAvailable": 1}}),
            "x | 1 | N/A | 0 | 90s",
        ),
        (
            "horizontalpodautoscalers",
            json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 3, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}}),
            "x | Deployment/d | cpu: <unknown>/80% | 1 | 3 | 0 | 90s",
        ),
        (
            "autoscaling/horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 3}}),
            "x | / | <none> | <unset> | 3 | 0 | 90s",
        ),
        (
            "certificatesigningrequests",
            json!({"spec": {"signerName": "s", "username": "u", "expirationSeconds": 3600}, "status": {"conditions": [{"type": "Approved"}], "certificate": "x"}}),
            "x | 90s | s | u | 60m | Approved,Issued",
        ),
        (
            "ingresses",
            json!({"spec": {"rules": [{"host": "a"}, {"host": "b"}], "tls": [{}]}}),
            "x | <none> | a,b |  | 80, 443 | 90s",
        ),
        (
            "resourcequotas",
            json!({"status": {"hard": {"pods": "10", "limits.cpu": "2"}, "used": {"pods": "1"}}}),
            "x | pods: 1/10 | limits.cpu: 0/2 | 90s",
        ),
        (
            "leases",
            json!({"spec": {"holderIdentity": "h"}}),
            "x | h | 90s",
        ),
        ("csinodes", json!({}), "x | 0 | 90s"),
    ];
    for (plural, v, want) in rows {
        assert_eq!(cells(plural, &with(v.clone())), *want, "{plural}");
    }
}

#[test]
fn what_is_measured() {
    let usage = |cpu: &str, memory: &str| json!({"usage": {"cpu": cpu, "memory": memory}});
    let node = with(
        json!({"metadata": {}, "window": "10.01s", "usage": {"cpu": "250m", "memory": "1024Ki"}}),
    );
    let pod = json!({"metadata": {}, "window": "1s", "containers": [usage("1500n", "1Mi"), usage("2m", "512Ki")]});
    assert_eq!(
        cells("metrics.k8s.io/nodes", &node),
        "x | 250m | 1Mi | 10.01s"
    );
    assert_eq!(
        cells("metrics.k8s.io/pods", &with(pod)),
        "x | 2001500n | 1536Ki | 1s"
    );
}
