//! What pods and the node's own parts use. Everything is read when somebody asks, and no more than is asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use keelson_agent_io::endpoint::figures::{
    ContainerUse, Cpu, Depth, DeviceIo, Disk, Limits, Memory, PodUse, System, Usage, VolumeUse,
};
use keelson_agent_io::node::{FileSystem, file_system};
use keelson_agent_io::usage::usage as count;
use keelson_agent_plan::{AttemptState, names, resources};
use keelson_runtime::{Stats, cgroup_stats, cgroup_usage, container_cgroup};

use crate::apply::qos;
use crate::shared::{Entry, Shared, chain};
use crate::{csi, volumes};

/// All pods with containers that run.
pub(crate) async fn pods(shared: &Arc<Shared>, depth: Depth) -> Vec<PodUse> {
    let entries: Vec<Entry> = shared.entries().values().cloned().collect();
    let mut found: Vec<(PodUse, Entry)> = entries
        .into_iter()
        .filter_map(|entry| Some((pod(shared, &entry)?, entry)))
        .collect();
    found.sort_by(|(a, _), (b, _)| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    if depth > Depth::Resource {
        networks(&mut found).await;
    }
    if depth == Depth::Disk {
        layers(shared, &mut found).await;
    }
    let own = shared.clone();
    let read = tokio::task::spawn_blocking(move || {
        for (pod, entry) in &mut found {
            measure(&own, pod, entry, depth);
        }
        found.into_iter().map(|(pod, _)| pod).collect()
    });
    let mut pods: Vec<PodUse> = read.await.unwrap_or_default();
    for pod in &mut pods {
        drivers(shared, pod).await;
    }
    pods
}

/// Volumes of drivers that tell how full they are.
async fn drivers(shared: &Shared, pod: &mut PodUse) {
    for volume in &mut pod.volumes {
        let Ok(record) = shared.volumes.recorded(&pod.uid, &volume.name) else {
            continue;
        };
        let Some(told) = csi::usage(shared, &record).await else {
            continue;
        };
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        let ((size, used, free), inodes) = (told.bytes, told.inodes);
        volume.on = FileSystem {
            size: count(size),
            available: count(free),
            inodes: count(inodes.0),
            inodes_free: count(inodes.2),
            ..volume.on
        };
        volume.used = Disk {
            bytes: count(used),
            inodes: count(inodes.1),
        };
    }
}

/// A pod as far as it is known without reading anything.
fn pod(shared: &Shared, entry: &Entry) -> Option<PodUse> {
    let (m, spec) = (&entry.pod.metadata, entry.pod.spec.as_ref()?);
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    let uid = text(&m.uid);
    let cgroup = shared.runtime.pod_cgroup(&uid, qos(resources::qos(spec)));
    let mut containers = Vec::new();
    for (name, runs) in entry.containers.iter() {
        let Some(run) = runs.last() else { continue };
        let AttemptState::Running { started, .. } = run.state else {
            continue;
        };
        containers.push(ContainerUse {
            name: name.clone(),
            id: run.id.clone(),
            image: run.image.clone(),
            cgroup: container_cgroup(&cgroup, &run.id),
            started,
            ..ContainerUse::default()
        });
    }
    let first = containers.iter().map(|c| c.started).min()?;
    let started = entry.status.start_time.as_ref().map(|t| t.0);
    Some(PodUse {
        namespace: text(&m.namespace),
        name: text(&m.name),
        started: started.unwrap_or(first),
        cgroup,
        containers,
        uid,
        ..PodUse::default()
    })
}

async fn networks(found: &mut [(PodUse, Entry)]) {
    let with = |(_, e): &&mut (PodUse, Entry)| e.netns.is_some();
    let paths: Vec<PathBuf> = found.iter().filter_map(|(_, e)| e.netns.clone()).collect();
    let interfaces = keelson_agent_io::interfaces(paths).await;
    let interfaces = interfaces
        .inspect_err(|error| tracing::warn!(%error, "pods' interfaces cannot be read"))
        .unwrap_or_default();
    for ((pod, _), interfaces) in found.iter_mut().filter(with).zip(interfaces) {
        pod.network = interfaces;
    }
}

/// Writable layers: containerd counts them.
async fn layers(shared: &Shared, found: &mut [(PodUse, Entry)]) {
    let all = found.iter_mut().flat_map(|(p, _)| &mut p.containers);
    for container in all {
        match shared.runtime.layer_usage(&container.id).await {
            Ok(used) => {
                container.rootfs = Some(Disk {
                    bytes: used.bytes,
                    inodes: used.inodes,
                });
            }
            Err(error) => {
                tracing::debug!(container = container.id, error = %chain(&error), "layer not counted")
            }
        }
    }
}

fn measure(shared: &Shared, pod: &mut PodUse, entry: &Entry, depth: Depth) {
    pod.usage = read(&pod.cgroup, depth);
    for container in &mut pod.containers {
        container.usage = read(&container.cgroup, depth);
        if depth == Depth::Disk {
            let root = &shared.config.log_dir;
            let dir = names::container_log_dir(root, &entry.pod, &container.name);
            container.logs = count(&dir).ok();
        }
    }
    if depth == Depth::Disk {
        pod.volumes = volumes_of(shared, &pod.uid, &entry.pod);
    }
}

fn volumes_of(shared: &Shared, uid: &str, pod: &Pod) -> Vec<VolumeUse> {
    let all = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    // What a hostPath leads to is not the pod's, and may be everything.
    let ours = all.filter(|v| v.host_path.is_none());
    let place = |v| volumes::place(shared, uid, v).ok();
    ours.filter_map(|v| volume(v, &place(v).filter(|p| !p.is_block)?.path))
        .collect()
}

fn volume(v: &Volume, path: &Path) -> Option<VolumeUse> {
    let medium = v.empty_dir.as_ref().and_then(|e| e.medium.as_deref());
    let claim = v.persistent_volume_claim.as_ref();
    Some(VolumeUse {
        name: v.name.clone(),
        claim: claim.map(|c| c.claim_name.clone()),
        on: file_system(path).ok()?,
        used: count(path).ok()?,
        ephemeral: v.empty_dir.is_some() && medium.is_none_or(str::is_empty),
    })
}

fn read(cgroup: &str, depth: Depth) -> Option<Usage> {
    let at = Timestamp::now();
    if depth == Depth::Resource {
        let stats = cgroup_stats(cgroup).ok()?;
        return Some(usage(at, &stats));
    }
    let found = cgroup_usage(cgroup).ok()?;
    let l = found.limits;
    let io = found.io.into_iter().map(|d| DeviceIo {
        device: d.device,
        read_bytes: d.read_bytes,
        write_bytes: d.write_bytes,
        reads: d.reads,
        writes: d.writes,
    });
    Some(Usage {
        processes: found.processes,
        limits: Limits {
            cpu_shares: l.cpu_shares,
            cpu_quota: l.cpu_quota,
            cpu_period: l.cpu_period,
            memory: l.memory,
            memory_reservation: l.memory_reservation,
            swap: l.swap,
            pids: l.pids,
        },
        io: io.collect(),
        ..usage(at, &found.stats)
    })
}

fn usage(at: Timestamp, s: &Stats) -> Usage {
    Usage {
        at,
        cpu: Cpu {
            total: s.cpu_nanos,
            user: s.cpu_user_nanos,
            system: s.cpu_system_nanos,
            periods: s.cpu_periods,
            throttled_periods: s.cpu_throttled_periods,
            throttled: s.cpu_throttled_nanos,
        },
        memory: Memory {
            usage: s.memory_usage,
            working_set: s.memory_working_set,
            rss: s.memory_rss,
            cache: s.memory_cache,
            mapped_file: s.memory_mapped_file,
            active_file: s.memory_active_file,
            inactive_file: s.memory_inactive_file,
            kernel: s.memory_kernel,
            peak: s.memory_peak,
            swap: s.swap,
            failures: s.memory_failures,
            oom_kills: s.oom_kills,
            page_faults: s.page_faults,
            major_page_faults: s.major_page_faults,
        },
        tasks: s.pids,
        ..Usage::default()
    }
}

/// The cgroups of this process, of containerd and of all pods, as far as they have ones of their own.
pub(crate) async fn system(shared: &Arc<Shared>, depth: Depth) -> System {
    let runtime = shared.runtime.process().await;
    let images = match depth {
        Depth::Disk => shared.runtime.image_root().await.ok().flatten(),
        _ => None,
    };
    let shared = shared.clone();
    let read = tokio::task::spawn_blocking(move || {
        let own = cgroup_of("self");
        let runtime = runtime.and_then(|pid| cgroup_of(&pid.to_string()));
        let pods = Some(format!("/{}", shared.config.cgroup_root.trim_matches('/')));
        // Two in one cgroup cannot be told apart.
        let (own, runtime) = match own == runtime {
            true => (None, None),
            false => (own, runtime),
        };
        let parts = [("kubelet", own), ("runtime", runtime), ("pods", pods)];
        let measured = parts.into_iter().filter_map(|(name, cgroup)| {
            let cgroup = cgroup?;
            Some((name, made(&cgroup)?, read(&cgroup, depth)?))
        });
        System {
            containers: measured.collect(),
            images: images.and_then(|root| file_system(&root).ok()),
        }
    });
    read.await.unwrap_or_default()
}

/// The cgroup of a process, if it is not the root.
fn cgroup_of(pid: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    own_cgroup(&text).filter(|path| path != "/")
}

/// From `/proc/<pid>/cgroup`: on v1 where memory is counted.
fn own_cgroup(text: &str) -> Option<String> {
    let parts = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((parts.next()?, parts.next()?))
    });
    let (mut unified, mut memory) = (None, None);
    for (controllers, path) in parts {
        match controllers {
            "" => unified = Some(path.to_owned()),
            list if list.split(',').any(|c| c == "memory") => memory = Some(path.to_owned()),
            _ => {}
        }
    }
    memory.or(unified)
}

/// When a cgroup was made.
fn made(cgroup: &str) -> Option<Timestamp> {
    let found = keelson_runtime::cgroup_made(cgroup)?;
    Timestamp::try_from(found).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_where_memory_is_counted() {
        for (text, want) in [
            (
                "0::/system.slice/keelson.service\n",
                Some("/system.slice/keelson.service"),
            ),
            ("4:memory:/a:b\n3:cpu,cpuacct:/c\n0::/d\n", Some("/a:b")),
            ("3:cpu,cpuacct:/c\n", None),
            ("", None),
        ] {
            assert_eq!(own_cgroup(text).as_deref(), want, "{text:?}");
        }
    }
}
