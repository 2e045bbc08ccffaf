//! `hostPath`: what must be there is checked, what may be made is made.

use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path};

use super::{Error, owner};

/// `hostPath.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathType {
    /// No check; made as a directory when missing, as container runtimes do.
    Unset,
    /// A directory (0755) is made when nothing is there.
    DirectoryOrCreate,
    /// A directory must be there.
    Directory,
    /// A file (0644) is made when nothing is there; its directory must be there.
    FileOrCreate,
    /// A file must be there.
    File,
    /// A UNIX socket must be there.
    Socket,
    /// A character device must be there.
    CharDevice,
    /// A block device must be there.
    BlockDevice,
}

/// What a `type` may be.
pub(super) const TYPES: &str =
    "BlockDevice, CharDevice, Directory, DirectoryOrCreate, File, FileOrCreate, Socket or none";

type Is = fn(&FileType) -> bool;

impl HostPathType {
    /// From the API's word; the empty one is `Unset`.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "" => Self::Unset,
            "DirectoryOrCreate" => Self::DirectoryOrCreate,
            "Directory" => Self::Directory,
            "FileOrCreate" => Self::FileOrCreate,
            "File" => Self::File,
            "Socket" => Self::Socket,
            "CharDevice" => Self::CharDevice,
            "BlockDevice" => Self::BlockDevice,
            _ => return None,
        })
    }

    /// What it must be, in upstream's words.
    fn wanted(self) -> Option<(&'static str, Is)> {
        Some(match self {
            Self::Unset => return None,
            Self::DirectoryOrCreate | Self::Directory => ("directory", FileType::is_dir),
            Self::FileOrCreate | Self::File => ("file", FileType::is_file),
            Self::Socket => ("socket file", FileType::is_socket),
            Self::CharDevice => ("character device", FileType::is_char_device),
            Self::BlockDevice => ("block device", FileType::is_block_device),
        })
    }
}

/// Checks a host path, and makes it where its type says so.
pub(super) fn ensure(path: &Path, kind: HostPathType) -> Result<(), Error> {
    if !path.is_absolute() || path.components().any(|c| c == Component::ParentDir) {
        return Err(Error::Path(path.display().to_string()));
    }
    if !path.exists() {
        create(path, kind)?;
    }
    let Some((what, is)) = kind.wanted() else {
        return Ok(());
    };
    match fs::metadata(path) {
        Ok(m) if is(&m.file_type()) => Ok(()),
        Ok(_) => Err(Error::HostPath {
            path: path.to_owned(),
            what,
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::HostPath {
            path: path.to_owned(),
            what,
        }),
        Err(e) => Err(Error::io("check host path", path)(e)),
    }
}

fn create(path: &Path, kind: HostPathType) -> Result<(), Error> {
    match kind {
        HostPathType::Unset | HostPathType::DirectoryOrCreate => {
            fs::create_dir_all(path).map_err(Error::io("create directory", path))?;
            owner::chmod(path, 0o755)
        }
        HostPathType::FileOrCreate => {
            let made = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(path);
            match made {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    Err(Error::io("create file", path)(e))
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}
