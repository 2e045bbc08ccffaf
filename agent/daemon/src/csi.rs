//! CSI drivers of this node: found by their sockets in the registry folder, told in CSINode, and asked to mount.
//!
//! What was asked is recorded below the pod before it is asked: an agent that starts again knows what to undo.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{
    CSIVolumeSource, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, SecretReference,
    Volume as PodVolume,
};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_agent_io::volumes::{self as io, CsiRecord, Owner, Record};
use keelson_agent_plan::csi as plan;
use keelson_agent_plan::event;
use keelson_csi::{Abilities, Access, Driver, Target, Volume};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::shared::{Shared, chain};

/// How often the registry folder is looked at.
const PERIOD: Duration = Duration::from_secs(2);
/// After a registration that failed.
const RETRY: Duration = Duration::from_secs(20);

/// A socket as it was found: another file of that name is another plugin.
type Found = (PathBuf, u64);

/// A driver that has registered.
#[derive(Clone)]
struct Registered {
    found: Found,
    driver: Driver,
    here: plan::Here,
}

/// The drivers of this node.
#[derive(Default)]
pub(crate) struct Drivers {
    known: Mutex<BTreeMap<String, Registered>>,
    /// One at a time works on a volume: staging is for all its pods.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Drivers {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Registered>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &str) -> Result<Driver, String> {
        let known = self.known();
        known.get(name).map(|r| r.driver.clone()).ok_or_else(|| {
            format!("driver name {name} not found in the list of registered CSI drivers")
        })
    }

    /// There are no drivers here.
    pub(crate) fn are_none(&self) -> bool {
        self.known().is_empty()
    }

    fn volume(&self, id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        busy.entry(id.to_owned()).or_default().clone()
    }

    fn here(&self) -> BTreeMap<String, plan::Here> {
        let known = self.known();
        known
            .iter()
            .map(|(name, r)| (name.clone(), r.here.clone()))
            .collect()
    }
}

/// Takes plugins that come, and lets those go whose socket is gone.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut failed: HashMap<Found, std::time::Instant> = HashMap::new();
    loop {
        let sockets = sockets(&shared.config.plugins_dir);
        failed.retain(|found, at| sockets.contains(found) && at.elapsed() < RETRY);
        forget(&shared, &sockets).await;
        for found in sockets {
            let known = |r: &Registered| r.found == found;
            let taken = shared.csi.known().values().any(known);
            if taken || failed.contains_key(&found) {
                continue;
            }
            if let Err(error) = register(&shared, &found).await {
                tracing::warn!(socket = %found.0.display(), error = format!("{error:#}"), "plugin not registered");
                failed.insert(found, std::time::Instant::now());
            }
        }
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

fn sockets(dir: &Path) -> Vec<Found> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let socket = |entry: std::fs::DirEntry| {
        let meta = entry.metadata().ok()?;
        meta.file_type()
            .is_socket()
            .then(|| (entry.path(), meta.ino()))
    };
    entries.filter_map(socket).collect()
}

async fn register(shared: &Arc<Shared>, found: &Found) -> anyhow::Result<()> {
    let plugin = keelson_csi::info(&found.0).await?;
    let taken = take(shared, found, &plugin).await;
    let told = taken.as_ref().map(drop).map_err(|e| format!("{e:#}"));
    keelson_csi::notify(&found.0, told).await?;
    taken
}

async fn take(
    shared: &Arc<Shared>,
    found: &Found,
    plugin: &keelson_csi::Plugin,
) -> anyhow::Result<()> {
    let driver = Driver {
        endpoint: plugin.endpoint.clone(),
    };
    let info = driver.node_info().await?;
    anyhow::ensure!(!info.node_id.is_empty(), "the driver names no node");
    let here = plan::Here {
        node_id: info.node_id,
        max_volumes: info.max_volumes,
        topology_keys: info.topology.keys().cloned().collect(),
    };
    if !info.topology.is_empty() {
        let patch = json!({"metadata": {"labels": info.topology}});
        let nodes = Api::<Node>::all(shared.client.clone());
        nodes
            .patch(
                &shared.config.node_name,
                &PatchParams::default(),
                &Patch::Merge(&patch),
            )
            .await
            .context("label the node with the driver's topology")?;
    }
    let registered = Registered {
        found: found.clone(),
        driver,
        here,
    };
    shared.csi.known().insert(plugin.name.clone(), registered);
    if let Err(error) = tell(shared).await {
        shared.csi.known().remove(&plugin.name);
        return Err(error);
    }
    tracing::info!(driver = plugin.name, "CSI driver registered");
    Ok(())
}

