//! Mounts below a pod's directory: made, found in mountinfo, taken away.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use super::Error;

/// No device and no set-uid program has any business in a pod's memory.
const TMPFS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Mounts a tmpfs, unless one is there. Secrets in it are kept out of swap where the kernel can (6.4 and later).
pub(super) fn tmpfs(path: &Path, limit: Option<u64>) -> Result<(), Error> {
    let size = limit.map(|n| format!("size={n}"));
    if is_mount_point(path)? {
        let Some(size) = size.as_deref().and_then(|s| CString::new(s).ok()) else {
            return Ok(());
        };
        return mount_remount(path, TMPFS, size.as_c_str())
            .map_err(Error::io("resize tmpfs on", path));
    }
    let attempt = |options: String| {
        let data = CString::new(options).unwrap_or_default();
        mount("tmpfs", path, "tmpfs", TMPFS, data.as_c_str())
    };
    let options: Vec<&str> = ["mode=0777"].into_iter().chain(size.as_deref()).collect();
    let options = options.join(",");
    match attempt(format!("{options},noswap")) {
        Err(Errno::INVAL) => attempt(options),
        r => r,
    }
    .map_err(Error::io("mount tmpfs on", path))
}

/// Mounts a hugetlbfs with pages of so many bytes, unless one is there.
pub(super) fn hugetlbfs(path: &Path, page: u64, limit: Option<u64>) -> Result<(), Error> {
    if is_mount_point(path)? {
        return Ok(());
    }
    let size = limit.map(|n| format!(",size={n}")).unwrap_or_default();
    let options = CString::new(format!("mode=0777,pagesize={page}{size}")).unwrap_or_default();
    mount("hugetlbfs", path, "hugetlbfs", TMPFS, options.as_c_str())
        .map_err(Error::io("mount hugetlbfs on", path))
}

/// Whether something is mounted exactly here.
pub(super) fn is_mount_point(path: &Path) -> Result<bool, Error> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty());
    let found = found.map_err(Error::io("resolve", path))?;
    if found
        .stx_attributes_mask
        .contains(StatxAttributes::MOUNT_ROOT)
    {
        return Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    // Kernels before 5.8 don't say.
    let real = path.canonicalize().map_err(Error::io("resolve", path))?;
    Ok(points_below(&real)?.contains(&real))
}

/// Unmounts what is mounted at or below a directory, the last mounted first. Returns what failed.
pub(super) fn unmount_below(dir: &Path) -> Vec<Error> {
    match points_below(dir) {
        Ok(points) => unmount_all(&points),
        Err(e) => vec![e],
    }
}

/// Unmounts these, the last first. Returns what failed.
fn unmount_all(points: &[PathBuf]) -> Vec<Error> {
    let errors = points.iter().rev().map(|p| take_away(p));
    errors.filter_map(Result::err).collect()
}

/// Unmounts; what is still in use leaves the tree at once and goes with its last user.
pub(super) fn take_away(point: &Path) -> Result<(), Error> {
    let nofollow = UnmountFlags::NOFOLLOW;
    match unmount(point, nofollow) {
        Err(Errno::BUSY) => unmount(point, nofollow | UnmountFlags::DETACH),
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        r => r,
    }
    .map_err(Error::io("unmount", point))
}

/// Removes the empty directories of a directory.
pub(super) fn remove_mount_points(dir: &Path, errors: &mut Vec<Error>) {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => return errors.push(Error::io("read directory", dir)(e)),
        Ok(entries) => entries,
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match fs::remove_dir(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                errors.push(Error::io("remove mount point", &path)(e));
            }
            _ => {}
        }
    }
}

/// Unmounts what is mounted at or below a directory and removes the tree, but nothing that is still mounted into it: a
/// host path may hang there. `between` removes what may not be removed with its content.
pub(super) fn clear(dir: &Path, between: impl FnOnce(&mut Vec<Error>)) -> Vec<Error> {
    let points = match points_below(dir) {
        Ok(points) => points,
        Err(e) => return vec![e],
    };
    let mut errors = unmount_all(&points);
    between(&mut errors);
    if !errors.is_empty() {
        return errors;
    }
    // To see every mount of the machine takes time: where there were none there are none.
    let left = match points.is_empty() {
        true => Ok(points),
        false => points_below(dir),
    };
    match left {
        Ok(left) => remove(dir, &left, &mut errors),
        Err(e) => errors.push(e),
    }
    errors
}

fn remove(path: &Path, mounted: &[PathBuf], errors: &mut Vec<Error>) {
    let result = if mounted.iter().any(|m| m == path) {
        Err(io::Error::from(io::ErrorKind::ResourceBusy))
    } else if mounted.iter().any(|m| m.starts_with(path)) {
        remove_children(path, mounted, errors)
    } else {
        fs::remove_dir_all(path)
    };
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => errors.push(Error::io("remove", path)(e)),
        _ => {}
    }
}

fn remove_children(dir: &Path, mounted: &[PathBuf], errors: &mut Vec<Error>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path(), mounted, errors);
        } else if let Err(e) = fs::remove_file(entry.path()) {
            errors.push(Error::io("remove", &entry.path())(e));
        }
    }
    Ok(())
}

/// What is mounted at or below a directory, in mount order.
pub(super) fn points_below(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let real = match dir.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        r => r.map_err(Error::io("resolve", dir))?,
    };
    let path = Path::new("/proc/thread-self/mountinfo");
    let text = fs::read(path).map_err(Error::io("read", path))?;
    let mut points = parse(&text);
    points.retain(|p| p.starts_with(&real));
    Ok(points)
}

/// The fifth field of each line, in mount order.
fn parse(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|b| *b == b'\n');
    let field = |line: &[u8]| line.split(|b| *b == b' ').nth(4).map(unescape);
    lines
        .filter_map(field)
        .map(|b| PathBuf::from(std::ffi::OsString::from_vec(b)))
        .collect()
}

/// Undoes the kernel's `\040` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_names_are_unescaped() {
        let text = b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /a\\040b\\134c rw - tmpfs t rw\n";
        assert_eq!(parse(text), [PathBuf::from("/"), PathBuf::from("/a b\\c")]);
    }
}
