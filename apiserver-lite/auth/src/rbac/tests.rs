#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Attributes, Decision, User};

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
    let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
    Rule {
        verbs: own(verbs),
        api_groups: own(groups),
        resources: own(resources),
        resource_names: own(names),
        ..Rule::default()
    }
}

fn paths(verbs: &[&str], urls: &[&str]) -> Rule {
    Rule {
        non_resource_urls: urls.iter().map(|s| (*s).to_owned()).collect(),
        ..rule(verbs, &[], &[], &[])
    }
}

/// `verb group resource[/sub] namespace name`, `-` for empty; or `verb /path`.
fn ask(text: &str) -> Attributes {
    let words: Vec<&str> = text
        .split(' ')
        .map(|w| if w == "-" { "" } else { w })
        .collect();
    let own = |i: usize| words.get(i).copied().unwrap_or_default().to_owned();
    if own(1).starts_with('/') {
        return Attributes {
            verb: own(0),
            path: own(1),
            ..Attributes::default()
        };
    }
    let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
    Attributes {
        verb: own(0),
        group: own(1),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: own(3),
        name: own(4),
        ..Attributes::default()
    }
}

#[test]
fn rules_match_as_upstream() {
    let pods = rule(&["get"], &[""], &["pods"], &[]);
    let scale = rule(&["get"], &["*"], &["*/scale"], &[]);
    let named = rule(&["get", "update"], &[""], &["configmaps"], &["a"]);
    let all = rule(&["*"], &["*"], &["*"], &[]);
    let cases = [
        (&pods, "get - pods ns x", true),
        (&pods, "list - pods ns", false),
        (&pods, "get apps pods ns x", false),
        (&pods, "get - pods/log ns x", false),
        (&scale, "get apps deployments/scale ns x", true),
        (&scale, "get apps deployments ns x", false),
        (&scale, "get apps scale ns x", false),
        (&named, "update - configmaps ns a", true),
        (&named, "update - configmaps ns b", false),
        (&named, "get - configmaps ns", false),
        (&all, "delete apps deployments/status ns x", true),
        (&all, "get /healthz", false),
        (&paths(&["get"], &["/healthz/*"]), "get /healthz/etcd", true),
        (&paths(&["get"], &["/healthz/*"]), "get /healthz", false),
        (&paths(&["get"], &["/healthz"]), "get /healthz/etcd", false),
        (&paths(&["get"], &["*"]), "get /anything", true),
        (&paths(&["get"], &["*"]), "post /anything", false),
        (&paths(&["*"], &["*"]), "get - pods ns x", false),
    ];
    for (rule, asked, expected) in cases {
        assert_eq!(rule.allows(&ask(asked)), expected, "{rule} {asked}");
    }
}

fn object(kind: &str, namespace: &str, name: &str, more: Value) -> Value {
    let mut object = json!({ "kind": kind, "metadata": { "namespace": namespace, "name": name } });
    object
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    object
}

fn binding(kind: &str, namespace: &str, name: &str, role: (&str, &str), subject: Value) -> Value {
    object(
        kind,
        namespace,
        name,
        json!({ "roleRef": { "kind": role.0, "name": role.1 }, "subjects": [subject] }),
    )
}

