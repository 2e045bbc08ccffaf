//! What a PersistentVolume (or a pod's own NFS volume) is on this node.

use std::fs;
use std::net::ToSocketAddrs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec, Volume};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind};
use serde::{Deserialize, Serialize};

use super::{Error, HostPathType, Source, disk, host_path, mounts};

/// Where a claimed volume was put: read back when a container is made, also by an agent that starts again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// A directory, or a device node.
    pub path: PathBuf,
    /// A device node.
    pub is_block: bool,
    /// Nobody writes.
    pub read_only: bool,
    /// Who is to be asked to take it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csi: Option<CsiRecord>,
    /// The view of an image that is mounted there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<String>,
}

/// One mount of an image's files, as the runtime says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// `overlay`, `bind`, or the snapshotter's own.
    pub kind: String,
    /// What is mounted.
    pub source: PathBuf,
    /// As in fstab.
    pub options: Vec<String>,
}

/// Mounts an image's files read-only, unless something is mounted there.
pub(super) fn views(target: &Path, views: &[View]) -> Result<(), Error> {
    fs::create_dir_all(target).map_err(Error::io("create directory", target))?;
    if mounts::is_mount_point(target)? {
        return Ok(());
    }
    for view in views {
        let fail = |e: Errno| Error::Mount {
            what: format!("image as {}", view.kind),
            why: std::io::Error::from(e).to_string(),
        };
        if view.kind == "bind" {
            mount_bind(&view.source, target).map_err(fail)?;
            continue;
        }
        let flag = |o: &&String| !matches!(o.as_str(), "ro" | "rw" | "bind" | "rbind");
        let options: Vec<String> = view.options.iter().filter(flag).cloned().collect();
        let data = data(&options)?;
        let flags = MountFlags::RDONLY | MountFlags::NODEV;
        mount(
            &view.source,
            target,
            view.kind.as_str(),
            flags,
            data.as_c_str(),
        )
        .map_err(fail)?;
    }
    Ok(())
}

/// A volume that a CSI driver put there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CsiRecord {
    /// The driver's name.
    pub driver: String,
    /// The storage's own name of the volume.
    pub id: String,
    /// Where it stands for the whole node, if the driver does that.
    pub staging: Option<PathBuf>,
    /// A pod's own, which nobody else knows.
    #[serde(default)]
    pub inline: bool,
}

/// A volume as a value.
///
/// # Errors
/// A source that this agent does not offer.
pub fn of_volume(volume: &PersistentVolume, read_only: bool) -> Result<Source, Error> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let none = PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&none);
    let is_block = spec.volume_mode.as_deref() == Some("Block");
    let unsupported = |what: &str, instead| Error::Unsupported {
        volume: name.to_owned(),
        what: what.to_owned(),
        instead,
    };
    if let Some(local) = &spec.local {
        let path = PathBuf::from(&local.path);
        return Ok(match is_block {
            true => Source::Device { path },
            false => Source::Local {
                path,
                fs_type: local.fs_type.clone(),
                options: spec.mount_options.clone().unwrap_or_default(),
            },
        });
    }
    if let Some(host) = &spec.host_path {
        let path = PathBuf::from(&host.path);
        if is_block {
            return Ok(Source::Device { path });
        }
        let kind = HostPathType::parse(host.type_.as_deref().unwrap_or_default());
        let kind = kind.ok_or_else(|| unsupported("hostPath of this type", host_path::TYPES))?;
        return Ok(Source::HostPath { path, kind });
    }
    match &spec.nfs {
        Some(_) if is_block => Err(unsupported("a device over nfs", "volumeMode Filesystem")),
        Some(nfs) => Ok(Source::Nfs {
            server: nfs.server.clone(),
            path: nfs.path.clone(),
            options: spec.mount_options.clone().unwrap_or_default(),
            read_only: read_only || nfs.read_only == Some(true),
        }),
        None => Err(unsupported(&kind_of(spec), "csi, hostPath, local or nfs")),
    }
}

/// A pod's own NFS volume.
pub(super) fn nfs_of(volume: &Volume) -> Option<Source> {
    let nfs = volume.nfs.as_ref()?;
    Some(Source::Nfs {
        server: nfs.server.clone(),
        path: nfs.path.clone(),
        options: Vec::new(),
        read_only: nfs.read_only == Some(true),
    })
}

/// The name of the source that is set.
fn kind_of(spec: &PersistentVolumeSpec) -> String {
    const OTHERS: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let value = serde_json::to_value(spec).unwrap_or_default();
    let keys = value.as_object().into_iter().flat_map(|o| o.keys());
    let mut sources = keys.filter(|k| !OTHERS.contains(&k.as_str()));
    sources
        .next()
        .map_or_else(|| "an empty source".into(), |k| format!("source {k}"))
}

