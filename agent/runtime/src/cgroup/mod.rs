//! cgroups of pods and quality-of-service classes, laid out as the drivers of Kubernetes do (see [`driver`]):
//! `<root>/[burstable|besteffort/]pod<uid>/<container id>`.

mod driver;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::hierarchies::{self, V1, V2};
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, Hierarchy, MaxValue, Subsystem};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use keelson_dbus::Systemd;

use crate::error::{Error, Errors};
use crate::model::HugepageLimit;
use crate::runtime::Runtime;

use driver::DRIVERS;
pub use driver::{Driver, container_cgroup};
pub(crate) use driver::{cgroups_path, is_slice};

/// Quality of service class of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Requests equal limits.
    Guaranteed,
    /// Some requests or limits.
    Burstable,
    /// None.
    BestEffort,
}

const CLASSES: [Qos; 3] = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];
/// cpu.shares of the best-effort class: the kernel's minimum.
const LEAST_SHARES: u64 = 2;
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

impl Qos {
    /// Directory of the class below the root; guaranteed pods live in the root itself.
    fn dir(self) -> &'static str {
        match self {
            Qos::Guaranteed => "",
            Qos::Burstable => "burstable",
            Qos::BestEffort => "besteffort",
        }
    }
}

/// Limits of a pod's cgroup. Unset fields are not written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodResources {
    /// cgroup v1 cpu shares, 2..=262144; converted to a weight on v2.
    pub cpu_shares: Option<u64>,
    /// CPU time per period, microseconds; negative is unlimited.
    pub cpu_quota: Option<i64>,
    /// Length of the period, microseconds.
    pub cpu_period: Option<u64>,
    /// Memory limit, bytes.
    pub memory_limit: Option<i64>,
    /// Largest number of tasks.
    pub pids_limit: Option<i64>,
    /// Huge page limits; kept where the kernel counts huge pages by cgroup.
    pub hugepages: Vec<HugepageLimit>,
    /// Files of the unified hierarchy and what is written to them; nothing elsewhere.
    pub unified: BTreeMap<String, String>,
}

impl Runtime {
    /// The cgroup of a pod, absolute within the hierarchy; what
    /// [`crate::ContainerSpec::cgroup_parent`] takes.
    pub fn pod_cgroup(&self, uid: &str, qos: Qos) -> String {
        self.cgroup_of(
            self.config().cgroup_driver,
            &[qos.dir(), &format!("pod{uid}")],
        )
    }

    /// A cgroup below our root.
    fn cgroup_of(&self, driver: Driver, names: &[&str]) -> String {
        let root = self.config().cgroup_root.split('/');
        let names: Vec<&str> = root.chain(names.iter().copied()).collect();
        driver.path(&names)
    }

    /// All that the pod's cgroup may be called: in whichever class it is, made by whichever driver.
    fn pod_cgroup_places(&self, uid: &str) -> impl Iterator<Item = String> {
        let name = format!("pod{uid}");
        let places = DRIVERS
            .into_iter()
            .flat_map(|driver| CLASSES.map(|qos| (driver, qos)));
        places.map(move |(driver, qos)| self.cgroup_of(driver, &[qos.dir(), &name]))
    }

    /// Makes the pod's cgroup (and its class's) and writes the limits; again: updates them.
    /// Returns [`Runtime::pod_cgroup`].
    pub fn pod_cgroup_create(
        &self,
        uid: &str,
        qos: Qos,
        resources: &PodResources,
    ) -> Result<String, Error> {
        let class = self.qos_cgroup(qos);
        if !exists(&class) {
            let least = PodResources {
                cpu_shares: Some(LEAST_SHARES),
                ..PodResources::default()
            };
            match qos {
                Qos::BestEffort => self.qos_cgroup_update(qos, &least)?,
                // systemd would make it by itself, but then it could not be given limits that end with it.
                _ if driver::is_slice(&class) => apply(&class, &PodResources::default())?,
                _ => {}
            }
        }
        let path = self.pod_cgroup(uid, qos);
        apply(&path, resources)?;
        Ok(path)
    }

    /// Removes the pod's cgroup in whichever class it is, killing what is left in it. Waits and
    /// tries again for up to two seconds, so call it where blocking is allowed.
    pub fn pod_cgroup_remove(&self, uid: &str) -> Result<(), Error> {
        let mut errors = Errors::default();
        for path in self.pod_cgroup_places(uid) {
            errors.note(remove(&path));
            self.inner.kills.forget_pod(&path);
        }
        errors.finish()
    }

    /// Removes the whole tree below our root, killing what is left in it. Blocks like
    /// [`Runtime::pod_cgroup_remove`].
    pub fn cgroups_remove(&self) -> Result<(), Error> {
        let mut errors = Errors::default();
        for driver in DRIVERS {
            errors.note(remove(&self.cgroup_of(driver, &[])));
        }
        errors.finish()
    }

    /// The cgroup a pod has below our root, or a part of one, in whichever class it is.
    pub fn pod_cgroup_found(&self, uid: &str) -> Option<String> {
        self.pod_cgroup_places(uid).find(|path| exists(path))
    }

