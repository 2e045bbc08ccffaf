//! What stands on this node for pods, and taking it away: the applier of `keelson doctor`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use keelson_agent_io::cni::Cni;
use keelson_agent_io::volumes::Volumes;
use keelson_agent_plan::doctor::{Finding, Found, Kind, Owner, examine};
use keelson_agent_plan::static_pod;
use keelson_runtime::Runtime;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::apply::remove_dir;
use crate::config::Config;
use crate::{cleanup, devices, files, statics};

/// A node under examination.
pub struct Doctor {
    config: Config,
    runtime: Runtime,
    cni: Cni,
    volumes: Volumes,
}

impl Doctor {
    /// Connects to containerd. The agent may run or not.
    pub async fn new(config: Config) -> anyhow::Result<Self> {
        let connect = tokio::time::timeout(cleanup::CONNECT, Runtime::open(config.runtime()));
        let at = || {
            format!(
                "connect to containerd at {}",
                config.containerd_socket.display()
            )
        };
        let runtime = connect.await.with_context(at)?.with_context(at)?;
        Ok(Self {
            runtime,
            cni: config.cni(),
            volumes: Volumes::new(&config.root_dir),
            config,
        })
    }

    /// What is not needed any more, in the order in which to take it away.
    pub async fn examine(&self, client: &Client) -> anyhow::Result<Vec<Finding>> {
        let found = self.found().await?;
        // Asked for afterwards: a pod that comes meanwhile is known.
        let pods = self.pods(client).await?;
        Ok(examine(&found, &pods))
    }

    async fn found(&self) -> anyhow::Result<Vec<Found>> {
        let mut found = Vec::new();
        // Before the containers: one that comes meanwhile has been made before its files are.
        for (kind, dir) in [(Kind::Streams, "io"), (Kind::Start, "started")] {
            for id in names(&self.config.run_dir.join(dir)) {
                found.push(Found {
                    kind,
                    owner: Owner::Container(id.clone()),
                    name: id,
                });
            }
        }
        for c in self.runtime.containers().await? {
            found.push(Found {
                kind: Kind::Container,
                owner: Owner::Pod(c.pod.uid),
                name: c.id,
            });
        }
        let cgroups = self.runtime.pod_cgroups()?.into_iter().map(|(uid, _)| uid);
        let logs = files::logged(&self.config.log_dir).into_keys();
        let of_pods = [
            (Kind::Network, self.cni.attached()?),
            (Kind::Sandbox, self.runtime.sandboxes()?),
            (Kind::Volumes, self.volumes.list()?),
            (Kind::Cgroup, cgroups.collect()),
            (Kind::Logs, logs.collect()),
            (
                Kind::Devices,
                devices::noted(&self.config.device_plugins_dir),
            ),
        ];
        for (kind, uids) in of_pods {
            found.extend(uids.into_iter().map(|uid| Found {
                kind,
                owner: Owner::Pod(uid.clone()),
                name: uid,
            }));
        }
        Ok(found)
    }

    /// The pods of this node by UID; a mirror stands for its static pod, and so does the file.
    async fn pods(&self, client: &Client) -> anyhow::Result<BTreeMap<String, String>> {
        let node = &self.config.node_name;
        let of_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let listed = Api::<Pod>::all(client.clone()).list(&of_node).await;
        let listed = listed.with_context(|| format!("list the pods of node {node}"))?;
        let files = match &self.config.static_pods {
            Some(dir) => statics::pods(dir, node)?,
            None => Vec::new(),
        };
        let name = |p: &Pod| {
            let text = |o: &Option<String>| o.clone().unwrap_or_default();
            format!("{}/{}", text(&p.metadata.namespace), text(&p.metadata.name))
        };
        let own = listed
            .items
            .iter()
            .filter(|p| static_pod::mirrored(p).is_none());
        let uid = |p: &Pod| Some((p.metadata.uid.clone()?, name(p)));
        Ok(own.chain(&files).filter_map(uid).collect())
    }

    /// Takes one thing away; it may be gone meanwhile.
    pub async fn remove(&self, found: &Found) -> anyhow::Result<()> {
        let name = found.name.as_str();
        match found.kind {
            Kind::Container => cleanup::end_container(&self.runtime, name).await?,
            Kind::Network => {
                let failed = self.cni.detach(name).await.into_iter().next();
                failed.map_or(Ok(()), Err)?;
            }
            Kind::Sandbox => self.runtime.sandbox_remove(name).await?,
            Kind::Volumes => self.volumes.teardown(name)?,
            Kind::Cgroup => self.runtime.pod_cgroup_remove(name)?,
            Kind::Logs => {
                let dirs = files::logged(&self.config.log_dir).remove(name);
                for dir in dirs.into_iter().flatten() {
                    remove_dir(&dir)?;
                }
            }
            Kind::Devices => devices::forget(&self.config.device_plugins_dir, name)?,
            Kind::Streams | Kind::Start => self.runtime.container_forget(name)?,
        }
        Ok(())
    }
}

/// Names in a directory; none of one that is not there.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}
