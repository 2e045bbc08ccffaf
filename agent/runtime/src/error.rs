//! What can go wrong, always with the action and the object.

use std::fmt;
use std::time::Duration;

/// Why a pull failed; the agent turns it into the container's waiting reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullKind {
    /// The repository or the tag is not there.
    NotFound,
    /// The registry wants other credentials, or any.
    Unauthorized,
    /// No connection, name resolution or TLS failure, time-out.
    Unreachable,
    /// The reference cannot be parsed (`InvalidImageName`).
    InvalidName,
    /// The image has no manifest for this machine's platform.
    NoPlatform,
    /// Anything else the registry or the content store said.
    Other,
}

/// An error of this crate. The text names action and object, lowercase, without the chain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// containerd refused a call.
    #[error("{action} {object}: {}", .status.message())]
    Call {
        /// What was asked for, as a verb with its noun ("create task").
        action: &'static str,
        /// What it was asked for.
        object: String,
        /// containerd's answer.
        status: Box<tonic::Status>,
    },
    /// containerd did not answer in time.
    #[error("{action} {object}: no answer within {} ms", .after.as_millis())]
    Timeout {
        /// What was asked for.
        action: &'static str,
        /// What it was asked for.
        object: String,
        /// How long was waited.
        after: Duration,
    },
    /// The kernel or the file system refused.
    #[error("{action} {object}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        object: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Something that was named does not exist.
    #[error("{what} {name} not found")]
    NotFound {
        /// Kind of the object ("container", "image").
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A value cannot be used.
    #[error("{what} {name:?}: {reason}")]
    Invalid {
        /// What the value is ("image name", "signal", "archive").
        what: &'static str,
        /// The value.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pull failed.
    #[error("pull image {image}: {message}")]
    Pull {
        /// The image as it was asked for.
        image: String,
        /// Class of the failure.
        kind: PullKind,
        /// The registry's or the network's words.
        message: String,
    },
    /// A teardown went on after errors; these are all of them.
    #[error("{}", Joined(.0))]
    Many(Vec<Error>),
}

struct Joined<'a>(&'a [Error]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl Error {
    pub(crate) fn io(
        action: &'static str,
        object: impl fmt::Display,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let object = object.to_string();
        move |source| Error::Io {
            action,
            object,
            source,
        }
    }

    pub(crate) fn errno(
        action: &'static str,
        object: impl fmt::Display,
    ) -> impl FnOnce(nix::Error) -> Error {
        let object = object.to_string();
        move |errno| Error::Io {
            action,
            object,
            source: errno.into(),
        }
    }

    pub(crate) fn invalid(
        what: &'static str,
        name: impl Into<String>,
        reason: impl Into<String>,
    ) -> Error {
        Error::Invalid {
            what,
            name: name.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn not_found(what: &'static str, name: impl Into<String>) -> Error {
        Error::NotFound {
            what,
            name: name.into(),
        }
    }

    fn code(&self) -> Option<tonic::Code> {
        match self {
            Error::Call { status, .. } => Some(status.code()),
            _ => None,
        }
    }

    /// Whether the object of the action does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. }) || self.code() == Some(tonic::Code::NotFound)
    }

    /// Whether the object was already there: success for every step that is named by what it makes.
    pub fn is_already_exists(&self) -> bool {
        self.code() == Some(tonic::Code::AlreadyExists)
    }

    /// Whether containerd cannot be reached right now; the same call is worth repeating.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Error::Timeout { .. }) || self.code() == Some(tonic::Code::Unavailable)
    }
}

/// Collects the errors of a teardown that goes on.
#[derive(Default)]
pub(crate) struct Errors(Vec<Error>);

impl Errors {
    /// Keeps the error of `result`; "not found" is what a teardown wants.
    pub(crate) fn note<T>(&mut self, result: Result<T, Error>) {
        match result {
            Err(error) if !error.is_not_found() => self.0.push(error),
            _ => {}
        }
    }

    pub(crate) fn finish(mut self) -> Result<(), Error> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.remove(0)),
            _ => Err(Error::Many(self.0)),
        }
    }
}
