//! `keelson.io/local-path`: directories of nodes as volumes, made when their first pod has a node.
//!
//! ```text
//! claim with a chosen node -> volume with its path on that node -> the agent makes the directory when it mounts it
//! volume released, Delete  -> the agent removes the directory (asked through the API server) -> volume deleted
//! ```
//!
//! Where a node keeps such directories it says itself, in the annotation [`NODE`].

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use keelson_api::volume::{
    BIND_COMPLETED, Class, PROVISIONED_BY, PROVISIONER as NOTES, SELECTED_NODE,
};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Request};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::{parsed_claim, phase, unchanged, value};
use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::Key;
use crate::runner::{Controller, Outcome, Work};

/// The class's provisioner.
pub const PROVISIONER: &str = "keelson.io/local-path";
/// On a Node: where it keeps volumes. On a volume: the node that has it.
pub const NODE: &str = "keelson.io/local-path";
/// Keeps a volume until its directory is gone.
const FINALIZER: &str = "keelson.io/local-path";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The controller: keys with a namespace are claims, those without volumes.
pub struct LocalPath {
    caches: Arc<Caches>,
    client: Client,
}

impl LocalPath {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>, client: Client) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches.claims.subscribe(move |c| {
            let new = c.new.filter(|c| is_asked(c));
            new.iter().for_each(|c| queue.add(Key::of(*c)));
        });
        let queue = work.clone();
        caches.volumes.subscribe(move |c| {
            let new = c.new.filter(|v| is_ours(v));
            new.iter().for_each(|v| queue.add(Key::of(*v)));
        });
        let it = Self {
            caches: caches.clone(),
            client,
        };
        (it, work)
    }

    async fn volume(&self, volume: &PersistentVolume) -> anyhow::Result<Outcome> {
        let Some(removal) = removal(volume) else {
            return Ok(Outcome::default());
        };
        let node = volume.annotations().get(NODE).cloned().unwrap_or_default();
        let there = self.caches.nodes.get(&Key::new("", node.clone())).is_some();
        if let (Some(directory), true) = (&removal.directory, there)
            && let Err(error) = self.remove(&node, directory).await
        {
            let message = format!("remove {directory} on node {node}: {error}");
            let event = tell(Target::of(volume), "Warning", "VolumeFailedDelete", message);
            return Ok(Outcome {
                actions: vec![event],
                again: Some(AGAIN),
            });
        }
        Ok(removal.actions.into())
    }

    /// Asks a node's agent to remove a directory; one that is not there is removed.
    async fn remove(&self, node: &str, directory: &str) -> anyhow::Result<()> {
        let path = format!("/api/v1/nodes/{node}/proxy/keelson/storage");
        let request = Request::new(path).delete(directory, &DeleteParams::default())?;
        self.client.request_text(request).await?;
        Ok(())
    }
}

/// After a node could not be reached.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(15);

/// Whether the binder has asked us.
fn is_asked(claim: &PersistentVolumeClaim) -> bool {
    let notes = claim.annotations();
    let named = NOTES
        .iter()
        .any(|key| notes.get(*key).is_some_and(|p| p == PROVISIONER));
    named && !notes.contains_key(BIND_COMPLETED)
}

fn is_ours(volume: &PersistentVolume) -> bool {
    let notes = volume.annotations();
    notes.get(PROVISIONED_BY).is_some_and(|p| p == PROVISIONER)
}

#[async_trait]
impl Controller for LocalPath {
    fn name(&self) -> &'static str {
        PROVISIONER
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        if key.namespace().is_none() {
            return match self.caches.volumes.get(key) {
                Some(volume) if is_ours(&volume) => self.volume(&volume).await,
                _ => Ok(Outcome::default()),
            };
        }
        let Some(claim) = self.caches.claims.get(key).filter(|c| is_asked(c)) else {
            return Ok(Outcome::default());
        };
        let parsed = parsed_claim(&claim);
        let class = self.caches.classes.get(&Key::new("", parsed.class));
        let Some(class) = class.map(|c| Class::parse(&value(c.as_ref()))) else {
            return Ok(Outcome::default());
        };
        let node = self.caches.nodes.get(&Key::new("", parsed.selected_node));
        let made = self.caches.volumes.get(&Key::new("", name(&claim)));
        Ok(plan(&claim, &class, node.as_deref(), made.is_some()).into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// The volume of a claim, upstream's name for what is made for one.
fn name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid().unwrap_or_default())
}