async fn forget(shared: &Arc<Shared>, sockets: &[Found]) {
    let gone: Vec<String> = {
        let mut known = shared.csi.known();
        let gone = known.iter().filter(|(_, r)| !sockets.contains(&r.found));
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        gone.iter().for_each(|name| _ = known.remove(name));
        gone
    };
    for driver in &gone {
        tracing::info!(driver, "CSI driver gone");
    }
    if !gone.is_empty()
        && let Err(error) = tell(shared).await
    {
        tracing::warn!(error = format!("{error:#}"), "CSINode not written");
    }
}

/// Writes the node's drivers into its CSINode.
async fn tell(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let mut node = shared.node.subscribe();
    let node = node.wait_for(Option::is_some).await?.clone();
    let uid = node
        .and_then(|n| n.metadata.uid.clone())
        .unwrap_or_default();
    let name = &shared.config.node_name;
    let api = Api::<CSINode>::all(shared.client.clone());
    let current = api.get_opt(name).await.context("read the CSINode")?;
    let wanted = plan::csi_node(current.as_ref(), (name, &uid), &shared.csi.here());
    let Some(wanted) = wanted else { return Ok(()) };
    let params = PostParams::default();
    match current {
        None => api.create(&params, &wanted).await,
        Some(_) => api.replace(name, &params, &wanted).await,
    }
    .map(drop)
    .context("write the CSINode")
}

/// A CSI volume of a pod.
pub(crate) struct Spec {
    driver: String,
    id: String,
    modes: Vec<String>,
    is_block: bool,
    read_only: bool,
    fs_type: String,
    flags: Vec<String>,
    attributes: Option<BTreeMap<String, String>>,
    stage_secret: Option<SecretReference>,
    publish_secret: Option<SecretReference>,
    expand_secret: Option<SecretReference>,
    /// The pod's own: nothing is attached or staged.
    inline: bool,
    /// The file system is smaller than the volume: the claim, and the volume's size as the API writes it.
    grows: Option<(String, String)>,
}

fn storage(of: Option<&BTreeMap<String, Quantity>>) -> Option<String> {
    of.and_then(|all| all.get("storage")).map(|q| q.0.clone())
}

/// A persistent volume, if it is a driver's.
pub(crate) fn persistent(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    read_only: bool,
) -> Option<Spec> {
    let spec = volume.spec.as_ref()?;
    let csi = spec.csi.as_ref()?;
    let has = storage(claim.status.as_ref().and_then(|s| s.capacity.as_ref()));
    let wanted = storage(spec.capacity.as_ref());
    let bytes = |q: &Option<String>| {
        q.as_deref()
            .and_then(io::quantity_bytes)
            .unwrap_or_default()
    };
    let grows = bytes(&wanted) > bytes(&has) && has.is_some();
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    Some(Spec {
        driver: csi.driver.clone(),
        id: csi.volume_handle.clone(),
        modes: spec.access_modes.clone().unwrap_or_default(),
        is_block: spec.volume_mode.as_deref() == Some("Block"),
        read_only: read_only || csi.read_only == Some(true),
        fs_type: csi.fs_type.clone().unwrap_or_default(),
        flags: spec.mount_options.clone().unwrap_or_default(),
        attributes: csi.volume_attributes.clone(),
        stage_secret: csi.node_stage_secret_ref.clone(),
        publish_secret: csi.node_publish_secret_ref.clone(),
        expand_secret: csi.node_expand_secret_ref.clone(),
        inline: false,
        grows: wanted.filter(|_| grows).map(|size| {
            (
                format!(
                    "{}/{}",
                    text(&claim.metadata.namespace),
                    text(&claim.metadata.name)
                ),
                size,
            )
        }),
    })
}

