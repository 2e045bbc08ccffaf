//! Writes a container's output in the CRI log format: `2026-11-21T10:00:00.000000000Z stdout F text`.
//!
//! containerd's shim starts it as `keelson-logger log <file>` (from `binary://...?log=<file>`) with
//! the container's stdout on descriptor 3, stderr on 4, and 5 to be closed when it is ready. It lives
//! as long as the container's streams, whatever happens to the agent: one thread, one poll loop.

mod fds;
mod file;
mod line;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::read;

use crate::file::LogFile;
use crate::line::{LONGEST, Stream};

/// One of the container's output streams.
struct Source {
    fd: Option<OwnedFd>,
    stream: Stream,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keelson-logger: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let path = log_path(std::env::args().skip(1)).ok_or_else(|| {
        io::Error::other("usage: keelson-logger log FILE (started by containerd)")
    })?;
    let (stdout, stderr, ready) = fds::inherited()?;
    let mut log = LogFile::create(path)?;
    let signals = signals()?;
    let mut sources = [("stdout", stdout), ("stderr", stderr)].map(|(name, fd)| Source {
        fd: Some(fd),
        stream: Stream::new(name),
    });
    drop(ready);

    let mut buffer = vec![0; LONGEST];
    let mut lines = Vec::with_capacity(4 * LONGEST);
    while sources.iter().any(|source| source.fd.is_some()) {
        let (readable, signalled) = wait(&sources, &signals)?;
        if signalled {
            while let Ok(Some(signal)) = signals.read_signal() {
                // The others are what ends an agent; the container's output goes on.
                if signal.ssi_signo == Signal::SIGUSR1 as u32 {
                    log.reopen();
                }
            }
        }
        for (source, readable) in sources.iter_mut().zip(readable) {
            if readable {
                take(source, &mut buffer, &mut lines);
                log.append(&lines);
                lines.clear();
            }
        }
    }
    Ok(())
}

/// The value after the word `log`.
fn log_path(mut args: impl Iterator<Item = String>) -> Option<PathBuf> {
    args.find(|arg| arg == "log")?;
    args.next().map(PathBuf::from)
}

/// Signals arrive through a descriptor, so that no handler has to interrupt anything.
fn signals() -> io::Result<SignalFd> {
    let set: SigSet = [
        Signal::SIGUSR1,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGPIPE,
    ]
    .into_iter()
    .collect();
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// Which sources can be read (or have ended), and whether a signal came.
fn wait(sources: &[Source; 2], signals: &SignalFd) -> io::Result<([bool; 2], bool)> {
    let some = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
    let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let open = sources.iter().flat_map(|source| &source.fd);
    polled.extend(open.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
    match poll(&mut polled, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut ready = polled
        .iter()
        .map(|fd| fd.revents().is_some_and(|events| events.intersects(some)));
    let signalled = ready.next().unwrap_or_default();
    let readable = sources
        .each_ref()
        .map(|source| source.fd.is_some() && ready.next().unwrap_or_default());
    Ok((readable, signalled))
}

/// Reads once and formats the lines that are complete; at the end also the one that is not.
fn take(source: &mut Source, buffer: &mut [u8], lines: &mut Vec<u8>) {
    let Some(fd) = &source.fd else { return };
    let now = jiff::Timestamp::now();
    match read(fd, buffer) {
        Ok(length @ 1..) => {
            let bytes = buffer.get(..length).unwrap_or_default();
            source.stream.feed(bytes, now, lines);
        }
        Err(Errno::EINTR | Errno::EAGAIN) => {}
        Ok(_) | Err(_) => {
            source.stream.finish(now, lines);
            source.fd = None;
        }
    }
}
