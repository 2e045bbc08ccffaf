//! This machine's figures, read from procfs, sysfs and /etc. All roots are passed in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use procfs::prelude::*;

/// Where to read.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Mounted procfs.
    pub proc: PathBuf,
    /// Mounted sysfs.
    pub sys: PathBuf,
    /// For `machine-id` and `os-release`.
    pub etc: PathBuf,
    /// A directory of the file system that holds pods' volumes.
    pub data: PathBuf,
}

impl Roots {
    /// The real machine; `data` is the agent's root directory.
    pub fn host(data: impl Into<PathBuf>) -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
            etc: "/etc".into(),
            data: data.into(),
        }
    }
}

/// A figure that cannot be read. It is never made up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or file system cannot be read.
    #[error("read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file says something unexpected.
    #[error("read {path}: {what}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Preallocated pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// Of one page, bytes.
    pub size: u64,
    /// All of them, bytes.
    pub total: u64,
}

/// What was read at one moment. Sizes are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Online processors.
    pub cpus: u64,
    /// Memory.
    pub memory: u64,
    /// Memory that could be had without swapping.
    pub memory_available: u64,
    /// Swap.
    pub swap: u64,
    /// The data file system's size.
    pub disk: u64,
    /// Its space for root.
    pub disk_available: u64,
    /// Its inodes; 0 where it has no such limit.
    pub inodes: u64,
    /// Its free inodes.
    pub inodes_free: u64,
    /// Most tasks the kernel allows.
    pub pids: u64,
    /// Tasks that exist.
    pub pids_used: u64,
    /// By page size.
    pub huge_pages: Vec<HugePages>,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's UUID, else the machine id (virtual and ARM machines often hide it).
    pub system_uuid: String,
    /// Of this boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME` of os-release.
    pub os_image: String,
    /// As images name it: `amd64`, `arm64`.
    pub architecture: String,
    /// Seconds since boot.
    pub uptime: u64,
    /// CPU time of all processors that was not idle, nanoseconds.
    pub cpu_nanoseconds: u64,
}

impl Facts {
    /// When the machine was started.
    pub fn booted(&self, now: jiff::Timestamp) -> jiff::Timestamp {
        let uptime = i64::try_from(self.uptime).unwrap_or_default();
        let booted = now.as_second().saturating_sub(uptime);
        jiff::Timestamp::from_second(booted).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

/// Reads all figures.
pub fn read(roots: &Roots) -> Result<Facts, Error> {
    let mut facts = Facts {
        architecture: architecture(std::env::consts::ARCH).to_owned(),
        ..Facts::default()
    };
    processors(roots, &mut facts)?;
    memory(roots, &mut facts)?;
    disk(roots, &mut facts)?;
    tasks(roots, &mut facts)?;
    identity(roots, &mut facts)?;
    facts.huge_pages = huge_pages(&roots.sys.join("kernel/mm/hugepages"))?;
    Ok(facts)
}

/// Reads only what changes quickly: memory, disk and tasks.
pub fn read_figures(roots: &Roots) -> Result<Facts, Error> {
    let mut facts = Facts::default();
    memory(roots, &mut facts)?;
    disk(roots, &mut facts)?;
    tasks(roots, &mut facts)?;
    Ok(facts)
}

/// A file system's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Its device number: two directories of one number share it.
    pub device: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes for root.
    pub available: u64,
    /// Inodes; 0 where it has no such limit.
    pub inodes: u64,
    /// Free ones.
    pub inodes_free: u64,
}

/// Reads the file system that holds `path`.
pub fn file_system(path: &Path) -> Result<FileSystem, Error> {
    let failed = |source: io::Error| Error::Read {
        path: path.to_owned(),
        source,
    };
    let s = rustix::fs::statvfs(path).map_err(|e| failed(e.into()))?;
    let stat = rustix::fs::stat(path).map_err(|e| failed(e.into()))?;
    Ok(FileSystem {
        device: stat.st_dev,
        size: s.f_blocks * s.f_frsize,
        available: s.f_bavail * s.f_frsize,
        inodes: s.f_files,
        inodes_free: s.f_ffree,
    })
}

fn processors(roots: &Roots, facts: &mut Facts) -> Result<(), Error> {
    let path = roots.sys.join("devices/system/cpu/online");
    let list = text(&path)?;
    facts.cpus = cpu_list(&list).ok_or_else(|| content(&path, &list))?;
    let path = roots.proc.join("stat");
    let all = text(&path)?;
    let (user, system) = super::load::busy(&all).ok_or_else(|| content(&path, "no cpu line"))?;
    facts.cpu_nanoseconds = user + system;
    Ok(())
}

/// How many processors a list such as `0-3,5` names.
fn cpu_list(list: &str) -> Option<u64> {
    list.trim().split(',').try_fold(0u64, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        Some(sum + last.checked_sub(first)? + 1)
    })
}

