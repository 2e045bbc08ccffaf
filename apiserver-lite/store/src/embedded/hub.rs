//! Who watches what, and the newest events. Pure but for the channels to the watchers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Options;
use crate::{Error, Event, Revision};

/// What a watcher's channel carries; events are shared between the watchers, copied only by the reader.
pub(super) enum Message {
    Events(Vec<Arc<Event>>),
    Progress(Revision),
    Failed(Error),
}

impl Message {
    /// How much of a watcher's buffer it takes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Events(events) => events.len(),
            Self::Progress(_) | Self::Failed(_) => 1,
        }
    }
}

/// A watcher's place in the hub.
pub(super) struct Seat {
    pub(super) id: u64,
    pub(super) messages: UnboundedReceiver<Message>,
    /// Weight of the messages that wait; the reader takes off what it has read.
    pub(super) unread: Arc<AtomicUsize>,
    /// The events between the revision asked for and now.
    pub(super) missed: Vec<Arc<Event>>,
    /// Nothing up to this revision is still to come but `missed`.
    pub(super) seen: Revision,
}

struct Watcher {
    prefix: String,
    messages: UnboundedSender<Message>,
    unread: Arc<AtomicUsize>,
    /// Events up to here are known to it: none of them is sent.
    seen: Revision,
    /// The newest revision it was told of.
    told: Revision,
    /// What the write batch at hand has for it.
    batch: Vec<Arc<Event>>,
}

pub(super) struct Hub {
    watchers: HashMap<u64, Watcher>,
    /// Watchers by their prefix up to its last `/`: an event looks only at the folders that its own key lies in.
    folders: HashMap<String, Vec<u64>>,
    next_id: u64,
    /// Every event after `floor` and up to `published`.
    recent: VecDeque<Arc<Event>>,
    recent_bytes: usize,
    floor: Revision,
    published: Revision,
    max_events: usize,
    max_bytes: usize,
    buffer: usize,
    is_closed: bool,
}

impl Hub {
    pub(super) fn new(options: &Options, revision: Revision) -> Self {
        Self {
            watchers: HashMap::new(),
            folders: HashMap::new(),
            next_id: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            floor: revision,
            published: revision,
            max_events: options.recent_events,
            max_bytes: options.recent_bytes,
            buffer: options.watch_buffer,
            is_closed: false,
        }
    }

    pub(super) fn published(&self) -> Revision {
        self.published
    }

    /// Seats a watcher that knows everything up to `from`. `None`: `from` is older than what is in memory.
    pub(super) fn join(&mut self, prefix: &str, from: Revision) -> Option<Seat> {
        if from < self.floor {
            return None;
        }
        let first = self.recent.partition_point(|event| event.revision <= from);
        let missed = self
            .recent
            .range(first..)
            .filter(|event| event.key.starts_with(prefix))
            .cloned()
            .collect();
        let seen = from.max(self.published);
        let (sender, messages) = unbounded_channel();
        let unread = Arc::new(AtomicUsize::new(0));
        let id = self.next_id;
        self.next_id += 1;
        // Without a sender the reader sees the end at once.
        if !self.is_closed {
            let (prefix, unread) = (prefix.to_owned(), unread.clone());
            self.folders
                .entry(folder(&prefix).to_owned())
                .or_default()
                .push(id);
            let watcher = Watcher {
                prefix,
                messages: sender,
                unread,
                seen,
                told: seen,
                batch: Vec::new(),
            };
            self.watchers.insert(id, watcher);
        }
        Some(Seat {
            id,
            messages,
            unread,
            missed,
            seen,
        })
    }

