//! Conversations with the kernel's packet filter and its table of connections.

use std::io::{self, ErrorKind};

use keelson_cni_plan::nft::wire::answers;
use keelson_cni_plan::nft::{self, Batch};
use keelson_cni_plan::protocol::{Error, code};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::libc;

/// Lists come in pieces of at most this many bytes.
const BUFFER: usize = 64 * 1024;
/// `NLM_F_DUMP_INTR`: the list changed while it was read.
const INTERRUPTED: u16 = 0x10;

/// A socket, in the network namespace it was made in.
pub(crate) struct Netfilter(Socket);

impl Netfilter {
    /// Opens one.
    pub(crate) fn open() -> Result<Self, Error> {
        let socket = Socket::new(NETLINK_NETFILTER);
        socket
            .map(Self)
            .map_err(|e| Error::new(code::KERNEL, "open netfilter socket", e))
    }

    /// Whether this kernel has nftables.
    pub(crate) fn has_nftables(&self) -> bool {
        let mut there = false;
        let asked = self.ask(&nft::ask_generation(), |answer| {
            there |= nft::generation(answer).is_some();
        });
        asked.is_ok() && there
    }

    /// Carries a batch out. The kernel works while it is called and answers only what it refuses, so that when it
    /// comes back without an answer everything is in place.
    pub(crate) fn commit(&self, batch: Batch) -> io::Result<()> {
        let bytes = batch.finish();
        let _ = self.0.send(&bytes, 0)?;
        let mut refused = Ok(());
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match self.0.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return refused,
                Err(e) => return Err(e),
            }
            // The first error is the one to tell: others follow from it.
            let errors = answers(&buffer).filter(|a| i32::from(a.kind) == libc::NLMSG_ERROR);
            let numbers = errors.map(|a| nft::error(a.body)).filter(|n| *n != 0);
            for number in numbers {
                refused = refused.and(Err(io::Error::from_raw_os_error(number)));
            }
        }
    }

    /// Asks, and hands each answer's attributes over. One without a list answers once.
    fn ask(&self, question: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let list = question.get(7).is_some_and(|flags| flags & 3 == 3);
        let _ = self.0.send(question, 0)?;
        let mut buffer = Vec::with_capacity(BUFFER);
        let mut whole = true;
        loop {
            buffer.clear();
            let _ = self.0.recv(&mut buffer, 0)?;
            for answer in answers(&buffer) {
                whole &= answer.flags & INTERRUPTED == 0;
                match i32::from(answer.kind) {
                    libc::NLMSG_DONE => return Ok(whole),
                    libc::NLMSG_ERROR => match nft::error(answer.body) {
                        0 => return Ok(whole),
                        number => return Err(io::Error::from_raw_os_error(number)),
                    },
                    _ => each(answer.body.get(4..).unwrap_or_default()),
                }
            }
            if !list {
                return Ok(whole);
            }
        }
    }

    /// Asks for a list, again if it changed while it was read; what `take` gives for each answer's attributes.
    pub(crate) fn list<T>(&self, question: &[u8], take: impl Fn(&[u8]) -> T) -> io::Result<Vec<T>> {
        const ATTEMPTS: usize = 20;
        for _ in 0..ATTEMPTS {
            let mut all = Vec::new();
            if self.ask(question, |answer| all.push(take(answer)))? {
                return Ok(all);
            }
        }
        Err(io::Error::new(
            ErrorKind::Interrupted,
            "it changed while it was read, again and again",
        ))
    }

    /// Sends a message that asks for nothing but its being done; an error that it brings is of no use to anybody.
    pub(crate) fn tell(&self, message: &[u8]) {
        let _ = self.0.send(message, 0);
        let mut buffer = Vec::with_capacity(BUFFER);
        let _ = self.0.recv(&mut buffer, libc::MSG_DONTWAIT);
    }
}
