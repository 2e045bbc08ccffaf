//! Who may use a volume: fsGroup and the user of a pod whose containers share one.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, chownat, fstat, openat};
use rustix::io::Errno;

use super::Error;

/// To whom a volume is given. Host paths are never given away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `securityContext.fsGroup`.
    pub fs_group: Option<u32>,
    /// `fsGroupChangePolicy: OnRootMismatch`: a tree whose root is right is not walked.
    pub on_root_mismatch: bool,
    /// `runAsUser`, when all containers of the pod have the same: it gets the token files.
    pub fs_user: Option<u32>,
}

const SETGID: u32 = 0o2000;

impl Owner {
    /// Whether files belong to somebody else than root.
    pub(super) fn is_set(&self) -> bool {
        self.fs_group.is_some() || self.fs_user.is_some()
    }

    /// A read-only file's mode: the group reads what it owns, as upstream's fsGroup does.
    pub(super) fn file_mode(&self, mode: u32) -> u32 {
        if self.fs_group.is_some() {
            mode | 0o440
        } else {
            mode
        }
    }

    /// A directory's mode: new files inherit the group.
    pub(super) fn dir_mode(&self, mode: u32) -> u32 {
        if self.fs_group.is_some() {
            mode | SETGID | 0o550
        } else {
            mode
        }
    }

    /// Gives one file or directory away; nothing to do without an owner.
    pub(super) fn give(&self, path: &Path) -> Result<(), Error> {
        if self.is_set() {
            chown(path, self.fs_user, self.fs_group).map_err(Error::io("chown", path))?;
        }
        Ok(())
    }
}

/// Opens a volume's root to every user of the pod's containers; the pod's own directory above keeps the
/// host's users out.
pub(super) fn open(path: &Path, owner: &Owner) -> Result<(), Error> {
    if let Some(gid) = owner.fs_group {
        chown(path, None, Some(gid)).map_err(Error::io("chown", path))?;
    }
    chmod(path, owner.dir_mode(0o777))
}

/// What a group may do with what it is given.
const FILE: u32 = 0o660;
const DIRECTORY: u32 = 0o110 | FILE | SETGID;

/// Gives a volume with all in it to the pod's group: each file may be read and written by it, and new ones are its
/// own. Links are not followed, and who writes the volume meanwhile can't lead the walk out of it.
pub fn give_tree(path: &Path, owner: &Owner) -> Result<(), Error> {
    let Some(gid) = owner.fs_group else {
        return Ok(());
    };
    let root = rustix::fs::open(path, NODE, Mode::empty()).map_err(Error::io("open", path))?;
    let stat = fstat(&root).map_err(Error::io("stat", path))?;
    if owner.on_root_mismatch && is_given(&stat, gid) {
        return Ok(());
    }
    give_below(&root, path, gid)?;
    // Last: the root tells that all below is done.
    give_one(&root, path, &stat, gid)
}

const NODE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn wanted(stat: &Stat) -> u32 {
    let mode = stat.st_mode & 0o7777;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => mode | DIRECTORY,
        _ => mode | FILE,
    }
}

fn is_given(stat: &Stat, gid: u32) -> bool {
    stat.st_gid == gid && stat.st_mode & 0o7777 == wanted(stat)
}

fn give_one(node: &OwnedFd, path: &Path, stat: &Stat, gid: u32) -> Result<(), Error> {
    if is_given(stat, gid) {
        return Ok(());
    }
    let group = Some(Gid::from_raw(gid));
    chownat(node, "", None, group, AtFlags::EMPTY_PATH).map_err(Error::io("chown", path))?;
    match FileType::from_raw_mode(stat.st_mode) {
        // A link has no mode of its own.
        FileType::Symlink => Ok(()),
        _ => chmod(&opened(node), wanted(stat)),
    }
}

fn opened(node: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", node.as_raw_fd()))
}

fn give_below(dir: &OwnedFd, path: &Path, gid: u32) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = openat(dir, ".", flags, Mode::empty()).map_err(Error::io("open", path))?;
    let entries = Dir::new(listed).map_err(Error::io("read directory", path))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("read directory", path))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let below = path.join(name.to_string_lossy().as_ref());
        let node = match openat(dir, name, NODE, Mode::empty()) {
            // Gone since it was listed.
            Err(Errno::NOENT) => continue,
            r => r.map_err(Error::io("open", &below))?,
        };
        let stat = fstat(&node).map_err(Error::io("stat", &below))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            give_below(&node, &below, gid)?;
        }
        give_one(&node, &below, &stat, gid)?;
    }
    Ok(())
}

/// Sets the mode, whatever the umask says.
pub(super) fn chmod(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("chmod", path))
}
