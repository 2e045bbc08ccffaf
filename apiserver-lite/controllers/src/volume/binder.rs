//! The binder's wiring: one queue of claims (with a namespace) and volumes (without).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_api::volume::{Class, claims_of, is_default_class};
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};

use super::{Around, Holder, claim, parsed_claim, parsed_volume, value, volume};
use crate::action::Action;
use crate::caches::Caches;
use crate::informer::{Change, Key};
use crate::runner::{Controller, Outcome, Work};

/// Reason and message.
type Said = (&'static str, String);

/// The controller.
pub struct Binder {
    caches: Arc<Caches>,
    /// What was last told about each object: events tell news only.
    said: Mutex<HashMap<Key, Said>>,
}

impl Binder {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let (queue, all) = (work.clone(), caches.clone());
        caches
            .claims
            .subscribe(move |c| claim_changed(&all, &queue, c));
        let (queue, all) = (work.clone(), caches.clone());
        caches
            .volumes
            .subscribe(move |c| volume_changed(&all, &queue, c));
        let (queue, all) = (work.clone(), caches.clone());
        caches
            .classes
            .subscribe(move |_| wake_pending(&all, &queue));
        let (queue, all) = (work.clone(), caches.clone());
        caches.pods.subscribe(move |c| pod_changed(&all, &queue, c));
        let it = Self {
            caches: caches.clone(),
            said: Mutex::default(),
        };
        (it, work)
    }

    fn around(&self, claim: &PersistentVolumeClaim) -> Around {
        let parsed = parsed_claim(claim);
        let classes = self.caches.classes.list("");
        let class = classes.iter().find(|c| c.name_any() == parsed.class);
        let pods = self.caches.pods.list(&parsed.namespace);
        let waiting = pods
            .iter()
            .filter(|p| !has_node(p) && uses(p, &parsed.name));
        Around {
            volumes: self.caches.volumes.list(""),
            class: class.map(|c| Class::parse(&value(c.as_ref()))),
            default_class: default_class(&classes),
            waiting_pods: waiting.map(|p| p.name_any()).collect(),
        }
    }

    fn holder(&self, volume: &PersistentVolume) -> Holder {
        let Some(named) = parsed_volume(volume).claim.filter(|c| !c.uid.is_empty()) else {
            return Holder::Nobody;
        };
        let found = self
            .caches
            .claims
            .get(&Key::new(named.namespace, named.name));
        match found.filter(|c| c.uid().as_ref() == Some(&named.uid)) {
            None => Holder::Gone,
            Some(claim) => Holder::There {
                volume: parsed_claim(&claim).volume,
            },
        }
    }

    /// Leaves out what was told already.
    fn news(&self, key: &Key, actions: Vec<Action>) -> Vec<Action> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_news = |action: &Action| match action {
            Action::Event {
                reason, message, ..
            } => {
                let now = (*reason, message.clone());
                said.insert(key.clone(), now.clone()) != Some(now)
            }
            _ => true,
        };
        actions.into_iter().filter(|a| is_news(a)).collect()
    }

    fn forget(&self, key: &Key) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.remove(key);
    }
}

#[async_trait]
impl Controller for Binder {
    fn name(&self) -> &'static str {
        "persistentvolume-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let now = Timestamp::now();
        let actions = match key.namespace() {
            None => self
                .caches
                .volumes
                .get(key)
                .map(|v| volume(&v, &self.holder(&v), now)),
            Some(_) => self
                .caches
                .claims
                .get(key)
                .map(|c| claim(&c, &self.around(&c), now)),
        };
        if actions.is_none() {
            self.forget(key);
        }
        Ok(self.news(key, actions.unwrap_or_default()).into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// Of several the newest, then by name, as admission chooses.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<String> {
    let defaults = classes
        .iter()
        .filter(|c| is_default_class(&value(c.as_ref())));
    let order = |c: &&Arc<StorageClass>| {
        let made = c.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (std::cmp::Reverse(made), c.name_any())
    };
    defaults.min_by_key(order).map(|c| c.name_any())
}

fn has_node(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.is_some_and(|s| s.node_name.as_deref().is_some_and(|n| !n.is_empty()))
}

fn uses(pod: &Pod, claim: &str) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.volumes.is_some())
        && claims_of(&value(pod)).iter().any(|(name, _)| name == claim)
}

fn claim_changed(caches: &Caches, queue: &Work, change: &Change<'_, PersistentVolumeClaim>) {
    for claim in change.states() {
        queue.add(Key::of(claim));
        let volume = claim.spec.as_ref().and_then(|s| s.volume_name.clone());
        volume
            .iter()
            .for_each(|v| queue.add(Key::new("", v.clone())));
    }
    if let (Some(claim), None) = (change.old, change.new) {
        let uid = claim.uid();
        let named = |v: &PersistentVolume| {
            let reference = v.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            reference.is_some_and(|r| r.uid == uid)
        };
        let all = caches.volumes.list("");
        all.iter()
            .filter(|v| named(v))
            .for_each(|v| queue.add(Key::of(v.as_ref())));
    }
}

fn volume_changed(caches: &Caches, queue: &Work, change: &Change<'_, PersistentVolume>) {
    for volume in change.states() {
        queue.add(Key::of(volume));
        let claim = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        if let Some(claim) = claim {
            let text = |t: &Option<String>| t.clone().unwrap_or_default();
            queue.add(Key::new(text(&claim.namespace), text(&claim.name)));
        }
    }
    let is_free = |v: &PersistentVolume| {
        v.spec.as_ref().is_some_and(|s| s.claim_ref.is_none()) && super::phase(v) == "Available"
    };
    if change.new.is_some_and(is_free) {
        wake_pending(caches, queue);
    }
}

/// Claims that have no volume may find one now.
fn wake_pending(caches: &Caches, queue: &Work) {
    let pending = |c: &PersistentVolumeClaim| {
        let named = c.spec.as_ref().and_then(|s| s.volume_name.as_deref());
        named.is_none_or(str::is_empty)
    };
    let all = caches.claims.list("");
    all.iter()
        .filter(|c| pending(c))
        .for_each(|c| queue.add(Key::of(c.as_ref())));
}

/// A first consumer: its claims say that they wait for it.
fn pod_changed(caches: &Caches, queue: &Work, change: &Change<'_, Pod>) {
    let (None, Some(pod)) = (change.old, change.new) else {
        return;
    };
    if pod.spec.as_ref().is_none_or(|s| s.volumes.is_none()) {
        return;
    }
    let namespace = pod.namespace().unwrap_or_default();
    for (name, _) in claims_of(&value(pod)) {
        let key = Key::new(namespace.clone(), name);
        if caches.claims.get(&key).is_some() {
            queue.add(key);
        }
    }
}
