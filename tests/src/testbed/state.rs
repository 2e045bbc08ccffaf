//! Where a bed that is kept for people has its files: `/run/keelson/testbed/NAME`.
//!
//! ```text
//! lock           held while somebody brings it up or takes it down
//! description    YAML, complete
//! disks          the folder with the nodes' disks
//! keeper.log     what the keeper said
//! kubeconfig     the administrator's, by a port of this machine
//! socket         where the keeper listens, once all is up
//! ```

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::description::Description;
use super::keeper::{Answer, Request, Status};
use crate::node::remove_cgroups;
use crate::wait::{eventually, secs};

/// Where all are.
const ROOT: &str = "/run/keelson/testbed";
/// Where the nodes' disks are: /run may be memory, and nodes have an /etc, /var and /opt of their own.
const DISKS: &str = "/tmp";

/// A bed's files.
pub struct State {
    name: String,
    dir: PathBuf,
}

impl State {
    /// Those of the bed of this name, whether it is there or not.
    pub fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dir: Path::new(ROOT).join(name),
        }
    }

    /// Names of the beds that have files.
    pub fn names() -> Vec<String> {
        let dirs = fs::read_dir(ROOT).into_iter().flatten().flatten();
        let mut names: Vec<String> = dirs
            .map(|d| d.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// What the nodes' cgroups' names begin with.
    pub fn label(&self) -> String {
        // No name ends with it: no bed's label begins with another's.
        format!("keelson-testbed-{}_", self.name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The kubeconfig for this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.file("kubeconfig")
    }

    /// What the keeper says.
    pub fn log(&self) -> PathBuf {
        self.file("keeper.log")
    }

    /// Nobody else brings it up or takes it down as long as this is held.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn lock(&self) -> anyhow::Result<File> {
        loop {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.dir)?;
            let path = self.file("lock");
            let lock = File::create(&path)?;
            lock.lock()
                .with_context(|| format!("lock {}", path.display()))?;
            // Who had it before may have removed all files.
            if fs::metadata(&path)
                .is_ok_and(|now| lock.metadata().is_ok_and(|own| own.ino() == now.ino()))
            {
                return Ok(lock);
            }
        }
    }

    /// Keeps what the bed is to be.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn describe(&self, description: &Description) -> anyhow::Result<()> {
        Ok(fs::write(
            self.file("description"),
            serde_yaml_ng::to_string(description)?,
        )?)
    }

    /// What the bed is to be.
    ///
    /// # Errors
    /// When it was not described.
    pub fn description(&self) -> anyhow::Result<Description> {
        Description::read(&self.file("description"))
    }

    /// A folder for the nodes' disks; made, where it is not there.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn disks(&self) -> anyhow::Result<PathBuf> {
        let disks = self.disks_path();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&disks)?;
        Ok(disks)
    }

    /// Begins to answer.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn listen(&self) -> anyhow::Result<UnixListener> {
        let path = self.file("socket");
        missing_is_fine(fs::remove_file(&path))?;
        UnixListener::bind(&path).with_context(|| path.display().to_string())
    }

    /// Keeps the kubeconfig, for its owner only.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write_kubeconfig(&self, text: &str) -> anyhow::Result<()> {
        let mut options = fs::OpenOptions::new();
        let file = options
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(self.kubeconfig());
        Ok(file?.write_all(text.as_bytes())?)
    }

    /// Asks the keeper; none when there is none.
    ///
    /// # Errors
    /// What the keeper answers.
    pub fn ask(&self, request: &Request) -> anyhow::Result<Option<Status>> {
        let Some(line) = self.send(request)? else {
            return Ok(None);
        };
        let answer: Answer = serde_json::from_str(&line).with_context(|| {
            format!(
                "the keeper of {} has ended: see {}",
                self.name,
                self.log().display()
            )
        })?;
        answer.map(Some).map_err(|error| anyhow::anyhow!(error))
    }

    /// Sends a line and gives the one that comes back, or an empty one when the keeper has ended.
    fn send(&self, request: &Request) -> anyhow::Result<Option<String>> {
        let mut connection = match UnixStream::connect(self.file("socket")) {
            Ok(connection) => connection,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error).context("connect to the keeper"),
        };
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        connection.write_all(line.as_bytes())?;
        line.clear();
        BufReader::new(connection).read_line(&mut line)?;
        Ok(Some(line))
    }

    /// Has the keeper end, and removes what is left when it was killed. Repeating it is harmless.
    ///
    /// # Errors
    /// When something can't be removed.
    ///
    /// # Panics
    /// When processes of its nodes stay.
    pub fn down(&self) -> anyhow::Result<()> {
        if let Some(answer) = self.send(&Request::Down)? {
            if !answer.is_empty() {
                bail!("the keeper of {} goes on: {answer}", self.name);
            }
        }
        self.remove()
    }

    /// Removes what is left of a bed whose keeper has ended, but the lock.
    ///
    /// # Errors
    /// When something can't be removed.
    ///
    /// # Panics
    /// When processes of its nodes stay.
    pub fn clear(&self) -> anyhow::Result<()> {
        eventually("its cgroups are gone", secs(20), || {
            anyhow::ensure!(remove_cgroups(&self.label()), "see above");
            Ok(())
        });
        let disks = missing_is_fine(fs::remove_dir_all(self.disks_path()));
        let files = ["socket", "description", "kubeconfig", "keeper.log"];
        let files = files.map(|name| missing_is_fine(fs::remove_file(self.file(name))));
        [disks]
            .into_iter()
            .chain(files)
            .collect::<Result<(), _>>()
            .context("remove a bed's files")
    }

    /// Removes all that is left of a bed whose keeper has ended.
    ///
    /// # Errors
    /// When something can't be removed.
    ///
    /// # Panics
    /// When processes of its nodes stay.
    pub fn remove(&self) -> anyhow::Result<()> {
        let cleared = self.clear();
        missing_is_fine(fs::remove_dir_all(&self.dir))?;
        // Other beds, or others' files, may be there still.
        let _ = fs::remove_dir(ROOT).and_then(|()| fs::remove_dir("/run/keelson"));
        cleared
    }

    fn disks_path(&self) -> PathBuf {
        Path::new(DISKS).join(self.label())
    }
}

fn missing_is_fine(done: std::io::Result<()>) -> std::io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
