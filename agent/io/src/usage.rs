//! What a directory takes on disk, where whoever writes it may be hostile.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the blocks it holds, as `du` counts them.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// A block of `st_blocks`, whatever the file system's own size is.
const BLOCK: u64 = 512;

/// Walks a directory: no link is followed, no mount is entered, a file of several names counts once. What vanishes
/// meanwhile does not count; a directory that is not there takes nothing. Blocks.
pub fn usage(dir: &Path) -> io::Result<Usage> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = match rustix::fs::open(dir, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Usage::default()),
        root => root?,
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let (mut sum, mut linked) = (Usage::default(), HashSet::new());
    let mut left = vec![PathBuf::from(".")];
    while let Some(path) = left.pop() {
        // Only one is open at a time, however deep the tree is.
        let Ok(opened) = openat2(&root, &path, flags, Mode::empty(), resolve) else {
            continue;
        };
        let Ok(entries) = Dir::read_from(&opened) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            sum += Usage {
                bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK,
                inodes: 1,
            };
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                left.push(path.join(OsStr::from_bytes(name.to_bytes())));
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn links_count_once_and_lead_nowhere() {
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path();
        assert_eq!(
            usage(&root.join("none")).expect("nothing"),
            Usage::default()
        );
        fs::create_dir_all(root.join("a/b")).expect("directories");
        fs::write(root.join("a/b/file"), vec![1; 100_000]).expect("file");
        fs::hard_link(root.join("a/b/file"), root.join("again")).expect("link");
        symlink("/usr", root.join("away")).expect("symlink");
        let blocks = |p: &str| fs::symlink_metadata(root.join(p)).expect(p).blocks() * 512;
        let want: u64 = ["a", "a/b", "a/b/file", "away"].map(blocks).iter().sum();
        let got = usage(root).expect("usage");
        assert_eq!(
            got,
            Usage {
                bytes: want,
                inodes: 4
            }
        );
        assert!(got.bytes >= 100_000);
    }
}
