//! The streams of a connection, seen from the server: pure. What may be sent, what came and is not yet read,
//! and which side of which stream has ended.
//!
//! Go's spdystream, which kubectl uses, neither keeps to windows nor ever grows them. So windows bind us only
//! once the client has shown that it knows them (by SETTINGS or WINDOW_UPDATE), and a client that sends more
//! than a stream's window is not cut off: reading from the connection stops until there is room again.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use super::Error;

/// The window of a stream, and of the connection, until someone says otherwise (section 2.6.8), bytes.
pub const INITIAL_WINDOW: u32 = 64 * 1024;
/// Streams that may be open at once.
pub(super) const MAX_STREAMS: usize = 512;

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Bytes, and what to tell the client: streams (0: the connection) whose windows grow.
    Data(Bytes, Vec<(u32, u32)>),
    /// Nothing yet.
    Wait,
    /// The client has ended its side, or the stream is gone.
    End,
}

/// What a writer gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// So many bytes may be sent.
    Bytes(usize),
    /// None yet.
    Wait,
    /// Nobody takes them any more.
    Gone,
}

/// All streams of a connection.
#[derive(Debug)]
pub(super) struct Streams {
    open: HashMap<u32, State>,
    last: u32,
    /// Whether the client knows windows.
    windows: bool,
    initial: i64,
    /// The connection's own window.
    window: i64,
    owed: u32,
}

#[derive(Debug, Default)]
struct State {
    /// What may be sent; negative when more was sent before the client showed that it counts.
    window: i64,
    /// What came and is not read.
    unread: BytesMut,
    /// Read, but the client does not know yet.
    owed: u32,
    client_ended: bool,
    we_ended: bool,
    nobody_reads: bool,
    reset: bool,
}

impl State {
    fn over(&self) -> bool {
        (self.reset || self.client_ended && self.we_ended)
            && (self.unread.is_empty() || self.nobody_reads)
    }
}

/// Grows a window to the limit of the specification.
fn grow(window: &mut i64, delta: i64) -> Result<(), Error> {
    *window = window.saturating_add(delta);
    if *window > i64::from(i32::MAX) {
        Err(Error::Protocol)
    } else {
        Ok(())
    }
}

/// Counts bytes as read: what to grant, in halves of a window so that not every read makes a frame.
fn owe(owed: &mut u32, read: usize) -> Option<u32> {
    *owed = owed.saturating_add(u32::try_from(read).unwrap_or(u32::MAX));
    (*owed >= INITIAL_WINDOW / 2).then(|| std::mem::take(owed))
}

impl Default for Streams {
    fn default() -> Self {
        let window = i64::from(INITIAL_WINDOW);
        Self {
            open: HashMap::new(),
            last: 0,
            windows: false,
            initial: window,
            window,
            owed: 0,
        }
    }
}