/// A local volume: a directory that is there already, or a device that is mounted at `target`. Where it is to be used
/// from.
pub(super) fn local(
    path: &Path,
    fs_type: Option<&str>,
    options: &[String],
    target: &Path,
) -> Result<PathBuf, Error> {
    let kind = match fs::metadata(path) {
        Ok(m) => m.file_type(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotThere(path.to_owned()));
        }
        Err(e) => return Err(Error::io("stat", path)(e)),
    };
    if kind.is_dir() {
        return Ok(path.to_owned());
    }
    if !kind.is_block_device() {
        return Err(Error::HostPath {
            path: path.to_owned(),
            what: "directory or block device",
        });
    }
    fs::create_dir_all(target).map_err(Error::io("create directory", target))?;
    if !mounts::is_mount_point(target)? {
        disk::mount(path, fs_type, options, target)?;
    }
    Ok(target.to_owned())
}

/// A device node that must be there.
pub(super) fn device(path: &Path) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(m) if m.file_type().is_block_device() => Ok(()),
        Ok(_) => Err(Error::HostPath {
            path: path.to_owned(),
            what: "block device",
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::NotThere(path.to_owned())),
        Err(e) => Err(Error::io("stat", path)(e)),
    }
}

/// Where Debian and others keep the helper.
const HELPERS: [&str; 3] = ["/sbin/mount.nfs", "/usr/sbin/mount.nfs", "/bin/mount.nfs"];

/// Mounts an NFS export, unless something is mounted there: with the helper where there is one, which knows all
/// versions and options, and else by the kernel alone (version 4).
pub(super) fn nfs(
    server: &str,
    path: &str,
    options: &[String],
    read_only: bool,
    target: &Path,
) -> Result<(), Error> {
    fs::create_dir_all(target).map_err(Error::io("create directory", target))?;
    if mounts::is_mount_point(target)? {
        return Ok(());
    }
    let what = format!("{}:{path} over nfs", bracketed(server));
    let fail = |why: String| Error::Mount {
        what: what.clone(),
        why,
    };
    let access = if read_only { "ro" } else { "rw" };
    if let Some(helper) = HELPERS.iter().find(|h| Path::new(h).exists()) {
        let all: Vec<&str> = options.iter().map(String::as_str).chain([access]).collect();
        let done = Command::new(helper)
            .arg(format!("{}:{path}", bracketed(server)))
            .arg(target)
            .args(["-o", &all.join(",")])
            .output()
            .map_err(|e| fail(format!("run {helper}: {e}")))?;
        return match done.status.success() {
            true => Ok(()),
            false => Err(fail(
                String::from_utf8_lossy(&done.stderr).trim().to_owned(),
            )),
        };
    }
    let addresses = (server, 2049u16).to_socket_addrs();
    let address = addresses
        .map_err(|e| fail(format!("look up {server}: {e}")))?
        .next()
        .ok_or_else(|| fail(format!("{server} has no address")))?;
    let mut all = options.to_vec();
    if !all
        .iter()
        .any(|o| o.starts_with("vers=") || o.starts_with("nfsvers="))
    {
        all.push("vers=4.2".into());
    }
    all.push(format!("addr={}", address.ip()));
    let flags = match read_only {
        true => MountFlags::RDONLY,
        false => MountFlags::empty(),
    };
    let (source, data) = (format!("{}:{path}", bracketed(server)), data(&all)?);
    match mount(source.as_str(), target, "nfs4", flags, data.as_c_str()) {
        Ok(()) => Ok(()),
        Err(Errno::NODEV) => Err(fail(
            "this node's kernel has no NFS client, and there is no mount.nfs helper (Debian: nfs-common)".into(),
        )),
        Err(e) => Err(fail(format!(
            "{} (by the kernel alone: there is no mount.nfs helper, Debian: nfs-common)",
            std::io::Error::from(e)
        ))),
    }
}

fn bracketed(server: &str) -> String {
    match server.contains(':') && !server.starts_with('[') {
        true => format!("[{server}]"),
        false => server.to_owned(),
    }
}

pub(super) fn data(options: &[String]) -> Result<std::ffi::CString, Error> {
    let text = options.join(",");
    std::ffi::CString::new(text.clone()).map_err(|_| Error::Mount {
        what: format!("with options {text:?}"),
        why: "options must not contain a zero byte".into(),
    })
}
