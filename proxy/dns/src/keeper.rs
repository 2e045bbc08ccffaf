//! Sockets that outlive their process: what is asked while nobody answers waits in them for the next one, instead of being
//! refused.

use std::fmt;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::server::Pair;

/// Who holds sockets beside this process and hands them to the next one: a service manager, for one.
pub trait Keeper: fmt::Debug + Send + Sync {
    /// What an earlier process left. Asked once.
    fn take(&self) -> Sockets;

    /// Holds these from now on, and no others.
    fn keep(&self, sockets: &[BorrowedFd<'_>]);
}

/// Sockets that somebody held.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For datagrams.
    pub udp: Vec<UdpSocket>,
    /// Listening.
    pub tcp: Vec<TcpListener>,
}

impl Sockets {
    pub(crate) fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.tcp.is_empty()
    }

    /// Those of an address, if they are what is needed there: so many for datagrams.
    pub(crate) fn of(&mut self, address: SocketAddr, count: usize) -> Option<Pair> {
        let mut udp: Vec<_> = taken(&mut self.udp, |s| s.local_addr().ok() == Some(address));
        let mut tcp = taken(&mut self.tcp, |s| s.local_addr().ok() == Some(address));
        let tcp = tcp.pop().filter(|_| udp.len() == count)?;
        ready(&tcp, TcpListener::set_nonblocking).ok()?;
        for socket in &mut udp {
            ready(socket, UdpSocket::set_nonblocking).ok()?;
        }
        Some(Pair { address, udp, tcp })
    }
}

fn taken<T>(all: &mut Vec<T>, which: impl Fn(&T) -> bool) -> Vec<T> {
    all.extract_if(.., |s| which(s)).collect()
}

/// As we open them ourselves.
fn ready<T: AsFd>(
    socket: &T,
    nonblocking: fn(&T, bool) -> std::io::Result<()>,
) -> std::io::Result<()> {
    nonblocking(socket, true)?;
    Ok(fcntl_setfd(socket, FdFlags::CLOEXEC)?)
}

pub(crate) fn all(pairs: &[Pair]) -> Vec<BorrowedFd<'_>> {
    let each = pairs.iter().map(|pair| {
        let udp = pair.udp.iter().map(AsFd::as_fd);
        udp.chain([pair.tcp.as_fd()])
    });
    each.flatten().collect()
}
