//! The writer thread: group commit, compaction, progress.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use redb::{ReadableTable, Table, WriteTransaction};
use tokio::sync::oneshot;

use super::file::{CURRENT, LOG, META, OLD, fault};
use super::view::{current, number};
use super::{Options, Shared};
use crate::{Error, Event, KeyValue, Revision, Swap};

/// Most writes in one commit: bounds the time that the first of them waits.
const BATCH: usize = 512;
/// Log rows forgotten in one commit: writes wait for no more than that.
const PURGE: usize = 1000;
/// Time between two such commits.
const PURGE_PAUSE: Duration = Duration::from_millis(20);
/// Log rows read at once when the file turns out to be ahead of the hub.
const STRETCH: usize = 512;

type Reply<T> = oneshot::Sender<Result<T, Error>>;

pub(super) enum Command {
    Write {
        swaps: Vec<Swap>,
        reply: Reply<Revision>,
    },
    Compact {
        before: Revision,
        reply: Reply<()>,
    },
}

struct Write {
    swaps: Vec<Swap>,
    reply: Reply<Revision>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: Receiver<Command>,
    options: Options,
    /// Which revision it was when, oldest first; for the automatic compaction.
    marks: VecDeque<(Instant, Revision)>,
    /// Compacted history may still lie in the file.
    is_purging: bool,
    next_mark: Instant,
    next_progress: Instant,
    next_purge: Instant,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, options: Options, queue: Receiver<Command>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            queue,
            marks: VecDeque::new(),
            is_purging: true,
            next_mark: now,
            next_progress: now + options.progress,
            next_purge: now,
            options,
        }
    }

    /// Works until every sender is gone.
    pub(super) fn run(mut self) {
        loop {
            self.tick(Instant::now());
            match self.queue.recv_timeout(self.idle_time()) {
                Ok(command) => self.take(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn idle_time(&self) -> Duration {
        let due = self.next_mark.min(self.next_progress);
        let due = if self.is_purging {
            due.min(self.next_purge)
        } else {
            due
        };
        due.saturating_duration_since(Instant::now())
    }

    /// Takes a command, and if it is a write every other write that waits already.
    fn take(&mut self, command: Command) {
        let mut batch = Vec::new();
        let mut next = Some(command);
        while let Some(command) = next {
            match command {
                Command::Write { swaps, reply } => batch.push(Write { swaps, reply }),
                Command::Compact { before, reply } => {
                    self.commit(std::mem::take(&mut batch));
                    // The asker may have gone; the work is done all the same.
                    let _ = reply.send(self.compact(before));
                }
            }
            next = if batch.len() < BATCH {
                self.queue.try_recv().ok()
            } else {
                None
            };
        }
        self.commit(batch);
    }

    fn commit(&mut self, batch: Vec<Write>) {
        if batch.is_empty() {
            return;
        }
        let (swaps, replies): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|w| (w.swaps, w.reply)).unzip();
        let answers = match self.available().and_then(|()| self.apply(swaps)) {
            Ok(answers) => answers,
            Err(error) => {
                self.recover(&error);
                vec![Err(error); replies.len()]
            }
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            let _ = reply.send(answer);
        }
    }

    /// One transaction for all; each write is checked against the state that those before it left.
    fn apply(&mut self, batch: Vec<Vec<Swap>>) -> Result<Vec<Result<Revision, Error>>, Error> {
        let transaction = self.shared.file.write()?;
        let first = self.shared.revision.load(Ordering::Acquire);
        let mut revision = first;
        let mut events = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        {
            let mut tables = Tables::open(&transaction)?;
            for swaps in batch {
                let answer = tables.swap(swaps, revision + 1, &mut events)?;
                revision = *answer.as_ref().unwrap_or(&revision);
                answers.push(answer);
            }
            if revision != first {
                transaction
                    .open_table(META)
                    .map_err(fault)?
                    .insert("revision", revision)
                    .map_err(fault)?;
            }
        }
        if revision == first {
            transaction.abort().map_err(fault)?;
            return Ok(answers);
        }
        transaction.commit().map_err(fault)?;
        self.shared.revision.store(revision, Ordering::Release);
        self.shared
            .hub()
            .publish(events.into_iter().map(Arc::new).collect(), revision);
        Ok(answers)
    }

    /// Opens the file again if that failed before.
    fn available(&mut self) -> Result<(), Error> {
        if self.shared.file.is_open() {
            Ok(())
        } else {
            self.reopen()
        }
    }

    /// After a failed commit nothing works until the file is opened again.
    fn recover(&mut self, error: &Error) {
        tracing::error!(%error, "store write failed");
        if let Err(error) = self.reopen() {
            tracing::error!(%error, "store cannot be opened again");
        }
    }

    /// A commit that failed in its last step may be there all the same: the watchers then hear of it from the log.
    fn reopen(&mut self) -> Result<(), Error> {
        self.shared.file.reopen()?;
        let view = self.shared.file.view()?;
        let revision = view.revision()?;
        let mut published = self.shared.hub().published();
        self.shared.revision.store(revision, Ordering::Release);
        while published < revision {
            let stretch = view.log("", published, STRETCH)?;
            published = stretch.through;
            self.shared.hub().publish(
                stretch.events.into_iter().map(Arc::new).collect(),
                published,
            );
        }
        Ok(())
    }

    fn compact(&mut self, before: Revision) -> Result<(), Error> {
        let now = self.shared.revision.load(Ordering::Acquire);
        if before > now {
            return Err(Error::Future { asked: before, now });
        }
        if before <= self.shared.compacted.load(Ordering::Acquire) {
            return Ok(());
        }
        self.available()?;
        self.forget(before)
            .inspect_err(|error| self.recover(error))?;
        self.shared.compacted.store(before, Ordering::Release);
        Ok(())
    }

    fn purge(&mut self) {
        let compacted = self.shared.compacted.load(Ordering::Acquire);
        if let Err(error) = self.available().and_then(|()| self.forget(compacted)) {
            self.recover(&error);
            // Not again before the next compaction: a full disk must not make us spin.
            self.is_purging = false;
        }
    }

    /// Marks history as compacted and removes a part of it; `is_purging` says whether there is more.
    fn forget(&mut self, before: Revision) -> Result<(), Error> {
        let transaction = self.shared.file.write()?;
        let removed = {
            let mut meta = transaction.open_table(META).map_err(fault)?;
            let is_new = number(&meta, "compacted")? < before;
            if is_new {
                meta.insert("compacted", before).map_err(fault)?;
            }
            let removed = Tables::open(&transaction)?.forget(before)?;
            (removed > 0 || is_new).then_some(removed)
        };
        match removed {
            Some(_) => transaction.commit().map_err(fault)?,
            None => transaction.abort().map_err(fault)?,
        }
        self.is_purging = removed.is_some_and(|rows| rows >= PURGE);
        Ok(())
    }

    /// What is due by the clock.
    fn tick(&mut self, now: Instant) {
        if now >= self.next_progress {
            self.next_progress = now + self.options.progress;
            self.shared.hub().progress();
        }
        if self.is_purging && now >= self.next_purge {
            self.next_purge = now + PURGE_PAUSE;
            self.purge();
        }
        if now >= self.next_mark {
            self.next_mark = now + (self.options.keep / 10).max(Duration::from_millis(10));
            let revision = self.shared.revision.load(Ordering::Acquire);
            let target = due(&mut self.marks, now, revision, &self.options);
            if let Err(error) = self.compact(target) {
                tracing::warn!(%error, revision = target, "automatic compaction failed");
            }
        }
    }
}

/// Up to which revision history is no longer kept.
fn due(
    marks: &mut VecDeque<(Instant, Revision)>,
    now: Instant,
    revision: Revision,
    options: &Options,
) -> Revision {
    marks.push_back((now, revision));
    let mut target = revision.saturating_sub(options.keep_revisions);
    while let Some((_, old)) = marks.pop_front_if(|(at, _)| now.duration_since(*at) >= options.keep)
    {
        target = target.max(old);
    }
    target
}

struct Tables<'t> {
    current: Table<'t, &'static str, (u64, u64, &'static [u8])>,
    old: Table<'t, (&'static str, u64), (u64, u64, &'static [u8])>,
    log: Table<'t, (u64, u32), (&'static str, u64, u64)>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, Error> {
        Ok(Self {
            current: transaction.open_table(CURRENT).map_err(fault)?,
            old: transaction.open_table(OLD).map_err(fault)?,
            log: transaction.open_table(LOG).map_err(fault)?,
        })
    }

    /// All of the swaps at `revision`, or none. The inner error is the asker's, the outer the disk's.
    /// Deleting what must not exist only checks; swaps that do nothing else take no revision.
    fn swap(
        &mut self,
        swaps: Vec<Swap>,
        revision: Revision,
        events: &mut Vec<Event>,
    ) -> Result<Result<Revision, Error>, Error> {
        let mut before = Vec::with_capacity(swaps.len());
        let mut keys = HashSet::with_capacity(swaps.len());
        for swap in &swaps {
            if !keys.insert(swap.key.as_str()) {
                return Ok(Err(Error::Io(format!(
                    "key {} is written twice in one swap",
                    swap.key
                ))));
            }
            let now = current(&self.current, &swap.key)?;
            if now.as_ref().map(|kv| kv.mod_revision) != swap.expected {
                return Ok(Err(Error::Conflict {
                    key: swap.key.clone(),
                    current: now,
                }));
            }
            before.push(now);
        }
        let mut index = 0;
        for (swap, previous) in swaps.into_iter().zip(before) {
            if swap.value.is_some() || previous.is_some() {
                events.push(self.write(swap, previous, (revision, index))?);
                index += 1;
            }
        }
        Ok(Ok(if index == 0 { revision - 1 } else { revision }))
    }

    fn write(
        &mut self,
        swap: Swap,
        previous: Option<KeyValue>,
        at: (Revision, u32),
    ) -> Result<Event, Error> {
        let revision = at.0;
        let current = swap.value.map(|value| KeyValue {
            key: swap.key.clone(),
            value,
            create_revision: previous.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
        });
        let key = swap.key.as_str();
        if let Some(was) = &previous {
            let row = (was.create_revision, revision, was.value.as_ref());
            self.old
                .insert((key, was.mod_revision), row)
                .map_err(fault)?;
        }
        match &current {
            Some(is) => self
                .current
                .insert(key, (is.create_revision, revision, is.value.as_ref())),
            None => self.current.remove(key),
        }
        .map_err(fault)?;
        let row = (
            key,
            previous.as_ref().map_or(0, |kv| kv.mod_revision),
            current.as_ref().map_or(0, |kv| kv.create_revision),
        );
        self.log.insert(at, row).map_err(fault)?;
        Ok(Event {
            revision,
            key: swap.key,
            current,
            previous,
        })
    }

    /// Removes up to [`PURGE`] log rows up to a revision, and the values that ended with them. How many it removed.
    fn forget(&mut self, before: Revision) -> Result<usize, Error> {
        let mut rows = Vec::new();
        for row in self
            .log
            .range(..=(before, u32::MAX))
            .map_err(fault)?
            .take(PURGE)
        {
            let (at, row) = row.map_err(fault)?;
            let (key, ended, _) = row.value();
            rows.push((at.value(), key.to_owned(), ended));
        }
        for (at, key, ended) in &rows {
            self.log.remove(at).map_err(fault)?;
            if *ended != 0 {
                self.old.remove((key.as_str(), *ended)).map_err(fault)?;
            }
        }
        Ok(rows.len())
    }
}
