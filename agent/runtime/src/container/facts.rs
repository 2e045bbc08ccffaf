//! What the OCI spec depends on besides its inputs: the image's accounts, the host's devices.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use containerd_client::types::Mount;

use crate::cgroup::{counts_hugepages, unified};
use crate::error::Error;
use crate::model::{ContainerSpec, Seccomp};
use crate::runtime::Runtime;
use crate::spec::user::{Accounts, resolve};
use crate::spec::{DeviceNode, Facts};
use crate::sys;

/// Below `/dev`, but not devices of the host: every container has its own.
const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", "ptmx"];

impl Runtime {
    pub(super) fn facts(
        &self,
        spec: &ContainerSpec,
        image_user: &str,
        rootfs: &[Mount],
    ) -> Result<Facts, Error> {
        let accounts = Accounts::read(&layers(rootfs));
        let seccomp_profile = match &spec.security.seccomp {
            Seccomp::Localhost(path) => Some(
                fs::read_to_string(path)
                    .map_err(Error::io("read seccomp profile", path.display()))?,
            ),
            _ => None,
        };
        Ok(Facts {
            user: resolve(&spec.security, image_user, &accounts)?,
            capabilities: self.inner.capabilities,
            oom_floor: self.inner.oom_floor,
            devices: devices(spec)?,
            seccomp_profile,
            unified: unified(),
            counts_hugepages: counts_hugepages(&spec.cgroup_parent),
        })
    }
}

/// Directories a snapshot's file system is made of, uppermost first.
fn layers(mounts: &[Mount]) -> Vec<PathBuf> {
    let Some(mount) = mounts.first() else {
        return Vec::new();
    };
    if mount.r#type != "overlay" {
        return vec![mount.source.clone().into()];
    }
    let option = |key| {
        mount
            .options
            .iter()
            .find_map(|option| option.strip_prefix(key))
    };
    let upper = option("upperdir=").into_iter();
    let lower = option("lowerdir=")
        .into_iter()
        .flat_map(|list| list.split(':'));
    upper.chain(lower).map(PathBuf::from).collect()
}

fn devices(spec: &ContainerSpec) -> Result<Vec<DeviceNode>, Error> {
    let mut nodes = Vec::new();
    if spec.security.privileged {
        collect(Path::new("/dev"), &mut nodes);
    }
    for wanted in &spec.security.devices {
        let node = node(&wanted.host_path, wanted.container_path.clone())
            .map_err(Error::io("look up device", wanted.host_path.display()))?;
        let reason = "not a device";
        let path = wanted.host_path.display().to_string();
        let node = node.ok_or_else(|| Error::invalid("device", path, reason))?;
        nodes.push(DeviceNode {
            access: wanted.access.clone(),
            ..node
        });
    }
    Ok(nodes)
}

/// All device nodes below a directory; what vanishes meanwhile is passed over.
fn collect(dir: &Path, nodes: &mut Vec<DeviceNode>) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        let own = OWN.iter().any(|name| entry.file_name() == *name);
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !own => collect(&path, nodes),
            Ok(kind) if (kind.is_char_device() || kind.is_block_device()) && !own => {
                nodes.extend(node(&path, path.clone()).ok().flatten());
            }
            _ => {}
        }
    }
}

fn node(host: &Path, path: PathBuf) -> std::io::Result<Option<DeviceNode>> {
    let meta = fs::metadata(host)?;
    let kind = meta.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Ok(None);
    }
    let (major, minor) = sys::device_numbers(meta.rdev());
    Ok(Some(DeviceNode {
        path,
        block: kind.is_block_device(),
        major,
        minor,
        mode: meta.permissions().mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: "rwm".into(),
    }))
}
