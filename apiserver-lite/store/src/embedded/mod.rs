//! The store in one file on one machine, on redb.
//!
//! One thread writes: it takes every write that waits, applies them in order in one transaction, syncs once and
//! then answers them all. Readers use redb's snapshots and are never blocked by it. Watchers are fed by that thread
//! from a [`hub`]; one that starts in the past first reads the [`file`]'s log until the hub's memory takes over.

mod disk;
mod file;
mod hub;
mod view;
mod watch;
mod writer;

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use self::file::File;
use self::hub::Hub;
use self::view::View;
use self::writer::{Command, Writer};
use crate::{Error, KeyValue, Page, Range, Revision, Store, Swap, Watch};

/// How the embedded store behaves; `default()` suits a small cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of redb's page cache.
    pub cache_bytes: usize,
    /// History younger than this is kept by the automatic compaction (as kube-apiserver's five minutes for etcd).
    pub keep: Duration,
    /// At most about so many revisions of history are kept, however young.
    pub keep_revisions: u64,
    /// At most so many of the newest events are also held in memory.
    pub recent_events: usize,
    /// At most so many bytes of values in those events.
    pub recent_bytes: usize,
    /// A watcher with more unread events than this gets [`Error::Slow`].
    pub watch_buffer: usize,
    /// How often an idle watcher is told how far it has seen.
    pub progress: Duration,
    /// So many lists and log reads run at once; the others wait. Bounds memory and blocking threads.
    pub readers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 12 << 20,
            keep: Duration::from_secs(300),
            keep_revisions: 100_000,
            recent_events: 4096,
            recent_bytes: 4 << 20,
            watch_buffer: 4096,
            progress: Duration::from_secs(5),
            readers: 4,
        }
    }
}

/// What the writer thread, readers and watchers share.
struct Shared {
    file: File,
    hub: Mutex<Hub>,
    /// The newest committed revision, as the writer tells it.
    revision: AtomicU64,
    /// History up to here is gone.
    compacted: AtomicU64,
    readers: Semaphore,
}

impl Shared {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest revision a reader may have seen: a commit can be read a moment before `revision` tells of it.
    fn newest(&self) -> Result<Revision, Error> {
        self.file.view()?.revision()
    }

    /// Runs a read off the async threads, a bounded number at a time.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&View) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _permit = self.readers.acquire().await.map_err(|_| closed())?;
        let shared = self.clone();
        tokio::task::spawn_blocking(move || read(&shared.file.view()?))
            .await
            .map_err(|e| Error::Io(format!("read task: {e}")))?
    }
}

fn closed() -> Error {
    Error::Io("the store is closed".into())
}

/// The embedded store. Dropping it stops its writer thread, ends every watch and closes the file.
pub struct Embedded {
    shared: Arc<Shared>,
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens the file, or makes it (mode 0600). Fails when another process has it open, or when it is no store file.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        let file = File::open(path, options.cache_bytes)?;
        let view = file.view()?;
        let (revision, compacted) = (view.revision()?, view.compacted()?);
        drop(view);
        let shared = Arc::new(Shared {
            file,
            hub: Mutex::new(Hub::new(&options, revision)),
            revision: AtomicU64::new(revision),
            compacted: AtomicU64::new(compacted),
            readers: Semaphore::new(options.readers.max(1)),
        });
        let (commands, queue) = std::sync::mpsc::channel();
        let writer = Writer::new(shared.clone(), options, queue);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| Error::Io(format!("start writer thread: {e}")))?;
        Ok(Self {
            shared,
            commands: Some(commands),
            thread: Some(thread),
        })
    }

    async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or_else(closed)?;
        commands.send(make(reply)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("store writer thread panicked");
        }
        self.shared.hub().close();
        self.shared.file.close();
    }
}

#[async_trait]
impl Store for Embedded {
    async fn revision(&self) -> Result<Revision, Error> {
        self.shared.newest()
    }

    // A point read of a cached page takes microseconds: cheaper here than on another thread.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        self.shared.file.view()?.get(key)
    }

    async fn list(&self, range: Range) -> Result<Page, Error> {
        self.shared.read(move |view| view.list(&range)).await
    }

    async fn swap(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> Result<Revision, Error> {
        self.swap_all(vec![Swap {
            key: key.into(),
            expected,
            value,
        }])
        .await
    }

    async fn swap_all(&self, swaps: Vec<Swap>) -> Result<Revision, Error> {
        self.command(|reply| Command::Write { swaps, reply }).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        watch::start(&self.shared, prefix, from)
    }

    async fn compact(&self, before: Revision) -> Result<(), Error> {
        self.command(|reply| Command::Compact { before, reply })
            .await
    }
}
