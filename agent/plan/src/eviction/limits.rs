//! What a pod may have on disk: `sizeLimit` of its emptyDirs and `ephemeral-storage` limits of its containers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};

use super::{quantity, text};
use crate::quantity::binary;
use crate::resources;

const STORAGE: &str = "ephemeral-storage";

/// Bytes of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerDisk {
    /// Its own layer.
    pub root: u64,
    /// Its logs.
    pub logs: u64,
}

/// Bytes that a pod has on the node's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDisk {
    /// emptyDirs, by the volume's name.
    pub empty_dirs: BTreeMap<String, u64>,
    /// By container.
    pub containers: BTreeMap<String, ContainerDisk>,
    /// Other volumes of files.
    pub other: u64,
}

impl PodDisk {
    fn total(&self) -> u64 {
        let volumes: u64 = self.empty_dirs.values().sum();
        let containers: u64 = self.containers.values().map(|c| c.root + c.logs).sum();
        volumes + containers + self.other
    }
}

/// What has to be measured of a pod to hold it to its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Its emptyDirs.
    pub empty_dirs: bool,
    /// All it has.
    pub all: bool,
}

/// What has to be measured; nothing of most pods.
pub fn needs(pod: &Pod) -> Needs {
    let Some(spec) = &pod.spec else {
        return Needs::default();
    };
    let limited = |v: &k8s_openapi::api::core::v1::Volume| {
        v.empty_dir.as_ref().is_some_and(|e| limit(e).is_some())
    };
    Needs {
        empty_dirs: spec.volumes.iter().flatten().any(limited),
        all: resources::limit(spec, STORAGE).is_some(),
    }
}

/// Whether an emptyDir is on disk.
pub fn is_on_disk(volume: &EmptyDirVolumeSource) -> bool {
    volume.medium.as_deref().unwrap_or_default().is_empty()
}

/// The limit of an emptyDir on disk and how it is written; one in memory has it from its mount.
fn limit(volume: &EmptyDirVolumeSource) -> Option<(u64, &str)> {
    let size = volume.size_limit.as_ref().filter(|_| is_on_disk(volume))?;
    let bytes = quantity(&size.0).filter(|n| *n > 0)?;
    Some((bytes, &size.0))
}

