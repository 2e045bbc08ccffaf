//! Ending without losing a request: how far the end has come, and what is still in flight.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Shared by the accept loop and all connections.
#[derive(Default)]
pub(crate) struct Drain {
    begun: AtomicBool,
    closed: AtomicBool,
    connections: AtomicUsize,
}

impl Drain {
    /// From now on each answer is the last of its connection.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
    }

    /// From now on nothing is accepted, and idle connections end.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    pub(crate) fn closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn enter(&self) {
        self.connections.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits until no connection is left, at most `longest`.
    pub(crate) fn wait(&self, longest: Duration) {
        let end = Instant::now() + longest;
        while self.connections.load(Ordering::SeqCst) > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