/// Decides for a claim that has asked us. `node`: the chosen one, if it is there; `is_made`: the volume is there.
pub(super) fn plan(
    claim: &PersistentVolumeClaim,
    class: &Class,
    node: Option<&Node>,
    is_made: bool,
) -> Vec<Action> {
    let parsed = parsed_claim(claim);
    if parsed.is_deleting || is_made || !parsed.volume.is_empty() {
        return Vec::new();
    }
    let refuse = |why: String| {
        let message = format!(
            "failed to provision volume with StorageClass \"{}\": {why}",
            class.name
        );
        vec![tell(
            Target::of(claim),
            "Warning",
            "ProvisioningFailed",
            message,
        )]
    };
    if let Some(why) = unfit(&parsed) {
        return refuse(why.into());
    }
    if parsed.selected_node.is_empty() {
        let why = "configuration error, no node was specified: volumeBindingMode must be WaitForFirstConsumer";
        return refuse(why.into());
    }
    let Some(node) = node else {
        // The scheduler chooses again.
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: null}}});
        return vec![Action::patch(unchanged(claim), patch)];
    };
    let Some(root) = node.annotations().get(NODE) else {
        return refuse(format!(
            "node {} has no directory for volumes (annotation {NODE})",
            node.name_any()
        ));
    };
    let volume = made(claim, class, node, root);
    let told = |reason, message| tell(Target::of(claim), "Normal", reason, message);
    let (id, name) = (format!("{}/{}", parsed.namespace, parsed.name), name(claim));
    vec![
        told(
            "Provisioning",
            format!("External provisioner is provisioning volume for claim \"{id}\""),
        ),
        Action::create(&volume),
        told(
            "ProvisioningSucceeded",
            format!("Successfully provisioned volume {name}"),
        ),
    ]
}

fn unfit(claim: &keelson_api::volume::Claim) -> Option<&'static str> {
    let one_node = ["ReadWriteOnce", "ReadWriteOncePod"];
    let rows = [
        (
            !claim.modes.iter().all(|m| one_node.contains(&m.as_str())),
            "Only support ReadWriteOnce and ReadWriteOncePod access mode",
        ),
        (
            claim.is_block,
            "block volumes are not supported by this class: use volumeMode Filesystem",
        ),
        (
            claim.has_selector,
            "claim.Spec.Selector is not supported by this class: leave spec.selector out",
        ),
    ];
    rows.iter().find(|(wrong, _)| *wrong).map(|(_, why)| *why)
}

fn made(claim: &PersistentVolumeClaim, class: &Class, node: &Node, root: &str) -> PersistentVolume {
    let parsed = parsed_claim(claim);
    let name = name(claim);
    let directory = format!("{name}_{}_{}", parsed.namespace, parsed.name);
    let host = node
        .labels()
        .get(HOSTNAME)
        .cloned()
        .unwrap_or_else(|| node.name_any());
    let request = claim
        .spec
        .as_ref()
        .and_then(|s| s.resources.as_ref())
        .and_then(|r| r.requests.clone());
    let affinity = json!({"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [host]}]}]}});
    let volume = json!({
        "metadata": {
            "name": name,
            "annotations": {PROVISIONED_BY: PROVISIONER, NODE: node.name_any()},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "accessModes": parsed.modes,
            "capacity": {"storage": request.as_ref().and_then(|r| r.get("storage"))},
            "claimRef": super::release::reference(claim),
            "persistentVolumeReclaimPolicy": class.reclaim,
            "storageClassName": class.name,
            "volumeAttributesClassName": claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone()),
            "volumeMode": "Filesystem",
            "local": {"path": format!("{}/{directory}", root.trim_end_matches('/'))},
            "nodeAffinity": affinity,
        },
    });
    // Made of fields that the type has.
    serde_json::from_value(volume).unwrap_or_default()
}

/// What a volume that nobody needs any more asks for.
#[derive(Debug, PartialEq)]
pub(super) struct Removal {
    /// The directory to remove first.
    pub(super) directory: Option<String>,
    /// What to do then.
    pub(super) actions: Vec<Action>,
}

/// Decides for a volume of ours; `None`: it is needed, or kept.
pub(super) fn removal(volume: &PersistentVolume) -> Option<Removal> {
    let going = volume.metadata.deletion_timestamp.is_some();
    let spec = volume.spec.as_ref()?;
    let deletes = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    let is_over = ["Released", "Failed"].contains(&phase(volume));
    let path = spec.local.as_ref().map(|l| l.path.as_str());
    let directory = path
        .and_then(|p| p.rsplit_once('/'))
        .map(|(_, name)| name.to_owned());
    match (is_over, deletes, going) {
        // Our finalizer holds it until the directory is gone.
        (true, true, false) => {
            return Some(Removal {
                directory: None,
                actions: vec![Action::delete(Target::of(volume))],
            });
        }
        (true, _, true) => {}
        _ => return None,
    }
    let mut actions = Vec::new();
    let others = volume.finalizers().iter().filter(|f| *f != FINALIZER);
    let others: Vec<&String> = others.collect();
    if others.len() < volume.finalizers().len() {
        let patch = json!({"metadata": {"finalizers": others}});
        actions.push(Action::patch(unchanged(volume), patch));
    }
    Some(Removal {
        directory: directory.filter(|_| deletes && !actions.is_empty()),
        actions,
    })
}

fn tell(about: Target, kind: &'static str, reason: &'static str, message: String) -> Action {
    Action::Event {
        about,
        kind,
        reason,
        message,
    }
}
