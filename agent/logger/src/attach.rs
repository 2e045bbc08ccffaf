//! Those who look on: clients of a Unix socket get the output as it comes, in frames of the stream's number, a length
//! (32 bits, big endian) and the bytes.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A client that takes nothing for so long is dropped: the container and its log come first.
const SLOW: Duration = Duration::from_secs(1);

/// The socket and its clients.
pub(crate) struct Attach {
    path: PathBuf,
    listener: UnixListener,
    clients: Vec<UnixStream>,
}

impl Attach {
    /// Listens; a socket that was left by an earlier process is replaced.
    pub(crate) fn listen(path: &Path) -> io::Result<Attach> {
        let _ = fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Attach {
            path: path.to_owned(),
            listener,
            clients: Vec::new(),
        })
    }

    /// What to poll for clients.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Takes in those who wait.
    pub(crate) fn accept(&mut self) {
        while let Ok((client, _)) = self.listener.accept() {
            if client.set_write_timeout(Some(SLOW)).is_ok() {
                self.clients.push(client);
            }
        }
    }

    /// Tells all clients; those that are gone or too slow are dropped.
    pub(crate) fn tell(&mut self, stream: u8, bytes: &[u8]) {
        if bytes.is_empty() || self.clients.is_empty() {
            return;
        }
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut frame = vec![stream];
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(bytes);
        self.clients.retain_mut(|c| c.write_all(&frame).is_ok());
    }
}

impl Drop for Attach {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
