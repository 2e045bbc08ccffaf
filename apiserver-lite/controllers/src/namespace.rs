//! Namespace: when one is deleted, deletes all that is in it, then lets it go.
//!
//! Pods go first (KEP-5080): nothing that protects them (a NetworkPolicy, a quota) may go before they do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::Key;
use crate::runner::{Controller, Outcome, Work};

const FINALIZER: &str = "kubernetes";
/// How soon to look again whether what was deleted is gone.
const AGAIN: Duration = Duration::from_secs(1);

/// The controller.
pub struct Namespaces {
    caches: Arc<Caches>,
    client: Client,
}

impl Namespaces {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>, client: Client) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches.namespaces.subscribe(move |c| {
            let dying = c.new.filter(|n| n.metadata.deletion_timestamp.is_some());
            dying.into_iter().for_each(|n| queue.add(Key::of(n)));
        });
        let caches = caches.clone();
        (Self { caches, client }, work)
    }

    /// Deletes what is there, and says what still is.
    async fn sweep(&self, namespace: &str) -> Sweep {
        let mut sweep = Sweep::default();
        let found = match Discovery::new(self.client.clone()).run_aggregated().await {
            Ok(found) => found,
            Err(error) => {
                sweep.discovery = Some(error.to_string());
                return sweep;
            }
        };
        let (pods, others): (Vec<_>, Vec<_>) = deletable(&found)
            .into_iter()
            .partition(|(r, _)| r.group.is_empty() && r.plural == "pods");
        for (resource, collection) in &pods {
            self.empty(namespace, resource, *collection, &mut sweep)
                .await;
        }
        if sweep.is_clean() {
            for (resource, collection) in &others {
                self.empty(namespace, resource, *collection, &mut sweep)
                    .await;
            }
        }
        sweep
    }

    async fn empty(
        &self,
        namespace: &str,
        resource: &ApiResource,
        collection: bool,
        sweep: &mut Sweep,
    ) {
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, resource);
        let result = async {
            let before = api.list_metadata(&ListParams::default()).await?;
            if before.items.is_empty() {
                return Ok(before);
            }
            let params = DeleteParams::background();
            if collection {
                api.delete_collection(&params, &ListParams::default())
                    .await?;
            } else {
                for object in &before.items {
                    match api.delete(&object.name_any(), &params).await {
                        Err(kube::Error::Api(s)) if s.code == 404 => {}
                        other => drop(other?),
                    }
                }
            }
            api.list_metadata(&ListParams::default()).await
        };
        match result.await {
            Ok(left) => {
                if !left.items.is_empty() {
                    sweep.left.insert(dotted(resource), left.items.len());
                }
                for finalizer in left.items.iter().flat_map(|o| o.finalizers()) {
                    *sweep.finalizers.entry(finalizer.clone()).or_default() += 1;
                }
            }
            // The kind went away meanwhile.
            Err(kube::Error::Api(s)) if s.code == 404 || s.code == 405 => {}
            Err(error) => sweep.failed.push(format!("{}: {error}", dotted(resource))),
        }
    }
}

/// `pods.` or `jobs.batch`: upstream's form of a kind in the conditions.
fn dotted(resource: &ApiResource) -> String {
    format!("{}.{}", resource.plural, resource.group)
}

/// Namespaced kinds that can be listed and deleted, each in one version; whether a whole collection can.
fn deletable(discovery: &Discovery) -> Vec<(ApiResource, bool)> {
    let groups = discovery.groups_alphabetical().into_iter();
    groups
        .flat_map(|g| g.recommended_resources())
        .filter(|(_, c)| c.scope == Scope::Namespaced)
        .filter(|(_, c)| c.supports_operation(verbs::LIST) && c.supports_operation(verbs::DELETE))
        .map(|(r, c)| (r, c.supports_operation(verbs::DELETE_COLLECTION)))
        .collect()
}

