//! How cgroups are named, and who makes them: this process (`cgroupfs`), or systemd on its behalf (`systemd`). Names and
//! properties are those of Kubernetes' and runc's drivers.
//!
//! ```text
//! cgroupfs: /kubepods/burstable/pod1-2/ID
//! systemd:  /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-ID.scope
//! ```

use keelson_dbus::{Properties, Value};

use super::{PodResources, weight};

/// A driver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// Directories, made by whoever needs them.
    #[default]
    Cgroupfs,
    /// Slices and scopes of systemd.
    Systemd,
}

/// With which cgroups of an earlier start may have been made.
pub(super) const DRIVERS: [Driver; 2] = [Driver::Cgroupfs, Driver::Systemd];

const SLICE: &str = ".slice";
const SCOPE: (&str, &str) = ("cri-containerd", ".scope");

impl Driver {
    /// A cgroup, by the names from the top down to it.
    pub(super) fn path(self, names: &[&str]) -> String {
        let names = names.iter().copied().filter(|n| !n.is_empty());
        match self {
            Self::Cgroupfs => names.map(|n| format!("/{n}")).collect(),
            Self::Systemd => {
                let (mut path, mut unit) = (String::new(), String::new());
                for name in names {
                    // A dash in a unit's name stands for a slice within another.
                    let name = name.replace('-', "_");
                    let dash = if unit.is_empty() { "" } else { "-" };
                    unit = format!("{unit}{dash}{name}");
                    path = format!("{path}/{unit}{SLICE}");
                }
                path
            }
        }
    }

    /// The UID of the pod whose cgroup has this directory.
    pub(super) fn uid(self, directory: &str) -> Option<String> {
        match self {
            Self::Cgroupfs => Some(directory.strip_prefix("pod")?.to_owned()),
            Self::Systemd => {
                let (_, name) = directory.strip_suffix(SLICE)?.rsplit_once('-')?;
                Some(name.strip_prefix("pod")?.replace('_', "-"))
            }
        }
    }
}

/// Whether systemd keeps a cgroup: one of a pod or above.
pub(crate) fn is_slice(path: &str) -> bool {
    path.ends_with(SLICE)
}

