//! What containers and pods use, from their cgroups.

use std::fs;
use std::path::Path;

use crate::cgroup::{controller_dir, unified};
use crate::error::Error;
use crate::runtime::Runtime;

/// Usage of one cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used since the start, nanoseconds.
    pub cpu_nanos: u64,
    /// Memory charged, bytes.
    pub memory_usage: u64,
    /// Memory charged without inactive page cache, bytes: what eviction and `kubectl top` go by.
    pub memory_working_set: u64,
    /// Anonymous memory, bytes.
    pub memory_rss: u64,
    /// Tasks.
    pub pids: u64,
}

impl Runtime {
    /// Usage of a container.
    pub async fn stats(&self, id: &str) -> Result<Stats, Error> {
        let labels = self.container_labels(id).await?;
        let path = labels.get(crate::container::label::CGROUP);
        let path = path.ok_or_else(|| Error::not_found("cgroup of container", id))?;
        read(path)
    }

    /// Usage of all pods together.
    pub fn pods_stats(&self) -> Result<Stats, Error> {
        read(&self.pods_cgroup())
    }

    /// Usage of a pod's cgroup, with all containers.
    pub fn pod_stats(&self, uid: &str) -> Result<Stats, Error> {
        let pods = self.pod_cgroups()?;
        let (_, qos) = pods
            .into_iter()
            .find(|(pod, _)| pod == uid)
            .ok_or_else(|| Error::not_found("cgroup of pod", uid))?;
        read(&self.pod_cgroup(uid, qos))
    }
}

/// How often the kernel killed a process of the cgroup for memory; 0 when the cgroup is gone.
pub(crate) fn oom_kills(path: &str) -> u64 {
    let file = match unified() {
        true => "memory.events",
        false => "memory.oom_control",
    };
    let dir = controller_dir("memory", path);
    let text = dir.and_then(|dir| fs::read_to_string(dir.join(file)).ok());
    text.map_or(0, |text| field(&text, "oom_kill"))
}

fn read(path: &str) -> Result<Stats, Error> {
    let dir = |controller: &str| {
        let dir = controller_dir(controller, path).filter(|dir| dir.is_dir());
        dir.ok_or_else(|| Error::not_found("cgroup", format!("{controller}:{path}")))
    };
    let memory = dir("memory")?;
    let stat = fs::read_to_string(memory.join("memory.stat")).unwrap_or_default();
    let pids = number(&dir("pids")?.join("pids.current"));
    let (cpu_nanos, memory_usage, inactive, memory_rss) = match unified() {
        true => {
            let cpu = fs::read_to_string(memory.join("cpu.stat")).unwrap_or_default();
            (
                field(&cpu, "usage_usec") * 1000,
                number(&memory.join("memory.current")),
                field(&stat, "inactive_file"),
                field(&stat, "anon"),
            )
        }
        false => (
            number(&dir("cpuacct")?.join("cpuacct.usage")),
            number(&memory.join("memory.usage_in_bytes")),
            field(&stat, "total_inactive_file"),
            field(&stat, "total_rss"),
        ),
    };
    Ok(Stats {
        cpu_nanos,
        memory_usage,
        memory_working_set: memory_usage.saturating_sub(inactive),
        memory_rss,
        pids,
    })
}

fn number(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

fn field(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(key)?
                .strip_prefix(' ')?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_key() {
        let text = "oom_kill_disable 7\nunder_oom 0\noom_kill 2\n";
        assert_eq!(field(text, "oom_kill"), 2);
        assert_eq!(field(text, "oom"), 0);
    }
}
