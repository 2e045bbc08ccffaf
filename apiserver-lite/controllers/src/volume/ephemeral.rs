//! Generic ephemeral volumes: a pod's own claims, made when the pod is, gone when it goes (KEP-1698).

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject, ObjectMeta};

use crate::action::Action;
use crate::caches::Caches;
use crate::informer::Key;
use crate::owner::{controls, reference};
use crate::pod::failed_now;
use crate::runner::{Controller, Outcome, Work};

/// The controller; its keys are pods.
pub struct Ephemeral {
    caches: Arc<Caches>,
}

impl Ephemeral {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches.pods.subscribe(move |c| {
            let new = c.new.filter(|p| wanted(p).next().is_some());
            new.iter().for_each(|p| queue.add(Key::of(*p)));
        });
        let (queue, pods) = (work.clone(), caches.pods.clone());
        caches.claims.subscribe(move |c| {
            let (Some(claim), None) = (c.old, c.new) else {
                return;
            };
            let owners = claim.owner_references().iter();
            let namespace = claim.namespace().unwrap_or_default();
            let keys = owners
                .filter(|o| o.kind == "Pod")
                .map(|o| Key::new(namespace.clone(), o.name.clone()));
            keys.filter(|k| pods.get(k).is_some())
                .for_each(|k| queue.add(k));
        });
        let caches = caches.clone();
        (Self { caches }, work)
    }
}

/// Names and templates of a pod's own claims.
fn wanted(pod: &Pod) -> impl Iterator<Item = PersistentVolumeClaim> + '_ {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(move |v| {
        let template = v.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        let meta = template.metadata.clone().unwrap_or_default();
        Some(PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(format!("{}-{}", pod.name_any(), v.name)),
                namespace: pod.namespace(),
                labels: meta.labels,
                annotations: meta.annotations,
                owner_references: Some(vec![reference(pod)]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec.clone()),
            status: None,
        })
    })
}

/// Makes the claims that are missing. A claim of that name that is somebody else's is never used: an error.
pub fn plan(pod: &Pod, claims: &[Arc<PersistentVolumeClaim>]) -> anyhow::Result<Vec<Action>> {
    if pod.metadata.deletion_timestamp.is_some() || failed_now(pod) {
        return Ok(Vec::new());
    }
    let mut actions = Vec::new();
    for claim in wanted(pod) {
        match claims.iter().find(|c| c.name_any() == claim.name_any()) {
            None => actions.push(Action::create(&claim)),
            Some(c) if controls(pod, c.as_ref()) => {}
            Some(_) => anyhow::bail!(
                "PVC {}/{} was not created for pod {}/{} (pod is not owner)",
                claim.namespace().unwrap_or_default(),
                claim.name_any(),
                pod.namespace().unwrap_or_default(),
                pod.name_any()
            ),
        }
    }
    Ok(actions)
}

#[async_trait]
impl Controller for Ephemeral {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(pod) = self.caches.pods.get(key) else {
            return Ok(Outcome::default());
        };
        let claims = self.caches.claims.list(&key.namespace);
        Ok(plan(&pod, &claims)?.into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}