    /// UIDs of all pods that have a cgroup below our root.
    pub fn pod_cgroups(&self) -> Result<Vec<(String, Qos)>, Error> {
        let mut pods = Vec::new();
        for (driver, qos) in DRIVERS
            .into_iter()
            .flat_map(|driver| CLASSES.map(|qos| (driver, qos)))
        {
            for dir in everywhere(&self.cgroup_of(driver, &[qos.dir()])) {
                let Ok(entries) = fs::read_dir(&dir) else {
                    continue;
                };
                let names = entries
                    .flatten()
                    .map(|entry| entry.file_name().into_string());
                let uids = names.flatten().filter_map(|name| driver.uid(&name));
                pods.extend(uids.map(|uid| (uid, qos)));
            }
        }
        pods.sort_by(|a, b| a.0.cmp(&b.0));
        pods.dedup();
        Ok(pods)
    }

    /// Writes what a class's cgroup has together; that of guaranteed pods is the cgroup of all.
    pub fn qos_cgroup_update(&self, qos: Qos, resources: &PodResources) -> Result<(), Error> {
        apply(&self.qos_cgroup(qos), resources)
    }

    /// Makes the cgroup of all pods and writes its limits; again: updates them.
    pub fn pods_cgroup_update(&self, resources: &PodResources) -> Result<(), Error> {
        apply(&self.pods_cgroup(), resources)
    }

    /// The cgroup of all pods.
    pub(crate) fn pods_cgroup(&self) -> String {
        self.qos_cgroup(Qos::Guaranteed)
    }

    fn qos_cgroup(&self, qos: Qos) -> String {
        self.cgroup_of(self.config().cgroup_driver, &[qos.dir()])
    }
}

/// cgroup v2 weight of v1 shares, as KEP-2254 maps them: 2..=262144 to 1..=10000.
pub(crate) fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

fn apply(path: &str, resources: &PodResources) -> Result<(), Error> {
    let failed = |error: cgroups_rs::fs::error::Error| {
        let source = std::io::Error::other(chain(&error));
        Error::io("configure cgroup", path)(source)
    };
    let group = Cgroup::load(hierarchy(), path.trim_start_matches('/'));
    let slice = driver::is_slice(path);
    if slice {
        systemd("configure slice", path, |systemd, unit| {
            let description = "cgroup of pods, made by keelson";
            systemd.slice(unit, description, driver::properties(resources, unified()))
        })?;
    }
    // systemd knows nothing of most controllers of v1; on v2 it has made all that is needed.
    if !slice || !unified() {
        group.create().map_err(failed)?;
    }
    let v2 = group.v2();
    if let Some(cpu) = group.controller_of::<CpuController>() {
        if let Some(shares) = resources.cpu_shares {
            let value = if v2 { weight(shares) } else { shares };
            cpu.set_shares(value).map_err(failed)?;
        }
        // The period first: a quota below 1 ms is refused whatever the period will be.
        if resources.cpu_quota.is_some() || resources.cpu_period.is_some() {
            cpu.set_cfs_quota_and_period(None, resources.cpu_period)
                .map_err(failed)?;
            cpu.set_cfs_quota_and_period(resources.cpu_quota, None)
                .map_err(failed)?;
        }
    }
    if let (Some(limit), Some(memory)) = (
        resources.memory_limit,
        group.controller_of::<MemController>(),
    ) {
        memory.set_limit(limit).map_err(failed)?;
    }
    if let (Some(limit), Some(pids)) =
        (resources.pids_limit, group.controller_of::<PidController>())
    {
        let limit = if limit > 0 {
            MaxValue::Value(limit)
        } else {
            MaxValue::Max
        };
        pids.set_pid_max(limit).map_err(failed)?;
    }
    let huge = group.controller_of::<HugeTlbController>();
    if let Some(huge) = huge.filter(|_| counts_hugepages(path)) {
        for HugepageLimit { page_size, limit } in &resources.hugepages {
            let limit = u64::try_from(*limit).unwrap_or_default();
            huge.set_limit_in_bytes(page_size, limit).map_err(failed)?;
        }
    }
    write_unified(path, &resources.unified)
}

/// Writes files of a cgroup of the unified hierarchy; nothing elsewhere.
pub(crate) fn write_unified(path: &str, files: &BTreeMap<String, String>) -> Result<(), Error> {
    if !unified() || files.is_empty() {
        return Ok(());
    }
    let dir = controller_dir("", path).unwrap_or_default();
    for (file, text) in files {
        let place = dir.join(file);
        fs::write(&place, text).map_err(Error::io("write", place.display()))?;
    }
    Ok(())
}

/// Whether huge pages are counted in a cgroup: systemd, for one, does not have them counted in its slices.
pub(crate) fn counts_hugepages(path: &str) -> bool {
    match HIERARCHIES.v1 {
        Some(_) => HIERARCHIES.roots.contains_key("hugetlb"),
        None => {
            let dir = controller_dir("", path).unwrap_or_default();
            let known = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
            known.split_whitespace().any(|c| c == "hugetlb")
        }
    }
}

