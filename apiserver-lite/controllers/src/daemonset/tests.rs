use super::*;
use crate::action::Action;
use crate::revision::HASH;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, from_value, json};

type Edit = fn(&mut Value);

fn set(edit: impl Fn(&mut Value)) -> DaemonSet {
    let mut v = json!({"metadata": {"name": "d", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    edit(&mut v);
    from_value(v).expect("set")
}

fn node(name: &str, edit: impl Fn(&mut Value)) -> Arc<Node> {
    let mut v =
        json!({"metadata": {"name": name, "labels": {"role": name}}, "spec": {"taints": []}});
    edit(&mut v);
    Arc::new(from_value(v).expect("node"))
}

fn steps(outcome: &Outcome) -> String {
    let step = |a: &Action| match a {
        Action::Create {
            resource, object, ..
        } if resource.kind == "Pod" => {
            let pod: Pod = from_value(object.clone()).expect("pod");
            Some(format!("+{}", placement::node_of(&pod).expect("bound")))
        }
        Action::Delete { target, .. } => Some(format!("-{}", target.key.name)),
        _ => None,
    };
    outcome
        .actions
        .iter()
        .filter_map(step)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn which_nodes_get_a_pod() {
    let same: Edit = |_| ();
    let tainted: Edit = |v| v["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
    let cordoned: Edit = |v| {
        v["spec"]["taints"] =
            json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}])
    };
    let no_network: Edit = |v| {
        v["spec"]["taints"] =
            json!([{"key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule"}])
    };
    let rows: &[(&str, Edit, Edit, &str)] = &[
        ("each", same, same, "+a +b"),
        ("not one with a taint", same, tainted, "+a"),
        (
            "unless it is tolerated",
            |v| v["spec"]["template"]["spec"]["tolerations"] = json!([{"operator": "Exists"}]),
            tainted,
            "+a +b",
        ),
        ("a cordoned one", same, cordoned, "+a +b"),
        ("not one without a network", same, no_network, "+a"),
        (
            "unless it uses the host's",
            |v| v["spec"]["template"]["spec"]["hostNetwork"] = json!(true),
            no_network,
            "+a +b",
        ),
        (
            "one that is selected",
            |v| v["spec"]["template"]["spec"]["nodeSelector"] = json!({"role": "b"}),
            same,
            "+b",
        ),
        (
            "one of an affinity",
            |v| {
                v["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["b"]}]}]}}})
            },
            same,
            "+a",
        ),
    ];
    for (name, edit, second, want) in rows {
        let around = Around {
            nodes: vec![node("a", |_| ()), node("b", second)],
            ..Around::default()
        };
        assert_eq!(
            steps(&plan(&set(edit), &around, Timestamp::UNIX_EPOCH)),
            *want,
            "{name}"
        );
    }
}

#[test]
fn pods_are_kept_and_replaced() {
    let first = plan(&set(|_| ()), &Around::default(), Timestamp::UNIX_EPOCH);
    let revision: ControllerRevision = first
        .actions
        .iter()
        .find_map(|a| match a {
            Action::Create {
                resource, object, ..
            } if resource.kind == "ControllerRevision" => from_value(object.clone()).ok(),
            _ => None,
        })
        .expect("revision");
    let hash = revision.metadata.labels.clone().expect("labels")[HASH].clone();
    // `name@node`, then: `-` not ready, `x` failed, `*` made just now, `~` being deleted, `'` of an older revision.
    let pod = |text: &str| -> Arc<Pod> {
        let (name, rest) = text.split_once('@').expect("name@node");
        let node: String = rest
            .chars()
            .take_while(char::is_ascii_alphabetic)
            .filter(|c| *c != 'x')
            .collect();
        let has = |c| rest.contains(c);
        Arc::new(from_value(json!({"metadata": {"name": name, "namespace": "n", "creationTimestamp": has('*').then(Timestamp::now).unwrap_or_default().to_string(), "deletionTimestamp": has('~').then_some("2026-01-01T00:00:00Z"),
                "labels": {"app": "d", HASH: if has('\'') { "old" } else { hash.as_str() }},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true}]},
            "spec": {"containers": [], "nodeName": node}, "status": {"phase": if has('x') { "Failed" } else { "Running" },
                "conditions": [{"type": "Ready", "status": if has('-') { "False" } else { "True" }, "lastTransitionTime": "1970-01-01T00:00:00Z"}]}}))
        .expect("pod"))
    };
    let same: Edit = |_| ();
    let two: Edit = |v| {
        v["spec"]["updateStrategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}})
    };
    let beside: Edit = |v| {
        v["spec"]["updateStrategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}})
    };
    let by_hand: Edit = |v| v["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let rows: &[(&str, Edit, &[&str], &str)] = &[
        ("content", same, &["p@a", "q@b", "r@c"], ""),
        ("one lacks", same, &["p@a", "q@b"], "+c"),
        ("one too many", same, &["p@a", "pp@a", "q@b", "r@c"], "-pp"),
        ("a failed one", same, &["p@ax", "q@b", "r@c"], "-p"),
        ("not again at once", same, &["p@ax*", "q@b", "r@c"], ""),
        (
            "one that goes is waited for",
            same,
            &["p@a~", "q@b", "r@c"],
            "",
        ),
        (
            "one may not stay",
            |v| v["spec"]["template"]["spec"]["nodeSelector"] = json!({"role": "a"}),
            &["p@a'", "q@b'"],
            "-q",
        ),
        ("updated one by one", same, &["p@a'", "q@b'", "r@c'"], "-p"),
        ("the next waits", same, &["p@a-", "q@b'", "r@c'"], ""),
        ("the next", same, &["p@a", "q@b'", "r@c'"], "-q"),
        (
            "what is not well goes first",
            same,
            &["p@a'", "q@b'-", "r@c'"],
            "-q",
        ),
        ("half of them", two, &["p@a'", "q@b'", "r@c'"], "-p -q"),
        (
            "a new one beside an old one",
            beside,
            &["p@a'", "q@b'", "r@c'"],
            "+a",
        ),
        (
            "it is waited for",
            beside,
            &["p@a'", "pp@a-", "q@b'", "r@c'"],
            "",
        ),
        (
            "then the old one goes",
            beside,
            &["p@a'", "pp@a", "q@b'", "r@c'"],
            "-p",
        ),
        (
            "and the next comes",
            beside,
            &["pp@a", "q@b'", "r@c'"],
            "+b",
        ),
        (
            "beside one that is not well at once",
            beside,
            &["p@a'-", "q@b'-", "r@c'"],
            "+a +b +c",
        ),
        (
            "when deleted by hand only",
            by_hand,
            &["p@a'", "q@b'", "r@c'"],
            "",
        ),
    ];
    for (name, edit, pods, want) in rows {
        let around = Around {
            pods: pods.iter().map(|p| pod(p)).collect(),
            nodes: ["a", "b", "c"].map(|n| node(n, |_| ())).to_vec(),
            revisions: vec![Arc::new(revision.clone())],
        };
        assert_eq!(
            steps(&plan(&set(edit), &around, Timestamp::now())),
            *want,
            "{name}"
        );
    }
}
