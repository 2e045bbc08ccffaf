//! Mounts of a container: the kernel's file systems, then what the pod asks for.

use std::path::Path;

use oci_spec::runtime::{Mount, MountBuilder};

use super::unbuilt;
use crate::error::Error;
use crate::model::{ContainerSpec, Namespace, Propagation};

/// Destination, type, source, options.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const DEFAULT: [Row; 7] = [
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    (
        "/dev",
        "tmpfs",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    ),
    (
        "/dev/mqueue",
        "mqueue",
        "mqueue",
        &["nosuid", "noexec", "nodev"],
    ),
    (
        "/sys",
        "sysfs",
        "sysfs",
        &["nosuid", "noexec", "nodev", "ro"],
    ),
    (
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", "ro"],
    ),
    (
        "/dev/shm",
        "tmpfs",
        "shm",
        &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    ),
];

/// All mounts, parents before children; what the pod mounts replaces a default one.
pub(super) fn all(spec: &ContainerSpec) -> Result<Vec<Mount>, Error> {
    let replaced = |path: &str| {
        spec.mounts
            .iter()
            .any(|m| m.container_path == Path::new(path))
    };
    let mut mounts = Vec::new();
    for row in DEFAULT.iter().filter(|row| !replaced(row.0)) {
        mounts.push(default_mount(spec, row)?);
    }
    let mut own: Vec<_> = spec.mounts.iter().collect();
    own.sort_by_key(|mount| mount.container_path.components().count());
    for mount in own {
        let propagation = match mount.propagation {
            Propagation::Private => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        let access = match (mount.read_only, mount.recursive_read_only) {
            (true, true) => "rro",
            (true, false) => "ro",
            _ => "rw",
        };
        if !mount.container_path.is_absolute() {
            let path = mount.container_path.display().to_string();
            return Err(Error::invalid("mount path", path, "not absolute"));
        }
        let options = ["rbind", propagation, access];
        mounts.push(bind(&mount.container_path, &mount.host_path, &options)?);
    }
    Ok(mounts)
}

/// Propagation of the root itself: it must let through what the widest mount lets through.
pub(super) fn root_propagation(spec: &ContainerSpec) -> Option<&'static str> {
    let any = |wanted| spec.mounts.iter().any(|mount| mount.propagation == wanted);
    if any(Propagation::Bidirectional) {
        Some("rshared")
    } else if any(Propagation::HostToContainer) {
        Some("rslave")
    } else {
        None
    }
}

fn default_mount(spec: &ContainerSpec, row: &Row) -> Result<Mount, Error> {
    let (to, kind, from, options) = *row;
    // A pod's containers share /dev/shm as they share the IPC namespace.
    match (to, &spec.namespaces.ipc, &spec.namespaces.shm) {
        ("/dev/shm", Namespace::Host, _) => {
            return bind(Path::new(to), Path::new(to), &["rbind", "rprivate", "rw"]);
        }
        ("/dev/shm", _, Some(shm)) => {
            let options = ["rbind", "rprivate", "rw", "nosuid", "noexec", "nodev"];
            return bind(Path::new(to), shm, &options);
        }
        _ => {}
    }
    let writable = spec.security.privileged && to.starts_with("/sys");
    let keep = |option: &&&str| !(writable && **option == "ro");
    let options = options.iter().filter(keep).map(ToString::to_string);
    MountBuilder::default()
        .destination(to)
        .typ(kind)
        .source(from)
        .options(options.collect::<Vec<_>>())
        .build()
        .map_err(unbuilt)
}

fn bind(to: &Path, from: &Path, options: &[&str]) -> Result<Mount, Error> {
    MountBuilder::default()
        .destination(to)
        .typ("bind")
        .source(from)
        .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
        .build()
        .map_err(unbuilt)
}