#[async_trait]
impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(namespace) = self.caches.namespaces.get(key) else {
            return Ok(Outcome::default());
        };
        if namespace.metadata.deletion_timestamp.is_none() || !is_held(&namespace) {
            return Ok(Outcome::default());
        }
        let sweep = self.sweep(&key.name).await;
        Ok(plan(&namespace, &sweep, Timestamp::now()))
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        // The last finalizer's removal gives back a namespace that is gone.
        let held = object.data.pointer("/spec/finalizers");
        if held
            .and_then(|f| f.as_array())
            .is_some_and(|f| !f.is_empty())
        {
            self.caches.wrote(resource, object);
        }
    }
}

fn is_held(namespace: &Namespace) -> bool {
    finalizers(namespace).iter().any(|f| f == FINALIZER)
}

fn finalizers(namespace: &Namespace) -> &[String] {
    let spec = namespace.spec.as_ref();
    spec.and_then(|s| s.finalizers.as_deref())
        .unwrap_or_default()
}

/// What a sweep through a namespace came to.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Why the kinds are not known.
    pub discovery: Option<String>,
    /// What could not be deleted, and why.
    pub failed: Vec<String>,
    /// Kinds that are still there, and how many of each.
    pub left: BTreeMap<String, usize>,
    /// Finalizers of those, and how many have them.
    pub finalizers: BTreeMap<String, usize>,
}

impl Sweep {
    fn is_clean(&self) -> bool {
        self.discovery.is_none() && self.failed.is_empty() && self.left.is_empty()
    }
}

/// Decides for a namespace that is being deleted.
pub fn plan(namespace: &Namespace, sweep: &Sweep, now: Timestamp) -> Outcome {
    if sweep.is_clean() {
        let rest: Vec<_> = finalizers(namespace)
            .iter()
            .filter(|f| *f != FINALIZER)
            .collect();
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace.name_any(), "uid": namespace.uid(),
                "resourceVersion": namespace.resource_version()},
            "spec": {"finalizers": rest}});
        return vec![Action::Replace {
            target: Target::of(namespace),
            object,
            subresource: Some("finalize"),
        }]
        .into();
    }
    let old = namespace
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    let new = conditions(old, sweep, now);
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    let mut actions = Vec::new();
    if new != old || phase != Some("Terminating") {
        let status = json!({"phase": "Terminating", "conditions": new});
        actions.push(Action::status(Target::of(namespace), status));
    }
    Outcome {
        actions,
        again: Some(AGAIN),
    }
}

