//! The store under the API: keys with values, one revision for all of them, compare-and-swap, lists at a
//! revision, watches from a revision, compaction. Semantics are etcd's, so that etcd fits behind the same trait.

use async_trait::async_trait;
use bytes::Bytes;

pub mod embedded;

/// A store revision: grows by one with every committed write, never repeats, never goes back. 0: nothing was written yet.
pub type Revision = u64;

/// A key's value at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// `/registry/<resource>/<namespace>/<name>`.
    pub key: String,
    /// JSON.
    pub value: Bytes,
    /// Revision of the write that made the key.
    pub create_revision: Revision,
    /// Revision of the last write.
    pub mod_revision: Revision,
}

/// What a list asks for.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Keys that begin with this.
    pub prefix: String,
    /// Only keys after this one (exclusive): where the page before ended.
    pub after: Option<String>,
    /// At most so many; 0: all.
    pub limit: usize,
    /// As things were at this revision; `None`: now.
    pub revision: Option<Revision>,
    /// Whether more keys come is enough: they are not counted, which takes a walk over all of them.
    pub uncounted: bool,
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// In order of keys.
    pub items: Vec<KeyValue>,
    /// The revision the page shows.
    pub revision: Revision,
    /// How many keys come after this page (0: this was the last; uncounted, 1 stands for any number).
    pub remaining: u64,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Revision of the write.
    pub revision: Revision,
    /// The key.
    pub key: String,
    /// The new state; `None`: deleted.
    pub current: Option<KeyValue>,
    /// The state before; `None`: created.
    pub previous: Option<KeyValue>,
}

/// A watch's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMessage {
    /// Events of one or more revisions, in order; a revision's events are never split.
    Events(Vec<Event>),
    /// Nothing up to this revision is still to come (sent when asked by `progress`, and now and then).
    Progress(Revision),
}

/// Why the store refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The key is not at the expected revision; holds what is there.
    #[error("key {key} is not at the expected revision")]
    Conflict {
        /// The key.
        key: String,
        /// What is there instead.
        current: Option<KeyValue>,
    },
    /// The revision is gone.
    #[error("revision {asked} is compacted (oldest is {oldest})")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest that can be had.
        oldest: Revision,
    },
    /// The revision is not there yet.
    #[error("revision {asked} is in the future (now {now})")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest.
        now: Revision,
    },
    /// The watcher was too slow and must list again.
    #[error("watch fell behind")]
    Slow,
    /// The disk, the network or the other side failed.
    #[error("store: {0}")]
    Io(String),
}

/// A watch: messages in order, then an error or the end.
pub type Watch = futures::stream::BoxStream<'static, Result<WatchMessage, Error>>;

/// The store. Every write that returned `Ok` is durable.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest revision.
    async fn revision(&self) -> Result<Revision, Error>;
    /// A key's newest value.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error>;
    /// Keys under a prefix, now or at a revision.
    async fn list(&self, range: Range) -> Result<Page, Error>;
    /// Writes a key if it is at `expected` (`None`: does not exist), and gives the revision of the write.
    /// `value` `None` deletes.
    async fn swap(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> Result<Revision, Error>;
    /// Several swaps in one revision, all or none.
    async fn swap_all(&self, swaps: Vec<Swap>) -> Result<Revision, Error>;
    /// Everything under a prefix after revision `from` (exclusive: pass the revision of a list).
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error>;
    /// Forgets history before a revision.
    async fn compact(&self, before: Revision) -> Result<(), Error>;
}

/// One write of `swap_all`.
#[derive(Clone, Debug)]
pub struct Swap {
    /// The key.
    pub key: String,
    /// Revision it must be at; `None`: must not exist.
    pub expected: Option<Revision>,
    /// New value; `None` deletes.
    pub value: Option<Bytes>,
}
