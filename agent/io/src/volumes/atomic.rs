//! Files that change all at once.
//!
//! ```text
//! volume/..2026_11_21_10_00_00.123456789/key    the files of one version
//! volume/..data -> ..2026_11_21_10_00_00.123456789   swapped by one rename
//! volume/key -> ..data/key                      what containers open
//! ```
//!
//! The layout is upstream's, since programs watch `..data`.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use super::payload::Files;
use super::{Error, Owner, owner};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Writes a version, unless the current one is the same; true if it was not. A crash at any point leaves
/// the old version or the new one, and the next call cleans up after it.
pub(super) fn write(dir: &Path, files: &Files, owner: &Owner) -> Result<bool, Error> {
    let current = fs::read_link(dir.join(DATA)).ok();
    let same = current
        .as_ref()
        .is_some_and(|c| matches(&dir.join(c), files, owner));
    let version = match current.filter(|_| same) {
        Some(version) => version,
        None => new_version(dir, files, owner)?.into(),
    };
    link(dir, files)?;
    sweep(dir, files, &version)?;
    Ok(!same)
}

fn new_version(dir: &Path, files: &Files, owner: &Owner) -> Result<String, Error> {
    let name = jiff::Timestamp::now()
        .strftime("..%Y_%m_%d_%H_%M_%S.%9f")
        .to_string();
    let version = dir.join(&name);
    make_dir(&version, owner)?;
    for (path, (mode, data)) in files {
        put(
            &version,
            Path::new(path),
            owner.file_mode(*mode),
            data,
            owner,
        )?;
    }
    let new = dir.join(DATA_NEW);
    remove_link(&new)?;
    symlink(&name, &new).map_err(Error::io("link", &new))?;
    let data = dir.join(DATA);
    fs::rename(&new, &data).map_err(Error::io("replace", &data))?;
    Ok(name)
}

fn put(version: &Path, path: &Path, mode: u32, data: &[u8], owner: &Owner) -> Result<(), Error> {
    let full = version.join(path);
    let parents: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .filter(|p| !p.as_os_str().is_empty())
        .collect();
    for parent in parents.iter().rev() {
        make_dir(&version.join(parent), owner)?;
    }
    // Closed until it is whole and given away: the mode may be wide, the owner is not there yet.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&full);
    let mut file = file.map_err(Error::io("create file", &full))?;
    file.write_all(data)
        .map_err(Error::io("write file", &full))?;
    owner.give(&full)?;
    owner::chmod(&full, mode)
}

fn make_dir(path: &Path, owner: &Owner) -> Result<(), Error> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        r => r.map_err(Error::io("create directory", path))?,
    }
    owner.give(path)?;
    owner::chmod(path, owner.dir_mode(0o755))
}

/// Whether a version has exactly these files.
fn matches(version: &Path, files: &Files, owner: &Owner) -> bool {
    let same = |(path, (mode, data)): (&String, &(u32, Vec<u8>))| {
        let full = version.join(path);
        let Ok(meta) = fs::symlink_metadata(&full) else {
            return false;
        };
        meta.is_file()
            && meta.permissions().mode() & 0o777 == owner.file_mode(*mode)
            && owner.fs_group.is_none_or(|g| g == meta.gid())
            && owner.fs_user.is_none_or(|u| u == meta.uid())
            && fs::read(&full).is_ok_and(|have| have == *data)
    };
    count(version).is_ok_and(|n| n == files.len()) && files.iter().all(same)
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut n = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        n += if entry.file_type()?.is_dir() {
            count(&entry.path())?
        } else {
            1
        };
    }
    Ok(n)
}

fn tops(files: &Files) -> BTreeSet<&str> {
    files.keys().filter_map(|p| p.split('/').next()).collect()
}

/// Makes the names that containers open; they point through `..data`, so they never change.
fn link(dir: &Path, files: &Files) -> Result<(), Error> {
    for top in tops(files) {
        let path = dir.join(top);
        match symlink(Path::new(DATA).join(top), &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            r => r.map_err(Error::io("link", &path))?,
        }
    }
    Ok(())
}

/// Removes names that no longer exist and versions other than the current one.
fn sweep(dir: &Path, files: &Files, version: &Path) -> Result<(), Error> {
    let tops = tops(files);
    for entry in fs::read_dir(dir).map_err(Error::io("read directory", dir))? {
        let path = entry.map_err(Error::io("read directory", dir))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        if name == DATA || Path::new(name) == version || tops.contains(name) {
            continue;
        }
        if name.starts_with("..") && name != DATA_NEW {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        } else {
            remove_link(&path)?;
        }
    }
    Ok(())
}

fn remove_link(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        r => r.map_err(Error::io("remove", path)),
    }
}
