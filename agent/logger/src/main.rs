//! Writes a container's output in the CRI log format: `2026-11-21T10:00:00.000000000Z stdout F text`.
//!
//! containerd's shim starts it as `keelson-logger log <file>` (from `binary://...?log=<file>`) with
//! the container's stdout on descriptor 3, stderr on 4, and 5 to be closed when it is ready. It lives
//! as long as the container's streams, whatever happens to the agent: one thread, one poll loop.
//!
//! SIGUSR1: the log was rotated. SIGUSR2: the container has ended; when all that it wrote is in the log, the lock on the
//! log is given up.
//!
//! `attach <socket>` lets others look on. `stdout <fifo> stderr <fifo>` reads those instead: the shim knows no
//! standard input beside a logger without a terminal.
//!
//! `keelson-logger hold` is something else: process 1 of a PID namespace that a pod's containers share.

mod attach;
mod fds;
mod file;
mod hold;
mod line;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::read;

use crate::attach::Attach;
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
    if std::env::args().nth(1).as_deref() == Some("hold") {
        return hold::run();
    }
    let options = options(std::env::args().skip(1));
    let path = options.get("log").ok_or_else(|| {
        io::Error::other("usage: keelson-logger log FILE [attach SOCKET] [stdout FIFO stderr FIFO] (started by containerd)")
    })?;
    let signals = block_signals()?;
    let (stdout, stderr) = (options.get("stdout"), options.get("stderr"));
    let (mut log, stdout, stderr, ready) = match (stdout, stderr) {
        // Opening waits for the writer, in the order in which the shim opens them.
        (Some(out), Some(err)) => {
            let log = LogFile::create(path.into())?;
            (log, File::open(out)?.into(), File::open(err)?.into(), None)
        }
        _ => {
            let (stdout, stderr, ready) = fds::inherited()?;
            let log = LogFile::create(path.into())?;
            (log, stdout, stderr, Some(ready))
        }
    };
    // Signals arrive through a descriptor, so that no handler has to interrupt anything.
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut attach = options
        .get("attach")
        .map(|path| Attach::listen(path.as_ref()))
        .transpose()?;
    let mut sources = [("stdout", stdout), ("stderr", stderr)].map(|(name, fd)| Source {
        fd: Some(fd),
        stream: Stream::new(name),
    });
    drop(ready);

    let mut buffer = vec![0; LONGEST];
    let mut lines = Vec::with_capacity(4 * LONGEST);
    let mut ended = false;
    while sources.iter().any(|source| source.fd.is_some()) {
        let patience = match sources.iter().any(|s| s.stream.is_pending()) {
            _ if ended => PollTimeout::ZERO,
            true => PollTimeout::from(PATIENCE),
            false => PollTimeout::NONE,
        };
        let Some((readable, signalled)) = wait(&sources, &signals, attach.as_ref(), patience)?
        else {
            let now = jiff::Timestamp::now();
            sources
                .iter_mut()
                .for_each(|s| s.stream.flush(now, &mut lines));
            log.append(&lines);
            lines.clear();
            if std::mem::take(&mut ended) {
                log.complete();
            }
            continue;
        };
        if signalled {
            while let Ok(Some(signal)) = signals.read_signal() {
                // The others are what ends an agent; the container's output goes on.
                match Signal::try_from(signal.ssi_signo.cast_signed()) {
                    Ok(Signal::SIGUSR1) => log.reopen(),
                    Ok(Signal::SIGUSR2) => ended = true,
                    _ => {}
                }
            }
        }
        attach.iter_mut().for_each(Attach::accept);
        for ((source, readable), number) in sources.iter_mut().zip(readable).zip(1..) {
            if readable {
                let length = take(source, &mut buffer, &mut lines);
                if let Some(attach) = &mut attach {
                    attach.tell(number, buffer.get(..length).unwrap_or_default());
                }
                log.append(&lines);
                lines.clear();
            }
        }
    }
    Ok(())
}

/// Words in pairs, in any order: containerd sorts a URL's parameters as it likes.
fn options(mut args: impl Iterator<Item = String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while let (Some(name), Some(value)) = (args.next(), args.next()) {
        found.insert(name, value);
    }
    found
}

/// They would end it.
fn block_signals() -> io::Result<SigSet> {
    let set: SigSet = [
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGPIPE,
    ]
    .into_iter()
    .collect();
    set.thread_block()?;
    Ok(set)
}

/// How long an unfinished line waits for its end, milliseconds. containerd's shim keeps the streams open until the
/// dead container is removed, so the last words must not wait for the streams' end; and a prompt is shown.
const PATIENCE: u8 = 20;

/// Which sources can be read (or have ended), and whether a signal came. `None`: nothing did for as long as one waits.
fn wait(
    sources: &[Source; 2],
    signals: &SignalFd,
    attach: Option<&Attach>,
    patience: PollTimeout,
) -> io::Result<Option<([bool; 2], bool)>> {
    let some = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
    let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let open = sources.iter().flat_map(|source| &source.fd);
    polled.extend(open.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
    polled.extend(attach.map(|a| PollFd::new(a.fd(), PollFlags::POLLIN)));
    match poll(&mut polled, patience) {
        Ok(0) => return Ok(None),
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
    Ok(Some((readable, signalled)))
}

/// Reads once and formats the lines that are complete; at the end also the one that is not. How much was read.
fn take(source: &mut Source, buffer: &mut [u8], lines: &mut Vec<u8>) -> usize {
    let Some(fd) = &source.fd else { return 0 };
    let now = jiff::Timestamp::now();
    match read(fd, buffer) {
        Ok(length @ 1..) => {
            let bytes = buffer.get(..length).unwrap_or_default();
            source.stream.feed(bytes, now, lines);
            return length;
        }
        Err(Errno::EINTR | Errno::EAGAIN) => {}
        Ok(_) | Err(_) => {
            source.stream.flush(now, lines);
            source.fd = None;
        }
    }
    0
}
