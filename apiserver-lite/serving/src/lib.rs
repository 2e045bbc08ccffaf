//! The TLS accept loop that the API server and the agent's port share: mutual TLS, HTTP/1.1 with upgrades and
//! HTTP/2 on one port, limits against slow and greedy clients, a serving certificate that can be swapped at run
//! time, and a graceful drain. What a request may do is decided elsewhere: this room only says who is at the other
//! end ([`Identity`], a request extension).

mod accept;
mod certs;
mod config;
mod patience;
mod until;

pub use accept::{Identity, Limits, bind, serve, serve_with};
pub use certs::{Certs, TlsFiles};
pub use config::{client_config, server_config, server_config_with};
pub use until::until;

/// What can go wrong before the first connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or key is not the PEM it should be.
    #[error("read {what}: {why}")]
    Pem {
        /// Such as `serving certificate`.
        what: &'static str,
        /// What the parser said.
        why: String,
    },
    /// rustls refused what it was given, such as a key that is not the certificate's.
    #[error("set up TLS with the {what}: {why}")]
    Tls {
        /// Such as `serving certificate`.
        what: &'static str,
        /// What rustls said.
        why: String,
    },
    /// A certificate file cannot be read.
    #[error("read {path}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Another process listens there.
    #[error("listen on {0}: the port is taken by another process (see `ss -ltnp`)")]
    PortTaken(std::net::SocketAddr),
    /// The address cannot be listened on.
    #[error("listen on {addr}")]
    Bind {
        /// The address.
        addr: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}
