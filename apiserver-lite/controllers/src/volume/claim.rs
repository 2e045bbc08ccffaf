//! What becomes of a claim.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use keelson_api::volume::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, Claim, Class, For, PROVISIONER, Volume, find, misfit,
};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::release::{phase_patch, reference};
use super::{parsed_claim, parsed_volume, phase, unchanged};
use crate::action::{Action, Target};

/// What a claim's plan looks at.
#[derive(Default)]
pub struct Around {
    /// All volumes.
    pub volumes: Vec<Arc<PersistentVolume>>,
    /// The claim's class, if it is there.
    pub class: Option<Class>,
    /// The class that claims without one get.
    pub default_class: Option<String>,
    /// Pods that use the claim and have no node yet.
    pub waiting_pods: Vec<String>,
}

/// Decides for a claim.
pub fn plan(claim: &PersistentVolumeClaim, around: &Around, now: Timestamp) -> Vec<Action> {
    let it = Plan {
        claim,
        parsed: parsed_claim(claim),
        around,
        now,
    };
    match it.parsed.is_bound {
        true => it.bound(),
        false => it.unbound(),
    }
}

struct Plan<'a> {
    claim: &'a PersistentVolumeClaim,
    parsed: Claim,
    around: &'a Around,
    now: Timestamp,
}