/// The five conditions of a namespace that is being deleted, with upstream's reasons and messages.
fn conditions(
    old: &[NamespaceCondition],
    sweep: &Sweep,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let counted = |all: &BTreeMap<String, usize>, word: &str| {
        let each = all
            .iter()
            .map(|(k, n)| format!("{k} {word} {n} resource instances"));
        each.collect::<Vec<_>>().join(", ")
    };
    let found = !sweep.left.is_empty();
    let held = !sweep.finalizers.is_empty();
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            sweep.discovery.is_some(),
            ["ResourcesDiscovered", "DiscoveryFailed"],
            [
                "All resources successfully discovered".into(),
                format!(
                    "Discovery failed for some groups: {}",
                    sweep.discovery.as_deref().unwrap_or_default()
                ),
            ],
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            ["ParsedGroupVersions", "GroupVersionParsingFailed"],
            [
                "All legacy kube types successfully parsed".into(),
                String::new(),
            ],
        ),
        (
            "NamespaceDeletionContentFailure",
            !sweep.failed.is_empty(),
            ["ContentDeleted", "ContentDeletionFailed"],
            [
                if found || sweep.discovery.is_some() {
                    "All content successfully deleted, may be waiting on finalization".into()
                } else {
                    "All content successfully deleted".into()
                },
                format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    sweep.failed.len(),
                    sweep.failed.join(", ")
                ),
            ],
        ),
        (
            "NamespaceContentRemaining",
            found,
            ["ContentRemoved", "SomeResourcesRemain"],
            [
                "All content successfully removed".into(),
                format!(
                    "Some resources are remaining: {}",
                    counted(&sweep.left, "has")
                ),
            ],
        ),
        (
            "NamespaceFinalizersRemaining",
            held,
            ["ContentHasNoFinalizers", "SomeFinalizersRemain"],
            [
                "All content-preserving finalizers finished".into(),
                format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    counted(&sweep.finalizers, "in")
                ),
            ],
        ),
    ];
    let others = old.iter().filter(|o| rows.iter().all(|r| r.0 != o.type_));
    let mut all: Vec<NamespaceCondition> = others.cloned().collect();
    for (type_, bad, reasons, messages) in rows {
        let status = if bad { "True" } else { "False" };
        let was = old.iter().find(|o| o.type_ == type_ && o.status == status);
        let [good_reason, bad_reason] = reasons;
        let [good_message, bad_message] = messages;
        all.push(NamespaceCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(if bad { bad_reason } else { good_reason }.into()),
            message: Some(if bad { bad_message } else { good_message }),
            last_transition_time: was
                .and_then(|w| w.last_transition_time.clone())
                .or(Some(Time(now))),
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    #[test]
    fn held_until_it_is_empty() {
        let namespace: Namespace = from_value(json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "3",
            "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"finalizers": ["kubernetes", "other/x"]},
            "status": {"phase": "Terminating"}}))
        .expect("namespace");
        let one = |k: &str| BTreeMap::from([(k.to_owned(), 2)]);
        let cases = [
            ("empty", Sweep::default(), None),
            (
                "pods are going",
                Sweep {
                    left: one("pods."),
                    ..Sweep::default()
                },
                Some((
                    "NamespaceContentRemaining",
                    "Some resources are remaining: pods. has 2 resource instances",
                )),
            ),
            (
                "a finalizer",
                Sweep {
                    left: one("pods."),
                    finalizers: one("a/b"),
                    ..Sweep::default()
                },
                Some((
                    "NamespaceFinalizersRemaining",
                    "Some content in the namespace has finalizers remaining: a/b in 2 resource instances",
                )),
            ),
            (
                "refused",
                Sweep {
                    failed: vec!["pods.: no".into()],
                    ..Sweep::default()
                },
                Some((
                    "NamespaceDeletionContentFailure",
                    "Failed to delete all resource types, 1 remaining: pods.: no",
                )),
            ),
            (
                "unknown kinds",
                Sweep {
                    discovery: Some("down".into()),
                    ..Sweep::default()
                },
                Some((
                    "NamespaceDeletionDiscoveryFailure",
                    "Discovery failed for some groups: down",
                )),
            ),
        ];
        let now = Timestamp::UNIX_EPOCH;
        for (name, sweep, want) in cases {
            let outcome = plan(&namespace, &sweep, now);
            match (outcome.actions.as_slice(), want) {
                (
                    [
                        Action::Replace {
                            object,
                            subresource: Some("finalize"),
                            ..
                        },
                    ],
                    None,
                ) => {
                    assert_eq!(object["spec"]["finalizers"], json!(["other/x"]), "{name}");
                    assert_eq!(outcome.again, None, "{name}");
                }
                ([Action::Patch { patch, .. }], Some((type_, message))) => {
                    let conditions = patch["status"]["conditions"].as_array().expect(name);
                    let bad = conditions
                        .iter()
                        .rfind(|c| c["status"] == "True")
                        .expect(name);
                    assert_eq!(
                        (&bad["type"], &bad["message"]),
                        (&json!(type_), &json!(message)),
                        "{name}"
                    );
                    assert!(outcome.again.is_some(), "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_unchanged_state_is_not_written_again() {
        let sweep = Sweep {
            left: BTreeMap::from([("pods.".into(), 1)]),
            ..Sweep::default()
        };
        let conditions = conditions(&[], &sweep, Timestamp::UNIX_EPOCH);
        let namespace: Namespace = from_value(json!({"metadata": {"name": "n"},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating", "conditions": conditions}}))
        .expect("namespace");
        assert_eq!(plan(&namespace, &sweep, Timestamp::MAX).actions, []);
    }
}