/// The unit of a slice's cgroup.
pub(super) fn unit(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// The cgroup of a container below its pod's.
pub fn container_cgroup(parent: &str, id: &str) -> String {
    let parent = parent.trim_end_matches('/');
    match is_slice(parent) {
        true => format!("{parent}/{}-{id}{}", SCOPE.0, SCOPE.1),
        false => format!("{parent}/{id}"),
    }
}

/// The same as the OCI specification has it (`cgroupsPath`): runc's systemd driver takes `SLICE:PREFIX:NAME`.
pub(crate) fn cgroups_path(parent: &str, id: &str) -> String {
    match is_slice(parent) {
        true => format!("{}:{}:{id}", unit(parent), SCOPE.0),
        false => container_cgroup(parent, id),
    }
}

/// What limits systemd is told, so that it does not undo what stands in the cgroup.
pub(super) fn properties(resources: &PodResources, unified: bool) -> Properties {
    let either = |v2, v1| if unified { v2 } else { v1 };
    let mut all = Properties::new();
    if let Some(shares) = resources.cpu_shares {
        let value = if unified { weight(shares) } else { shares };
        all.push((either("CPUWeight", "CPUShares"), Value::U64(value)));
    }
    if let Some(quota) = resources.cpu_quota {
        let period = resources.cpu_period.unwrap_or(100_000).max(1);
        all.push(("CPUQuotaPerSecUSec", Value::U64(per_second(quota, period))));
        if let Some(period) = resources.cpu_period {
            all.push(("CPUQuotaPeriodUSec", Value::U64(period)));
        }
    }
    let limit = |n: i64| Value::U64(u64::try_from(n).ok().filter(|n| *n > 0).unwrap_or(u64::MAX));
    if let Some(bytes) = resources.memory_limit {
        all.push((either("MemoryMax", "MemoryLimit"), limit(bytes)));
    }
    if let Some(tasks) = resources.pids_limit {
        all.push(("TasksMax", limit(tasks)));
    }
    all
}

/// Microseconds of CPU time a second. systemd keeps whole percents: rounded up to them, so that the containers' own
/// quotas fit.
fn per_second(quota: i64, period: u64) -> u64 {
    const PERCENT: u64 = 10_000;
    match u64::try_from(quota).ok().filter(|q| *q > 0) {
        None => u64::MAX,
        Some(quota) => {
            let micros = u128::from(quota) * 1_000_000 / u128::from(period);
            u64::try_from(micros)
                .unwrap_or(u64::MAX - PERCENT)
                .next_multiple_of(PERCENT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_drivers() {
        const UID: &str = "0b4f-9c1e";
        let pod = format!("pod{UID}");
        let rows: [(&[&str], &str, &str); 4] = [
            (&["kubepods"], "/kubepods", "/kubepods.slice"),
            (&["kubepods", ""], "/kubepods", "/kubepods.slice"),
            (
                &["kubepods", "burstable", &pod],
                "/kubepods/burstable/pod0b4f-9c1e",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b4f_9c1e.slice",
            ),
            (
                &["my-pods", &pod],
                "/my-pods/pod0b4f-9c1e",
                "/my_pods.slice/my_pods-pod0b4f_9c1e.slice",
            ),
        ];
        for (names, cgroupfs, systemd) in rows {
            assert_eq!(Driver::Cgroupfs.path(names), cgroupfs);
            assert_eq!(Driver::Systemd.path(names), systemd);
            for driver in DRIVERS {
                let path = driver.path(names);
                let want = names.contains(&pod.as_str()).then(|| UID.to_owned());
                assert_eq!(driver.uid(unit(&path)), want, "{path}");
            }
        }
        assert_eq!(Driver::Systemd.uid("kubepods-burstable.slice"), None);
        assert_eq!(Driver::Cgroupfs.uid("kubepods-podx.slice"), None);
    }

    #[test]
    fn cgroups_of_containers() {
        let slice = "/kubepods.slice/kubepods-pod1.slice";
        let rows = [
            ("/kubepods/pod1", "/kubepods/pod1/c", "/kubepods/pod1/c"),
            ("/kubepods/pod1/", "/kubepods/pod1/c", "/kubepods/pod1/c"),
            (
                slice,
                "/kubepods.slice/kubepods-pod1.slice/cri-containerd-c.scope",
                "kubepods-pod1.slice:cri-containerd:c",
            ),
        ];
        for (parent, path, oci) in rows {
            assert_eq!(container_cgroup(parent, "c"), path);
            assert_eq!(cgroups_path(parent, "c"), oci);
        }
    }

    #[test]
    fn limits_as_systemd_has_them() {
        let none = PodResources::default();
        let all = PodResources {
            cpu_shares: Some(1024),
            cpu_quota: Some(20_000),
            cpu_period: Some(100_000),
            memory_limit: Some(64 << 20),
            pids_limit: Some(100),
        };
        let odd = PodResources {
            cpu_quota: Some(12_345),
            ..none.clone()
        };
        let free = PodResources {
            cpu_quota: Some(-1),
            memory_limit: Some(-1),
            pids_limit: Some(0),
            ..none.clone()
        };
        let max = u64::MAX;
        type Row<'a> = (&'a str, &'a PodResources, bool, &'a [(&'static str, u64)]);
        let rows: [Row<'_>; 5] = [
            ("nothing", &none, true, &[]),
            (
                "v2",
                &all,
                true,
                &[
                    ("CPUWeight", 39),
                    ("CPUQuotaPerSecUSec", 200_000),
                    ("CPUQuotaPeriodUSec", 100_000),
                    ("MemoryMax", 64 << 20),
                    ("TasksMax", 100),
                ],
            ),
            (
                "v1",
                &all,
                false,
                &[
                    ("CPUShares", 1024),
                    ("CPUQuotaPerSecUSec", 200_000),
                    ("CPUQuotaPeriodUSec", 100_000),
                    ("MemoryLimit", 64 << 20),
                    ("TasksMax", 100),
                ],
            ),
            (
                "up to a whole percent",
                &odd,
                true,
                &[("CPUQuotaPerSecUSec", 130_000)],
            ),
            (
                "no limits",
                &free,
                true,
                &[
                    ("CPUQuotaPerSecUSec", max),
                    ("MemoryMax", max),
                    ("TasksMax", max),
                ],
            ),
        ];
        for (name, resources, unified, want) in rows {
            let want: Properties = want.iter().map(|(n, v)| (*n, Value::U64(*v))).collect();
            assert_eq!(properties(resources, unified), want, "{name}");
        }
    }
}
