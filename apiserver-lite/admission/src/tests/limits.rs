//! What pods and claims may ask for, and how hardened they must be.

use serde_json::{Value, json};

use super::{Ask, Fake, ask, cluster, create, pod, pod_with, refusal, run, warnings};
use crate::Operation;

#[tokio::test]
async fn runtime_classes_add_overhead_and_placement() {
    let class = json!({
        "overhead": { "podFixed": { "memory": "64Mi" } },
        "scheduling": { "nodeSelector": { "vm": "yes" }, "tolerations": [{ "key": "vm" }] },
    });
    let lookup = cluster().with("runtimeclasses", "", "vm", class);
    let named = pod_with("/spec/runtimeClassName", json!("vm"));
    let out = run(&create("pods"), named.clone(), &lookup).await.unwrap();
    assert_eq!(out["spec"]["overhead"], json!({ "memory": "64Mi" }));
    assert_eq!(out["spec"]["nodeSelector"], json!({ "vm": "yes" }));
    let mut elsewhere = named.clone();
    elsewhere["spec"]["nodeSelector"] = json!({ "vm": "no" });
    let mut lighter = named;
    lighter["spec"]["overhead"] = json!({ "memory": "1Mi" });
    let unknown = pod_with("/spec/runtimeClassName", json!("no"));
    let bare = pod_with("/spec/overhead", json!({ "memory": "1Mi" }));
    for (pod, why) in [
        (
            elsewhere,
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
        ),
        (lighter, "Pod's Overhead doesn't match"),
        (unknown, "RuntimeClass \"no\" not found"),
        (bare, "without corresponding RuntimeClass"),
    ] {
        let message = refusal(&create("pods"), pod, &lookup).await;
        assert!(message.contains(why), "{message}");
    }
}

#[tokio::test]
async fn limit_ranges_fill_and_bound() {
    let range = json!({ "spec": { "limits": [
        { "type": "Container", "default": { "cpu": "500m" }, "defaultRequest": { "cpu": "100m" },
          "max": { "cpu": "1" }, "min": { "cpu": "50m" }, "maxLimitRequestRatio": { "cpu": "5" } },
        { "type": "PersistentVolumeClaim", "max": { "storage": "1Gi" } },
    ] } });
    let lookup = cluster().with("limitranges", "ns", "range", range);
    let out = run(&create("pods"), pod(), &lookup).await.unwrap();
    assert_eq!(
        out["spec"]["containers"][0]["resources"],
        json!({ "limits": { "cpu": "500m" }, "requests": { "cpu": "100m" } })
    );
    let with = |requests: &str, limits: &str| {
        pod_with(
            "/spec/containers/0/resources",
            json!({ "requests": { "cpu": requests }, "limits": { "cpu": limits } }),
        )
    };
    let claim = |size: &str| json!({ "metadata": {}, "spec": { "resources": { "requests": { "storage": size } } } });
    let (pods, claims) = (create("pods"), create("persistentvolumeclaims"));
    for (ask, object, why) in [
        (
            &pods,
            with("500m", "2"),
            "maximum cpu usage per Container is 1, but limit is 2",
        ),
        (
            &pods,
            with("10m", "50m"),
            "minimum cpu usage per Container is 50m, but request is 10m",
        ),
        (
            &pods,
            with("100m", "600m"),
            "cpu max limit to request ratio per Container is 5, but provided ratio is 6.000000",
        ),
        (
            &claims,
            claim("2Gi"),
            "maximum storage usage per PersistentVolumeClaim is 1Gi, but limit is 2Gi",
        ),
    ] {
        let message = refusal(ask, object, &lookup).await;
        assert!(message.ends_with(why), "{message}");
    }
    assert!(run(&claims, claim("1024Mi"), &lookup).await.is_ok());
}

