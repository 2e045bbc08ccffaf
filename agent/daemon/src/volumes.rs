//! A pod's volumes: fetched, made, and kept up to date.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use keelson_agent_io::volumes::{Error, Owner, Plugin, Record, Source, of_volume};
use keelson_agent_plan::claim::{self, Claimed};
use keelson_agent_plan::env::{Facts, downward};
use keelson_agent_plan::{event, hugepages};
use kube::Api;

use crate::shared::{Shared, chain};
use crate::sources::{self, Tokens};
use crate::worker::Worker;
use crate::{csi, image_volume};

/// Where a volume stands on the host.
pub(crate) fn place(shared: &Shared, uid: &str, volume: &Volume) -> Result<Record, Error> {
    let open = |path| Record {
        path,
        ..Record::default()
    };
    let plugin = match volume {
        Volume {
            host_path: Some(h), ..
        } => return Ok(open(PathBuf::from(&h.path))),
        Volume {
            persistent_volume_claim: Some(_),
            ..
        }
        | Volume {
            ephemeral: Some(_), ..
        }
        | Volume { csi: Some(_), .. }
        | Volume { image: Some(_), .. } => return shared.volumes.recorded(uid, &volume.name),
        Volume { nfs: Some(_), .. } => Plugin::Nfs,
        Volume {
            config_map: Some(_),
            ..
        } => Plugin::ConfigMap,
        Volume {
            secret: Some(_), ..
        } => Plugin::Secret,
        Volume {
            projected: Some(_), ..
        } => Plugin::Projected,
        Volume {
            downward_api: Some(_),
            ..
        } => Plugin::DownwardApi,
        _ => Plugin::EmptyDir,
    };
    let dir = shared.volumes.pod_dir(uid)?.join("volumes");
    Ok(open(dir.join(plugin.dir()).join(&volume.name)))
}

/// The work on all of a pod's volumes.
pub(crate) struct Job {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    uid: String,
    tokens: Arc<Tokens>,
    facts: Facts,
}

impl Job {
    pub(crate) fn new(worker: &Worker) -> Self {
        let facts = Facts {
            host_ips: worker.observed.host_ips.clone(),
            pod_ips: worker
                .observed
                .sandbox
                .ready()
                .map(|s| s.ips.clone())
                .unwrap_or_default(),
            allocatable: worker.shared.allocatable(),
        };
        Self {
            shared: worker.shared.clone(),
            pod: worker.pod.clone(),
            uid: worker.uid.clone(),
            tokens: worker.tokens.clone(),
            facts,
        }
    }

    fn all(&self) -> &[Volume] {
        self.pod
            .spec
            .as_ref()
            .and_then(|s| s.volumes.as_deref())
            .unwrap_or_default()
    }