impl Streams {
    /// The client opens a stream. `Ok(false)`: there are too many. Clients use odd numbers, each above the last.
    pub(super) fn open(&mut self, id: u32, fin: bool, unidirectional: bool) -> Result<bool, Error> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(Error::Protocol);
        }
        self.last = id;
        if self.open.len() >= MAX_STREAMS {
            return Ok(false);
        }
        let state = State {
            window: self.initial,
            client_ended: fin,
            we_ended: unidirectional,
            ..State::default()
        };
        self.open.insert(id, state);
        Ok(true)
    }

    /// The last stream that the client opened.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// Whether more may be taken in for a stream.
    pub(super) fn has_room(&self, id: u32) -> bool {
        let full = |s: &State| !s.nobody_reads && s.unread.len() >= INITIAL_WINDOW as usize;
        !self.open.get(&id).is_some_and(full)
    }

    /// The client sent data. `None`: there is no such stream; else windows to grow at once, as nobody will read.
    pub(super) fn received(&mut self, id: u32, data: &[u8], fin: bool) -> Option<Vec<(u32, u32)>> {
        let state = self
            .open
            .get_mut(&id)
            .filter(|s| !s.client_ended && !s.reset)?;
        state.client_ended = fin;
        if !state.nobody_reads {
            state.unread.extend_from_slice(data);
            self.forget(id);
            return Some(Vec::new());
        }
        Some(self.consumed(id, data.len()))
    }

    /// Takes what came.
    pub(super) fn read(&mut self, id: u32) -> Read {
        let Some(state) = self.open.get_mut(&id) else {
            return Read::End;
        };
        let data = state.unread.split().freeze();
        match (data.is_empty(), state.client_ended || state.reset) {
            (true, true) => Read::End,
            (true, false) => Read::Wait,
            (false, _) => {
                let grants = self.consumed(id, data.len());
                Read::Data(data, grants)
            }
        }
    }

    /// Nobody will read any more: what comes is thrown away.
    pub(super) fn stop_reading(&mut self, id: u32) -> Vec<(u32, u32)> {
        let Some(state) = self.open.get_mut(&id) else {
            return Vec::new();
        };
        state.nobody_reads = true;
        let unread = std::mem::take(&mut state.unread).len();
        self.consumed(id, unread)
    }

    fn consumed(&mut self, id: u32, bytes: usize) -> Vec<(u32, u32)> {
        let mut grants: Vec<_> = owe(&mut self.owed, bytes)
            .map(|n| (0, n))
            .into_iter()
            .collect();
        if let Some(state) = self
            .open
            .get_mut(&id)
            .filter(|s| !s.client_ended && !s.reset)
        {
            grants.extend(owe(&mut state.owed, bytes).map(|n| (id, n)));
        }
        self.forget(id);
        grants
    }

    /// Takes up to `wanted` bytes of the windows.
    pub(super) fn send(&mut self, id: u32, wanted: usize) -> Room {
        let Some(state) = self.open.get_mut(&id).filter(|s| !s.we_ended && !s.reset) else {
            return Room::Gone;
        };
        let left = state.window.min(self.window).max(0);
        let room = if self.windows {
            usize::try_from(left).unwrap_or(usize::MAX)
        } else {
            wanted
        };
        let (bytes, used) = (
            room.min(wanted),
            i64::try_from(room.min(wanted)).unwrap_or(i64::MAX),
        );
        if bytes == 0 {
            return Room::Wait;
        }
        state.window = state.window.saturating_sub(used);
        self.window = self.window.saturating_sub(used);
        Room::Bytes(bytes)
    }

    /// Our side ends. Whether the client is to be told.
    pub(super) fn finish(&mut self, id: u32) -> bool {
        let Some(state) = self.open.get_mut(&id).filter(|s| !s.we_ended && !s.reset) else {
            return false;
        };
        state.we_ended = true;
        self.forget(id);
        true
    }

    /// Either side resets a stream.
    pub(super) fn reset(&mut self, id: u32) {
        if let Some(state) = self.open.get_mut(&id) {
            state.reset = true;
            self.forget(id);
        }
    }

    /// Whether nobody takes any more what we send.
    pub(super) fn is_gone(&self, id: u32) -> bool {
        self.open.get(&id).is_none_or(|s| s.reset)
    }

    /// The client grows a window (0: the connection's).
    pub(super) fn grow(&mut self, id: u32, delta: u32) -> Result<(), Error> {
        self.windows = true;
        if id == 0 {
            return grow(&mut self.window, i64::from(delta));
        }
        self.open
            .get_mut(&id)
            .map_or(Ok(()), |s| grow(&mut s.window, i64::from(delta)))
    }

    /// The client sets what streams begin with; those that are open change by the difference.
    pub(super) fn set_initial(&mut self, initial: u32) -> Result<(), Error> {
        self.windows = true;
        let delta = i64::from(initial) - self.initial;
        self.initial = i64::from(initial);
        self.open
            .values_mut()
            .try_for_each(|s| grow(&mut s.window, delta))
    }

    /// The connection is lost.
    pub(super) fn close(&mut self) {
        self.open.values_mut().for_each(|s| s.reset = true);
        self.open.retain(|_, s| !s.over());
    }

    fn forget(&mut self, id: u32) {
        if self.open.get(&id).is_some_and(State::over) {
            self.open.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: usize = INITIAL_WINDOW as usize;

    fn opened() -> Streams {
        let mut streams = Streams::default();
        assert_eq!(streams.open(1, false, false), Ok(true));
        streams
    }

    #[test]
    fn numbers_are_odd_and_rise() {
        let mut streams = Streams::default();
        let table = [
            (1, Ok(true)),
            (5, Ok(true)),
            (5, Err(Error::Protocol)),
            (3, Err(Error::Protocol)),
            (8, Err(Error::Protocol)),
            (7, Ok(true)),
        ];
        for (id, want) in table {
            assert_eq!(streams.open(id, false, false), want, "{id}");
        }
        let refused = (4..).find(|n| streams.open(n * 2 + 1, false, false) == Ok(false));
        assert_eq!((refused.is_some(), streams.open.len()), (true, MAX_STREAMS));
    }

    #[test]
    fn windows_bind_once_the_client_knows_them() {
        let mut streams = opened();
        assert_eq!(
            streams.send(1, 3 * WINDOW),
            Room::Bytes(3 * WINDOW),
            "Go's clients never grow a window"
        );
        streams.grow(1, INITIAL_WINDOW).expect("in bounds");
        assert_eq!(
            streams.send(1, 10),
            Room::Wait,
            "what was sent before counts"
        );
        streams.grow(1, INITIAL_WINDOW + 7).expect("in bounds");
        assert_eq!(
            streams.send(1, 10),
            Room::Wait,
            "the connection's window is still used up"
        );
        streams.grow(0, 10 * INITIAL_WINDOW).expect("in bounds");
        assert_eq!(streams.send(1, 10), Room::Bytes(7));
        streams.set_initial(INITIAL_WINDOW + 5).expect("in bounds");
        assert_eq!(streams.send(1, 10), Room::Bytes(5));
        assert_eq!(streams.grow(1, i32::MAX as u32), Ok(()));
        assert_eq!(streams.grow(1, 1), Err(Error::Protocol));
    }

    #[test]
    fn reading_grants_halves_of_a_window() {
        let mut streams = opened();
        assert_eq!(streams.read(1), Read::Wait);
        streams.received(1, b"abc", false);
        assert_eq!(
            streams.read(1),
            Read::Data(Bytes::from_static(b"abc"), vec![])
        );
        streams.received(1, &vec![0; WINDOW], false);
        assert!(!streams.has_room(1));
        let granted = INITIAL_WINDOW + 3;
        assert_eq!(
            streams.read(1),
            Read::Data(vec![0; WINDOW].into(), vec![(0, granted), (1, granted)])
        );
        assert!(streams.has_room(1));
        assert_eq!(streams.stop_reading(1), []);
        assert_eq!(
            streams
                .received(1, &vec![0; WINDOW], false)
                .map(|g| g.len()),
            Some(2),
            "thrown away, yet granted"
        );
    }

    #[test]
    fn a_stream_ends_when_both_sides_and_its_bytes_have() {
        let mut streams = opened();
        streams.received(1, b"last", true);
        assert_eq!(streams.received(1, b"more", false), None);
        assert_eq!(streams.send(1, 1), Room::Bytes(1), "half closed");
        assert!(streams.finish(1) && !streams.finish(1));
        assert_eq!(
            (streams.send(1, 1), streams.is_gone(1)),
            (Room::Gone, false)
        );
        assert!(matches!(streams.read(1), Read::Data(..)));
        assert_eq!((streams.read(1), streams.open.len()), (Read::End, 0));
    }

    #[test]
    fn a_reset_ends_both_sides() {
        let mut streams = opened();
        streams.received(1, b"seen", false);
        streams.close();
        assert_eq!((streams.send(1, 1), streams.is_gone(1)), (Room::Gone, true));
        assert!(
            matches!(streams.read(1), Read::Data(..)),
            "what came before is read"
        );
        assert_eq!(streams.read(1), Read::End);
    }
}
