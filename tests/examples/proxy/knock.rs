//! Connections, and what became of them. Everything here runs in the client's network.

use std::ffi::OsString;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, connect, getsockopt, setsockopt, socket, sockopt,
};

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was made.
    Open,
    /// It was refused.
    Closed,
    /// Nobody answered in time.
    Silent,
}

/// One attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) answer: Answer,
    pub(crate) took: Duration,
    /// When the answer was there; of one without, when it was asked.
    pub(crate) at: Instant,
}

/// How to wait for a state of a service.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// The client's device.
    pub(crate) device: String,
    /// Where to connect.
    pub(crate) to: Vec<SocketAddrV4>,
    /// Whether all that is listed has to be open, or closed (or silent, as when it is dropped).
    pub(crate) open: bool,
    /// So many times in a row.
    pub(crate) times: usize,
    /// Between two attempts.
    pub(crate) pause: Duration,
    /// When to give up.
    pub(crate) within: Duration,
}

/// Connects through a device, and resets what was made.
pub(crate) fn knock(device: &str, to: SocketAddrV4, patience: Duration) -> anyhow::Result<Attempt> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::BindToDevice, &OsString::from(device))?;
    // Nothing is left waiting, neither here nor in a node's table of connections.
    let reset = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&socket, sockopt::Linger, &reset)?;
    let begin = Instant::now();
    let mut done = connect(socket.as_raw_fd(), &SockaddrIn::from(to));
    if done == Err(Errno::EINPROGRESS) {
        let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        // A socket's own patience counts in ticks of the kernel, some milliseconds each; this counts finely.
        if ppoll(&mut sockets, Some(patience.into()), None)? > 0 {
            let error = getsockopt(&socket, sockopt::SocketError)?;
            done = match error {
                0 => Ok(()),
                error => Err(Errno::from_raw(error)),
            };
        }
    }
    let took = begin.elapsed();
    let (answer, at) = match done {
        Ok(()) => (Answer::Open, begin + took),
        Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH) => (Answer::Closed, begin + took),
        Err(Errno::EINPROGRESS | Errno::ETIMEDOUT) => (Answer::Silent, begin),
        Err(error) => return Err(error).with_context(|| format!("connect to {to} by {device}")),
    };
    Ok(Attempt { answer, took, at })
}

/// Waits for a state; when the last of what was waited for was first seen.
pub(crate) fn watch(what: &Watch) -> anyhow::Result<Instant> {
    let end = Instant::now() + what.within;
    // Refusals come by ICMP, of which the kernel sends only so many: most attempts before a service is there are silent.
    // Waiting long for each would be taken for time until it is there.
    let patience = Duration::from_millis(if what.open && what.times == 1 { 1 } else { 20 });
    let mut latest = None;
    for to in &what.to {
        let (mut row, mut first) = (0, None);
        while row < what.times {
            let attempt = knock(&what.device, *to, patience)?;
            if (attempt.answer == Answer::Open) == what.open {
                first.get_or_insert(attempt.at);
                row += 1;
                continue;
            }
            (row, first) = (0, None);
            let wanted = if what.open { "open" } else { "closed" };
            anyhow::ensure!(
                Instant::now() < end,
                "{to} by {}: not {wanted} within {:?}, but {:?}",
                what.device,
                what.within,
                attempt.answer
            );
            std::thread::sleep(what.pause);
        }
        latest = latest.max(first);
    }
    latest.context("nothing to wait for")
}
