//! What containers and pods use, from their cgroups: v1 and v2 in the same figures. Nothing is kept, files are read
//! when somebody asks.

use std::fs;
use std::path::PathBuf;

use crate::cgroup::{controller_dir, unified};
use crate::error::Error;
use crate::runtime::Runtime;

/// Usage of one cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used since the start, nanoseconds.
    pub cpu_nanos: u64,
    /// The part of it in user space.
    pub cpu_user_nanos: u64,
    /// The part of it in the kernel.
    pub cpu_system_nanos: u64,
    /// Periods of the CPU quota that have passed.
    pub cpu_periods: u64,
    /// Those in which the quota was used up.
    pub cpu_throttled_periods: u64,
    /// How long tasks waited for the next period, nanoseconds.
    pub cpu_throttled_nanos: u64,
    /// Memory charged, bytes.
    pub memory_usage: u64,
    /// Memory charged without inactive page cache, bytes: what eviction and `kubectl top` go by.
    pub memory_working_set: u64,
    /// Anonymous memory, bytes.
    pub memory_rss: u64,
    /// Page cache, bytes.
    pub memory_cache: u64,
    /// Files mapped into memory, bytes.
    pub memory_mapped_file: u64,
    /// Page cache in use lately, bytes.
    pub memory_active_file: u64,
    /// Page cache that can be dropped at once, bytes.
    pub memory_inactive_file: u64,
    /// Memory of the kernel's own, bytes.
    pub memory_kernel: u64,
    /// The most memory ever charged, bytes; 0 where the kernel does not tell.
    pub memory_peak: u64,
    /// Swap in use, bytes.
    pub swap: u64,
    /// How often the memory limit was hit.
    pub memory_failures: u64,
    /// How often the kernel killed a process for memory.
    pub oom_kills: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that had to read.
    pub major_page_faults: u64,
    /// Tasks.
    pub pids: u64,
}

/// Limits of one cgroup, as the kernel has them. `None`: there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// cpu.shares; a weight is converted back.
    pub cpu_shares: Option<u64>,
    /// CPU time a period, microseconds.
    pub cpu_quota: Option<u64>,
    /// Length of the period, microseconds.
    pub cpu_period: Option<u64>,
    /// Memory, bytes.
    pub memory: Option<u64>,
    /// Memory kept from others' pressure, bytes.
    pub memory_reservation: Option<u64>,
    /// Swap, bytes.
    pub swap: Option<u64>,
    /// Tasks.
    pub pids: Option<u64>,
}

/// What a cgroup has read from and written to one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// `major:minor`.
    pub device: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// All figures of one cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// What it uses.
    pub stats: Stats,
    /// What it may use.
    pub limits: Limits,
    /// Block devices.
    pub io: Vec<DeviceIo>,
    /// Processes; tasks are counted in [`Stats::pids`].
    pub processes: u64,
}

impl Runtime {
    /// Usage of a container.
    pub async fn stats(&self, id: &str) -> Result<Stats, Error> {
        let labels = self.container_labels(id).await?;
        let path = labels.get(crate::container::label::CGROUP);
        let path = path.ok_or_else(|| Error::not_found("cgroup of container", id))?;
        cgroup_stats(path)
    }

    /// Usage of all pods together.
    pub fn pods_stats(&self) -> Result<Stats, Error> {
        cgroup_stats(&self.pods_cgroup())
    }

    /// Usage of a pod's cgroup, with all containers.
    pub fn pod_stats(&self, uid: &str) -> Result<Stats, Error> {
        let path = self.pod_cgroup_found(uid);
        cgroup_stats(&path.ok_or_else(|| Error::not_found("cgroup of pod", uid))?)
    }

    /// containerd's process, if its socket tells.
    pub async fn process(&self) -> Option<i32> {
        let stream = tokio::net::UnixStream::connect(&self.config().socket).await;
        stream.ok()?.peer_cred().ok()?.pid()
    }
}

/// When a cgroup was made; `None` when it is gone.
pub fn cgroup_made(path: &str) -> Option<std::time::SystemTime> {
    let dir = controller_dir("memory", path)?;
    fs::metadata(dir).ok()?.modified().ok()
}

