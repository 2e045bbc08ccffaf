//! A netlink socket. Many requests go out as one datagram: the kernel has carried all of them out, and its answers
//! lie ready, when the call that sends them returns.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
    socket_with,
};

/// A dump's pieces are no greater than this.
const BUFFER: usize = 32 << 10;
/// Types of messages that end an answer.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Bytes of a message's header.
const HEADER: usize = 16;

/// A socket; it stays in the namespace in which it was made.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What the kernel said to one request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Why it refused; 0: it did not.
    pub(crate) errno: i32,
    /// What was asked for: type and content of messages.
    pub(crate) messages: Vec<(u16, Vec<u8>)>,
}

impl Socket {
    /// For links, addresses and routes.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// For rules.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let fd = socket_with(family, SocketType::RAW, flags, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// The number of the next message.
    pub(crate) fn number(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    /// Sends requests, each with its flags, and gives the answer to each.
    pub(crate) fn ask(
        &mut self,
        requests: impl IntoIterator<Item = (RouteNetlinkMessage, u16)>,
    ) -> io::Result<Vec<Answer>> {
        let (mut bytes, first) = (Vec::new(), self.sequence + 1);
        for (message, flags) in requests {
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            header.sequence_number = self.number();
            let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        let answers = self.exchange(&bytes, first..self.sequence + 1, false)?;
        Ok(answers.into_values().collect())
    }

    /// Sends messages as they are and collects the answers to those in `wanted`: until all have ended, or, if what has
    /// gone well may be left unsaid (`quiet`), until nothing is there.
    pub(crate) fn exchange(
        &mut self,
        bytes: &[u8],
        wanted: std::ops::Range<u32>,
        quiet: bool,
    ) -> io::Result<BTreeMap<u32, Answer>> {
        send(&self.fd, bytes, SendFlags::empty())?;
        let mut answers: BTreeMap<u32, Answer> = wanted.map(|n| (n, Answer::default())).collect();
        let mut open = answers.len();
        let flags = if quiet {
            RecvFlags::DONTWAIT
        } else {
            RecvFlags::empty()
        };
        while open > 0 {
            let length = match recv(&self.fd, self.buffer.as_mut_slice(), flags) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) if quiet => break,
                Err(e) => return Err(e.into()),
            };
            for (header, content) in messages(&self.buffer[..length]) {
                let Some(answer) = answers.get_mut(&header.sequence_number) else {
                    continue;
                };
                match header.message_type {
                    ERROR | DONE => {
                        let code = content.first_chunk().map(|b| i32::from_ne_bytes(*b));
                        answer.errno = -code.unwrap_or_default();
                        open -= 1;
                    }
                    kind => answer.messages.push((kind, content.to_vec())),
                }
            }
        }
        Ok(answers)
    }
}

/// The messages in a datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (NetlinkHeader, &[u8])> {
    std::iter::from_fn(move || {
        let number = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let length = number(0)? as usize;
        let mut header = NetlinkHeader::default();
        header.message_type = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        header.sequence_number = number(8)?;
        let content = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, content))
    })
}

/// A message of the routing family, if its content is one.
pub(crate) fn parse(kind: u16, content: &[u8]) -> Option<RouteNetlinkMessage> {
    use netlink_packet_core::NetlinkDeserializable;
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    RouteNetlinkMessage::deserialize(&header, content).ok()
}
