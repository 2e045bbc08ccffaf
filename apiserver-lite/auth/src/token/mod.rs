//! Tokens: of ServiceAccounts (signed, bound to objects), of bootstrap Secrets, and the text that joins a node.

pub mod bootstrap;
mod claims;
mod keys;
#[cfg(test)]
mod tests;

pub use claims::{Claims, Grant, Ref};
pub use keys::{Keys, Signed};

/// The issuer of every token, and the API server's own audience.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Why a token is not accepted, or cannot be made. The words are shown in `TokenReview.status.error`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The key is not a P-256 key in PKCS #8 PEM.
    #[error("read the signing key: {0}")]
    Key(String),
    /// Signing failed.
    #[error("sign the token: {0}")]
    Sign(String),
    /// Not a token of ours, or not signed by our key.
    #[error("invalid bearer token")]
    Invalid,
    /// Its time is over.
    #[error("service account token has expired")]
    Expired,
    /// Its time has not come.
    #[error("service account token is not valid yet")]
    NotYet,
    /// It is meant for others.
    #[error("token audiences {have:?} is invalid for the target audiences {want:?}")]
    Audience {
        /// The token's.
        have: Vec<String>,
        /// Ours.
        want: Vec<String>,
    },
    /// A bootstrap token's Secret does not let it in; why is only for the log.
    #[error("bootstrap token {0}")]
    Bootstrap(&'static str),
    /// Not `id.secret`, or not a join token.
    #[error("malformed token: {0}")]
    Malformed(&'static str),
}
