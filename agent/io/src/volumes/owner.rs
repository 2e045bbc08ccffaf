//! Who may use a volume: fsGroup and the user of a pod whose containers share one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::Error;

/// To whom a volume is given. Host paths are never given away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `securityContext.fsGroup`.
    pub fs_group: Option<u32>,
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

/// Sets the mode, whatever the umask says.
pub(super) fn chmod(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("chmod", path))
}