#[tokio::test]
async fn quotas_count_what_is_there() {
    let quota = |hard: Value| {
        cluster().with(
            "resourcequotas",
            "ns",
            "q",
            json!({ "spec": { "hard": hard } }),
        )
    };
    let sized = |cpu: &str| {
        pod_with(
            "/spec/containers/0/resources",
            json!({ "requests": { "cpu": cpu } }),
        )
    };
    let ended = {
        let mut p = sized("10");
        p["status"] = json!({ "phase": "Succeeded" });
        p
    };
    let busy = |q: Fake| {
        q.with("pods", "ns", "one", sized("300m"))
            .with("pods", "ns", "ended", ended.clone())
    };
    let cases = [
        (busy(quota(json!({ "pods": "2" }))), pod(), None),
        (
            busy(quota(json!({ "pods": "1" }))),
            pod(),
            Some("exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"),
        ),
        (
            busy(quota(json!({ "count/pods": "2" }))),
            pod(),
            Some(
                "exceeded quota: q, requested: count/pods=1, used: count/pods=2, limited: count/pods=2",
            ),
        ),
        (
            busy(quota(json!({ "requests.cpu": "1" }))),
            sized("700m"),
            None,
        ),
        (
            busy(quota(json!({ "requests.cpu": "1" }))),
            sized("701m"),
            Some(
                "exceeded quota: q, requested: requests.cpu=701m, used: requests.cpu=300m, limited: requests.cpu=1",
            ),
        ),
        (
            busy(quota(json!({ "cpu": "1" }))),
            pod(),
            Some("failed quota: q: must specify cpu for: c"),
        ),
        (quota(json!({ "services": "0" })), pod(), None),
    ];
    for (lookup, pod, expected) in cases {
        let out = run(&create("pods"), pod, &lookup)
            .await
            .err()
            .map(|e| e.message);
        assert_eq!(
            out,
            expected.map(|why| format!("pods \"x\" is forbidden: {why}"))
        );
    }
    let best_effort = json!({ "spec": { "hard": { "pods": "0" }, "scopes": ["BestEffort"] } });
    let lookup = cluster().with("resourcequotas", "ns", "q", best_effort);
    assert!(run(&create("pods"), pod(), &lookup).await.is_err());
    assert!(
        run(&create("pods"), sized("1"), &lookup).await.is_ok(),
        "out of scope"
    );
}

#[tokio::test]
async fn quotas_count_growth() {
    let quota = |hard: Value| {
        let q = json!({ "spec": { "hard": hard } });
        let class = json!({ "allowVolumeExpansion": true });
        let cluster = cluster().with("storageclasses", "", "grows", class);
        cluster.with("resourcequotas", "ns", "q", q)
    };
    let service =
        |kind: &str| json!({ "metadata": {}, "spec": { "type": kind, "ports": [{ "port": 80 }] } });
    let claim = |size: &str| json!({ "metadata": {}, "spec": { "storageClassName": "grows", "resources": { "requests": { "storage": size } } } });
    let update = |resource: &'static str, old: Value| Ask {
        old: Some(old),
        ..ask(Operation::Update, "", resource, "ns", "x")
    };
    let cases = [
        (
            json!({ "services.nodeports": "0" }),
            "services",
            service("ClusterIP"),
            service("NodePort"),
            false,
        ),
        (
            json!({ "services.nodeports": "0" }),
            "services",
            service("NodePort"),
            service("ClusterIP"),
            true,
        ),
        (
            json!({ "services": "1" }),
            "services",
            service("ClusterIP"),
            service("NodePort"),
            true,
        ),
        (
            json!({ "requests.storage": "2Gi" }),
            "persistentvolumeclaims",
            claim("1Gi"),
            claim("2Gi"),
            true,
        ),
        (
            json!({ "requests.storage": "2Gi" }),
            "persistentvolumeclaims",
            claim("1Gi"),
            claim("3Gi"),
            false,
        ),
        (
            json!({ "services.nodeports": "0" }),
            "services/status",
            service("ClusterIP"),
            service("NodePort"),
            true,
        ),
    ];
    for (hard, resource, old, new, allowed) in cases {
        let plural = resource.split('/').next().unwrap();
        let lookup = quota(hard).with(plural, "ns", "x", old.clone());
        let out = run(&update(resource, old), new.clone(), &lookup).await;
        assert_eq!(out.is_ok(), allowed, "{resource} {new}: {out:?}");
    }
}

#[tokio::test]
async fn claims_grow_where_volumes_can() {
    let lookup = cluster()
        .with(
            "storageclasses",
            "",
            "grows",
            json!({ "allowVolumeExpansion": true }),
        )
        .with("storageclasses", "", "stays", json!({}));
    let claim = |class: &str, size: &str| json!({ "metadata": {}, "spec": { "storageClassName": class, "resources": { "requests": { "storage": size } } } });
    let table = [
        ("grows", "1Gi", "2Gi", true),
        ("stays", "1Gi", "1Gi", true),
        ("stays", "1Gi", "2Gi", false),
        ("gone", "1Gi", "2Gi", false),
        ("", "1Gi", "2Gi", false),
    ];
    for (class, from, to, allowed) in table {
        let ask = Ask {
            old: Some(claim(class, from)),
            ..ask(Operation::Update, "", "persistentvolumeclaims", "ns", "x")
        };
        let out = run(&ask, claim(class, to), &lookup).await;
        assert_eq!(out.is_ok(), allowed, "{class} {from} {to}: {out:?}");
    }
}

