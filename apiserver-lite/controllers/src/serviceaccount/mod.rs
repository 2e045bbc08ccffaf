//! What a namespace needs for its pods to speak with the API: the account `default`, the ConfigMap with the
//! authority, and (as before 1.24, or made by hand) Secrets with tokens.

mod token;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};
use serde_json::json;

use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::Key;
use crate::runner::{Controller, Outcome, Work};

pub use token::{AccountTokens, MakeToken, Tokens};

const ROOT: &str = "kube-root-ca.crt";
const NOTE: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);

/// Default accounts and `kube-root-ca.crt`, by namespace.
pub struct Basics {
    caches: Arc<Caches>,
    ca_pem: String,
}

impl Basics {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>, ca_pem: String) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .namespaces
            .subscribe(move |c| c.new.into_iter().for_each(|n| queue.add(Key::of(n))));
        let add = |queue: &Work, namespace: Option<String>| {
            queue.add(Key::new("", namespace.unwrap_or_default()));
        };
        let queue = work.clone();
        caches.accounts.subscribe(move |c| {
            let default = c
                .old
                .filter(|a| c.new.is_none() && a.name_any() == "default");
            default.into_iter().for_each(|a| add(&queue, a.namespace()));
        });
        let queue = work.clone();
        caches
            .roots
            .subscribe(move |c| c.states().for_each(|r| add(&queue, r.namespace())));
        let caches = caches.clone();
        (Self { caches, ca_pem }, work)
    }
}

#[async_trait]
impl Controller for Basics {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(namespace) = self.caches.namespaces.get(key) else {
            return Ok(Outcome::default());
        };
        let account = self.caches.accounts.get(&Key::new(&key.name, "default"));
        let root = self.caches.roots.get(&Key::new(&key.name, ROOT));
        Ok(plan(
            &namespace,
            account.as_deref(),
            root.as_deref(),
            &self.ca_pem,
        )
        .into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// Decides for a namespace.
pub fn plan(
    namespace: &Namespace,
    account: Option<&ServiceAccount>,
    root: Option<&ConfigMap>,
    ca_pem: &str,
) -> Vec<Action> {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    if phase == Some("Terminating") || namespace.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let meta = |name: &str| ObjectMeta {
        name: Some(name.into()),
        namespace: Some(namespace.name_any()),
        ..ObjectMeta::default()
    };
    let mut actions = Vec::new();
    if account.is_none() {
        actions.push(Action::create(&ServiceAccount {
            metadata: meta("default"),
            ..ServiceAccount::default()
        }));
    }
    let data = BTreeMap::from([("ca.crt".to_owned(), ca_pem.to_owned())]);
    match root {
        None => actions.push(Action::create(&ConfigMap {
            metadata: ObjectMeta {
                annotations: Some(BTreeMap::from([(NOTE.0.into(), NOTE.1.into())])),
                ..meta(ROOT)
            },
            data: Some(data),
            ..ConfigMap::default()
        })),
        Some(root) if root.data.as_ref() != Some(&data) => {
            // A merge patch keeps keys that it does not name.
            let extra = root.data.iter().flatten().filter(|(k, _)| *k != "ca.crt");
            let mut wanted: serde_json::Map<_, _> =
                extra.map(|(k, _)| (k.clone(), json!(null))).collect();
            wanted.insert("ca.crt".into(), json!(ca_pem));
            actions.push(Action::patch(
                Target::of(root).unchanged(root),
                json!({ "data": wanted }),
            ));
        }
        Some(_) => {}
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value};

    #[test]
    fn what_a_namespace_gets() {
        let root = |data: Value| -> Option<ConfigMap> {
            Some(
                from_value(json!({"metadata": {"name": ROOT, "namespace": "n"}, "data": data}))
                    .expect("root"),
            )
        };
        let account: ServiceAccount =
            from_value(json!({"metadata": {"name": "default", "namespace": "n"}}))
                .expect("account");
        let (active, going) = ("Active", "Terminating");
        let cases: [(&str, &str, bool, Option<ConfigMap>, &[&str]); 5] = [
            (
                "a new one",
                active,
                false,
                None,
                &["create ServiceAccount", "create ConfigMap"],
            ),
            (
                "a whole one",
                active,
                true,
                root(json!({"ca.crt": "CA"})),
                &[],
            ),
            (
                "another authority",
                active,
                true,
                root(json!({"ca.crt": "old"})),
                &["patch {\"ca.crt\":\"CA\"}"],
            ),
            (
                "meddled with",
                active,
                true,
                root(json!({"ca.crt": "CA", "x": "1"})),
                &["patch {\"ca.crt\":\"CA\",\"x\":null}"],
            ),
            ("one that goes", going, false, None, &[]),
        ];
        for (name, phase, has_account, root, want) in cases {
            let namespace: Namespace =
                from_value(json!({"metadata": {"name": "n"}, "status": {"phase": phase}}))
                    .expect("namespace");
            let actions = plan(
                &namespace,
                Some(&account).filter(|_| has_account),
                root.as_ref(),
                "CA",
            );
            let seen: Vec<String> = actions
                .iter()
                .map(|a| match a {
                    Action::Create { resource, .. } => format!("create {}", resource.kind),
                    Action::Patch { patch, .. } => format!("patch {}", patch["data"]),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(seen, want, "{name}");
        }
    }
}
