//! The file: its tables, opening, closing, and opening again after a failure.

use std::fs::{File as OsFile, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, ReadableDatabase, TableDefinition, WriteTransaction};

use super::disk::Disk;
use super::view::View;
use crate::Error;

/// `format`, `revision`, `compacted`.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// key -> (create revision, mod revision, value): things as they are.
pub(super) const CURRENT: TableDefinition<&str, (u64, u64, &[u8])> =
    TableDefinition::new("current");
/// (key, mod revision) -> (create revision, revision of the write that ended it, value): things as they were.
pub(super) const OLD: TableDefinition<(&str, u64), (u64, u64, &[u8])> = TableDefinition::new("old");
/// (revision, index in it) -> (key, mod revision before or 0, create revision or 0 for a delete): what happened.
pub(super) const LOG: TableDefinition<(u64, u32), (&str, u64, u64)> = TableDefinition::new("log");

const FORMAT: u64 = 1;

/// Any redb failure as ours.
pub(super) fn fault(error: impl Into<redb::Error>) -> Error {
    Error::Io(error.into().to_string())
}

pub(super) struct File {
    path: PathBuf,
    file: Arc<OsFile>,
    cache_bytes: usize,
    /// `None`: closed, or opening it again has failed.
    database: RwLock<Option<Database>>,
}

impl File {
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Self, Error> {
        let file =
            lock_file(path).map_err(|e| Error::Io(format!("open {}: {e}", path.display())))?;
        let this = Self {
            path: path.into(),
            file: Arc::new(file),
            cache_bytes,
            database: RwLock::new(None),
        };
        this.reopen()?;
        Ok(this)
    }

    /// Closes the database if it is open and opens it again, which brings back the last durable commit.
    pub(super) fn reopen(&self) -> Result<(), Error> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // The old one must be gone before the new one looks at the file.
        *database = None;
        let opened = redb::Builder::new()
            .set_cache_size(self.cache_bytes)
            .create_with_backend(Disk(self.file.clone()))
            .map_err(fault)
            .and_then(|db| prepare(&db).map(|()| db))
            .map_err(|e| Error::Io(format!("open {}: {e}", self.path.display())))?;
        *database = Some(opened);
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        self.database
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    pub(super) fn close(&self) {
        *self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
        if let Err(error) = self.file.unlock() {
            tracing::warn!(path = %self.path.display(), %error, "unlock store file");
        }
    }

    /// A snapshot of the last commit.
    pub(super) fn view(&self) -> Result<View, Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(|| self.unavailable())?;
        View::new(database.begin_read().map_err(fault)?)
    }

    /// A transaction whose commit is durable and leaves a file that opens at once after a crash.
    pub(super) fn write(&self) -> Result<WriteTransaction, Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(|| self.unavailable())?;
        let mut transaction = database.begin_write().map_err(fault)?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    fn unavailable(&self) -> Error {
        Error::Io(format!("{} is not open", self.path.display()))
    }
}

/// Opens the file, private to us and locked against other processes.
fn lock_file(path: &Path) -> std::io::Result<OsFile> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => std::io::Error::other("another process has it open"),
        TryLockError::Error(e) => e,
    })?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    // A new name is durable only once its directory is.
    if let Some(directory) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        OsFile::open(directory)?.sync_all()?;
    }
    Ok(file)
}

/// Makes the tables in a new file; refuses a file that is not ours.
fn prepare(database: &Database) -> Result<(), Error> {
    let transaction = database.begin_read().map_err(fault)?;
    let is_new = transaction.list_tables().map_err(fault)?.next().is_none();
    if !is_new {
        let format = transaction
            .open_table(META)
            .and_then(|meta| Ok(meta.get("format")?.map(|v| v.value())));
        return match format {
            Ok(Some(FORMAT)) => Ok(()),
            Ok(Some(other)) => Err(Error::Io(format!(
                "store format {other} is not known, only {FORMAT}"
            ))),
            _ => Err(Error::Io("a database, but not a keelson store".into())),
        };
    }
    let mut transaction = database.begin_write().map_err(fault)?;
    transaction.set_quick_repair(true);
    {
        let mut meta = transaction.open_table(META).map_err(fault)?;
        for (name, value) in [("format", FORMAT), ("revision", 0), ("compacted", 0)] {
            meta.insert(name, value).map_err(fault)?;
        }
        transaction.open_table(CURRENT).map_err(fault)?;
        transaction.open_table(OLD).map_err(fault)?;
        transaction.open_table(LOG).map_err(fault)?;
    }
    transaction.commit().map_err(fault)
}
