//! When containers were started: `<run>/started/<id>`, in memory like the processes themselves. containerd forgets it
//! with the process, and its database on disk would take a write for each start.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::oom;
use crate::error::Error;
use crate::runtime::Runtime;

impl Runtime {
    pub(super) fn start_file(&self, id: &str) -> PathBuf {
        self.config().run_dir.join("started").join(id)
    }

    /// Notes that a container is started now. Before the fact: one that ran is never taken for one that didn't.
    pub(super) fn note_start(&self, id: &str, cgroup: &str) -> Result<(), Error> {
        let path = self.start_file(id);
        let dir = path.parent().unwrap_or(Path::new("/"));
        let write = || {
            fs::create_dir_all(dir)?;
            let text = format!("{}{}", Timestamp::now(), oom::note(oom::before(cgroup)));
            fs::File::create(&path)?.write_all(text.as_bytes())
        };
        write().map_err(Error::io("write", path.display()))
    }

    /// When a container was started; a note cut short by a crash says when it was written.
    pub(super) fn noted_start(&self, id: &str) -> Option<Timestamp> {
        let path = self.start_file(id);
        let text = fs::read_to_string(&path).ok()?;
        let first = text.lines().next().unwrap_or_default();
        first.parse().ok().or_else(|| {
            let written = fs::metadata(&path).ok()?.modified().ok()?;
            Timestamp::try_from(written).ok()
        })
    }

    pub(super) fn forget_start(&self, id: &str) -> Result<(), Error> {
        let path = self.start_file(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(Error::io("remove", path.display())(e))
            }
            _ => Ok(()),
        }
    }
}

/// The machine's life, by a file that goes with it: another one means that no process of before runs any more.
pub(crate) fn life(run_dir: &Path) -> Result<String, Error> {
    let path = run_dir.join("life");
    match fs::read_to_string(&path) {
        Ok(life) if !life.is_empty() => return Ok(life),
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(Error::io("read", path.display())(e));
        }
        _ => {}
    }
    let life = format!("{:016x}", rand::random::<u64>());
    fs::create_dir_all(run_dir).map_err(Error::io("make", run_dir.display()))?;
    let new = path.with_extension("new");
    fs::write(&new, &life).map_err(Error::io("write", new.display()))?;
    fs::rename(&new, &path).map_err(Error::io("write", path.display()))?;
    Ok(life)
}
