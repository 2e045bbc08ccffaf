//! What is in use is not lost: claims that pods use and volumes that claims hold keep their finalizer when they are
//! deleted, until nobody needs them.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use keelson_api::volume::claims_of;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};

use super::{phase, unchanged, value};
use crate::action::Action;
use crate::caches::Caches;
use crate::informer::Key;
use crate::pod::failed_now;
use crate::runner::{Controller, Outcome, Work};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// The controller: keys with a namespace are claims, those without volumes.
pub struct Protection {
    caches: Arc<Caches>,
    client: Client,
}

impl Protection {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>, client: Client) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches.claims.subscribe(move |c| {
            let going = c.new.filter(|c| c.metadata.deletion_timestamp.is_some());
            going.iter().for_each(|c| queue.add(Key::of(*c)));
        });
        let queue = work.clone();
        caches.volumes.subscribe(move |c| {
            let going = c.new.filter(|v| v.metadata.deletion_timestamp.is_some());
            going.iter().for_each(|v| queue.add(Key::of(*v)));
        });
        let (queue, claims) = (work.clone(), caches.claims.clone());
        caches.pods.subscribe(move |c| {
            let gone = c.new.is_none_or(failed_now);
            let Some(pod) = c.old.filter(|p| gone && has_volumes(p)) else {
                return;
            };
            let namespace = pod.namespace().unwrap_or_default();
            for (name, _) in claims_of(&value(pod)) {
                let key = Key::new(namespace.clone(), name);
                if claims
                    .get(&key)
                    .is_some_and(|c| c.metadata.deletion_timestamp.is_some())
                {
                    queue.add(key);
                }
            }
        });
        let it = Self {
            caches: caches.clone(),
            client,
        };
        (it, work)
    }

    /// Asked of the API itself once the cache knows of no user: a pod may just have been bound.
    async fn is_used(&self, claim: &PersistentVolumeClaim) -> anyhow::Result<bool> {
        let namespace = claim.namespace().unwrap_or_default();
        let known = self.caches.pods.list(&namespace);
        if known.iter().any(|p| uses(p, claim)) {
            return Ok(true);
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), &namespace);
        let all = pods.list(&ListParams::default()).await?;
        Ok(all.iter().any(|p| uses(p, claim)))
    }
}

fn has_volumes(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.volumes.is_some())
}

/// Whether a pod keeps a claim: one with a node, and for a claim of its own only until it has ended.
pub(super) fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let spec = pod.spec.as_ref();
    let placed = spec
        .and_then(|s| s.node_name.as_deref())
        .is_some_and(|n| !n.is_empty());
    if !placed || !has_volumes(pod) {
        return false;
    }
    let name = claim.name_any();
    let used = claims_of(&value(pod));
    used.iter().any(|(used, own)| {
        let whose = claim
            .owner_references()
            .iter()
            .any(|o| Some(&o.uid) == pod.metadata.uid.as_ref());
        *used == name && (!own || (whose && !failed_now(pod)))
    })
}

/// Takes a finalizer away from what is deleted and not needed.
pub(super) fn plan<K: Resource<DynamicType = ()>>(
    object: &K,
    finalizer: &str,
    is_used: bool,
) -> Vec<Action> {
    let all = object.finalizers();
    let going = object.meta().deletion_timestamp.is_some();
    if !going || is_used || !all.iter().any(|f| f == finalizer) {
        return Vec::new();
    }
    let others: Vec<&String> = all.iter().filter(|f| *f != finalizer).collect();
    let others = if others.is_empty() {
        Value::Null
    } else {
        json!(others)
    };
    let patch = json!({"metadata": {"finalizers": others}});
    vec![Action::patch(unchanged(object), patch)]
}

/// A volume is in use while it is bound.
pub(super) fn volume(volume: &PersistentVolume) -> Vec<Action> {
    plan(volume, VOLUME, phase(volume) == "Bound")
}

#[async_trait]
impl Controller for Protection {
    fn name(&self) -> &'static str {
        "pvc-protection-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        if key.namespace().is_none() {
            let found = self.caches.volumes.get(key);
            return Ok(found.map(|v| volume(&v)).unwrap_or_default().into());
        }
        let Some(claim) = self.caches.claims.get(key) else {
            return Ok(Outcome::default());
        };
        if claim.metadata.deletion_timestamp.is_none() {
            return Ok(Outcome::default());
        }
        let is_used = self.is_used(&claim).await?;
        Ok(plan(claim.as_ref(), CLAIM, is_used).into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}
