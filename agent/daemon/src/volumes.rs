//! A pod's volumes: fetched, made, and kept up to date.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Pod, Volume};
use keelson_agent_io::volumes::{Error, Owner, Plugin, Source};
use keelson_agent_plan::env::{Facts, downward};

use crate::shared::{Shared, chain};
use crate::sources::{self, Tokens};
use crate::worker::Worker;

/// Where a volume stands on the host.
pub(crate) fn path(shared: &Shared, uid: &str, volume: &Volume) -> Result<PathBuf, Error> {
    let plugin = match volume {
        Volume {
            host_path: Some(h), ..
        } => return Ok(PathBuf::from(&h.path)),
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
    Ok(shared
        .volumes
        .pod_dir(uid)?
        .join("volumes")
        .join(plugin.dir())
        .join(&volume.name))
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

    async fn source(&self, v: &Volume) -> Result<Source, String> {
        let data = sources::of_volume(&self.shared, &self.pod, &self.tokens, v).await?;
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
        Owner {
            fs_group: pod.and_then(|p| p.fs_group).and_then(id),
            fs_user: shared.and_then(id),
        }
    }
}

/// Volumes whose files follow the API.
fn changes(v: &Volume) -> bool {
    v.config_map.is_some()
        || v.secret.is_some()
        || v.projected.is_some()
        || v.downward_api.is_some()
}