fn index() -> Index {
    let mut index = Index::default();
    let reader =
        json!({ "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }] });
    for object in [
        object("ClusterRole", "", "reader", reader.clone()),
        object("Role", "ns", "local", reader),
        binding(
            "ClusterRoleBinding",
            "",
            "everywhere",
            ("ClusterRole", "reader"),
            json!({"kind": "User", "name": "ann"}),
        ),
        binding(
            "RoleBinding",
            "ns",
            "here",
            ("ClusterRole", "reader"),
            json!({"kind": "Group", "name": "team"}),
        ),
        binding(
            "RoleBinding",
            "ns",
            "account",
            ("Role", "local"),
            json!({"kind": "ServiceAccount", "name": "app"}),
        ),
        binding(
            "RoleBinding",
            "ns",
            "lost",
            ("Role", "gone"),
            json!({"kind": "User", "name": "eve"}),
        ),
    ] {
        index.apply(&object);
    }
    index
}

#[test]
fn reasons_are_in_upstreams_words() {
    let index = index();
    let allow = |s: &str| Decision::Allow(s.to_owned());
    let none = |s: &str| Decision::NoOpinion(s.to_owned());
    let (ann, team) = (
        User::component("ann", &[]),
        User::component("bob", &["team"]),
    );
    let (app, other) = (
        User::service_account("ns", "app"),
        User::service_account("other", "app"),
    );
    let eve = User::component("eve", &[]);
    let cases = [
        (
            &ann,
            "get - pods x y",
            allow(
                "RBAC: allowed by ClusterRoleBinding \"everywhere\" of ClusterRole \"reader\" to User \"ann\"",
            ),
        ),
        (
            &team,
            "get - pods ns y",
            allow(
                "RBAC: allowed by RoleBinding \"here/ns\" of ClusterRole \"reader\" to Group \"team\"",
            ),
        ),
        (&team, "get - pods other y", none("")),
        (&team, "get - pods - y", none("")),
        (
            &app,
            "get - pods ns y",
            allow(
                "RBAC: allowed by RoleBinding \"account/ns\" of Role \"local\" to ServiceAccount \"app/ns\"",
            ),
        ),
        (&other, "get - pods ns y", none("")),
        (
            &eve,
            "get - pods ns y",
            none("RBAC: role.rbac.authorization.k8s.io \"gone\" not found"),
        ),
    ];
    for (user, asked, expected) in cases {
        assert_eq!(
            index.authorize(user, &ask(asked)),
            expected,
            "{} {asked}",
            user.name
        );
    }
}

#[test]
fn the_index_follows_changes() {
    let mut index = index();
    let ann = User::component("ann", &[]);
    let allowed = |index: &Index| {
        matches!(
            index.authorize(&ann, &ask("get - pods x y")),
            Decision::Allow(_)
        )
    };
    assert!(allowed(&index));
    index.apply(&object(
        "ClusterRole",
        "",
        "reader",
        json!({ "rules": null }),
    ));
    assert!(!allowed(&index));
    index.remove("ClusterRole", "", "reader");
    assert_eq!(
        index.rules_for(&ann, "").errors,
        ["clusterrole.rbac.authorization.k8s.io \"reader\" not found"]
    );
    index.remove("ClusterRoleBinding", "", "everywhere");
    assert_eq!(index.rules_for(&ann, ""), Allowed::default());
    assert!(
        index
            .rules_for(&User::component("bob", &["team"]), "ns")
            .errors
            .len()
            == 1
    );
}

#[test]
fn grants_beyond_ones_own_are_refused_by_name() {
    let index = index();
    let ann = User::component("ann", &[]);
    assert_eq!(
        index.may_grant(&ann, "ns", &[rule(&["get"], &[""], &["pods"], &["x"])]),
        Ok(())
    );
    let refusal = index
        .may_grant(
            &ann,
            "ns",
            &[rule(&["get", "list", "watch"], &[""], &["pods"], &[])],
        )
        .unwrap_err();
    assert_eq!(
        refusal,
        "user \"ann\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"watch\"]}"
    );
}

#[test]
fn covering_goes_piece_by_piece() {
    let get = |resources: &[&str], names: &[&str]| rule(&["get"], &[""], resources, names);
    let cases = [
        (
            vec![get(&["pods"], &[]), get(&["services"], &[])],
            get(&["pods", "services"], &[]),
            true,
        ),
        (
            vec![get(&["pods"], &[])],
            get(&["pods", "services"], &[]),
            false,
        ),
        (vec![get(&["pods"], &["a"])], get(&["pods"], &[]), false),
        (
            vec![get(&["pods"], &["a"]), get(&["pods"], &["b"])],
            get(&["pods"], &["a", "b"]),
            true,
        ),
        (vec![get(&["*/log"], &[])], get(&["pods/log"], &[]), true),
        (vec![get(&["pods"], &[])], get(&["pods/log"], &[]), false),
        (vec![get(&["*"], &[])], get(&["pods/log"], &[]), true),
        (vec![get(&["pods"], &[])], get(&["*"], &[]), false),
        (
            vec![paths(&["get"], &["/a/*"])],
            paths(&["get"], &["/a/b", "/a/b/*"]),
            true,
        ),
        (
            vec![paths(&["get"], &["/a/*"])],
            paths(&["get"], &["/a*"]),
            false,
        ),
        (
            vec![rule(&["*"], &["*"], &["*"], &[])],
            paths(&["get"], &["/a"]),
            false,
        ),
    ];
    for (owner, granted, expected) in cases {
        assert_eq!(
            covers(&owner, std::slice::from_ref(&granted)),
            expected,
            "{granted}"
        );
    }
}

#[test]
fn aggregated_roles_follow_their_parts() {
    let part = |name: &str, verb: &str| {
        json!({
            "kind": "ClusterRole", "metadata": { "name": name, "labels": { "to": "sum" } },
            "rules": [{ "verbs": [verb], "apiGroups": [""], "resources": ["pods"] }],
        })
    };
    let sum = json!({
        "kind": "ClusterRole", "metadata": { "name": "sum", "labels": { "to": "sum" } },
        "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "to": "sum" } }] },
        "rules": [],
    });
    let mut roles = vec![part("b", "list"), sum, part("a", "get"), part("c", "get")];
    roles.push(object(
        "ClusterRole",
        "",
        "other",
        json!({ "rules": [{ "verbs": ["*"] }] }),
    ));
    let updates = aggregate(&roles);
    assert_eq!(updates.len(), 1);
    let verbs: Vec<&str> = updates[0]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["verbs"][0].as_str().unwrap())
        .collect();
    assert_eq!(verbs, ["get", "list"], "in order of names, each once");
    roles[1] = updates[0].clone();
    assert!(aggregate(&roles).is_empty(), "nothing left to do");
}

fn pick(from: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(proptest::sample::select(from).prop_map(str::to_owned), 1..3)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let names = proptest::collection::vec(
        proptest::sample::select(&["n", "m"][..]).prop_map(str::to_owned),
        0..2,
    );
    let resources = (
        pick(&["get", "list", "*"]),
        pick(&["", "apps", "*"]),
        pick(&["pods", "pods/scale", "*/scale", "jobs", "*"]),
        names,
    );
    let resources = resources.prop_map(|(verbs, api_groups, resources, resource_names)| Rule {
        verbs,
        api_groups,
        resources,
        resource_names,
        ..Rule::default()
    });
    let urls = (
        pick(&["get", "list", "*"]),
        pick(&["/a", "/a/*", "/a/b", "*", "/b*"]),
    );
    prop_oneof![
        4 => resources,
        1 => urls.prop_map(|(verbs, non_resource_urls)| Rule { verbs, non_resource_urls, ..Rule::default() }),
    ]
}

/// Every request that the rules above can tell apart.
fn universe() -> Vec<Attributes> {
    let mut all = Vec::new();
    for verb in ["get", "list", "put"] {
        for path in ["/a", "/a/", "/a/b", "/b", "/bc", "/c"] {
            all.push(ask(&format!("{verb} {path}")));
        }
        for group in ["-", "apps", "x"] {
            for resource in ["pods", "pods/scale", "jobs", "jobs/scale", "x/log"] {
                for name in ["n", "m", "o", "-"] {
                    all.push(ask(&format!("{verb} {group} {resource} ns {name}")));
                }
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn what_is_covered_is_allowed(
        owner in proptest::collection::vec(any_rule(), 0..5),
        granted in proptest::collection::vec(any_rule(), 0..3),
    ) {
        let allowed = |rules: &[Rule], a: &Attributes| rules.iter().any(|r| r.allows(a));
        let covered = covers(&owner, &granted);
        let gained = universe().into_iter().find(|a| allowed(&granted, a) && !allowed(&owner, a));
        if covered {
            prop_assert_eq!(gained, None);
        }
        prop_assert_eq!(covered, missing(&owner, &granted).is_empty());
        prop_assert!(covers(&granted, &granted), "a rule covers itself");
        let mut more = owner.clone();
        more.extend(missing(&owner, &granted));
        prop_assert!(covers(&more, &granted), "with what is missing it is covered");
    }
}