    /// Makes all volumes; the error is the first volume's that failed, with its name.
    pub(crate) async fn materialize(&self) -> Result<(), (String, String)> {
        for v in self.all() {
            let fail = |message: String| (v.name.clone(), message);
            if let Some(claimed) = claim::of(&self.pod, v) {
                self.claimed(v, &claimed).await.map_err(fail)?;
                continue;
            }
            if let Some(spec) = csi::inline(&self.pod, v) {
                let made = csi::mount(&self.shared, &self.pod, &v.name, spec, self.owner()).await;
                made.map_err(fail)?;
                continue;
            }
            if let Some(image) = &v.image {
                let made = image_volume::mount(&self.shared, &self.pod, &v.name, image).await;
                made.map_err(fail)?;
                continue;
            }
            let source = self.source(v).await.map_err(fail)?;
            let (volumes, uid, name, owner) = (
                self.shared.volumes.clone(),
                self.uid.clone(),
                v.name.clone(),
                self.owner(),
            );
            let work = move || volumes.materialize(&uid, &name, &source, &owner).map(drop);
            let done = tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| fail(e.to_string()))?;
            done.map_err(|e| fail(chain(&e)))?;
        }
        Ok(())
    }

    /// Brings volumes of files up to date. What fails stays as it is until the next time; false if something did.
    pub(crate) async fn refresh(&self) -> bool {
        let mut all_done = true;
        for v in self.all().iter().filter(|v| changes(v)) {
            let source = match self.source(v).await {
                Ok(source) => source,
                Err(error) => {
                    tracing::warn!(
                        pod = self.pod.metadata.name,
                        volume = v.name,
                        error,
                        "volume not refreshed"
                    );
                    all_done = false;
                    continue;
                }
            };
            let (volumes, uid, name, owner) = (
                self.shared.volumes.clone(),
                self.uid.clone(),
                v.name.clone(),
                self.owner(),
            );
            let work = move || volumes.refresh(&uid, &name, &source, &owner);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
                tracing::warn!(pod = self.pod.metadata.name, volume = v.name, error = %chain(&error), "volume not refreshed");
                all_done = false;
            }
        }
        all_done
    }

    /// Lets drivers' volumes have what their claims wait for. What fails is tried again the next time.
    pub(crate) async fn grow_all(&self) {
        for v in self.all() {
            if let Some(claimed) = claim::of(&self.pod, v)
                && let Err(error) = self.grow(v, &claimed).await
            {
                let pod = &self.pod.metadata.name;
                tracing::warn!(pod, volume = v.name, error, "volume not grown");
                let told = event::resize_failed(&v.name, &error);
                self.shared.events.pod(&self.pod, told);
            }
        }
    }

    async fn grow(&self, v: &Volume, claimed: &Claimed) -> Result<(), String> {
        let record = self.shared.volumes.recorded(&self.uid, &v.name);
        let Some(record) = record.ok().filter(|r| r.csi.is_some()) else {
            return Ok(());
        };
        let claim = self.claim(claimed).await?;
        if !claim::waits_to_grow(&claim) {
            return Ok(());
        }
        let volume = self.volume(claimed, &claim).await?;
        match csi::persistent(&volume, &claim, claimed.read_only) {
            Some(spec) => csi::grow(&self.shared, &self.pod, &v.name, &record, spec).await,
            None => Ok(()),
        }
    }

    async fn claim(&self, claimed: &Claimed) -> Result<PersistentVolumeClaim, String> {
        let (name, client) = (&claimed.claim, self.shared.client.clone());
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let claim = Api::namespaced(client, namespace).get(name).await;
        claim.map_err(|e| {
            format!(
                "error processing PVC {namespace}/{name}: failed to fetch PVC from API server: {e}"
            )
        })
    }

    async fn volume(
        &self,
        claimed: &Claimed,
        claim: &PersistentVolumeClaim,
    ) -> Result<PersistentVolume, String> {
        let name = claim::volume_of(&self.pod, claimed, claim)?;
        let volume = Api::all(self.shared.client.clone()).get(name).await;
        volume.map_err(|e| format!("failed to fetch PV {name} from API server: {e}"))
    }

    /// Makes a claimed volume, and remembers where it is.
    async fn claimed(&self, v: &Volume, claimed: &Claimed) -> Result<(), String> {
        let claim = self.claim(claimed).await?;
        let volume = self.volume(claimed, &claim).await?;
        claim::check(&volume, &claim, &self.node())?;
        let is_block = claim::is_block(&volume);
        self.check_use(v, is_block)?;
        if let Some(spec) = csi::persistent(&volume, &claim, claimed.read_only) {
            return csi::mount(&self.shared, &self.pod, &v.name, spec, self.owner()).await;
        }
        let source = of_volume(&volume, claimed.read_only).map_err(|e| chain(&e))?;
        let read_only = claimed.read_only;
        let (volumes, uid, name) = (
            self.shared.volumes.clone(),
            self.uid.clone(),
            v.name.clone(),
        );
        // What nobody writes is not given away either.
        let owner = match read_only {
            true => Owner::default(),
            false => self.owner(),
        };
        let work = move || {
            let path = volumes.materialize(&uid, &name, &source, &owner)?;
            let record = Record {
                path,
                is_block,
                read_only,
                ..Record::default()
            };
            volumes.record(&uid, &name, &record)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|e| e.to_string())?.map_err(|e| chain(&e))
    }

    /// Devices are for `volumeDevices`, file systems for `volumeMounts`.
    fn check_use(&self, v: &Volume, is_block: bool) -> Result<(), String> {
        let spec = self.pod.spec.as_ref();
        let containers = spec.into_iter().flat_map(|s| {
            s.containers
                .iter()
                .chain(s.init_containers.iter().flatten())
        });
        let all: Vec<&Container> = containers.collect();
        let mounted = |c: &&Container| c.volume_mounts.iter().flatten().any(|m| m.name == v.name);
        let given = |c: &&Container| c.volume_devices.iter().flatten().any(|d| d.name == v.name);
        let name = &v.name;
        match is_block {
            true if all.iter().any(mounted) => Err(format!(
                "volume {name} has volumeMode Block, but is specified in volumeMounts"
            )),
            false if all.iter().any(given) => Err(format!(
                "volume {name} has volumeMode Filesystem, but is specified in volumeDevices"
            )),
            _ => Ok(()),
        }
    }

    fn node(&self) -> keelson_agent_plan::admit::Node {
        let node = self.shared.node.borrow();
        let labels = node.as_ref().and_then(|n| n.metadata.labels.clone());
        keelson_agent_plan::admit::Node {
            name: self.shared.config.node_name.clone(),
            labels: labels.unwrap_or_default(),
            ..Default::default()
        }
    }

    async fn source(&self, v: &Volume) -> Result<Source, String> {
        let mut data = sources::of_volume(&self.shared, &self.pod, &self.tokens, v).await?;
        let medium = v.empty_dir.as_ref().and_then(|e| e.medium.as_deref());
        if let Some((medium, spec)) = medium.zip(self.pod.spec.as_ref()) {
            data.page_size = hugepages::of_medium(medium, spec).transpose()?;
        }
        let resolve = |item: &DownwardAPIVolumeFile| {
            downward::file(&self.pod, item, &self.facts).map_err(|e| e.to_string())
        };
        Source::from_volume(v, &data, &resolve).map_err(|e| chain(&e))
    }

    /// fsGroup, and the user that all containers share, if they do.
    fn owner(&self) -> Owner {
        let Some(spec) = &self.pod.spec else {
            return Owner::default();
        };
        let id = |n: i64| u32::try_from(n).ok();
        let pod = spec.security_context.as_ref();
        let all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        let mut users = all.map(|c| {
            let own = c.security_context.as_ref().and_then(|s| s.run_as_user);
            own.or(pod.and_then(|p| p.run_as_user))
        });
        let first = users.next().flatten();
        let shared = first.filter(|f| users.all(|u| u == Some(*f)));
        let policy = pod.and_then(|p| p.fs_group_change_policy.as_deref());
        Owner {
            on_root_mismatch: policy == Some("OnRootMismatch"),
            fs_group: pod.and_then(|p| p.fs_group).and_then(id),
            fs_user: shared.and_then(id),
        }
    }
}

/// Takes all of a pod's volumes away. What drivers put there they are asked for first.
pub(crate) async fn teardown(shared: &Arc<Shared>, uid: String) -> Result<(), String> {
    csi::unmount(shared, &uid).await?;
    image_volume::release(&shared.volumes, &shared.runtime, &uid).await?;
    let volumes = shared.volumes.clone();
    let work = move || volumes.teardown(&uid).map_err(|e| chain(&e));
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| e.to_string())?
}

/// Whether a pod has claims whose volumes may become larger while it runs: drivers' only.
pub(crate) fn may_grow(shared: &Shared, pod: &Pod) -> bool {
    let mut all = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    !shared.csi.are_none() && all.any(|v| claim::of(pod, v).is_some())
}

/// Volumes whose files follow the API.
fn changes(v: &Volume) -> bool {
    v.config_map.is_some()
        || v.secret.is_some()
        || v.projected.is_some()
        || v.downward_api.is_some()
}