/// A pod's own volume, if it is a driver's.
pub(crate) fn inline(pod: &Pod, volume: &PodVolume) -> Option<Spec> {
    let csi: &CSIVolumeSource = volume.csi.as_ref()?;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let namespace = text(&pod.metadata.namespace);
    Some(Spec {
        driver: csi.driver.clone(),
        id: io::csi::inline_handle(&namespace, &text(&pod.metadata.uid), &volume.name),
        modes: vec!["ReadWriteOnce".into()],
        is_block: false,
        read_only: csi.read_only == Some(true),
        fs_type: text(&csi.fs_type),
        flags: Vec::new(),
        attributes: csi.volume_attributes.clone(),
        stage_secret: None,
        publish_secret: csi
            .node_publish_secret_ref
            .as_ref()
            .map(|s| SecretReference {
                name: Some(s.name.clone()),
                namespace: Some(namespace),
            }),
        expand_secret: None,
        inline: true,
        grows: None,
    })
}

/// Attached, staged, published, given to the group. Can be repeated.
pub(crate) async fn mount(
    shared: &Shared,
    pod: &Pod,
    name: &str,
    spec: Spec,
    owner: Owner,
) -> Result<(), String> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let driver = shared.csi.get(&spec.driver)?;
    let about = Api::<CSIDriver>::all(shared.client.clone());
    let about = about
        .get_opt(&spec.driver)
        .await
        .map_err(|e| format!("read CSIDriver {}: {e}", spec.driver))?;
    plan::takes(&spec.driver, about.as_ref(), spec.inline)?;
    let publish_context = match !spec.inline && plan::attaches(about.as_ref()) {
        true => attached(shared, &spec).await?,
        false => BTreeMap::new(),
    };
    let abilities = driver.abilities().await.map_err(|e| chain(&e))?;
    let gives = plan::gives_group(about.as_ref(), &spec.fs_type, &spec.modes);
    let group = owner.fs_group.filter(|_| abilities.mount_group);
    let volume = Volume {
        id: spec.id.clone(),
        modes: spec.modes.clone(),
        access: spec.access(group),
        publish_context,
        context: plan::context(pod, spec.attributes.as_ref(), about.as_ref(), spec.inline),
    };
    let pod_dir = shared.volumes.pod_dir(&uid).map_err(|e| chain(&e))?;
    let kind = if spec.is_block {
        "volumeDevices"
    } else {
        "volumes"
    };
    let dir = pod_dir.join(kind).join("kubernetes.io~csi").join(name);
    let staging = (abilities.stages && !spec.inline)
        .then(|| io::csi::staging(&shared.config.root_dir, &spec.driver, &spec.id));
    let target = Target {
        path: dir.join(if spec.is_block { "device" } else { "mount" }),
        staging,
        read_only: spec.read_only,
    };
    let record = Record {
        path: target.path.clone(),
        is_block: spec.is_block,
        read_only: spec.read_only,
        csi: Some(CsiRecord {
            driver: spec.driver.clone(),
            id: spec.id.clone(),
            staging: target.staging.clone(),
            inline: spec.inline,
        }),
        view: None,
    };
    let lock = shared.csi.volume(&spec.id);
    let _one = lock.lock().await;
    shared
        .volumes
        .record(&uid, name, &record)
        .map_err(|e| chain(&e))?;
    std::fs::create_dir_all(&dir)
        .map_err(|e| format!("create directory {}: {e}", dir.display()))?;
    let asked = Asked {
        shared,
        driver: &driver,
        spec: &spec,
        volume: &volume,
        target: &target,
        abilities,
    };
    asked.put().await?;
    let owned = !spec.is_block && !spec.read_only && gives && group.is_none();
    if owned {
        let path = target.path.clone();
        let given = tokio::task::spawn_blocking(move || io::give(&path, &owner)).await;
        given.map_err(|e| e.to_string())?.map_err(|e| chain(&e))?;
    }
    Ok(())
}

/// Grows the file system of a mounted volume that has become larger, if its driver does that.
pub(crate) async fn grow(
    shared: &Shared,
    pod: &Pod,
    name: &str,
    record: &Record,
    spec: Spec,
) -> Result<(), String> {
    let (Some(csi), Some((claim, size))) = (&record.csi, &spec.grows) else {
        return Ok(());
    };
    let driver = shared.csi.get(&spec.driver)?;
    let abilities = driver.abilities().await.map_err(|e| chain(&e))?;
    if !abilities.expands {
        return Ok(());
    }
    let volume = Volume {
        id: spec.id.clone(),
        modes: spec.modes.clone(),
        access: spec.access(None),
        publish_context: BTreeMap::new(),
        context: BTreeMap::new(),
    };
    let target = target(record, csi);
    let lock = shared.csi.volume(&spec.id);
    let _one = lock.lock().await;
    let asked = Asked {
        shared,
        driver: &driver,
        spec: &spec,
        volume: &volume,
        target: &target,
        abilities,
    };
    asked.grow(claim, size).await?;
    shared.events.pod(pod, event::resized(name));
    Ok(())
}

