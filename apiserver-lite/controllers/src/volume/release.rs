//! What becomes of a volume.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_api::volume::{BOUND_BY_CONTROLLER, PROVISIONED_BY};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{phase, unchanged};
use crate::action::{Action, Target};

/// The claim that a volume names.
#[derive(Clone, Debug, PartialEq)]
pub enum Holder {
    /// The volume names none, or none by UID yet.
    Nobody,
    /// There is none of that name and UID any more.
    Gone,
    /// It is there, and says which volume is its own; empty: none yet.
    There {
        /// `spec.volumeName`.
        volume: String,
    },
}

/// A claim as a volume refers to it.
pub(super) fn reference(claim: &PersistentVolumeClaim) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
        "name": claim.name_any(), "uid": claim.uid(), "resourceVersion": claim.resource_version()})
}

/// Changes a volume's phase, and says since when.
pub(super) fn phase_patch(
    volume: &PersistentVolume,
    to: &str,
    message: Option<&str>,
    now: Timestamp,
) -> Action {
    let status = json!({"phase": to, "message": message, "reason": null, "lastPhaseTransitionTime": Time(now)});
    Action::status(Target::of(volume), status)
}

/// Decides for a volume.
pub fn plan(volume: &PersistentVolume, holder: &Holder, now: Timestamp) -> Vec<Action> {
    let name = volume.name_any();
    let set = |to: &str| match phase(volume) == to {
        true => Vec::new(),
        false => vec![phase_patch(volume, to, None, now)],
    };
    match holder {
        Holder::Nobody => set("Available"),
        // The claim's own plan binds the two.
        Holder::There { volume } if volume.is_empty() => Vec::new(),
        Holder::There { volume } if *volume == name => set("Bound"),
        Holder::There { .. } if is_made_for(volume) => released(volume, now),
        Holder::There { .. } => unbind(volume, now),
        Holder::Gone => released(volume, now),
    }
}

/// Made for one claim only: of no use to others.
fn is_made_for(volume: &PersistentVolume) -> bool {
    volume.annotations().contains_key(PROVISIONED_BY) && policy(volume) == "Delete"
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|s| s.persistent_volume_reclaim_policy.as_deref())
        .unwrap_or("Retain")
}

/// The claim chose another: a reservation by hand stays, our own choice goes.
fn unbind(volume: &PersistentVolume, now: Timestamp) -> Vec<Action> {
    let ours = volume.annotations().contains_key(BOUND_BY_CONTROLLER);
    let patch = if ours {
        json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}, "spec": {"claimRef": null}})
    } else {
        json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
    };
    vec![
        Action::patch(unchanged(volume), patch),
        phase_patch(volume, "Available", None, now),
    ]
}

/// The claim is gone. What is in the volume is somebody's: only who made it takes it away.
fn released(volume: &PersistentVolume, now: Timestamp) -> Vec<Action> {
    let at = phase(volume);
    let mut actions = Vec::new();
    if !["Released", "Failed"].contains(&at) {
        actions.push(phase_patch(volume, "Released", None, now));
    }
    if at == "Failed" || volume.metadata.deletion_timestamp.is_some() {
        return actions;
    }
    let fail = |reason: &'static str, message: String| {
        let event = Action::Event {
            about: Target::of(volume),
            kind: "Warning",
            reason,
            message: message.clone(),
        };
        [phase_patch(volume, "Failed", Some(&message), now), event]
    };
    match policy(volume) {
        "Recycle" => {
            let message = "No recycler plugin found for the volume!";
            actions.extend(fail("VolumeFailedRecycle", message.into()));
        }
        "Delete" if !volume.annotations().contains_key(PROVISIONED_BY) => {
            let message = format!(
                "error getting deleter volume plugin for volume \"{}\": no deletable volume plugin matched",
                volume.name_any()
            );
            actions.extend(fail("VolumeFailedDelete", message));
        }
        _ => {}
    }
    actions
}
