//! Reading a snapshot: keys, lists now and at a revision, and the log.

use std::ops::Bound;

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};

use super::file::{CURRENT, LOG, META, OLD, fault};
use crate::{Error, Event, KeyValue, Page, Range, Revision};

pub(super) struct View {
    meta: ReadOnlyTable<&'static str, u64>,
    current: ReadOnlyTable<&'static str, (u64, u64, &'static [u8])>,
    transaction: ReadTransaction,
}

/// A stretch of the log.
pub(super) struct Stretch {
    /// What happened under the prefix.
    pub(super) events: Vec<Event>,
    /// Everything up to this revision was read.
    pub(super) through: Revision,
}

impl View {
    pub(super) fn new(transaction: ReadTransaction) -> Result<Self, Error> {
        Ok(Self {
            meta: transaction.open_table(META).map_err(fault)?,
            current: transaction.open_table(CURRENT).map_err(fault)?,
            transaction,
        })
    }

    pub(super) fn revision(&self) -> Result<Revision, Error> {
        number(&self.meta, "revision")
    }

    pub(super) fn compacted(&self) -> Result<Revision, Error> {
        number(&self.meta, "compacted")
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        current(&self.current, key)
    }

    pub(super) fn list(&self, range: &Range) -> Result<Page, Error> {
        let now = self.revision()?;
        let revision = range.revision.unwrap_or(now);
        if revision > now {
            return Err(Error::Future {
                asked: revision,
                now,
            });
        }
        self.check_kept(revision)?;
        if revision == now {
            self.list_now(range, now)
        } else {
            self.list_at(range, revision)
        }
    }

    fn check_kept(&self, asked: Revision) -> Result<(), Error> {
        let oldest = self.compacted()?;
        if asked < oldest {
            Err(Error::Compacted { asked, oldest })
        } else {
            Ok(())
        }
    }

    fn list_now(&self, range: &Range, revision: Revision) -> Result<Page, Error> {
        let mut page = Page {
            items: Vec::new(),
            revision,
            remaining: 0,
        };
        for row in self
            .current
            .range::<&str>((start(range), Bound::Unbounded))
            .map_err(fault)?
        {
            let (key, row) = row.map_err(fault)?;
            if !key.value().starts_with(&range.prefix) {
                break;
            }
            if is_full(&page, range) {
                page.remaining += 1;
                if range.uncounted {
                    break;
                }
            } else {
                page.items.push(key_value(key.value(), row.value()));
            }
        }
        Ok(page)
    }

    /// Merges the keys that have not changed since `revision` with the old values that were valid then; a key is in
    /// at most one of the two.
    fn list_at(&self, range: &Range, revision: Revision) -> Result<Page, Error> {
        let old = self.transaction.open_table(OLD).map_err(fault)?;
        let first = match start(range) {
            Bound::Excluded(after) => Bound::Excluded((after, u64::MAX)),
            _ => Bound::Included((range.prefix.as_str(), 0)),
        };
        let mut were = old
            .range::<(&str, u64)>((first, Bound::Unbounded))
            .map_err(fault)?;
        let mut are = self
            .current
            .range::<&str>((start(range), Bound::Unbounded))
            .map_err(fault)?;
        let mut next_were = || {
            for row in were.by_ref() {
                let (key, row) = row.map_err(fault)?;
                let ((key, modified), (create, end, value)) = (key.value(), row.value());
                if !key.starts_with(&range.prefix) {
                    return Ok(None);
                }
                if modified <= revision && revision < end {
                    return Ok(Some(key_value(key, (create, modified, value))));
                }
            }
            Ok(None)
        };
        let mut next_are = || {
            for row in are.by_ref() {
                let (key, row) = row.map_err(fault)?;
                if !key.value().starts_with(&range.prefix) {
                    return Ok(None);
                }
                if row.value().1 <= revision {
                    return Ok(Some(key_value(key.value(), row.value())));
                }
            }
            Ok::<_, Error>(None)
        };
        let mut page = Page {
            items: Vec::new(),
            revision,
            remaining: 0,
        };
        let (mut was, mut is) = (next_were()?, next_are()?);
        loop {
            let was_first = match (&was, &is) {
                (Some(was), Some(is)) => was.key < is.key,
                (was, _) => was.is_some(),
            };
            let item = if was_first {
                std::mem::replace(&mut was, next_were()?)
            } else {
                std::mem::replace(&mut is, next_are()?)
            };
            match item {
                None => return Ok(page),
                Some(_) if is_full(&page, range) => {
                    page.remaining += 1;
                    if range.uncounted {
                        return Ok(page);
                    }
                }
                Some(item) => page.items.push(item),
            }
        }
    }

    /// What happened under `prefix` after revision `from`: whole revisions, until about `limit` log rows are read.
    pub(super) fn log(&self, prefix: &str, from: Revision, limit: usize) -> Result<Stretch, Error> {
        self.check_kept(from)?;
        let log = self.transaction.open_table(LOG).map_err(fault)?;
        let old = self.transaction.open_table(OLD).map_err(fault)?;
        let mut stretch = Stretch {
            events: Vec::new(),
            through: from,
        };
        let rows = log
            .range::<(u64, u32)>((from.saturating_add(1), 0)..)
            .map_err(fault)?;
        for (read, row) in rows.enumerate() {
            let (at, row) = row.map_err(fault)?;
            let (revision, (key, before, create)) = (at.value().0, row.value());
            if read >= limit && revision > stretch.through {
                return Ok(stretch);
            }
            stretch.through = revision;
            if !key.starts_with(prefix) {
                continue;
            }
            let previous = if before == 0 {
                None
            } else {
                version(&old, key, before)?
            };
            let current = match (create, self.get(key)?) {
                (0, _) => None,
                (_, Some(newest)) if newest.mod_revision == revision => Some(newest),
                _ => version(&old, key, revision)?,
            };
            stretch.events.push(Event {
                revision,
                key: key.into(),
                current,
                previous,
            });
        }
        stretch.through = stretch.through.max(self.revision()?);
        Ok(stretch)
    }
}

/// A figure of [`META`].
pub(super) fn number(
    meta: &impl ReadableTable<&'static str, u64>,
    name: &str,
) -> Result<u64, Error> {
    Ok(meta.get(name).map_err(fault)?.map_or(0, |v| v.value()))
}

/// A key as it is.
pub(super) fn current(
    table: &impl ReadableTable<&'static str, (u64, u64, &'static [u8])>,
    key: &str,
) -> Result<Option<KeyValue>, Error> {
    Ok(table
        .get(key)
        .map_err(fault)?
        .map(|row| key_value(key, row.value())))
}

/// A key as it was written at a revision since overwritten.
fn version(
    table: &impl ReadableTable<(&'static str, u64), (u64, u64, &'static [u8])>,
    key: &str,
    revision: Revision,
) -> Result<Option<KeyValue>, Error> {
    Ok(table.get((key, revision)).map_err(fault)?.map(|row| {
        let (create, _, value) = row.value();
        key_value(key, (create, revision, value))
    }))
}

fn key_value(key: &str, (create_revision, mod_revision, value): (u64, u64, &[u8])) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Bytes::copy_from_slice(value),
        create_revision,
        mod_revision,
    }
}

fn start(range: &Range) -> Bound<&str> {
    match &range.after {
        Some(after) if after.as_str() >= range.prefix.as_str() => Bound::Excluded(after),
        _ => Bound::Included(&range.prefix),
    }
}

fn is_full(page: &Page, range: &Range) -> bool {
    range.limit != 0 && page.items.len() >= range.limit
}
