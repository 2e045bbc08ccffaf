//! Conversations with nf_tables: a batch that is carried out whole or not at all, and lists.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use super::sys::{self, Payload};
use super::wire;
use crate::Error;

/// Lists come in pieces of at most this many bytes.
const BUFFER: usize = 64 * 1024;
/// `nlmsghdr`.
const HEADER: usize = 16;
const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// `NLM_F_DUMP_INTR`: the list changed while it was read.
const INTERRUPTED: u16 = 0x10;

/// A socket. When one is closed the kernel waits until nobody can see any more what was removed before, which takes
/// some 10 ms and holds up everybody's changes: whoever makes many keeps it open.
pub(super) struct Connection(Socket);

impl Connection {
    pub(super) fn open() -> io::Result<Self> {
        open().map(Self)
    }
}

/// Messages that are carried out together.
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// What each message does: the sequence number is its place.
    what: Vec<String>,
    family: u8,
}

impl Batch {
    /// Begins one.
    pub(super) fn new(family: u8) -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            what: Vec::new(),
            family,
        };
        batch.mark(libc::NFNL_MSG_BATCH_BEGIN as u16, "begin");
        batch
    }

    fn mark(&mut self, kind: u16, what: &str) {
        let sequence = self.sequence(what.to_owned());
        let body = wire::generic(0, SUBSYSTEM);
        message(&mut self.bytes, kind, REQUEST, sequence, &body);
    }

    fn sequence(&mut self, what: String) -> u32 {
        self.what.push(what);
        self.what.len() as u32 - 1
    }

    /// Adds a message about an object.
    pub(super) fn object(&mut self, kind: i32, flags: i32, what: String, object: &impl Payload) {
        let sequence = self.sequence(what);
        let (kind, flags) = (SUBSYSTEM << 8 | kind as u16, REQUEST | flags as u16);
        sys::message(
            &mut self.bytes,
            kind,
            self.family.into(),
            flags,
            sequence,
            object,
        );
    }

    /// Adds a message of attributes.
    pub(super) fn attributes(&mut self, kind: i32, flags: i32, what: String, body: &[u8]) {
        let sequence = self.sequence(what);
        let (kind, flags) = (SUBSYSTEM << 8 | kind as u16, REQUEST | flags as u16);
        let whole = [&wire::generic(self.family, 0), body].concat();
        message(&mut self.bytes, kind, flags, sequence, &whole);
    }

    /// Carries it out. The kernel works while it is called and answers only what it refuses, so that when it comes
    /// back without an answer everything is in place.
    pub(super) fn commit(mut self, socket: &Connection) -> Result<(), Error> {
        let fail = |source| Error::Netlink {
            action: "write nftables",
            source,
        };
        self.mark(libc::NFNL_MSG_BATCH_END as u16, "commit");
        let socket = &socket.0;
        // The limit that SO_SNDBUF has is for those who may not change rules anyway.
        setsockopt(
            &socket.as_fd(),
            sockopt::SndBufForce,
            &(self.bytes.len() + BUFFER),
        )
        .map_err(|e| fail(e.into()))?;
        let sent = socket.send(&self.bytes, 0).map_err(fail)?;
        if sent != self.bytes.len() {
            return Err(fail(ErrorKind::WriteZero.into()));
        }
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(fail(error)),
            }
            for answer in answers(&buffer) {
                if let Some(error) = answer.error() {
                    let what = self.what.get(answer.sequence as usize).cloned();
                    // One wrong thing is answered for all that builds on it.
                    forget(socket);
                    return Err(Error::Nftables {
                        what: what.unwrap_or_default(),
                        source: error,
                    });
                }
            }
        }
    }
}

impl Connection {
    /// Asks for a list; gives each entry's attributes. A list that changed while it was read is read again.
    pub(super) fn dump(&self, kind: i32, family: u8, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        const ATTEMPTS: usize = 10;
        for _ in 0..ATTEMPTS {
            if let Some(list) = self.converse(kind, family, DUMP, body)? {
                return Ok(list);
            }
        }
        Err(io::Error::new(
            ErrorKind::Interrupted,
            "rules changed while they were read, again and again",
        ))
    }

    /// Asks for one thing.
    pub(super) fn get(&self, kind: i32, family: u8, body: &[u8]) -> io::Result<Vec<u8>> {
        let answer = self.converse(kind, family, libc::NLM_F_ACK as u16, body)?;
        let first = answer.into_iter().flatten().next();
        first.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    fn converse(
        &self,
        kind: i32,
        family: u8,
        flags: u16,
        body: &[u8],
    ) -> io::Result<Option<Vec<Vec<u8>>>> {
        let socket = &self.0;
        // An answer that somebody did not wait for must not be taken for ours.
        forget(socket);
        let mut bytes = Vec::new();
        let whole = [&wire::generic(family, 0), body].concat();
        message(
            &mut bytes,
            SUBSYSTEM << 8 | kind as u16,
            REQUEST | flags,
            1,
            &whole,
        );
        socket.send(&bytes, 0)?;
        let (mut list, mut interrupted) = (Vec::new(), false);
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            socket.recv(&mut buffer, 0)?;
            for answer in answers(&buffer) {
                interrupted |= answer.flags & INTERRUPTED != 0;
                match i32::from(answer.kind) {
                    libc::NLMSG_DONE => return Ok((!interrupted).then_some(list)),
                    libc::NLMSG_ERROR => {
                        return answer.error().map_or(Ok(Some(list)), Err);
                    }
                    _ => list.extend(answer.body.get(4..).map(<[u8]>::to_vec)),
                }
            }
        }
    }
}

/// Drops answers that are there.
fn forget(socket: &Socket) {
    let mut buffer = Vec::with_capacity(BUFFER);
    while socket.recv(&mut buffer, libc::MSG_DONTWAIT).is_ok() {
        buffer.clear();
    }
}

/// It waits for an answer for ten seconds at most: the kernel answers at once or is in trouble.
fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let time = nix::sys::time::TimeVal::new(10, 0);
    setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &time)?;
    Ok(socket)
}

fn message(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    let length = (HEADER + body.len()) as u32;
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(4), 0);
}

struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Answer<'_> {
    /// The error that it tells of, if it does: it begins with the number, below zero.
    fn error(&self) -> Option<io::Error> {
        if i32::from(self.kind) != libc::NLMSG_ERROR {
            return None;
        }
        let (number, _) = self.body.split_first_chunk::<4>()?;
        match i32::from_ne_bytes(*number) {
            0 => None,
            number => Some(io::Error::from_raw_os_error(number.saturating_neg())),
        }
    }
}

fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let (head, _) = bytes.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *head;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer {
            kind: u16::from_ne_bytes([e, f]),
            flags: u16::from_ne_bytes([g, h]),
            sequence: u32::from_ne_bytes([i, j, k, l]),
            body,
        })
    })
}
