//! Changing the limits of a container that runs.

use containerd_client::services::v1::UpdateTaskRequest;
use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxResourcesBuilder};
use prost_types::Any;

use super::label;
use crate::cgroup::{Qos, container_cgroup, controller_dir, write_unified};
use crate::client::ask;
use crate::error::Error;
use crate::model::Resources;
use crate::runtime::Runtime;
use crate::spec::unbuilt;

const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

impl Runtime {
    /// The CPUs a container may use, in the kernel's list format, empty where nothing was set; `None` when it has no cgroup.
    pub fn container_cpus(&self, uid: &str, qos: Qos, id: &str) -> Option<String> {
        let path = container_cgroup(&self.pod_cgroup(uid, qos), id);
        let file = controller_dir("cpuset", &path)?.join("cpuset.cpus");
        std::fs::read_to_string(file).ok()
    }

    /// Writes CPU and memory limits and CPUs of a running container; what is unset stays as it is.
    ///
    /// # Errors
    /// Also for a memory limit below what is in use: the kernel would kill for it, or refuse.
    pub async fn container_update(&self, id: &str, wanted: &Resources) -> Result<(), Error> {
        if let Some(limit) = wanted.memory_limit {
            let usage = self.stats(id).await?.memory_usage;
            if u64::try_from(limit).is_ok_and(|limit| limit < usage) {
                return Err(Error::invalid(
                    "memory limit",
                    limit.to_string(),
                    format!("below current usage ({usage})"),
                ));
            }
        }
        if !wanted.unified.is_empty() {
            let mut labels = self.container_labels(id).await?;
            let path = labels.remove(label::CGROUP).unwrap_or_default();
            write_unified(&path, &wanted.unified)?;
        }
        let mut cpu = LinuxCpuBuilder::default();
        if let Some(shares) = wanted.cpu_shares {
            cpu = cpu.shares(shares);
        }
        if let Some(period) = wanted.cpu_period {
            cpu = cpu.period(period);
        }
        if let Some(quota) = wanted.cpu_quota {
            cpu = cpu.quota(quota);
        }
        if let Some(cpus) = &wanted.cpuset_cpus {
            cpu = cpu.cpus(cpus.clone());
        }
        if let Some(mems) = &wanted.cpuset_mems {
            cpu = cpu.mems(mems.clone());
        }
        let mut resources = LinuxResourcesBuilder::default().cpu(cpu.build().map_err(unbuilt)?);
        if let Some(limit) = wanted.memory_limit {
            let memory = LinuxMemoryBuilder::default().limit(limit);
            resources = resources.memory(memory.build().map_err(unbuilt)?);
        }
        let resources = resources.build().map_err(unbuilt)?;
        let value = serde_json::to_vec(&resources)
            .map_err(|error| Error::invalid("resources of container", id, error.to_string()))?;
        let message = UpdateTaskRequest {
            container_id: id.to_owned(),
            resources: Some(Any {
                type_url: RESOURCES_TYPE.into(),
                value,
            }),
            ..UpdateTaskRequest::default()
        };
        ask!(
            self.client(),
            tasks.update(message),
            self.patience(),
            "update container",
            id
        )
        .map(drop)
    }
}
