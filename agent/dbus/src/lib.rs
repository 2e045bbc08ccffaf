//! The little of D-Bus that a node needs: calls and signals over a Unix socket, file descriptors in answers, and of those
//! who answer there systemd and logind. Blocking: for threads that may wait. Nothing runs when nobody asks.
//!
//! ```text
//! Value <-> bytes (wire) <-> Message (message) <-> Connection (socket) <- Systemd, Logind
//! ```
//!
//! A library would be larger than all that is used of it: see ARCHITECTURE.md.

mod connection;
mod logind;
mod message;
mod systemd;
mod value;
mod wire;

pub use connection::{Connection, Reply};
pub use logind::Logind;
pub use message::{Kind, Message};
pub use systemd::{Properties, Systemd, is_running};
pub use value::Value;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no bus, or it lets nobody in.
    #[error("connect to D-Bus at {path}")]
    Connect {
        /// The socket.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The address is of a kind that is not spoken here.
    #[error("connect to D-Bus: address {0:?} is not unix:path=")]
    Address(String),
    /// The bus does not take us for who we are.
    #[error("log in to D-Bus: {0}")]
    Refused(String),
    /// The socket failed.
    #[error("talk over D-Bus")]
    Io(#[from] std::io::Error),
    /// The other end has closed the connection.
    #[error("D-Bus connection closed")]
    Closed,
    /// No answer.
    #[error("call {0} over D-Bus: no answer in time")]
    Late(String),
    /// What came is no message, or not the one that was expected.
    #[error("read a D-Bus message: {0}")]
    Malformed(&'static str),
    /// The other side says no.
    #[error("{call}: {message} ({name})")]
    Remote {
        /// What was called.
        call: String,
        /// The error's name, such as `org.freedesktop.systemd1.NoSuchUnit`.
        name: String,
        /// Its words.
        message: String,
    },
    /// A job of systemd's ended otherwise than well.
    #[error("{call}: the job ended with result {result:?}")]
    Job {
        /// What was called.
        call: String,
        /// Such as `failed` or `timeout`.
        result: String,
    },
}

impl Error {
    /// Whether the other side answered with this error.
    pub fn is(&self, name: &str) -> bool {
        matches!(self, Self::Remote { name: have, .. } if have == name)
    }
}
