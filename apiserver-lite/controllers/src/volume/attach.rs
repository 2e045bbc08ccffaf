//! Attaching volumes of CSI drivers to the nodes of their pods: a VolumeAttachment each, which the driver's own attacher
//! answers. Drivers that need none (`attachRequired: false`) get none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, Node, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use keelson_api::volume::claims_of;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject, ObjectMeta};
use sha2::{Digest, Sha256};

use super::value;
use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::Key;
use crate::runner::{Controller, Outcome, Work};

/// The controller; it has a single key.
pub struct Attaching {
    caches: Arc<Caches>,
    /// Pods that were told of a volume which another node holds.
    told: Mutex<BTreeSet<String>>,
}

impl Attaching {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches.pods.subscribe(move |c| {
            let claims = |p: &&Pod| p.spec.as_ref().is_some_and(|s| s.volumes.is_some());
            if c.states().any(|p| claims(&p)) {
                queue.add(Key::default());
            }
        });
        let queue = work.clone();
        caches.volumes.subscribe(move |c| {
            if c.states().any(|v| csi(v).is_some()) {
                queue.add(Key::default());
            }
        });
        let queue = work.clone();
        caches
            .attachments
            .subscribe(move |_| queue.add(Key::default()));
        let queue = work.clone();
        caches.drivers.subscribe(move |_| queue.add(Key::default()));
        let queue = work.clone();
        caches.nodes.subscribe(move |c| {
            let used = |n: Option<&Node>| n.map(in_use);
            if used(c.old) != used(c.new) {
                queue.add(Key::default());
            }
        });
        let it = Self {
            caches: caches.clone(),
            told: Mutex::default(),
        };
        (it, work)
    }
}