/// Has systemd do something with a slice.
fn systemd(
    action: &'static str,
    path: &str,
    work: impl FnOnce(&mut Systemd, &str) -> Result<(), keelson_dbus::Error>,
) -> Result<(), Error> {
    let done = Systemd::connect().and_then(|mut s| work(&mut s, driver::unit(path)));
    done.map_err(|e| Error::io(action, path)(std::io::Error::other(chain(&e))))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The machine's hierarchies. They stay as they are while the agent runs, and to look for them is to read every mount of
/// the machine, of which each pod has several.
struct Hierarchies {
    /// `None` on the unified hierarchy.
    v1: Option<V1>,
    /// Where any kind of cgroup is mounted.
    mounts: Vec<PathBuf>,
    /// The hierarchy of each controller; the unified one by no name.
    roots: BTreeMap<String, PathBuf>,
}

static HIERARCHIES: LazyLock<Hierarchies> = LazyLock::new(|| {
    let mounts = procfs::process::Process::myself().and_then(|me| me.mountinfo());
    let mounts = mounts.map(|all| all.0).unwrap_or_default();
    let mut mounts: Vec<PathBuf> = mounts
        .into_iter()
        .filter(|mount| mount.fs_type.starts_with("cgroup"))
        .map(|mount| mount.mount_point)
        .collect();
    mounts.sort();
    mounts.dedup();
    let v1 = (!hierarchies::is_cgroup2_unified_mode()).then(V1::new);
    let roots = match &v1 {
        None => BTreeMap::from([(String::new(), V2::new().root())]),
        Some(v1) => {
            let root = |s: &Subsystem| (s.controller_name(), s.to_controller().path().to_owned());
            v1.subsystems().iter().map(root).collect()
        }
    };
    Hierarchies { v1, mounts, roots }
});

fn hierarchy() -> Box<dyn Hierarchy> {
    match &HIERARCHIES.v1 {
        Some(v1) => Box::new(v1.clone()),
        None => Box::new(V2::new()),
    }
}

/// The directory of a cgroup in the hierarchy of one controller; the unified one on v2.
pub(crate) fn controller_dir(controller: &str, path: &str) -> Option<PathBuf> {
    let name = if unified() { "" } else { controller };
    let root = HIERARCHIES.roots.get(name)?;
    Some(root.join(path.trim_start_matches('/')))
}

/// Whether the hierarchy is the unified one (cgroup v2).
pub fn unified() -> bool {
    HIERARCHIES.v1.is_none()
}

/// The directories of a cgroup in every mounted hierarchy, whether they exist or not: runc makes
/// some in hierarchies nobody asked for (`name=systemd`).
fn everywhere(path: &str) -> Vec<PathBuf> {
    let relative = path.trim_start_matches('/');
    let mounts = HIERARCHIES.mounts.iter();
    mounts.map(|mount| mount.join(relative)).collect()
}

fn exists(path: &str) -> bool {
    everywhere(path).iter().any(|dir| dir.is_dir())
}

/// Removes a cgroup everywhere with what is below, killing its processes; retries while they die.
fn remove(path: &str) -> Result<(), Error> {
    let mut result = Ok(());
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        let mut errors = Errors::default();
        // systemd ends what is in it, and gives processes more time for that than we have: they are ended before.
        if driver::is_slice(path) && exists(path) {
            everywhere(path).iter().for_each(|dir| kill_below(dir));
            errors.note(systemd("remove slice", path, Systemd::stop));
        }
        for dir in everywhere(path) {
            errors.note(remove_tree(&dir));
        }
        result = errors.finish();
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Removes a cgroup with those below; what is in it is killed if it is in the way. On v1 the list of a cgroup's
/// processes stays with the kernel for a while after it was read, so it is read only then.
fn remove_tree(dir: &Path) -> Result<(), Error> {
    if remove_empty(dir).is_ok() {
        return Ok(());
    }
    let failed = |error| Error::io("remove cgroup", dir.display())(error);
    for entry in fs::read_dir(dir).map_err(failed)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    if remove_empty(dir).is_ok() {
        return Ok(());
    }
    kill_all(dir);
    remove_empty(dir).map_err(failed)
}

fn remove_empty(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir(dir) {
        // No such cgroup, or a mount without any: what lies there is no directory.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(())
        }
        done => done,
    }
}

/// Kills all in a cgroup and in those below.
fn kill_below(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_below(&entry.path());
        }
    }
    kill_all(dir);
}

fn kill_all(dir: &Path) {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.trim().parse().ok()) {
        // 0 is a process of another PID namespace, and to kill(2) it means ourselves.
        if pid > 1 {
            // It may have ended meanwhile; if not, removing the directory reports it.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_map_to_weights_within_bounds() {
        for (shares, expected) in [
            (0, 1),
            (2, 1),
            (1024, 39),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }
}
