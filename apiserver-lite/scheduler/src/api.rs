//! What the scheduler writes to the API: bindings, the `PodScheduled` condition, evictions.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod as ApiPod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_api::volume::{BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions, Request};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::events::{Recorder, Saying};
use crate::model::Pod;
use crate::plugins::volume_binding::Decision;

/// Conditions and events under way at once: they must not hold up bindings.
const PARALLEL_REPORTS: usize = 8;
/// How long volumes may take to be bound (upstream's `bindTimeoutSeconds`).
const VOLUMES: std::time::Duration = std::time::Duration::from_secs(600);

pub(crate) struct Writer {
    client: Client,
    pub(crate) recorder: Recorder,
    binds: Semaphore,
    reports: Semaphore,
}

/// What becomes of `status.nominatedNodeName`.
#[derive(Clone, Debug)]
pub(crate) enum Nomination {
    Keep,
    Clear,
    Set(String),
}

impl Writer {
    pub(crate) fn new(client: Client, reporter: &str, parallel_binds: usize) -> Arc<Self> {
        Arc::new(Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            binds: Semaphore::new(parallel_binds.max(1)),
            reports: Semaphore::new(PARALLEL_REPORTS),
        })
    }

    fn pods(&self, pod: &Pod) -> Api<ApiPod> {
        Api::namespaced(self.client.clone(), &pod.namespace)
    }

    /// Binds a pod. The answer is a Status, not a Binding, so it is not read as one.
    pub(crate) async fn bind(&self, pod: &Pod, node: &str) -> Result<(), kube::Error> {
        let _permit = self.binds.acquire().await;
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.into()),
                ..ObjectReference::default()
            },
        };
        let body = serde_json::to_vec(&binding).map_err(kube::Error::SerdeError)?;
        let request = Request::new(ApiPod::url_path(&(), Some(&pod.namespace)))
            .create_subresource("binding", &pod.name, &PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        self.client.request::<Value>(request).await.map(drop)
    }

    /// Gives a pod's claims their volumes on its node, or has them made there, and waits until they are bound.
    ///
    /// # Errors
    /// Why they are not.
    pub(crate) async fn bind_volumes(
        &self,
        pod: &Pod,
        node: &str,
        decisions: &[Decision],
    ) -> Result<(), String> {
        for decision in decisions {
            self.decide_volume(node, decision)
                .await
                .map_err(|e| e.to_string())?;
        }
        let waits = decisions.iter().map(|d| self.bound(pod, node, d));
        let all = futures::future::try_join_all(waits);
        match tokio::time::timeout(VOLUMES, all).await {
            Ok(done) => done.map(drop),
            Err(_) => Err("binding volumes: context deadline exceeded".into()),
        }
    }

    async fn decide_volume(&self, node: &str, d: &Decision) -> Result<(), kube::Error> {
        let params = PatchParams::default();
        match &d.volume {
            Some((_, version)) if version.is_empty() => Ok(()),
            Some((name, version)) => {
                let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": d.namespace, "name": d.claim, "uid": d.uid});
                let patch = json!({"metadata": {"resourceVersion": version, "annotations": {BOUND_BY_CONTROLLER: "yes"}},
                    "spec": {"claimRef": claim}});
                let volumes = Api::<PersistentVolume>::all(self.client.clone());
                volumes
                    .patch(name, &params, &Patch::Merge(&patch))
                    .await
                    .map(drop)
            }
            None => {
                let patch =
                    json!({"metadata": {"uid": d.uid, "annotations": {SELECTED_NODE: node}}});
                self.claims(d)
                    .patch(&d.claim, &params, &Patch::Merge(&patch))
                    .await
                    .map(drop)
            }
        }
    }

    fn claims(&self, d: &Decision) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), &d.namespace)
    }

    /// Waits until a claim is bound, or whoever makes volumes has given the node back.
    async fn bound(&self, pod: &Pod, node: &str, d: &Decision) -> Result<(), String> {
        let note = |c: &PersistentVolumeClaim, key: &str| c.annotations().get(key).cloned();
        // The node looks at the phase, which is written last.
        let is_bound = |c: &PersistentVolumeClaim| {
            let phase = c.status.as_ref().and_then(|s| s.phase.as_deref());
            note(c, BIND_COMPLETED).is_some() && phase == Some("Bound")
        };
        let is_over = |claim: Option<&PersistentVolumeClaim>| {
            claim.is_none_or(|c| {
                c.uid().as_ref() != Some(&d.uid)
                    || is_bound(c)
                    || (d.volume.is_none() && note(c, SELECTED_NODE).as_deref() != Some(node))
            })
        };
        let seen = kube::runtime::wait::await_condition(self.claims(d), &d.claim, is_over).await;
        let id = format!("{}/{}", d.namespace, d.claim);
        match seen.map_err(|e| e.to_string())? {
            Some(claim) if is_bound(&claim) => Ok(()),
            Some(claim) if claim.uid().as_ref() == Some(&d.uid) => {
                tracing::debug!(pod = pod.full_name(), claim = id, node, "node given back");
                Err(format!(
                    "binding volumes: selectedNode annotation reset for PVC \"{id}\""
                ))
            }
            _ => Err(format!(
                "binding volumes: persistentvolumeclaim \"{id}\" not found"
            )),
        }
    }

    /// Says that a pod was placed.
    pub(crate) async fn report_placed(&self, pod: &Pod, node: &str) {
        let _permit = self.reports.acquire().await;
        let note = format!("Successfully assigned {} to {node}", pod.full_name());
        let saying = Saying {
            is_warning: false,
            reason: "Scheduled",
            action: "Binding",
            note,
        };
        logged(pod, "event", self.recorder.say(pod, saying).await);
        self.recorder.forget(&pod.uid);
    }

    /// Says why a pod is pending, as an event and as its condition.
    pub(crate) async fn report_refused(&self, pod: &Pod, note: String, nomination: Nomination) {
        let _permit = self.reports.acquire().await;
        if let Some(patch) = refusal(pod, &note, &nomination) {
            let patched = self.patch_status(pod, &patch).await;
            logged(pod, "status", patched);
        }
        let saying = Saying {
            is_warning: true,
            reason: "FailedScheduling",
            action: "Scheduling",
            note,
        };
        logged(pod, "event", self.recorder.say(pod, saying).await);
    }

    /// Takes back a pod's nomination.
    pub(crate) async fn clear_nomination(&self, pod: &Pod) {
        let _permit = self.reports.acquire().await;
        let patch = json!({"status": {"nominatedNodeName": null}});
        logged(pod, "status", self.patch_status(pod, &patch).await);
    }

    /// Removes a pod for another one's sake.
    pub(crate) async fn evict(&self, victim: &Pod, preemptor: &Pod, node: &str) {
        let _permit = self.reports.acquire().await;
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{}: preempting to accommodate a higher priority pod", preemptor.scheduler_name),
            "lastTransitionTime": Time(Timestamp::now())});
        let patch = json!({"status": {"conditions": [condition]}});
        logged(victim, "status", self.patch_status(victim, &patch).await);
        let only_this = Preconditions {
            uid: Some(victim.uid.clone()),
            ..Preconditions::default()
        };
        let params = DeleteParams {
            preconditions: Some(only_this),
            ..DeleteParams::default()
        };
        logged(
            victim,
            "delete",
            self.pods(victim).delete(&victim.name, &params).await,
        );
        let note = format!("Preempted by pod {} on node {node}", preemptor.uid);
        let saying = Saying {
            is_warning: false,
            reason: "Preempted",
            action: "Preempting",
            note,
        };
        logged(victim, "event", self.recorder.say(victim, saying).await);
    }

    async fn patch_status(&self, pod: &Pod, patch: &Value) -> Result<(), kube::Error> {
        let params = PatchParams::default();
        self.pods(pod)
            .patch_status(&pod.name, &params, &Patch::Strategic(patch))
            .await
            .map(drop)
    }
}

