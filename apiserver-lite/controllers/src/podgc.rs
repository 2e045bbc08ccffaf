//! Pod garbage: pods of nodes that are gone, pods that are to be deleted but never got a node, and ended pods
//! beyond a number.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::Key;
use crate::pod::failed_now;
use crate::runner::{Controller, Outcome, Work};

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(20);

/// The controller; it has a single key.
pub struct PodGc {
    caches: Arc<Caches>,
    client: Client,
    most_ended: usize,
}

impl PodGc {
    /// Wires the controller to the caches. `most_ended`: ended pods that are kept.
    pub fn new(caches: &Arc<Caches>, client: Client, most_ended: usize) -> (Self, Work) {
        let work = Work::default();
        work.add(Key::default());
        let queue = work.clone();
        caches.nodes.subscribe(move |c| {
            if c.new.is_none() {
                queue.add(Key::default());
            }
        });
        let caches = caches.clone();
        let it = Self {
            caches,
            client,
            most_ended,
        };
        (it, work)
    }

    /// Names of nodes that pods name and the API does not know: asked of the API itself, as pods get lost by it.
    async fn gone(&self, pods: &[Arc<Pod>]) -> anyhow::Result<Vec<String>> {
        let mut names: Vec<&str> = pods.iter().filter_map(|p| node(p)).collect();
        names.sort_unstable();
        names.dedup();
        let mut gone = Vec::new();
        for name in names {
            if self.caches.nodes.get(&Key::new("", name)).is_none()
                && Api::<Node>::all(self.client.clone())
                    .get_metadata_opt(name)
                    .await?
                    .is_none()
            {
                gone.push(name.to_owned());
            }
        }
        Ok(gone)
    }
}

fn node(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    spec.node_name.as_deref().filter(|n| !n.is_empty())
}

#[async_trait]
impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    async fn reconcile(&self, _key: &Key) -> anyhow::Result<Outcome> {
        let pods = self.caches.pods.list("");
        let gone = self.gone(&pods).await?;
        Ok(Outcome {
            actions: plan(&pods, &gone, self.most_ended),
            again: Some(PERIOD),
        })
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// Decides for all pods.
pub fn plan(pods: &[Arc<Pod>], gone: &[String], most_ended: usize) -> Vec<Action> {
    let is_lost = |p: &&Arc<Pod>| match node(p) {
        Some(node) => gone.iter().any(|g| g == node),
        None => p.metadata.deletion_timestamp.is_some(),
    };
    let (lost, rest): (Vec<_>, Vec<_>) = pods.iter().partition(is_lost);
    let mut actions = Vec::new();
    for pod in lost {
        if !failed_now(pod)
            && pod
                .metadata
                .finalizers
                .as_ref()
                .is_some_and(|f| !f.is_empty())
        {
            // Whoever holds it is told that it ended.
            let status = json!({ "phase": "Failed" });
            actions.push(Action::status(Target::of(pod.as_ref()), status));
        }
        actions.push(Action::delete_now(Target::of(pod.as_ref())));
    }
    let mut ended: Vec<_> = rest
        .into_iter()
        .filter(|p| failed_now(p) && p.metadata.deletion_timestamp.is_none())
        .collect();
    let beyond = ended.len().saturating_sub(most_ended);
    if beyond > 0 && most_ended > 0 {
        ended.sort_by_key(|p| {
            (
                p.metadata.creation_timestamp.clone().map(|t| t.0),
                p.name_any(),
            )
        });
        let targets = ended.iter().take(beyond).map(|p| Target::of(p.as_ref()));
        actions.extend(targets.map(Action::delete_now));
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value};

    #[test]
    fn which_pods_go() {
        let pod = |name: &str, node: Option<&str>, phase: &str, more: Value| -> Arc<Pod> {
            let mut meta = json!({"name": name, "creationTimestamp": format!("2026-01-0{}T00:00:00Z", name.len())});
            for (k, v) in more.as_object().into_iter().flatten() {
                meta[k] = v.clone();
            }
            Arc::new(
                from_value(
                    json!({"metadata": meta, "spec": {"containers": [], "nodeName": node},
                "status": {"phase": phase}}),
                )
                .expect("pod"),
            )
        };
        let none = || json!({});
        let going = || json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let cases = [
            (
                "all well",
                vec![
                    pod("a", Some("n"), "Running", none()),
                    pod("b", None, "Pending", none()),
                ],
                "",
            ),
            (
                "its node is gone",
                vec![pod("a", Some("x"), "Running", none())],
                "delete a",
            ),
            (
                "held, its node is gone",
                vec![pod("a", Some("x"), "Running", json!({"finalizers": ["f"]}))],
                "fail a,delete a",
            ),
            (
                "going without a node",
                vec![pod("a", None, "Pending", going())],
                "delete a",
            ),
            (
                "going on its node",
                vec![pod("a", Some("n"), "Running", going())],
                "",
            ),
            (
                "too many ended: the oldest",
                vec![
                    pod("aaa", Some("n"), "Failed", none()),
                    pod("a", Some("n"), "Succeeded", none()),
                    pod("aa", Some("n"), "Failed", none()),
                ],
                "delete a",
            ),
        ];
        for (name, pods, want) in cases {
            let seen: Vec<String> = plan(&pods, &["x".into()], 2)
                .iter()
                .map(|a| match a {
                    Action::Delete {
                        target,
                        grace: Some(0),
                        ..
                    } => format!("delete {}", target.key),
                    Action::Patch { target, .. } => format!("fail {}", target.key),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(seen.join(","), want, "{name}");
        }
    }
}