/// Where a volume stands.
fn target(record: &Record, csi: &CsiRecord) -> Target {
    Target {
        path: record.path.clone(),
        staging: csi.staging.clone(),
        read_only: record.read_only,
    }
}

/// How full a driver's volume is, if the driver tells.
pub(crate) async fn usage(shared: &Shared, record: &Record) -> Option<keelson_csi::Usage> {
    let csi = record.csi.as_ref()?;
    let driver = shared.csi.get(&csi.driver).ok()?;
    let target = target(record, csi);
    let asked = async {
        match driver.abilities().await?.stats {
            true => driver.usage(&csi.id, &target).await.map(Some),
            false => Ok(None),
        }
    };
    asked
        .await
        .inspect_err(|e| tracing::debug!(volume = csi.id, error = %chain(e), "volume not counted"))
        .ok()
        .flatten()
}

impl Spec {
    /// How it is used, and by which group if the driver gives it to one.
    fn access(&self, group: Option<u32>) -> Access {
        match self.is_block {
            true => Access::Block,
            false => Access::Mount {
                fs_type: self.fs_type.clone(),
                flags: self.flags.clone(),
                group,
            },
        }
    }
}

/// What a driver is asked for one pod's volume.
struct Asked<'a> {
    shared: &'a Shared,
    driver: &'a Driver,
    spec: &'a Spec,
    volume: &'a Volume,
    target: &'a Target,
    abilities: Abilities,
}

impl Asked<'_> {
    async fn put(&self) -> Result<(), String> {
        let spec = self.spec;
        if let Some(staging) = &self.target.staging {
            std::fs::create_dir_all(staging)
                .map_err(|e| format!("create directory {}: {e}", staging.display()))?;
            let secrets = secrets(self.shared, spec.stage_secret.as_ref()).await?;
            let done = self
                .driver
                .stage(self.volume, staging, secrets, self.abilities)
                .await;
            done.map_err(|e| format!("MountVolume.MountDevice failed: {}", chain(&e)))?;
        }
        let given = secrets(self.shared, spec.publish_secret.as_ref()).await?;
        let done = self
            .driver
            .publish(self.volume, self.target, given, self.abilities)
            .await;
        done.map_err(|e| chain(&e))?;
        match &spec.grows {
            Some((claim, size)) if self.abilities.expands => self.grow(claim, size).await,
            _ => Ok(()),
        }
    }

    /// Grows the file system to the volume's size, and says so in the claim.
    async fn grow(&self, claim: &str, size: &str) -> Result<(), String> {
        let given = secrets(self.shared, self.spec.expand_secret.as_ref()).await?;
        let bytes = io::quantity_bytes(size)
            .and_then(|b| i64::try_from(b).ok())
            .unwrap_or_default();
        let grown = self
            .driver
            .expand(self.volume, self.target, bytes, given, self.abilities)
            .await;
        grown.map_err(|e| format!("MountVolume.NodeExpandVolume failed: {}", chain(&e)))?;
        let (namespace, claim) = claim.split_once('/').unwrap_or(("default", claim));
        let claims =
            Api::<PersistentVolumeClaim>::namespaced(self.shared.client.clone(), namespace);
        let patch = json!({"status": {"capacity": {"storage": size}, "conditions": null}});
        let told = claims
            .patch_status(claim, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        told.map(drop)
            .map_err(|e| format!("write the size of claim {namespace}/{claim}: {e}"))
    }
}

/// What attaching gave; an error until the volume is attached.
async fn attached(shared: &Shared, spec: &Spec) -> Result<BTreeMap<String, String>, String> {
    let name = io::csi::attachment(&spec.id, &spec.driver, &shared.config.node_name);
    let api = Api::<VolumeAttachment>::all(shared.client.clone());
    let wait = |why: &str| {
        Err(format!(
            "volume {} is not attached to this node: {why}",
            spec.id
        ))
    };
    let found = api
        .get_opt(&name)
        .await
        .map_err(|e| format!("read VolumeAttachment {name}: {e}"))?;
    let Some(status) = found.and_then(|a| a.status) else {
        return wait(&format!("VolumeAttachment {name} has no status yet"));
    };
    if let Some(error) = status.attach_error {
        return wait(&error.message.unwrap_or_default());
    }
    match status.attached {
        true => Ok(status.attachment_metadata.unwrap_or_default()),
        false => wait("the attacher has not attached it yet"),
    }
}