impl Plan<'_> {
    fn volume(&self) -> Option<&Arc<PersistentVolume>> {
        let mut all = self.around.volumes.iter();
        all.find(|v| v.name_any() == self.parsed.volume)
    }

    fn unbound(&self) -> Vec<Action> {
        if self.parsed.is_deleting {
            return Vec::new();
        }
        if self.parsed.volume.is_empty() {
            return self.search();
        }
        let Some(volume) = self.volume() else {
            return self.pending();
        };
        let offered = parsed_volume(volume);
        match &offered.claim {
            None => match misfit(&self.parsed, &offered) {
                Some(why) => {
                    let message = format!(
                        "Cannot bind to requested volume \"{}\": {why}",
                        offered.name
                    );
                    self.tell("Warning", "VolumeMismatch", message)
                }
                None => self.bind(volume),
            },
            Some(_) if offered.is_for(&self.parsed) => self.bind(volume),
            Some(_) if self.claim.annotations().contains_key(BOUND_BY_CONTROLLER) => {
                let message = format!(
                    "volume \"{}\" already bound to a different claim.",
                    offered.name
                );
                self.tell("Warning", "FailedBinding", message)
            }
            Some(_) => self.pending(),
        }
    }

    /// Looks for a volume; without one somebody has to make one, or the claim waits.
    fn search(&self) -> Vec<Action> {
        if let Some(class) = self.late_default() {
            let patch = json!({"spec": {"storageClassName": class}});
            return vec![Action::patch(unchanged(self.claim), patch)];
        }
        let waits = self.around.class.as_ref().is_some_and(|c| c.waits);
        let wanted = if waits { For::Later } else { For::Now };
        let volumes: Vec<Volume> = self
            .around
            .volumes
            .iter()
            .map(|v| parsed_volume(v))
            .collect();
        if let Some(found) = find(&self.parsed, &volumes, wanted, &|_| false) {
            let mut all = self.around.volumes.iter();
            let found = all.find(|v| v.name_any() == found.name);
            return found.map(|v| self.bind(v)).unwrap_or_default();
        }
        if waits && self.parsed.selected_node.is_empty() {
            return match self.around.waiting_pods.first() {
                None => {
                    let message = "waiting for first consumer to be created before binding";
                    self.tell("Normal", "WaitForFirstConsumer", message.into())
                }
                Some(pod) => {
                    let message = format!("waiting for pod {pod} to be scheduled");
                    self.tell("Normal", "WaitForPodScheduled", message)
                }
            };
        }
        self.provision()
    }

    /// A claim that was made before there was a default class (KEP-3333).
    fn late_default(&self) -> Option<&String> {
        let spec = self.claim.spec.as_ref()?;
        let says = spec.storage_class_name.is_some() || !self.parsed.class.is_empty();
        self.around.default_class.as_ref().filter(|_| !says)
    }

    /// Names who is to make a volume.
    fn provision(&self) -> Vec<Action> {
        let Some(class) = &self.around.class else {
            return match self.parsed.class.as_str() {
                "" => {
                    let message = "no persistent volumes available for this claim and no storage class is set";
                    self.tell("Normal", "FailedBinding", message.into())
                }
                name => {
                    let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
                    self.tell("Warning", "ProvisioningFailed", message)
                }
            };
        };
        if class.provisioner.starts_with("kubernetes.io/") {
            let message = format!("no volume plugin matched name: {}", class.provisioner);
            return self.tell("Warning", "ProvisioningFailed", message);
        }
        let mut actions = self.pending();
        let named = |key: &str| self.claim.annotations().get(key) == Some(&class.provisioner);
        if !PROVISIONER.iter().all(|key| named(key)) {
            let notes: Value = PROVISIONER
                .iter()
                .map(|key| ((*key).to_owned(), json!(class.provisioner)))
                .collect::<serde_json::Map<_, _>>()
                .into();
            let patch = json!({"metadata": {"annotations": notes}});
            actions.push(Action::patch(unchanged(self.claim), patch));
        }
        actions.push(self.event("Normal", "ExternalProvisioning", format!(
            "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
            class.provisioner
        )));
        actions
    }

    /// Volume first: it decides a race between two claims.
    fn bind(&self, volume: &PersistentVolume) -> Vec<Action> {
        let offered = parsed_volume(volume);
        let mut actions = Vec::new();
        let (name, chosen) = (
            offered.name.clone(),
            offered.claim.as_ref().is_none_or(|c| c.uid.is_empty()),
        );
        if chosen {
            let mut patch = json!({"spec": {"claimRef": reference(self.claim)}});
            if offered.claim.is_none() {
                patch["metadata"] = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
            }
            actions.push(Action::patch(unchanged(volume), patch));
        }
        if phase(volume) != "Bound" {
            actions.push(phase_patch(volume, "Bound", None, self.now));
        }
        let mut notes = json!({BIND_COMPLETED: "yes"});
        if self.parsed.volume.is_empty() {
            notes[BOUND_BY_CONTROLLER] = json!("yes");
        }
        let patch = json!({"metadata": {"annotations": notes}, "spec": {"volumeName": name}});
        if !self.parsed.is_bound || self.parsed.volume.is_empty() {
            actions.push(Action::patch(unchanged(self.claim), patch));
        }
        actions.extend(self.status_of(volume));
        actions
    }

    /// The claim's status as the volume makes it; its capacity only at first, growing is another matter.
    fn status_of(&self, volume: &PersistentVolume) -> Option<Action> {
        let (spec, status) = (volume.spec.as_ref()?, self.claim.status.as_ref());
        let is_bound = status.and_then(|s| s.phase.as_deref()) == Some("Bound");
        let same_modes = status.and_then(|s| s.access_modes.as_ref()) == spec.access_modes.as_ref();
        if is_bound && same_modes {
            return None;
        }
        let mut new = json!({"phase": "Bound", "accessModes": spec.access_modes});
        if !is_bound {
            new["capacity"] = json!(spec.capacity);
        }
        Some(Action::status(Target::of(self.claim), new))
    }

    fn bound(&self) -> Vec<Action> {
        if self.parsed.volume.is_empty() {
            let message =
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
            return self.lost("ClaimLost", message);
        }
        let Some(volume) = self.volume() else {
            let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            return self.lost("ClaimLost", message);
        };
        let offered = parsed_volume(volume);
        match &offered.claim {
            None => self.bind(volume),
            Some(c) if c.uid == self.parsed.uid => self.bind(volume),
            Some(c) if c.uid.is_empty() && offered.is_for(&self.parsed) => self.bind(volume),
            Some(_) => {
                let message =
                    "Two claims are bound to the same volume, this one is bound incorrectly";
                self.lost("ClaimMisbound", message)
            }
        }
    }

    fn lost(&self, reason: &'static str, message: &str) -> Vec<Action> {
        if self.parsed.is_lost {
            return Vec::new();
        }
        let lost = json!({"phase": "Lost", "accessModes": null, "capacity": null});
        vec![
            Action::status(Target::of(self.claim), lost),
            self.event("Warning", reason, message.into()),
        ]
    }

    fn pending(&self) -> Vec<Action> {
        let status = self.claim.status.as_ref();
        if status.and_then(|s| s.phase.as_deref()) == Some("Pending") {
            return Vec::new();
        }
        let pending = json!({"phase": "Pending"});
        vec![Action::status(Target::of(self.claim), pending)]
    }

    fn tell(&self, kind: &'static str, reason: &'static str, message: String) -> Vec<Action> {
        let mut actions = self.pending();
        actions.push(self.event(kind, reason, message));
        actions
    }

    fn event(&self, kind: &'static str, reason: &'static str, message: String) -> Action {
        Action::Event {
            about: Target::of(self.claim),
            kind,
            reason,
            message,
        }
    }
}