fn memory(roots: &Roots, facts: &mut Facts) -> Result<(), Error> {
    let path = roots.proc.join("meminfo");
    let info = procfs::Meminfo::from_file(&path).map_err(|e| content(&path, &e.to_string()))?;
    facts.memory = info.mem_total;
    facts.memory_available = info
        .mem_available
        .ok_or_else(|| content(&path, "no MemAvailable"))?;
    facts.swap = info.swap_total;
    Ok(())
}

fn disk(roots: &Roots, facts: &mut Facts) -> Result<(), Error> {
    let s = file_system(&roots.data)?;
    (facts.disk, facts.disk_available) = (s.size, s.available);
    (facts.inodes, facts.inodes_free) = (s.inodes, s.inodes_free);
    Ok(())
}

fn tasks(roots: &Roots, facts: &mut Facts) -> Result<(), Error> {
    let limits = ["pid_max", "threads-max"].map(|f| number(&roots.proc.join("sys/kernel").join(f)));
    let [pids, threads] = limits;
    facts.pids = pids?.min(threads?);
    let path = roots.proc.join("loadavg");
    let load = text(&path)?;
    let tasks = load
        .split_whitespace()
        .nth(3)
        .and_then(|t| t.split_once('/')?.1.parse().ok());
    facts.pids_used = tasks.ok_or_else(|| content(&path, &load))?;
    let path = roots.proc.join("uptime");
    let uptime = text(&path)?;
    let seconds = uptime.split('.').next().and_then(|s| s.parse().ok());
    facts.uptime = seconds.ok_or_else(|| content(&path, &uptime))?;
    Ok(())
}

fn identity(roots: &Roots, facts: &mut Facts) -> Result<(), Error> {
    facts.kernel = text(&roots.proc.join("sys/kernel/osrelease"))?;
    facts.boot_id = text(&roots.proc.join("sys/kernel/random/boot_id"))?;
    facts.machine_id = optional(&roots.etc.join("machine-id"))?;
    let uuid = optional(&roots.sys.join("class/dmi/id/product_uuid"))?;
    facts.system_uuid = if uuid.is_empty() {
        facts.machine_id.clone()
    } else {
        uuid
    };
    let path = roots.etc.join("os-release");
    facts.os_image = os_name(&optional(&path)?);
    Ok(())
}

/// `PRETTY_NAME`, as cAdvisor reports it; "Linux" where there is no such file.
fn os_name(os_release: &str) -> String {
    let name = os_release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |n| n.trim_matches(['"', '\'']))
        .to_owned()
}

/// Sizes of huge pages that the kernel has, bytes.
pub fn page_sizes(roots: &Roots) -> Result<Vec<u64>, Error> {
    let pages = huge_pages(&roots.sys.join("kernel/mm/hugepages"))?;
    Ok(pages.into_iter().map(|p| p.size).collect())
}

pub(super) fn huge_pages(dir: &Path) -> Result<Vec<HugePages>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        r => r.map_err(|source| Error::Read {
            path: dir.to_owned(),
            source,
        })?,
    };
    let mut pages = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let kib = name.to_str().and_then(|n| {
            n.strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse::<u64>()
                .ok()
        });
        let Some(size) = kib.map(|k| k * 1024) else {
            continue;
        };
        pages.push(HugePages {
            size,
            total: size * number(&entry.path().join("nr_hugepages"))?,
        });
    }
    pages.sort_by_key(|p| p.size);
    Ok(pages)
}

/// Rust's name of an architecture as Go has it, which images and labels use.
fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

pub(super) fn text(path: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(path);
    text.map(|t| t.trim().to_owned())
        .map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })
}

/// Empty when the file is missing or only the firmware's owner may see it.
fn optional(path: &Path) -> Result<String, Error> {
    match text(path) {
        Err(Error::Read { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(String::new())
        }
        r => r,
    }
}

fn number(path: &Path) -> Result<u64, Error> {
    let text = text(path)?;
    text.parse().map_err(|_| content(path, &text))
}

pub(super) fn content(path: &Path, what: &str) -> Error {
    Error::Content {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        for (list, want) in [
            ("0", Some(1)),
            ("0-3", Some(4)),
            ("0-1,4,6-7\n", Some(5)),
            ("x", None),
            ("3-1", None),
        ] {
            assert_eq!(cpu_list(list), want, "{list}");
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let facts = read(&Roots::host("/")).expect("figures");
        assert_eq!(
            facts.cpus as usize,
            std::thread::available_parallelism().expect("cpus").get()
        );
        assert!(facts.memory > facts.memory_available && facts.memory_available > 0);
        assert!(
            facts.disk >= facts.disk_available
                && facts.pids > facts.pids_used
                && facts.pids_used > 0
        );
        let uname = rustix::system::uname();
        assert_eq!(facts.kernel, uname.release().to_string_lossy());
        assert_eq!(facts.boot_id.len(), 36);
    }

    #[test]
    fn a_missing_figure_is_an_error() {
        let dir = tempfile::tempdir().expect("directory");
        let roots = Roots {
            sys: dir.path().into(),
            ..Roots::host("/")
        };
        let e = read(&roots).expect_err("no /sys");
        assert!(e.to_string().contains("cpu/online"), "{e}");
    }
}