    pub(super) fn leave(&mut self, id: u64) {
        let Some(watcher) = self.watchers.remove(&id) else {
            return;
        };
        if let Some(ids) = self.folders.get_mut(folder(&watcher.prefix)) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.folders.remove(folder(&watcher.prefix));
            }
        }
    }

    /// Hands out the events of whole revisions up to `revision`, in order.
    pub(super) fn publish(&mut self, events: Vec<Arc<Event>>, revision: Revision) {
        let mut touched = Vec::new();
        for event in &events {
            for id in self.matching(&event.key) {
                let Some(watcher) = self.watchers.get_mut(&id) else {
                    continue;
                };
                if event.revision <= watcher.seen {
                    continue;
                }
                if watcher.batch.is_empty() {
                    touched.push(id);
                }
                watcher.batch.push(event.clone());
            }
        }
        self.published = revision;
        for id in touched {
            self.deliver(id);
        }
        for event in events {
            self.recent_bytes += bytes(&event);
            self.recent.push_back(event);
        }
        self.trim();
    }

    /// Ids of the watchers whose prefix the key begins with.
    fn matching(&self, key: &str) -> Vec<u64> {
        let folders = std::iter::once(0).chain(key.match_indices('/').map(|(at, _)| at + 1));
        folders
            .filter_map(|end| self.folders.get(&key[..end]))
            .flatten()
            .filter(|id| {
                self.watchers
                    .get(id)
                    .is_some_and(|w| key.starts_with(&w.prefix))
            })
            .copied()
            .collect()
    }

    fn deliver(&mut self, id: u64) {
        let buffer = self.buffer;
        let Some(watcher) = self.watchers.get_mut(&id) else {
            return;
        };
        let batch = std::mem::take(&mut watcher.batch);
        let unread = watcher.unread.load(Ordering::Acquire);
        // A batch larger than the whole buffer still fits an empty one.
        let told = batch.last().map_or(watcher.told, |event| event.revision);
        let is_slow = unread > 0 && unread + batch.len() > buffer;
        let message = if is_slow {
            Message::Failed(Error::Slow)
        } else {
            Message::Events(batch)
        };
        watcher.told = told;
        watcher.unread.fetch_add(message.weight(), Ordering::AcqRel);
        let is_gone = watcher.messages.send(message).is_err();
        if is_slow || is_gone {
            self.leave(id);
        }
    }

    /// Tells the watchers that heard nothing of late, and have read all they were sent, how far they have seen.
    pub(super) fn progress(&mut self) {
        for watcher in self.watchers.values_mut() {
            if watcher.told < self.published && watcher.unread.load(Ordering::Acquire) == 0 {
                watcher.told = self.published;
                watcher.unread.fetch_add(1, Ordering::AcqRel);
                // A closed channel means that its reader is just leaving.
                let _ = watcher
                    .messages
                    .send(Message::Progress(self.published.max(watcher.seen)));
            }
        }
    }

    /// Ends every watch, now and later.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.watchers.clear();
        self.folders.clear();
    }

    /// Keeps the memory within bounds; a revision's events leave together.
    fn trim(&mut self) {
        while self.recent.len() > self.max_events || self.recent_bytes > self.max_bytes {
            let Some(oldest) = self.recent.front().map(|event| event.revision) else {
                return;
            };
            while let Some(event) = self.recent.pop_front_if(|event| event.revision == oldest) {
                self.recent_bytes -= bytes(&event);
            }
            self.floor = oldest;
        }
    }
}

/// The part of a prefix that ends with its last `/`.
fn folder(prefix: &str) -> &str {
    &prefix[..prefix.rfind('/').map_or(0, |at| at + 1)]
}