/// Why the pod must go, if it must. `dedicated`: containers' layers are on a file system of their own, and do not
/// count against a container's limit.
pub fn exceeded(pod: &Pod, disk: &PodDisk, dedicated: bool) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let used = disk.empty_dirs.get(&volume.name);
        let limit = volume.empty_dir.as_ref().and_then(limit);
        if let (Some(used), Some((bytes, limit))) = (used, limit)
            && *used > bytes
        {
            return Some(text::empty_dir(&volume.name, limit));
        }
    }
    if let Some(total) = resources::limit(spec, STORAGE) {
        let bytes = u64::try_from(total / 1000).unwrap_or(0);
        if disk.total() > bytes {
            return Some(text::pod_storage(&binary(bytes)));
        }
    }
    spec.containers.iter().find_map(|c| {
        let limit = c.resources.as_ref()?.limits.as_ref()?.get(STORAGE)?;
        let bytes = quantity(&limit.0).filter(|n| *n > 0)?;
        let own = disk.containers.get(&c.name)?;
        let used = own.logs + if dedicated { 0 } else { own.root };
        (used > bytes).then(|| text::container_storage(&c.name, &limit.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const MI: u64 = 1 << 20;

    fn pod(limits: &[Option<&str>], size: Value) -> Pod {
        let container = |(i, limit): (usize, &Option<&str>)| {
            let limits = limit.map_or(json!({}), |l| json!({STORAGE: l}));
            json!({"name": format!("c{i}"), "resources": {"limits": limits}})
        };
        let containers: Vec<Value> = limits.iter().enumerate().map(container).collect();
        let spec = json!({"containers": containers, "volumes": [{"name": "v", "emptyDir": size}]});
        serde_json::from_value(json!({"spec": spec})).expect("pod")
    }

    fn disk(volume: u64, containers: &[(u64, u64)]) -> PodDisk {
        let all = containers.iter().enumerate();
        let all = all.map(|(i, (root, logs))| {
            (
                format!("c{i}"),
                ContainerDisk {
                    root: *root,
                    logs: *logs,
                },
            )
        });
        PodDisk {
            empty_dirs: [("v".to_owned(), volume)].into(),
            containers: all.collect(),
            other: 0,
        }
    }

    #[test]
    fn limits() {
        let v = r#"Usage of EmptyDir volume "v" exceeds the limit "1Mi". "#;
        let all = |n: &str| {
            format!("Pod ephemeral local storage usage exceeds the total limit of containers {n}. ")
        };
        let one = r#"Container c1 exceeded its local ephemeral storage limit "1Mi". "#;
        let none = || json!({});
        type Row = (&'static str, Pod, PodDisk, bool, Option<String>);
        let rows: Vec<Row> = vec![
            (
                "nothing limited",
                pod(&[None], none()),
                disk(MI * 900, &[(MI * 900, MI)]),
                false,
                None,
            ),
            (
                "emptyDir at its limit",
                pod(&[None], json!({"sizeLimit": "1Mi"})),
                disk(MI, &[]),
                false,
                None,
            ),
            (
                "emptyDir above it",
                pod(&[None], json!({"sizeLimit": "1Mi"})),
                disk(MI + 1, &[]),
                false,
                Some(v.into()),
            ),
            (
                "emptyDir of no size",
                pod(&[None], json!({"sizeLimit": "0"})),
                disk(MI, &[]),
                false,
                None,
            ),
            (
                "emptyDir in memory",
                pod(&[None], json!({"sizeLimit": "1Mi", "medium": "Memory"})),
                disk(MI * 2, &[]),
                false,
                None,
            ),
            (
                "all of the pod counts against the sum",
                pod(&[Some("1Mi"), Some("2Mi")], none()),
                disk(MI, &[(MI, 0), (MI, 1)]),
                false,
                Some(all("3Mi")),
            ),
            (
                "the sum is not reached",
                pod(&[Some("1Mi"), Some("2Mi")], none()),
                disk(MI, &[(MI, 0), (MI, 0)]),
                false,
                None,
            ),
            (
                "one container's limit is the pod's",
                pod(&[None, Some("2Mi")], none()),
                disk(0, &[(2 * MI, 0), (0, 1)]),
                false,
                Some(all("2Mi")),
            ),
            (
                "one container alone",
                pod(&[Some("8Mi"), Some("1Mi")], none()),
                disk(0, &[(0, 0), (MI, 1)]),
                false,
                Some(one.into()),
            ),
            (
                "its layer is elsewhere",
                pod(&[Some("8Mi"), Some("1Mi")], none()),
                disk(0, &[(0, 0), (MI, 1)]),
                true,
                None,
            ),
            (
                "its logs are not",
                pod(&[Some("8Mi"), Some("1Mi")], none()),
                disk(0, &[(0, 0), (0, MI + 1)]),
                true,
                Some(one.into()),
            ),
            (
                "not measured",
                pod(&[Some("1Mi")], json!({"sizeLimit": "1Mi"})),
                PodDisk::default(),
                false,
                None,
            ),
        ];
        for (name, pod, disk, dedicated, want) in rows {
            assert_eq!(exceeded(&pod, &disk, dedicated), want, "{name}");
        }
    }

    #[test]
    fn most_pods_need_no_measuring() {
        let rows = [
            (pod(&[None], json!({})), (false, false)),
            (pod(&[None], json!({"sizeLimit": "1Mi"})), (true, false)),
            (pod(&[Some("1Gi"), None], json!({})), (false, true)),
        ];
        for (pod, (empty_dirs, all)) in rows {
            assert_eq!(needs(&pod), Needs { empty_dirs, all });
        }
    }
}
