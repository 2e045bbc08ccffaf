//! Which pods are whose: a controller takes pods that its selector names and nobody controls, and lets go of its own
//! that the selector names no more.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::action::{Action, Target};
use crate::informer::{Change, Informer, Key};
use crate::owner::{controller, controller_key, controls, reference};
use crate::runner::Work;

/// A pod wakes its owner; one without an owner whoever may adopt it.
pub fn wake<P>(
    change: &Change<'_, Pod>,
    owners: &Informer<P>,
    takes: fn(&P, &Pod) -> bool,
    queue: &Work,
) where
    P: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    for pod in change.states() {
        match controller_key::<P>(pod) {
            Some(owner) => queue.add(owner),
            None if controller(pod).is_none() => {
                let all = owners.list(&pod.namespace().unwrap_or_default());
                all.iter()
                    .filter(|o| takes(o, pod))
                    .for_each(|o| queue.add(Key::of(o.as_ref())));
            }
            None => {}
        }
    }
}

/// Adopts pods that `selects` names, `adopts` approves and nobody controls; lets go of own ones that `selects` does not
/// name. `finalizer` comes and goes with ownership.
pub fn claim<P: Resource<DynamicType = ()>>(
    owner: &P,
    pods: &[Arc<Pod>],
    selects: &dyn Fn(&Pod) -> bool,
    adopts: &dyn Fn(&Pod) -> bool,
    finalizer: Option<&str>,
) -> Vec<Action> {
    let stays = owner.meta().deletion_timestamp.is_none();
    let here = pods
        .iter()
        .map(Arc::as_ref)
        .filter(|p| p.metadata.deletion_timestamp.is_none());
    here.filter_map(|pod| {
        if controls(owner, pod) && !selects(pod) {
            let others = pod
                .owner_references()
                .iter()
                .filter(|r| Some(&r.uid) != owner.meta().uid.as_ref());
            let mut meta = json!({"ownerReferences": list(others)});
            if let Some(finalizer) = finalizer {
                meta["finalizers"] = without(pod, finalizer);
            }
            return Some(change(pod, meta));
        }
        let orphan = controller(pod).is_none() && selects(pod) && adopts(pod);
        (orphan && stays).then(|| {
            let all = pod.owner_references().iter().cloned();
            let all: Vec<_> = all.chain([reference(owner)]).collect();
            let mut meta = json!({"ownerReferences": all});
            if let Some(finalizer) = finalizer {
                let others = pod.finalizers().iter().map(String::as_str);
                let others = others.filter(|f| *f != finalizer);
                meta["finalizers"] = others.chain([finalizer]).collect();
            }
            change(pod, meta)
        })
    })
    .collect()
}

/// Takes a finalizer away.
pub fn release(pod: &Pod, finalizer: &str) -> Action {
    change(pod, json!({"finalizers": without(pod, finalizer)}))
}

fn without(pod: &Pod, finalizer: &str) -> Value {
    list(pod.finalizers().iter().filter(|f| *f != finalizer))
}

/// An empty list is no list.
fn list(items: impl Iterator<Item = impl serde::Serialize>) -> Value {
    let all: Vec<_> = items.collect();
    if all.is_empty() {
        Value::Null
    } else {
        json!(all)
    }
}

/// Lists are put whole: only if nobody changed them meanwhile.
fn change(pod: &Pod, meta: Value) -> Action {
    Action::patch(Target::of(pod).unchanged(pod), json!({ "metadata": meta }))
}
