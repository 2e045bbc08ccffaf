//! A watch: reads the log until the hub's memory reaches back to where it stands, then takes what the hub sends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;

use super::Shared;
use super::hub::{Message, Seat};
use crate::{Error, Event, Revision, Watch, WatchMessage};

/// Log rows read at once; also about the size of the largest message made from them.
const STRETCH: usize = 512;

/// Starts a watch of everything under `prefix` after `from`.
pub(super) fn start(shared: &Arc<Shared>, prefix: &str, from: Revision) -> Result<Watch, Error> {
    let now = shared.newest()?;
    if from > now {
        return Err(Error::Future { asked: from, now });
    }
    let oldest = shared.compacted.load(Ordering::Acquire);
    if from < oldest {
        return Err(Error::Compacted {
            asked: from,
            oldest,
        });
    }
    let mut watcher = Watcher {
        shared: shared.clone(),
        prefix: prefix.into(),
        from,
        told: from,
        stage: Stage::Behind,
    };
    // Joining now rather than at the first poll: what happens in between need not be read from the file.
    watcher.join();
    Ok(futures::stream::unfold(watcher, Watcher::next).boxed())
}

type Received = Result<WatchMessage, Error>;

enum Stage {
    /// Older than the hub's memory.
    Behind,
    Live(Seat),
    Ended,
}

struct Watcher {
    shared: Arc<Shared>,
    prefix: String,
    /// Everything up to here was read.
    from: Revision,
    /// The newest revision that the reader has heard of.
    told: Revision,
    stage: Stage,
}

impl Watcher {
    fn join(&mut self) {
        if let Some(seat) = self.shared.hub().join(&self.prefix, self.from) {
            self.stage = Stage::Live(seat);
        }
    }

    async fn next(mut self) -> Option<(Result<WatchMessage, Error>, Self)> {
        loop {
            let message = match &mut self.stage {
                Stage::Ended => return None,
                Stage::Behind => self.read_log().await,
                Stage::Live(seat) => Ok(Some(live(seat, self.told).await?)),
            };
            match message.and_then(Option::transpose) {
                Ok(None) => {}
                Ok(Some(message)) => {
                    self.told = newest(&message).unwrap_or(self.told);
                    return Some((Ok(message), self));
                }
                Err(error) => {
                    self.leave();
                    return Some((Err(error), self));
                }
            }
        }
    }

    /// The next stretch of the log; `None` if it has nothing for us.
    async fn read_log(&mut self) -> Result<Option<Received>, Error> {
        let (prefix, from) = (self.prefix.clone(), self.from);
        let stretch = self
            .shared
            .read(move |view| view.log(&prefix, from, STRETCH))
            .await?;
        self.from = stretch.through;
        self.join();
        Ok((!stretch.events.is_empty()).then_some(Ok(WatchMessage::Events(stretch.events))))
    }

    fn leave(&mut self) {
        if let Stage::Live(seat) = std::mem::replace(&mut self.stage, Stage::Ended) {
            self.shared.hub().leave(seat.id);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What the hub had at hand when we joined, how far that reaches, then what it sends. `None`: the store was closed.
async fn live(seat: &mut Seat, told: Revision) -> Option<Received> {
    if !seat.missed.is_empty() {
        return Some(Ok(WatchMessage::Events(copies(std::mem::take(
            &mut seat.missed,
        )))));
    }
    if told < seat.seen {
        return Some(Ok(WatchMessage::Progress(seat.seen)));
    }
    let message = seat.messages.recv().await?;
    seat.unread.fetch_sub(message.weight(), Ordering::AcqRel);
    Some(match message {
        Message::Events(events) => Ok(WatchMessage::Events(copies(events))),
        Message::Progress(revision) => Ok(WatchMessage::Progress(revision)),
        Message::Failed(error) => Err(error),
    })
}

fn copies(events: Vec<Arc<Event>>) -> Vec<Event> {
    events.into_iter().map(Arc::unwrap_or_clone).collect()
}

fn newest(message: &WatchMessage) -> Option<Revision> {
    match message {
        WatchMessage::Events(events) => events.last().map(|event| event.revision),
        WatchMessage::Progress(revision) => Some(*revision),
    }
}
