//! Directories that are volumes of this node (`keelson.io/local-path`): made when they are first used, removed when
//! their claim is gone. Only what lies directly below the root is ours.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;

use super::{Error, element, mounts, owner};

/// The directories of one node.
#[derive(Clone, Debug)]
pub struct Storage {
    root: PathBuf,
}

impl Storage {
    /// Directories below `root`. Nothing is made yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether a path is one of ours; its name.
    pub fn name<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let name = path.file_name()?.to_str()?;
        (path.parent() == Some(&self.root) && element("volume", name).is_ok()).then_some(name)
    }

    /// Makes a directory, open to every user of the containers that mount it; others do not get past the root. One that
    /// is there stays as it is.
    pub fn ensure(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.root.join(element("volume", name)?);
        fs::create_dir_all(&self.root).map_err(Error::io("create directory", &self.root))?;
        owner::chmod(&self.root, 0o700)?;
        let root = rustix::fs::open(
            &self.root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(Error::io("open", &self.root))?;
        let made = match mkdirat(&root, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(Error::io("create directory", &path)(e)),
        };
        // Not through a link, whoever may have put one there.
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened =
            openat2(&root, name, flags, Mode::empty(), how).map_err(Error::io("open", &path))?;
        if made {
            let fd = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
            owner::chmod(&fd, 0o777)?;
        }
        Ok(path)
    }

    /// Removes a directory and all in it; one that is not there is removed. Nothing is removed while something is
    /// mounted in it.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.root.join(element("volume", name)?);
        if let Some(point) = mounts::points_below(&path)?.first() {
            return Err(Error::io("remove (still mounted)", point)(Errno::BUSY));
        }
        let removed = match fs::symlink_metadata(&path) {
            Ok(m) if m.is_dir() => fs::remove_dir_all(&path).map_err(Error::io("remove", &path)),
            Ok(_) => fs::remove_file(&path).map_err(Error::io("remove", &path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("stat", &path)(e)),
        };
        // The last one takes the root with it, if there is nothing else in it.
        let _ = fs::remove_dir(&self.root);
        removed
    }
}
