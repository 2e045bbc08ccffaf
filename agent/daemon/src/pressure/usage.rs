//! What a pod uses of what is short.

use std::collections::BTreeMap;
use std::path::PathBuf;

use keelson_agent_io::usage::{Usage, usage};
use keelson_agent_io::volumes::{Medium, Plugin, Source};
use keelson_agent_plan::eviction::limits::{self, ContainerDisk, Needs, PodDisk};
use keelson_agent_plan::eviction::{Measure, Parts};
use keelson_agent_plan::names;

use super::uid;
use crate::shared::{Entry, Shared, chain};

/// What a pod has on disk.
#[derive(Default)]
pub(super) struct Disk {
    /// Bytes.
    pub(super) bytes: PodDisk,
    /// Inodes of containers' own layers, and of logs and volumes.
    inodes: (u64, u64),
}

/// Measures a pod: its emptyDirs, and what else its limits count.
pub(super) async fn disk(shared: &Shared, entry: &Entry, needs: Needs) -> Disk {
    let mut disk = Disk::default();
    for (name, path) in empty_dirs(shared, entry) {
        let used = walk(path).await;
        disk.inodes.1 += used.inodes;
        disk.bytes.empty_dirs.insert(name, used.bytes);
    }
    if !needs.all {
        return disk;
    }
    for path in files(shared, entry) {
        let used = walk(path).await;
        disk.inodes.1 += used.inodes;
        disk.bytes.other += used.bytes;
    }
    for (name, runs) in entry.containers.iter() {
        let dir = names::container_log_dir(&shared.config.log_dir, &entry.pod, name);
        let logs = walk(dir).await;
        let mut own = ContainerDisk {
            root: 0,
            logs: logs.bytes,
        };
        disk.inodes.1 += logs.inodes;
        if let Some(run) = runs.last() {
            match shared.runtime.layer_usage(&run.id).await {
                Ok(layer) => {
                    own.root = layer.bytes;
                    disk.inodes.0 += layer.inodes;
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    tracing::warn!(container = run.id, error = %chain(&error), "layer cannot be measured")
                }
            }
        }
        disk.bytes.containers.insert(name.clone(), own);
    }
    disk
}

/// What a pod uses; `None` when nobody knows.
pub(super) async fn of_pod(shared: &Shared, entry: &Entry, measure: Measure) -> Option<u64> {
    let parts =
        |p: Parts, root: u64, local: u64| u64::from(p.root) * root + u64::from(p.local) * local;
    match measure {
        Measure::Memory => stats(shared, entry).map(|s| s.memory_working_set),
        Measure::Pids => stats(shared, entry).map(|s| s.pids),
        Measure::Disk(p) => {
            let bytes = disk(shared, entry, ALL).await.bytes;
            let root = bytes.containers.values().map(|c| c.root).sum();
            let logs: u64 = bytes.containers.values().map(|c| c.logs).sum();
            let volumes: u64 = bytes.empty_dirs.values().sum();
            Some(parts(p, root, logs + volumes + bytes.other))
        }
        Measure::Inodes(p) => {
            let (root, local) = disk(shared, entry, ALL).await.inodes;
            Some(parts(p, root, local))
        }
    }
}

/// The same by container, of what is counted so: memory, and bytes of layers and logs.
pub(super) async fn by_container(
    shared: &Shared,
    entry: &Entry,
    measure: Measure,
) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    match measure {
        Measure::Memory => {
            for (name, runs) in entry.containers.iter() {
                let Some(run) = runs.last().filter(|r| r.is_running()) else {
                    continue;
                };
                if let Ok(stats) = shared.runtime.stats(&run.id).await {
                    all.insert(name.clone(), stats.memory_working_set);
                }
            }
        }
        Measure::Disk(_) => {
            let bytes = disk(shared, entry, ALL).await.bytes;
            all.extend(
                bytes
                    .containers
                    .into_iter()
                    .map(|(name, c)| (name, c.root + c.logs)),
            );
        }
        Measure::Inodes(_) | Measure::Pids => {}
    }
    all
}

const ALL: Needs = Needs {
    empty_dirs: true,
    all: true,
};

/// Usage of a pod's cgroup; nothing before it has one.
fn stats(shared: &Shared, entry: &Entry) -> Option<keelson_runtime::Stats> {
    match shared.runtime.pod_stats(&uid(entry)) {
        Ok(stats) => Some(stats),
        Err(error) if error.is_not_found() => Some(keelson_runtime::Stats::default()),
        Err(error) => {
            tracing::warn!(pod = entry.pod.metadata.name, error = %chain(&error), "pod cannot be measured");
            None
        }
    }
}

async fn walk(dir: PathBuf) -> Usage {
    let shown = dir.display().to_string();
    let done = tokio::task::spawn_blocking(move || usage(&dir)).await;
    let done = done.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    done.unwrap_or_else(|error| {
        tracing::warn!(dir = shown, %error, "directory cannot be measured");
        Usage::default()
    })
}

/// emptyDirs on disk.
fn empty_dirs(shared: &Shared, entry: &Entry) -> Vec<(String, PathBuf)> {
    let source = Source::EmptyDir {
        medium: Medium::Disk,
        size_limit: None,
    };
    let volumes = entry
        .pod
        .spec
        .iter()
        .flat_map(|s| s.volumes.iter().flatten());
    let on_disk = volumes.filter(|v| v.empty_dir.as_ref().is_some_and(limits::is_on_disk));
    let path = |name: &String| shared.volumes.path(&uid(entry), name, &source).ok();
    on_disk
        .filter_map(|v| Some((v.name.clone(), path(&v.name)?)))
        .collect()
}

/// Directories of other volumes on disk; secrets and the like are in memory.
fn files(shared: &Shared, entry: &Entry) -> Vec<PathBuf> {
    let Ok(pod) = shared.volumes.pod_dir(&uid(entry)) else {
        return Vec::new();
    };
    vec![pod.join("volumes").join(Plugin::ConfigMap.dir())]
}
