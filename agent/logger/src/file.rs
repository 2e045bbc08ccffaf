//! The log file: appended to, opened again after rotation, never waited for.
//!
//! It is locked (`fcntl`, so that the lock names its holder) until all is in it that the container has written before
//! its end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};

const MODE: u32 = 0o640;

/// An open log file.
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    inode: (u64, u64),
    /// The last write stopped in the middle of a line.
    torn: bool,
    /// The container may have written more.
    open: bool,
}

impl LogFile {
    /// Opens the file for appending. Its directory is there, or the pod has been removed meanwhile.
    pub(crate) fn create(path: PathBuf) -> io::Result<LogFile> {
        let (file, inode) = open(&path)?;
        lock(&file, libc::F_WRLCK);
        Ok(LogFile {
            path,
            file,
            inode,
            torn: false,
            open: true,
        })
    }

    /// All is there that the container wrote.
    pub(crate) fn complete(&mut self) {
        self.open = false;
        lock(&self.file, libc::F_UNLCK);
    }

    /// Goes over to the file that now has the path. A directory that is gone is not made again: the
    /// pod has been removed, and the old file takes what still comes.
    pub(crate) fn reopen(&mut self) {
        if let Ok((file, inode)) = open(&self.path) {
            (self.file, self.inode) = (file, inode);
            self.torn = false;
            // Not before: when the old one is closed, which may be the same, its lock goes.
            if self.open {
                lock(&self.file, libc::F_WRLCK);
            }
        }
    }

    /// Appends whole lines. What does not fit on the disk is dropped: a container must never wait
    /// for its log.
    pub(crate) fn append(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let renamed = fs::metadata(&self.path).map_or(true, |meta| identity(&meta) != self.inode);
        if renamed {
            self.reopen();
        }
        if self.torn && self.file.write(b"\n").is_ok_and(|length| length == 1) {
            self.torn = false;
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(length @ 1..) => rest = rest.get(length..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.torn |= rest.len() < lines.len();
                    return;
                }
            }
        }
    }
}

fn open(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .open(path)?;
    let inode = identity(&file.metadata()?);
    Ok((file, inode))
}

/// Where there are no locks the agent does not wait.
fn lock(file: &File, kind: i32) {
    let whole = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let _ = fcntl(file, FcntlArg::F_SETLK(&whole));
}

fn identity(meta: &fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}
