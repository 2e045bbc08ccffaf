//! What was added, on disk: `<dir>/results/<network>-<uid>-<ifname>`, 0600, replaced by rename.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Attachment, Error, Network};

/// One attachment: everything that DEL needs. The result is null until ADD has succeeded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) network: Network,
    pub(super) attachment: Attachment,
    pub(super) result: Value,
    /// Its DEL has failed: it is to go.
    #[serde(default)]
    pub(super) ending: bool,
}

impl Record {
    pub(super) fn new(network: &Network, attachment: &Attachment) -> Self {
        Self {
            network: network.clone(),
            attachment: attachment.clone(),
            result: Value::Null,
            ending: false,
        }
    }

    fn file_name(&self) -> Result<String, Error> {
        let name = format!(
            "{}-{}",
            self.network.name,
            suffix(&self.attachment.uid, &self.attachment.ifname)?
        );
        Ok(name)
    }
}

fn suffix(uid: &str, ifname: &str) -> Result<String, Error> {
    let bad = [uid, ifname]
        .into_iter()
        .find(|n| n.is_empty() || n.contains(['/', '\0']));
    match bad {
        Some(n) => Err(Error::Name(n.to_owned())),
        None => Ok(format!("{uid}-{ifname}")),
    }
}

pub(super) struct Cache {
    dir: PathBuf,
}

/// Files being written; a crash may leave one, and it is no record.
const PARTIAL: &str = ".partial";

impl Cache {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            dir: root.join("results"),
        }
    }

    /// Removes what a crash left half written. Only for the process that writes here.
    pub(super) fn sweep(&self) {
        let partial =
            |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(PARTIAL.as_bytes());
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in entries.filter(|e| partial(&e.file_name())) {
            if let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "half-written CNI result");
            }
        }
    }

    pub(super) fn put(&self, record: &Record) -> Result<(), Error> {
        let path = self.dir.join(record.file_name()?);
        let partial = self.dir.join(format!("{PARTIAL}-{}", record.file_name()?));
        let write = || {
            fs::create_dir_all(&self.dir)?;
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&partial)?;
            // Not synced: every process that could be behind it is gone when the machine is.
            file.write_all(&serde_json::to_vec(record)?)?;
            fs::rename(&partial, &path)
        };
        write().map_err(io_error("write", &path))
    }

    pub(super) fn remove(&self, record: &Record) -> Result<(), Error> {
        let path = self.dir.join(record.file_name()?);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            r => r.map_err(io_error("remove", &path)),
        }
    }

    /// The records of one pod's link, of whatever network.
    pub(super) fn of(&self, uid: &str, ifname: &str) -> Result<Vec<Record>, Error> {
        let suffix = format!("-{}", suffix(uid, ifname)?);
        let mut records = self.read(|name| name.ends_with(&suffix))?;
        records.retain(|r| r.attachment.uid == uid && r.attachment.ifname == ifname);
        Ok(records)
    }

    pub(super) fn all(&self) -> Result<Vec<Record>, Error> {
        self.read(|_| true)
    }

    fn read(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Record>, Error> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            r => r.map_err(io_error("read directory", &self.dir))?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry.map_err(io_error("read directory", &self.dir))?.path();
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if name.starts_with(PARTIAL) || !wanted(name) {
                continue;
            }
            let text = fs::read(&path).map_err(io_error("read", &path))?;
            // The machine went down before it was on the disk.
            if text.is_empty() {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
                continue;
            }
            let record = serde_json::from_slice(&text).map_err(io::Error::from);
            records.push(record.map_err(io_error("parse", &path))?);
        }
        Ok(records)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
