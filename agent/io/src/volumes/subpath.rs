//! `subPath`: a part of a volume, where whoever writes the volume may be hostile.
//!
//! The path is resolved by the kernel (openat2, `RESOLVE_BENEATH`), so no link leads out of the volume,
//! and what was resolved is mounted through its file descriptor: it cannot be swapped afterwards.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::mount_bind;

use super::{Error, mounts};

/// The kernel says EAGAIN when a rename ran beside it; a volume that is renamed all the time is hostile.
const ATTEMPTS: usize = 128;

/// Binds `sub_path` of `volume` to `target` and returns it.
pub(super) fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<PathBuf, Error> {
    let found = resolve(volume, sub_path)?;
    let stat = fstat(&found).map_err(Error::io("stat", volume))?;
    prepare(target, FileType::from_raw_mode(stat.st_mode).is_dir())?;
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    mount_bind(source, target).map_err(Error::io("bind subPath to", target))?;
    Ok(target.to_owned())
}

fn prepare(target: &Path, dir: bool) -> Result<(), Error> {
    if target.exists() {
        if mounts::is_mount_point(target)? {
            mounts::take_away(target)?;
        }
        if target.is_dir() == dir {
            return Ok(());
        }
        let removed = if dir {
            fs::remove_file(target)
        } else {
            fs::remove_dir(target)
        };
        removed.map_err(Error::io("remove", target))?;
    }
    let parent = if dir {
        target
    } else {
        target.parent().unwrap_or(target)
    };
    fs::create_dir_all(parent).map_err(Error::io("create directory", parent))?;
    if !dir {
        fs::File::create(target).map_err(Error::io("create file", target))?;
    }
    Ok(())
}

/// Opens `sub_path` beneath `volume`; missing directories are made with the volume's own mode.
pub(super) fn resolve(volume: &Path, sub_path: &str) -> Result<OwnedFd, Error> {
    let escape = || Error::Escape {
        sub_path: sub_path.to_owned(),
        root: volume.to_owned(),
    };
    let path = Path::new(sub_path);
    if path
        .components()
        .any(|c| !matches!(c, Component::Normal(_) | Component::CurDir))
    {
        return Err(escape());
    }
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(Error::io("open volume", volume))?;
    let mode =
        Mode::from_raw_mode(fstat(&root).map_err(Error::io("stat", volume))?.st_mode & 0o7777);
    let mut so_far = PathBuf::from(".");
    let mut at = beneath(&root, &so_far).map_err(Error::io("open volume", volume))?;
    for part in path.components().filter(|c| *c != Component::CurDir) {
        so_far.push(part);
        let opened = match beneath(&root, &so_far) {
            Err(Errno::NOENT) => match mkdirat(&at, part.as_os_str(), mode) {
                Ok(()) | Err(Errno::EXIST) => beneath(&root, &so_far),
                Err(e) => Err(e),
            },
            r => r,
        };
        at = opened.map_err(|e| match e {
            Errno::XDEV | Errno::LOOP => escape(),
            e => Error::io("open subPath", &volume.join(&so_far))(e),
        })?;
    }
    Ok(at)
}

fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut last = Errno::AGAIN;
    for _ in 0..ATTEMPTS {
        match openat2(root, path, flags, Mode::empty(), how) {
            Err(e @ (Errno::AGAIN | Errno::INTR)) => last = e,
            r => return r,
        }
    }
    Err(last)
}
