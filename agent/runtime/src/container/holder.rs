//! The holder of a pod's processes: process 1 of the PID namespace that its containers share. A container without an
//! image, made of nothing but our static `keelson-logger hold`; it runs in the pod's own shim.

use std::fs;
use std::path::PathBuf;

use containerd_client::services::v1::CreateContainerRequest;
use oci_spec::runtime::RootBuilder;

use super::{Container, Created, State};
use crate::cgroup::unified;
use crate::client::{QUICK, ask, or_exists};
use crate::error::Error;
use crate::image::ImageConfig;
use crate::model::{ContainerSpec, Handler, Kind, Mount, Namespace, Namespaces, PodRef, Security};
use crate::runtime::Runtime;
use crate::spec::{self, Facts};

/// Where the program is in the holder's root.
const PROGRAM: &str = "/keelson-logger";
/// As little wanted by the kernel's memory killer as CRI runtimes' pause processes.
const OOM_SCORE: i32 = -998;

/// containerd id of a pod's holder. No container of a pod can have it: their names have no dots.
pub fn holder_id(uid: &str) -> String {
    format!("{uid}.holder")
}

impl Runtime {
    /// Starts the holder of a pod, or finds it running, and returns its pid.
    ///
    /// # Errors
    /// Also when there is one that has ended: its namespace can't be joined any more.
    pub async fn holder_start(
        &self,
        pod: &PodRef,
        cgroup_parent: &str,
        namespaces: &Namespaces,
        handler: &Handler,
    ) -> Result<u32, Error> {
        let id = holder_id(&pod.uid);
        match self.holder(&pod.uid).await?.map(|h| h.state) {
            Some(State::Running { pid, .. }) => return Ok(pid),
            Some(State::Exited { .. }) => {
                return Err(Error::invalid("holder", id, "has ended"));
            }
            Some(State::Created) | None => {}
        }
        let spec = ContainerSpec {
            pod: pod.clone(),
            kind: Kind::Holder,
            command: vec![PROGRAM.into(), "hold".into()],
            namespaces: Namespaces {
                pid: Namespace::Private,
                ..namespaces.clone()
            },
            mounts: vec![Mount {
                host_path: self.config().logger.clone(),
                container_path: PROGRAM.into(),
                read_only: true,
                ..Mount::default()
            }],
            security: Security {
                cap_drop: vec!["ALL".into()],
                no_new_privileges: true,
                read_only_rootfs: true,
                ..Security::default()
            },
            cgroup_parent: cgroup_parent.to_owned(),
            oom_score_adj: OOM_SCORE,
            shim_group: Some(self.shim_group(&pod.uid)),
            handler: handler.clone(),
            ..ContainerSpec::default()
        };
        self.holder_create(&id, &spec).await?;
        let held = self.container_start(Created::earlier(id.as_str())).await?;
        match held.state {
            State::Running { pid, .. } => Ok(pid),
            _ => Err(Error::invalid("holder", id, "has ended")),
        }
    }

    async fn holder_create(&self, id: &str, spec: &ContainerSpec) -> Result<(), Error> {
        let facts = Facts {
            capabilities: self.inner.capabilities,
            oom_floor: self.inner.oom_floor,
            unified: unified(),
            ..Facts::default()
        };
        let mut oci = spec::build(id, spec, &ImageConfig::default(), &facts)?;
        let root = RootBuilder::default()
            .path(self.holder_root()?)
            .readonly(true)
            .build()
            .map_err(spec::unbuilt)?;
        oci.set_root(Some(root));
        let message = CreateContainerRequest {
            container: Some(self.describe_bare(id, spec, "", &oci)?),
        };
        or_exists(ask!(
            self.client(),
            containers.create(message),
            QUICK,
            "create container",
            id
        ))?;
        Ok(())
    }

    /// An empty directory that all holders have as their root; runc makes the places of their mounts in it.
    fn holder_root(&self) -> Result<PathBuf, Error> {
        let dir = self.config().run_dir.join("holder");
        fs::create_dir_all(&dir).map_err(Error::io("make", dir.display()))?;
        Ok(dir)
    }

    /// A pod's holder.
    pub async fn holder(&self, uid: &str) -> Result<Option<Container>, Error> {
        self.container(&holder_id(uid)).await
    }

    /// Ends a pod's holder and forgets it; success when there is none.
    pub async fn holder_remove(&self, uid: &str) -> Result<(), Error> {
        self.container_remove(&holder_id(uid)).await
    }
}
