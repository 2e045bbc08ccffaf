//! SPDY/3.1, as far as Kubernetes uses it: `kubectl exec`, `attach` and `port-forward` open streams over an
//! upgraded connection. A pure codec ([`Encoder`], [`Decoder`]), a pure table of streams with their windows
//! (`streams`), and a task that joins them to a connection (`connection`).
//!
//! The specification: <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>.

mod connection;
mod dictionary;
mod frame;
mod headers;
mod streams;
#[cfg(test)]
mod tests;

pub(super) use connection::{Connection, Reader, Stream, Writer};
pub use frame::{Decoder, Encoder, Frame, Setting};
pub use headers::Headers;
pub use streams::INITIAL_WINDOW;

/// What is wrong with what the other side sent; all of these end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another version, or another protocol.
    #[error("read a SPDY frame: not version 3")]
    Version,
    /// Larger than we accept.
    #[error("read a SPDY frame: too large")]
    TooLarge,
    /// Fields that can't be.
    #[error("read a SPDY frame: malformed")]
    Frame,
    /// A header block that can't be read.
    #[error("read SPDY headers: malformed")]
    Headers,
    /// A stream that the client may not open, or a window beyond its limit.
    #[error("SPDY stream: against the protocol")]
    Protocol,
}

/// Why a stream was reset (section 2.6.3).
pub(super) mod status {
    pub(in super::super) const INVALID_STREAM: u32 = 2;
    pub(in super::super) const REFUSED_STREAM: u32 = 3;
    pub(in super::super) const CANCEL: u32 = 5;
}