/// What a cgroup uses, by its path within the hierarchy ([`Runtime::pod_cgroup`]).
pub fn cgroup_stats(path: &str) -> Result<Stats, Error> {
    Ok(Group::open(path)?.stats())
}

/// All figures of a cgroup.
pub fn cgroup_usage(path: &str) -> Result<Usage, Error> {
    let group = Group::open(path)?;
    Ok(Usage {
        stats: group.stats(),
        limits: group.limits(),
        io: group.io(),
        processes: group.text("pids", "cgroup.procs").lines().count() as u64,
    })
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

/// Where a controller's files are.
type Place = Box<dyn Fn(&str) -> Option<PathBuf>>;

/// A cgroup's directories, by controller.
struct Group {
    unified: bool,
    dir: Place,
}

impl Group {
    fn open(path: &str) -> Result<Group, Error> {
        let path = path.to_owned();
        let known = controller_dir("memory", &path).is_some_and(|dir| dir.is_dir());
        if !known {
            return Err(Error::not_found("cgroup", path));
        }
        Ok(Group {
            unified: unified(),
            dir: Box::new(move |controller| controller_dir(controller, &path)),
        })
    }

    /// Empty when there is no such file: older kernels have fewer, and a cgroup may end at any time.
    fn text(&self, controller: &str, file: &str) -> String {
        let dir = (self.dir)(controller);
        dir.and_then(|dir| fs::read_to_string(dir.join(file)).ok())
            .unwrap_or_default()
    }

    fn number(&self, controller: &str, file: &str) -> u64 {
        self.text(controller, file)
            .trim()
            .parse()
            .unwrap_or_default()
    }

    /// A limit; `max` on v2 and the largest number of pages on v1 are none.
    fn limit(&self, controller: &str, file: &str) -> Option<u64> {
        let text = self.text(controller, file);
        let limit = text.trim().parse::<u64>().ok()?;
        (limit < (i64::MAX as u64) - PAGE_ROUNDING).then_some(limit)
    }

    fn stats(&self) -> Stats {
        let memory = self.text("memory", "memory.stat");
        let cpu = self.text("cpu", "cpu.stat");
        let stats = match self.unified {
            true => self.stats_v2(&cpu, &memory),
            false => self.stats_v1(&cpu, &memory),
        };
        Stats {
            cpu_periods: field(&cpu, "nr_periods"),
            cpu_throttled_periods: field(&cpu, "nr_throttled"),
            memory_working_set: stats
                .memory_usage
                .saturating_sub(stats.memory_inactive_file),
            pids: self.number("pids", "pids.current"),
            ..stats
        }
    }

    fn stats_v2(&self, cpu: &str, memory: &str) -> Stats {
        let events = self.text("memory", "memory.events");
        Stats {
            cpu_nanos: field(cpu, "usage_usec") * 1000,
            cpu_user_nanos: field(cpu, "user_usec") * 1000,
            cpu_system_nanos: field(cpu, "system_usec") * 1000,
            cpu_throttled_nanos: field(cpu, "throttled_usec") * 1000,
            memory_usage: self.number("memory", "memory.current"),
            memory_rss: field(memory, "anon"),
            memory_cache: field(memory, "file"),
            memory_mapped_file: field(memory, "file_mapped"),
            memory_active_file: field(memory, "active_file"),
            memory_inactive_file: field(memory, "inactive_file"),
            memory_kernel: field(memory, "kernel"),
            memory_peak: self.number("memory", "memory.peak"),
            swap: self.number("memory", "memory.swap.current"),
            memory_failures: field(&events, "max"),
            oom_kills: field(&events, "oom_kill"),
            page_faults: field(memory, "pgfault"),
            major_page_faults: field(memory, "pgmajfault"),
            ..Stats::default()
        }
    }

    fn stats_v1(&self, cpu: &str, memory: &str) -> Stats {
        Stats {
            cpu_nanos: self.number("cpuacct", "cpuacct.usage"),
            cpu_user_nanos: self.number("cpuacct", "cpuacct.usage_user"),
            cpu_system_nanos: self.number("cpuacct", "cpuacct.usage_sys"),
            cpu_throttled_nanos: field(cpu, "throttled_time"),
            memory_usage: self.number("memory", "memory.usage_in_bytes"),
            memory_rss: field(memory, "total_rss"),
            memory_cache: field(memory, "total_cache"),
            memory_mapped_file: field(memory, "total_mapped_file"),
            memory_active_file: field(memory, "total_active_file"),
            memory_inactive_file: field(memory, "total_inactive_file"),
            memory_kernel: self.number("memory", "memory.kmem.usage_in_bytes"),
            memory_peak: self.number("memory", "memory.max_usage_in_bytes"),
            swap: field(memory, "total_swap"),
            memory_failures: self.number("memory", "memory.failcnt"),
            oom_kills: field(&self.text("memory", "memory.oom_control"), "oom_kill"),
            page_faults: field(memory, "total_pgfault"),
            major_page_faults: field(memory, "total_pgmajfault"),
            ..Stats::default()
        }
    }

    fn limits(&self) -> Limits {
        let pids = self.limit("pids", "pids.max");
        if !self.unified {
            let memory = self.limit("memory", "memory.limit_in_bytes");
            let both = self.limit("memory", "memory.memsw.limit_in_bytes");
            return Limits {
                cpu_shares: self.limit("cpu", "cpu.shares"),
                // -1 is no quota, and no number to us.
                cpu_quota: self.limit("cpu", "cpu.cfs_quota_us"),
                cpu_period: self.limit("cpu", "cpu.cfs_period_us"),
                memory,
                memory_reservation: self.limit("memory", "memory.soft_limit_in_bytes"),
                swap: both
                    .zip(memory)
                    .map(|(both, memory)| both.saturating_sub(memory)),
                pids,
            };
        }
        let cpu = self.text("cpu", "cpu.max");
        let mut cpu = cpu.split_whitespace().map(|n| n.parse().ok());
        Limits {
            cpu_quota: cpu.next().flatten(),
            cpu_period: cpu.next().flatten(),
            cpu_shares: self.limit("cpu", "cpu.weight").map(shares),
            memory: self.limit("memory", "memory.max"),
            memory_reservation: self.limit("memory", "memory.low").filter(|n| *n > 0),
            swap: self.limit("memory", "memory.swap.max"),
            pids,
        }
    }

    fn io(&self) -> Vec<DeviceIo> {
        if self.unified {
            return io_v2(&self.text("io", "io.stat"));
        }
        let bytes = self.text("blkio", "blkio.throttle.io_service_bytes_recursive");
        let count = self.text("blkio", "blkio.throttle.io_serviced_recursive");
        io_v1(&bytes, &count)
    }
}

/// The kernel rounds "no limit" down to whole pages, of up to 64 KiB.
const PAGE_ROUNDING: u64 = 1 << 16;

/// cpu.shares of a weight: the way back of KEP-2254's mapping.
fn shares(weight: u64) -> u64 {
    2 + weight.clamp(1, 10_000).saturating_sub(1) * 262_142 / 9999
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...`
fn io_v2(text: &str) -> Vec<DeviceIo> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let device = words.next()?.to_owned();
        let mut io = DeviceIo {
            device,
            ..DeviceIo::default()
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let value = value.parse().unwrap_or_default();
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.write_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

/// `8:0 Read 1` in two files, of bytes and of operations.
fn io_v1(bytes: &str, count: &str) -> Vec<DeviceIo> {
    let mut devices: Vec<DeviceIo> = Vec::new();
    for (text, in_bytes) in [(bytes, true), (count, false)] {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [device, what, value] = words[..] else {
                continue;
            };
            let at = devices.iter().position(|d| d.device == device);
            let at = at.unwrap_or_else(|| {
                devices.push(DeviceIo {
                    device: device.to_owned(),
                    ..DeviceIo::default()
                });
                devices.len() - 1
            });
            let (Some(io), Ok(value)) = (devices.get_mut(at), value.parse()) else {
                continue;
            };
            match (what, in_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.write_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    devices
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

    fn group(unified: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, Group) {
        let dir = tempfile::tempdir().expect("directory");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("file");
        }
        let path = dir.path().to_owned();
        let dir_of = Box::new(move |_: &str| Some(path.clone()));
        (
            dir,
            Group {
                unified,
                dir: dir_of,
            },
        )
    }

    #[test]
    fn both_versions_give_the_same_figures() {
        let v2 = [
            (
                "cpu.stat",
                "usage_usec 3\nuser_usec 2\nsystem_usec 1\nnr_periods 9\nnr_throttled 4\nthrottled_usec 7\n",
            ),
            ("memory.current", "1000\n"),
            (
                "memory.stat",
                "anon 300\nfile 600\nkernel 50\nfile_mapped 5\ninactive_file 400\nactive_file 200\npgfault 11\npgmajfault 2\n",
            ),
            ("memory.events", "low 0\nhigh 0\nmax 6\noom 1\noom_kill 1\n"),
            ("memory.peak", "1200\n"),
            ("memory.swap.current", "8\n"),
            ("memory.max", "4096\n"),
            ("memory.low", "0\n"),
            ("memory.swap.max", "max\n"),
            ("cpu.max", "5000 100000\n"),
            ("cpu.weight", "39\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            (
                "io.stat",
                "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
            ),
        ];
        let v1 = [
            ("cpuacct.usage", "3000\n"),
            ("cpuacct.usage_user", "2000\n"),
            ("cpuacct.usage_sys", "1000\n"),
            (
                "cpu.stat",
                "nr_periods 9\nnr_throttled 4\nthrottled_time 7000\n",
            ),
            ("memory.usage_in_bytes", "1000\n"),
            (
                "memory.stat",
                "rss 1\ntotal_rss 300\ntotal_cache 600\ntotal_mapped_file 5\ntotal_inactive_file 400\ntotal_active_file 200\ntotal_pgfault 11\ntotal_pgmajfault 2\ntotal_swap 8\n",
            ),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            ),
            ("memory.failcnt", "6\n"),
            ("memory.kmem.usage_in_bytes", "50\n"),
            ("memory.max_usage_in_bytes", "1200\n"),
            ("memory.limit_in_bytes", "4096\n"),
            ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
            ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
            ("cpu.shares", "998\n"),
            ("cpu.cfs_quota_us", "5000\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
            ),
            (
                "blkio.throttle.io_serviced_recursive",
                "8:0 Read 3\n8:0 Write 4\n",
            ),
        ];
        let stats = Stats {
            cpu_nanos: 3000,
            cpu_user_nanos: 2000,
            cpu_system_nanos: 1000,
            cpu_periods: 9,
            cpu_throttled_periods: 4,
            cpu_throttled_nanos: 7000,
            memory_usage: 1000,
            memory_working_set: 600,
            memory_rss: 300,
            memory_cache: 600,
            memory_mapped_file: 5,
            memory_active_file: 200,
            memory_inactive_file: 400,
            memory_kernel: 50,
            memory_peak: 1200,
            swap: 8,
            memory_failures: 6,
            oom_kills: 1,
            page_faults: 11,
            major_page_faults: 2,
            pids: 3,
        };
        let limits = Limits {
            cpu_shares: Some(998),
            cpu_quota: Some(5000),
            cpu_period: Some(100_000),
            memory: Some(4096),
            ..Limits::default()
        };
        let io = [DeviceIo {
            device: "8:0".into(),
            read_bytes: 1,
            write_bytes: 2,
            reads: 3,
            writes: 4,
        }];
        for (unified, files) in [(true, &v2[..]), (false, &v1[..])] {
            let (_dir, group) = group(unified, files);
            assert_eq!(group.stats(), stats, "unified: {unified}");
            assert_eq!(group.limits(), limits, "unified: {unified}");
            assert_eq!(group.io(), io, "unified: {unified}");
        }
    }

    #[test]
    fn a_cgroup_without_files_uses_nothing() {
        for unified in [true, false] {
            let (_dir, group) = group(unified, &[]);
            assert_eq!(group.stats(), Stats::default());
            assert_eq!(
                (group.limits(), group.io()),
                (Limits::default(), Vec::new())
            );
        }
    }

    #[test]
    fn weights_map_back() {
        for (weight, expected) in [(1, 2), (39, 998), (100, 2597), (10_000, 262_144), (0, 2)] {
            assert_eq!(shares(weight), expected, "{weight}");
        }
    }
}