async fn secrets(
    shared: &Shared,
    reference: Option<&SecretReference>,
) -> Result<BTreeMap<String, String>, String> {
    let Some(reference) = reference else {
        return Ok(BTreeMap::new());
    };
    let (name, namespace) = (
        reference.name.as_deref().unwrap_or_default(),
        reference.namespace.as_deref().unwrap_or("default"),
    );
    let api: Api<Secret> = Api::namespaced(shared.client.clone(), namespace);
    let secret = api
        .get(name)
        .await
        .map_err(|e| format!("get secret {namespace}/{name}: {e}"))?;
    let text =
        |(k, v): (String, k8s_openapi::ByteString)| (k, String::from_utf8_lossy(&v.0).into_owned());
    Ok(secret
        .data
        .unwrap_or_default()
        .into_iter()
        .map(text)
        .collect())
}

/// Has all CSI volumes of a pod taken away; the driver is asked again until it has.
pub(crate) async fn unmount(shared: &Shared, uid: &str) -> Result<(), String> {
    let mut records = shared.volumes.records(uid).map_err(|e| chain(&e))?;
    records.retain(|(_, r)| r.csi.is_some());
    if records.is_empty() {
        return Ok(());
    }
    let mut errors: Vec<String> = Vec::new();
    let parts = shared
        .volumes
        .release_sub_paths(uid)
        .map_err(|e| chain(&e))?;
    errors.extend(parts.iter().map(|e| chain(e)));
    for (name, record) in records {
        if let Some(csi) = &record.csi
            && let Err(why) = take_away(shared, uid, &name, &record, csi).await
        {
            errors.push(format!(
                "UnmountVolume.TearDown failed for volume \"{name}\" : {why}"
            ));
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(errors.join("; ")),
    }
}

async fn take_away(
    shared: &Shared,
    uid: &str,
    name: &str,
    record: &Record,
    csi: &CsiRecord,
) -> Result<(), String> {
    let driver = shared.csi.get(&csi.driver)?;
    let lock = shared.csi.volume(&csi.id);
    let _one = lock.lock().await;
    driver
        .unpublish(&csi.id, &record.path)
        .await
        .map_err(|e| chain(&e))?;
    if let Some(staging) = csi.staging.as_ref().filter(|s| !in_use(shared, uid, s)) {
        driver
            .unstage(&csi.id, staging)
            .await
            .map_err(|e| chain(&e))?;
        // The driver may have left the empty directory; one that is not empty is no business of ours.
        let _ = std::fs::remove_dir(staging);
        let _ = staging.parent().map(std::fs::remove_dir);
    }
    shared.volumes.forget(uid, name).map_err(|e| chain(&e))
}

/// The volumes of drivers that pods here have, as the Node tells them: whoever detaches waits for it. `None`: nobody
/// needs to be told.
pub(crate) fn volumes_in_use(shared: &Shared, told: bool) -> Option<Vec<String>> {
    if shared.csi.are_none() && !told {
        return None;
    }
    let pods = shared.volumes.list().unwrap_or_default();
    let records = pods
        .iter()
        .flat_map(|uid| shared.volumes.records(uid).unwrap_or_default());
    let name = |c: CsiRecord| format!("kubernetes.io/csi/{}^{}", c.driver, c.id);
    // A pod's own volumes are attached nowhere.
    let persistent = records
        .filter_map(|(_, r)| r.csi)
        .filter(|c| !c.inline)
        .map(name);
    let all: std::collections::BTreeSet<String> = persistent.collect();
    Some(all.into_iter().collect())
}

/// Whether another pod here uses a staged volume.
fn in_use(shared: &Shared, uid: &str, staging: &Path) -> bool {
    let others = shared.volumes.list().unwrap_or_default();
    let uses = |other: &String| {
        let records = shared.volumes.records(other).unwrap_or_default();
        records
            .iter()
            .any(|(_, r)| r.csi.as_ref().and_then(|c| c.staging.as_deref()) == Some(staging))
    };
    others.iter().filter(|o| *o != uid).any(uses)
}
