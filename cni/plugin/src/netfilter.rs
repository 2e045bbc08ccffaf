//! Conversations with the kernel's packet filter and its table of connections.

use std::io::{self, ErrorKind};
use std::mem::ManuallyDrop;

use keelson_cni_plan::backend::Backend;
use keelson_cni_plan::nft::wire::answers;
use keelson_cni_plan::nft::{Batch, ask};
use keelson_cni_plan::protocol::{Error, code};
use nix::libc::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR};
use rustix::net::netlink::NETFILTER;

use crate::netlink::Socket;

/// A socket, in the network namespace it was made in.
///
/// It is closed when the process ends. Closing it waits until no processor uses what was removed from nftables, and so
/// does deleting a link: both waits are one if the link's comes first.
pub(crate) struct Netfilter(ManuallyDrop<Socket>);

impl Netfilter {
    /// Opens one.
    pub(crate) fn open() -> Result<Self, Error> {
        let socket = Socket::open(Some(NETFILTER));
        socket
            .map(|s| Self(ManuallyDrop::new(s)))
            .map_err(|e| Error::new(code::KERNEL, "open netfilter socket", e))
    }

    /// Whether this kernel has nftables.
    pub(crate) fn has_nftables(&mut self) -> bool {
        let mut there = false;
        let asked = self.ask(&ask::ask_generation(), |answer| {
            there |= ask::generation(answer).is_some();
        });
        asked.is_ok() && there
    }

    /// What is to hold rules: what was asked for, else nftables, and iptables where that is missing.
    pub(crate) fn backend(&mut self, wanted: Option<Backend>) -> Backend {
        match wanted {
            Some(backend) => backend,
            None if self.has_nftables() => Backend::Nftables,
            None => Backend::Iptables,
        }
    }

    /// Carries a batch out. The kernel works while it is called and answers only what it refuses, so that when it
    /// comes back without an answer everything is in place.
    ///
    /// # Errors
    /// The first refusal: others follow from it.
    pub(crate) fn commit(&mut self, batch: Batch) -> io::Result<()> {
        self.0.send(&batch.finish())?;
        let mut refused = Ok(());
        while let Some(said) = self.0.receive(false)? {
            let errors = answers(said).filter(|a| i32::from(a.kind) == NLMSG_ERROR);
            let numbers = errors.map(|a| ask::error(a.body)).filter(|n| *n != 0);
            for number in numbers {
                refused = refused.and(Err(io::Error::from_raw_os_error(number)));
            }
        }
        refused
    }

    /// Asks, and hands each answer's attributes over. One without a list answers once.
    fn ask(&mut self, question: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let flags = question.get(6..).and_then(|b| b.first_chunk());
        let flags = flags.map_or(0, |b| u16::from_ne_bytes(*b));
        let list = i32::from(flags) & NLM_F_DUMP == NLM_F_DUMP;
        self.0.send(question)?;
        let mut whole = true;
        loop {
            for answer in answers(self.0.receive(true)?.unwrap_or_default()) {
                whole &= i32::from(answer.flags) & NLM_F_DUMP_INTR == 0;
                match i32::from(answer.kind) {
                    NLMSG_DONE => return Ok(whole),
                    NLMSG_ERROR => match ask::error(answer.body) {
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

    /// Asks for a list, again if it changed while it was read; what `take` gives for each answer's attributes. What is
    /// asked for may be in something that is not there: then there is none of it.
    pub(crate) fn list<T>(
        &mut self,
        question: &[u8],
        take: impl Fn(&[u8]) -> T,
    ) -> io::Result<Vec<T>> {
        const ATTEMPTS: usize = 20;
        for _ in 0..ATTEMPTS {
            let mut all = Vec::new();
            match self.ask(question, |answer| all.push(take(answer))) {
                Ok(true) => return Ok(all),
                Ok(false) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::new(
            ErrorKind::Interrupted,
            "it changed while it was read, again and again",
        ))
    }

    /// Sends a message that asks for nothing but its being done; an error that it brings is of no use to anybody.
    pub(crate) fn tell(&mut self, message: &[u8]) {
        let _ = self.0.send(message);
        let _ = self.0.receive(false);
    }
}