fn bytes(event: &Event) -> usize {
    [&event.current, &event.previous]
        .into_iter()
        .flatten()
        .map(|kv| kv.value.len())
        .sum::<usize>()
        + event.key.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyValue;
    use bytes::Bytes;

    fn event(revision: Revision, key: &str) -> Arc<Event> {
        let current = KeyValue {
            key: key.into(),
            value: Bytes::from_static(b"0123456789"),
            create_revision: revision,
            mod_revision: revision,
        };
        Arc::new(Event {
            revision,
            key: key.into(),
            current: Some(current),
            previous: None,
        })
    }

    fn hub(max_events: usize, buffer: usize) -> Hub {
        Hub::new(
            &Options {
                recent_events: max_events,
                watch_buffer: buffer,
                ..Options::default()
            },
            0,
        )
    }

    fn received(seat: &mut Seat) -> Vec<String> {
        let mut got = Vec::new();
        while let Ok(message) = seat.messages.try_recv() {
            seat.unread.fetch_sub(message.weight(), Ordering::AcqRel);
            match message {
                Message::Events(events) => {
                    got.extend(events.iter().map(|e| e.revision.to_string()))
                }
                Message::Progress(revision) => got.push(format!("progress {revision}")),
                Message::Failed(error) => got.push(error.to_string()),
            }
        }
        got
    }

    #[test]
    fn an_event_reaches_exactly_the_prefixes_of_its_key() {
        let keys = [
            "/r/pods/a/x",
            "/r/pods/a/xy",
            "/r/pods/b/x",
            "/r/podsets/a/x",
            "/r/nodes/n",
            "x",
        ];
        let prefixes = [
            "",
            "/",
            "/r/",
            "/r/pods/",
            "/r/pods/a/",
            "/r/pods/a/x",
            "/r/p",
            "/r/nodes/n",
            "nothing",
        ];
        let mut hub = hub(100, 100);
        let mut seats: Vec<Seat> = prefixes
            .iter()
            .filter_map(|prefix| hub.join(prefix, 0))
            .collect();
        for (index, key) in keys.iter().enumerate() {
            hub.publish(vec![event(index as u64 + 1, key)], index as u64 + 1);
        }
        for (prefix, seat) in prefixes.iter().zip(&mut seats) {
            let wanted: Vec<String> = (1..=keys.len())
                .filter(|revision| keys[revision - 1].starts_with(prefix))
                .map(|revision| revision.to_string())
                .collect();
            assert_eq!(received(seat), wanted, "prefix {prefix:?}");
        }
    }

    #[test]
    fn who_joins_gets_what_is_in_memory_and_is_sent_away_for_more() {
        let mut hub = hub(3, 100);
        hub.publish(
            vec![
                event(1, "/a"),
                event(2, "/a"),
                event(2, "/b"),
                event(3, "/a"),
            ],
            3,
        );
        // Four events do not fit; revision 1 leaves.
        let missed = |hub: &mut Hub, from| {
            hub.join("/", from)
                .map(|seat| seat.missed.iter().map(|e| e.revision).collect::<Vec<_>>())
        };
        assert_eq!(missed(&mut hub, 0), None);
        assert_eq!(missed(&mut hub, 1), Some(vec![2, 2, 3]));
        assert_eq!(missed(&mut hub, 3), Some(vec![]));
        // The two of revision 2 leave together.
        hub.publish(vec![event(4, "/a")], 4);
        assert_eq!(missed(&mut hub, 1), None);
        assert_eq!(missed(&mut hub, 2), Some(vec![3, 4]));
    }

    #[test]
    fn a_watcher_ahead_of_the_hub_gets_nothing_twice() {
        let mut hub = hub(10, 100);
        let mut seat = hub.join("/", 2).expect("in memory");
        hub.publish(vec![event(1, "/a"), event(2, "/a"), event(3, "/a")], 3);
        assert_eq!(received(&mut seat), ["3"]);
    }

    #[test]
    fn a_slow_watcher_is_told_and_dropped_and_the_others_go_on() {
        let mut hub = hub(10, 2);
        let (mut slow, mut quick) = (
            hub.join("/", 0).expect("seat"),
            hub.join("/", 0).expect("seat"),
        );
        for revision in 1..=3 {
            hub.publish(vec![event(revision, "/a")], revision);
            assert_eq!(received(&mut quick), [revision.to_string()]);
        }
        assert_eq!(received(&mut slow), ["1", "2", "watch fell behind"]);
        hub.publish(vec![event(4, "/a")], 4);
        assert_eq!(received(&mut quick), ["4"]);
        assert_eq!(received(&mut slow), Vec::<String>::new());
        // A batch larger than the buffer is no reason to fail a watcher that has read everything.
        hub.publish((0..5).map(|_| event(5, "/a")).collect(), 5);
        assert_eq!(received(&mut quick), ["5"; 5]);
    }

    #[test]
    fn progress_goes_to_the_idle_once_for_each_advance() {
        let mut hub = hub(10, 10);
        let (mut idle, mut busy) = (
            hub.join("/b/", 0).expect("seat"),
            hub.join("/a/", 0).expect("seat"),
        );
        hub.publish(vec![event(1, "/a/x")], 1);
        hub.progress();
        hub.progress();
        assert_eq!(received(&mut idle), ["progress 1"]);
        assert_eq!(received(&mut busy), ["1"]);
    }

    #[test]
    fn leaving_empties_the_index() {
        let mut hub = hub(10, 10);
        let ids: Vec<u64> = ["/a/", "/a/b", "/"]
            .iter()
            .filter_map(|p| hub.join(p, 0))
            .map(|s| s.id)
            .collect();
        ids.into_iter().for_each(|id| hub.leave(id));
        assert!(hub.folders.is_empty() && hub.watchers.is_empty());
    }
}