#[async_trait]
impl Controller for Attaching {
    fn name(&self) -> &'static str {
        "attachdetach-controller"
    }

    async fn reconcile(&self, _key: &Key) -> anyhow::Result<Outcome> {
        let c = &self.caches;
        let around = Around {
            pods: c.pods.list(""),
            claims: c.claims.list(""),
            volumes: c.volumes.list(""),
            drivers: c.drivers.list(""),
            attachments: c.attachments.list(""),
            nodes: c.nodes.list(""),
        };
        let mut actions = plan(&around);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = BTreeSet::new();
        actions.retain(|a| match a {
            Action::Event { about, .. } => {
                let uid = about.uid.clone().unwrap_or_default();
                held.insert(uid.clone());
                !told.contains(&uid)
            }
            _ => true,
        });
        *told = held;
        Ok(actions.into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// What the plan looks at: all there are.
#[derive(Default)]
pub(super) struct Around {
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) claims: Vec<Arc<PersistentVolumeClaim>>,
    pub(super) volumes: Vec<Arc<PersistentVolume>>,
    pub(super) drivers: Vec<Arc<CSIDriver>>,
    pub(super) attachments: Vec<Arc<VolumeAttachment>>,
    pub(super) nodes: Vec<Arc<Node>>,
}

fn csi(volume: &PersistentVolume) -> Option<&CSIPersistentVolumeSource> {
    volume.spec.as_ref()?.csi.as_ref()
}

/// What a node says it still has mounted.
fn in_use(node: &Node) -> Vec<String> {
    let status = node.status.as_ref();
    status
        .and_then(|s| s.volumes_in_use.clone())
        .unwrap_or_default()
}

/// The name that a volume's attachment to a node has, upstream's: the node looks for it.
pub(super) fn name(handle: &str, driver: &str, node: &str) -> String {
    let sum = Sha256::new()
        .chain_update(handle)
        .chain_update(driver)
        .chain_update(node)
        .finalize();
    let hex: String = sum.iter().map(|b| format!("{b:02x}")).collect();
    format!("csi-{hex}")
}

/// Decides for all volumes. Pods count until they are gone from the API: until then their volumes may be mounted.
pub(super) fn plan(around: &Around) -> Vec<Action> {
    let volumes: BTreeMap<String, &PersistentVolume> = around
        .volumes
        .iter()
        .filter(|v| csi(v).is_some_and(|c| attaches(around, &c.driver)))
        .map(|v| (v.name_any(), v.as_ref()))
        .collect();
    let wanted = wanted(around, &volumes);
    let mut actions = Vec::new();
    for ((volume, node), pod) in &wanted {
        let Some((object, source)) = volumes.get(volume).and_then(|v| Some((v, csi(v)?))) else {
            continue;
        };
        let name = name(&source.volume_handle, &source.driver, node);
        if around.attachments.iter().any(|a| a.name_any() == name) {
            continue;
        }
        let elsewhere = |a: &&Arc<VolumeAttachment>| {
            a.spec.source.persistent_volume_name.as_ref() == Some(volume)
                && a.spec.node_name != *node
        };
        if is_exclusive(object) && around.attachments.iter().any(|a| elsewhere(&a)) {
            actions.push(Action::Event {
                about: Target::of(*pod),
                kind: "Warning",
                reason: "FailedAttachVolume",
                message: format!(
                    "Multi-Attach error for volume \"{volume}\" Volume is already exclusively attached to one node and can't be attached to another"
                ),
            });
            continue;
        }
        actions.push(Action::create(&VolumeAttachment {
            metadata: ObjectMeta {
                name: Some(name),
                ..ObjectMeta::default()
            },
            spec: VolumeAttachmentSpec {
                attacher: source.driver.clone(),
                node_name: node.clone(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(volume.clone()),
                    ..VolumeAttachmentSource::default()
                },
            },
            status: None,
        }));
    }
    actions.extend(around.attachments.iter().filter_map(|a| {
        let volume = a.spec.source.persistent_volume_name.clone()?;
        let node = a.spec.node_name.clone();
        let needed = wanted.contains_key(&(volume.clone(), node.clone()));
        (!needed
            && a.metadata.deletion_timestamp.is_none()
            && is_ours(around, a, &volume)
            && !is_mounted(around, a, &volume))
        .then(|| Action::delete(Target::of(a.as_ref())))
    }));
    actions
}

/// So it is when nobody has said anything about the driver.
fn attaches(around: &Around, driver: &str) -> bool {
    let found = around.drivers.iter().find(|d| d.name_any() == driver);
    found.is_none_or(|d| d.spec.attach_required != Some(false))
}

/// Volume and node, with the first pod that wants it there.
fn wanted<'a>(
    around: &'a Around,
    volumes: &BTreeMap<String, &PersistentVolume>,
) -> BTreeMap<(String, String), &'a Pod> {
    let mut all = BTreeMap::new();
    if volumes.is_empty() {
        return all;
    }
    for pod in &around.pods {
        let Some(spec) = pod.spec.as_ref().filter(|s| s.volumes.is_some()) else {
            continue;
        };
        let Some(node) = spec.node_name.clone().filter(|n| !n.is_empty()) else {
            continue;
        };
        for (name, _) in claims_of(&value(pod.as_ref())) {
            let same = |c: &&Arc<PersistentVolumeClaim>| {
                c.name_any() == name && c.namespace() == pod.namespace()
            };
            let claim = around.claims.iter().find(same);
            let volume = claim.and_then(|c| c.spec.as_ref()?.volume_name.clone());
            if let Some(volume) = volume.filter(|v| volumes.contains_key(v)) {
                all.entry((volume, node.clone())).or_insert(pod.as_ref());
            }
        }
    }
    all
}

/// One node at a time.
fn is_exclusive(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|s| s.access_modes.as_ref());
    let shared = |m: &String| m == "ReadWriteMany" || m == "ReadOnlyMany";
    !modes.into_iter().flatten().any(shared)
}

/// Whether we made it, or would have: others' are theirs. Of a volume that is gone nobody knows the name any more.
fn is_ours(around: &Around, attachment: &VolumeAttachment, volume: &str) -> bool {
    let found = around.volumes.iter().find(|v| v.name_any() == volume);
    match found.and_then(|v| csi(v)) {
        Some(source) => {
            attachment.name_any()
                == name(
                    &source.volume_handle,
                    &source.driver,
                    &attachment.spec.node_name,
                )
        }
        None => attachment.name_any().starts_with("csi-"),
    }
}

/// Whether the node still has it mounted, by its own word. A node that is gone has nothing.
fn is_mounted(around: &Around, attachment: &VolumeAttachment, volume: &str) -> bool {
    let node = around
        .nodes
        .iter()
        .find(|n| n.name_any() == attachment.spec.node_name);
    let source = around.volumes.iter().find(|v| v.name_any() == volume);
    let (Some(node), Some(source)) = (node, source.and_then(|v| csi(v))) else {
        return false;
    };
    let unique = format!(
        "kubernetes.io/csi/{}^{}",
        source.driver, source.volume_handle
    );
    in_use(node).contains(&unique)
}
