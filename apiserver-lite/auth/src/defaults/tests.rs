#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::rbac::Index;
use crate::{Attributes, Decision, User};

fn index() -> Index {
    let mut index = Index::default();
    objects().iter().for_each(|o| index.apply(o));
    index
}

fn ask(text: &str) -> Attributes {
    let words: Vec<&str> = text.split(' ').collect();
    if words[1].starts_with('/') {
        return Attributes {
            verb: words[0].into(),
            path: words[1].into(),
            ..Attributes::default()
        };
    }
    let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
    let group = if words[1] == "core" { "" } else { words[1] };
    let [verb, group, resource, subresource] =
        [words[0], group, resource, subresource].map(str::to_owned);
    Attributes {
        verb,
        group,
        resource,
        subresource,
        namespace: "ns".into(),
        name: "x".into(),
        ..Attributes::default()
    }
}

#[test]
fn every_object_is_whole_and_named_once() {
    let mut seen = BTreeSet::new();
    for object in objects() {
        let text = |p: &str| {
            object
                .pointer(p)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let key = (
            text("/kind"),
            text("/metadata/namespace"),
            text("/metadata/name"),
        );
        assert!(
            !key.0.is_empty() && !key.2.is_empty() && !text("/apiVersion").is_empty(),
            "{object}"
        );
        for subject in object
            .get("subjects")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            assert!(
                subject["name"].is_string() && subject["kind"].is_string(),
                "{object}"
            );
        }
        for rule in object
            .get("rules")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let whole = rule.get("resources").is_some() == rule.get("apiGroups").is_some()
                && rule.get("resources").is_some() != rule.get("nonResourceURLs").is_some();
            assert!(whole, "{object}");
        }
        assert!(seen.insert(key.clone()), "twice: {key:?}");
    }
}

#[test]
fn every_binding_has_its_role() {
    let index = index();
    for object in cluster_role_bindings().into_iter().chain(role_bindings()) {
        let text = |p: &str| {
            object
                .pointer(p)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let role = index.role(
            text("/roleRef/kind"),
            text("/metadata/namespace"),
            text("/roleRef/name"),
        );
        assert!(role.is_some_and(|rules| !rules.is_empty()), "{object}");
    }
}

#[test]
fn the_aggregated_roles_contain_each_other() {
    let index = index();
    let [view, edit, admin] =
        ["view", "edit", "admin"].map(|n| index.role("ClusterRole", "", n).unwrap());
    assert!(crate::rbac::covers(edit, view) && crate::rbac::covers(admin, edit));
    assert!(!crate::rbac::covers(view, edit) && !crate::rbac::covers(edit, admin));
    let reads_secrets = |rules: &[Rule]| rules.iter().any(|r| r.allows(&ask("get core secrets")));
    assert!(!reads_secrets(view) && reads_secrets(edit));
}

#[test]
fn users_have_what_upstream_gives_them() {
    let index = index();
    let nobody = User::anonymous();
    let somebody = User::component("jo", &[]);
    let admin = User::component("root", &["system:masters"]);
    let scheduler = User::component("system:kube-scheduler", &[]);
    let joining = User::component("system:bootstrap:abcdef", &["system:bootstrappers"]);
    let node = User::component("system:node:a", &["system:nodes"]);
    let deployments = User::service_account("kube-system", "deployment-controller");
    let proxy = User::component("system:kube-proxy", &[]);
    let to_kubelet = User::component("kube-apiserver-kubelet-client", &[]);
    let cases = [
        (&nobody, "get /healthz", true),
        (&nobody, "get /version", true),
        (&nobody, "get /metrics", false),
        (&nobody, "get /api", false),
        (&nobody, "get core pods", false),
        (&somebody, "get /apis/apps/v1", true),
        (
            &somebody,
            "create authorization.k8s.io selfsubjectaccessreviews",
            true,
        ),
        (&somebody, "get core pods", false),
        (&admin, "delete any.example things/status", true),
        (&admin, "put /anything", true),
        (&scheduler, "create core pods/binding", true),
        (&scheduler, "get core secrets", false),
        (
            &joining,
            "create certificates.k8s.io certificatesigningrequests",
            true,
        ),
        (
            &joining,
            "create certificates.k8s.io certificatesigningrequests/nodeclient",
            true,
        ),
        (
            &joining,
            "create certificates.k8s.io certificatesigningrequests/selfnodeclient",
            false,
        ),
        (
            &node,
            "create certificates.k8s.io certificatesigningrequests/selfnodeclient",
            true,
        ),
        (&node, "get core secrets", false),
        (&deployments, "create apps replicasets", true),
        (&deployments, "get core secrets", false),
        (&proxy, "watch discovery.k8s.io endpointslices", true),
        (&proxy, "watch networking.k8s.io networkpolicies", true),
        (&proxy, "list core pods", true),
        (&proxy, "list core namespaces", true),
        (&proxy, "delete networking.k8s.io networkpolicies", false),
        (&node, "list networking.k8s.io networkpolicies", true),
        (&to_kubelet, "create core nodes/proxy", true),
        (&to_kubelet, "delete core nodes", false),
    ];
    for (user, asked, expected) in cases {
        let decision = index.authorize(user, &ask(asked));
        assert_eq!(
            matches!(decision, Decision::Allow(_)),
            expected,
            "{} {asked}: {decision:?}",
            user.name
        );
    }
}