/// The change to a pod's status; `None` if it says so already. The time of the transition stays when the condition
/// was False before.
fn refusal(pod: &Pod, message: &str, nomination: &Nomination) -> Option<Value> {
    let mut status = json!({});
    if pod.refusal.as_deref() != Some(message) {
        let mut condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
        if pod.refusal.is_none() {
            condition["lastTransitionTime"] = json!(Time(Timestamp::now()));
        }
        status["conditions"] = json!([condition]);
    }
    match nomination {
        Nomination::Set(node) if pod.nominated.as_ref() != Some(node) => {
            status["nominatedNodeName"] = json!(node);
        }
        Nomination::Clear if pod.nominated.is_some() => status["nominatedNodeName"] = Value::Null,
        _ => {}
    }
    let is_change = status.as_object().is_some_and(|status| !status.is_empty());
    // The UID keeps us from writing to a new pod of the same name.
    is_change.then(|| json!({"metadata": {"uid": pod.uid}, "status": status}))
}

/// Reports are repeated with the next attempt; a pod that has gone needs none.
fn logged<T>(pod: &Pod, what: &str, done: Result<T, kube::Error>) {
    match done {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => tracing::warn!(pod = pod.full_name(), what, %error, "report on a pod"),
        Ok(_) => {}
    }
}