#[tokio::test]
async fn pod_security_warns() {
    let namespace = |labels: &[(&str, &str)]| {
        let labels = labels
            .iter()
            .map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), json!(v)));
        json!({ "metadata": { "labels": labels.collect::<serde_json::Map<_, _>>() } })
    };
    let host = || pod_with("/spec/hostNetwork", json!(true));
    let deployment = || json!({ "metadata": {}, "spec": { "template": host() } });
    let deployments = ask(Operation::Create, "apps", "deployments", "ns", "x");
    let why = "host namespaces (hostNetwork=true)";
    let warning = format!("would violate PodSecurity \"baseline:latest\": {why}");
    for (labels, ask, object, want) in [
        (
            vec![("warn", "baseline")],
            create("pods"),
            host(),
            vec![warning.clone()],
        ),
        (
            vec![("warn", "baseline"), ("warn-version", "v1.30")],
            create("pods"),
            host(),
            vec![warning.replace("latest", "v1.30")],
        ),
        (vec![("warn", "typo")], create("pods"), host(), vec![]),
        (vec![("audit", "baseline")], create("pods"), host(), vec![]),
        (vec![("warn", "baseline")], create("pods"), pod(), vec![]),
        (
            vec![("enforce", "baseline")],
            deployments.clone(),
            deployment(),
            vec![warning.clone()],
        ),
        (
            vec![("enforce", "baseline"), ("warn", "privileged")],
            deployments.clone(),
            deployment(),
            vec![],
        ),
    ] {
        let lookup = cluster().with("namespaces", "", "ns", namespace(&labels));
        assert_eq!(warnings(&ask, object, &lookup).await, want, "{labels:?}");
    }
    let stricter = Ask {
        old: Some(namespace(&[])),
        ..ask(Operation::Update, "", "namespaces", "", "ns")
    };
    let lookup = cluster()
        .with("pods", "ns", "a", host())
        .with("pods", "ns", "b", host())
        .with("pods", "ns", "c", pod());
    assert_eq!(
        warnings(&stricter, namespace(&[("enforce", "baseline")]), &lookup).await,
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"".to_owned(),
            format!("a (and 1 other pod): {why}"),
        ]
    );
    let message = refusal(&stricter, namespace(&[("warn", "typo")]), &lookup).await;
    assert!(
        message.contains("metadata.labels[pod-security.kubernetes.io/warn]"),
        "{message}"
    );
}

#[tokio::test]
async fn pod_security_levels_are_enforced() {
    let level = |level: &str| {
        let labels =
            json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": level } } });
        cluster().with("namespaces", "", "ns", labels)
    };
    let hardened = || {
        pod_with(
            "/spec/containers/0/securityContext",
            json!({
                "allowPrivilegeEscalation": false, "runAsNonRoot": true,
                "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
            }),
        )
    };
    let with = |mut pod: Value, pointer: &str, value: Value| {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[key] = value;
        pod
    };
    let context = "/spec/containers/0/securityContext";
    let add = |cap: &str| pod_with(context, json!({ "capabilities": { "add": [cap] } }));
    // The lowest level that refuses: 0 none, 1 restricted, 2 baseline too.
    let cases = [
        (hardened(), 0),
        (pod(), 1),
        (pod_with("/spec/hostNetwork", json!(true)), 2),
        (pod_with(context, json!({ "privileged": true })), 2),
        (add("NET_ADMIN"), 2),
        (add("CHOWN"), 1),
        (
            pod_with("/spec/volumes", json!([{ "name": "v", "hostPath": {} }])),
            2,
        ),
        (
            with(
                hardened(),
                "/spec/volumes",
                json!([{ "name": "v", "nfs": {} }]),
            ),
            1,
        ),
        (
            with(
                hardened(),
                "/spec/volumes",
                json!([{ "name": "v", "configMap": {} }]),
            ),
            0,
        ),
        (
            pod_with("/spec/containers/0/ports", json!([{ "hostPort": 80 }])),
            2,
        ),
        (
            pod_with("/spec/containers/0/ports", json!([{ "containerPort": 80 }])),
            1,
        ),
        (
            pod_with(
                "/spec/securityContext",
                json!({ "sysctls": [{ "name": "kernel.msgmax" }] }),
            ),
            2,
        ),
        (
            pod_with(
                "/spec/securityContext",
                json!({ "seccompProfile": { "type": "Unconfined" } }),
            ),
            2,
        ),
        (
            with(
                hardened(),
                "/spec/containers/0/securityContext/runAsUser",
                json!(0),
            ),
            1,
        ),
        (
            with(
                hardened(),
                "/spec/containers/0/securityContext/runAsNonRoot",
                json!(false),
            ),
            1,
        ),
        (
            with(
                hardened(),
                "/spec/containers/0/securityContext/allowPrivilegeEscalation",
                Value::Null,
            ),
            1,
        ),
    ];
    for (i, (pod, refused_from)) in cases.into_iter().enumerate() {
        for (name, rank) in [
            ("", 3),
            ("privileged", 3),
            ("baseline", 2),
            ("restricted", 1),
            ("typo", 1),
        ] {
            let out = run(&create("pods"), pod.clone(), &level(name)).await;
            assert_eq!(out.is_err(), refused_from >= rank, "{i} {name:?}: {out:?}");
        }
    }
    let message = refusal(
        &create("pods"),
        pod_with("/spec/hostNetwork", json!(true)),
        &level("baseline"),
    )
    .await;
    assert_eq!(
        message,
        "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
}
