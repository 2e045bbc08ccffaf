//! What becomes of an object, given which of its owners are there and what depends on it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PropagationPolicy;
use serde_json::json;

use super::graph::{FOREGROUND, ORPHAN, Object};
use crate::action::{Action, Target};

/// Whether an owner is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It is; `waiting`: being deleted, and waits for its dependents.
    Here {
        /// Whether it waits.
        waiting: bool,
    },
    /// It is not.
    Gone,
    /// It cannot be said: nothing may be deleted for it.
    Unknown,
}

/// Decides for an object; `owners` in the order of its owner references.
pub(super) fn plan(object: &Object, owners: &[Presence], dependents: &[Object]) -> Vec<Action> {
    if object.deleting && object.has(ORPHAN) {
        return orphan(object, dependents);
    }
    if object.is_waiting() {
        let blocked = dependents.iter().any(|d| {
            d.owners
                .iter()
                .any(|o| *o.uid == *object.uid && o.block_owner_deletion == Some(true))
        });
        return match blocked {
            true => Vec::new(),
            false => vec![without(object, FOREGROUND)],
        };
    }
    if object.deleting || object.owners.is_empty() {
        return Vec::new();
    }
    let solid = |p: &Presence| matches!(p, Presence::Here { waiting: false } | Presence::Unknown);
    if owners.iter().any(solid) {
        let kept: Vec<OwnerReference> = object
            .owners
            .iter()
            .zip(owners)
            .filter(|(_, p)| solid(p))
            .map(|(o, _)| o.clone())
            .collect();
        if kept.len() == object.owners.len() {
            return Vec::new();
        }
        return vec![own(object, &kept)];
    }
    let waited_for = owners.contains(&Presence::Here { waiting: true });
    let mut actions = Vec::new();
    let propagation = if waited_for && !dependents.is_empty() {
        // A dependent that waits itself would wait for this one for ever: a circle.
        if dependents.iter().any(Object::is_waiting) {
            actions.push(unblocked(object));
        }
        PropagationPolicy::Foreground
    } else if object.has(ORPHAN) {
        PropagationPolicy::Orphan
    } else if object.has(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    };
    let mut target = target(object);
    if !actions.is_empty() {
        target.version = None;
    }
    actions.push(Action::Delete {
        target,
        propagation,
        grace: None,
    });
    actions
}

fn target(object: &Object) -> Target {
    Target {
        resource: (*object.resource).clone(),
        key: object.key.clone(),
        uid: Some(object.uid.to_string()),
        version: object.version.clone(),
    }
}

/// Dependents stay: they only forget their owner, and then it may go.
fn orphan(object: &Object, dependents: &[Object]) -> Vec<Action> {
    let mut actions: Vec<Action> = dependents
        .iter()
        .map(|d| {
            let others = d.owners.iter().filter(|o| *o.uid != *object.uid);
            own(d, &others.cloned().collect::<Vec<_>>())
        })
        .collect();
    actions.push(without(object, ORPHAN));
    actions
}

fn own(object: &Object, owners: &[OwnerReference]) -> Action {
    let patch = json!({"metadata": {"ownerReferences": owners}});
    Action::patch(target(object), patch)
}

fn unblocked(object: &Object) -> Action {
    let mut owners = object.owners.clone();
    for owner in &mut owners {
        owner.block_owner_deletion = Some(false);
    }
    own(object, &owners)
}

fn without(object: &Object, finalizer: &str) -> Action {
    let rest: Vec<_> = object
        .finalizers
        .iter()
        .filter(|f| *f != finalizer)
        .collect();
    let patch = json!({"metadata": {"finalizers": rest}});
    Action::patch(target(object), patch)
}
