//! Netlink sockets. Many requests go out as one datagram: the kernel has carried all of them out, and its answers
//! lie ready, when the call that sends them returns.

use std::io;
use std::os::fd::OwnedFd;

use keelson_cni_plan::nft::{ask, wire};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::libc::{NLMSG_DONE, NLMSG_ERROR};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
    socket_with,
};

/// A dump's pieces are no greater than this.
const BUFFER: usize = 32 << 10;

/// A socket; it stays in the namespace in which it was made.
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens one to a part of the kernel; without one, to links, addresses and routes.
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let fd = socket_with(family, SocketType::RAW, flags, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            fd,
            buffer: vec![0; BUFFER],
        })
    }

    /// Sends messages.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(&self.fd, bytes, SendFlags::empty())?;
        Ok(())
    }

    /// The next datagram. Without `wait`: none, if none is there.
    pub(crate) fn receive(&mut self, wait: bool) -> io::Result<Option<&[u8]>> {
        let flags = match wait {
            true => RecvFlags::empty(),
            false => RecvFlags::DONTWAIT,
        };
        loop {
            match recv(&self.fd, self.buffer.as_mut_slice(), flags) {
                Ok((length, _)) => return Ok(self.buffer.get(..length)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if !wait => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// What the kernel said to one request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Why it refused; 0: it did not.
    pub(crate) errno: i32,
    /// What was asked for: type and content of messages.
    pub(crate) messages: Vec<(u16, Vec<u8>)>,
}

/// A conversation about links, addresses and routes.
pub(crate) struct Routing {
    socket: Socket,
    /// Number of the last request.
    sequence: u32,
}

impl Routing {
    pub(crate) fn open() -> io::Result<Self> {
        let (socket, sequence) = (Socket::open(None)?, 0);
        Ok(Self { socket, sequence })
    }

    /// Sends requests, each with its flags, and gives the answer to each.
    pub(crate) fn ask(
        &mut self,
        requests: impl IntoIterator<Item = (RouteNetlinkMessage, u16)>,
    ) -> io::Result<Vec<Answer>> {
        let (mut bytes, first) = (Vec::new(), self.sequence + 1);
        for (message, flags) in requests {
            self.sequence += 1;
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        self.socket.send(&bytes)?;
        let mut answers: Vec<Answer> = Vec::new();
        answers.resize_with((self.sequence + 1 - first) as usize, Answer::default);
        let mut open = answers.len();
        while open > 0 {
            for said in wire::answers(self.socket.receive(true)?.unwrap_or_default()) {
                let number = said.sequence.wrapping_sub(first) as usize;
                let Some(answer) = answers.get_mut(number) else {
                    continue;
                };
                match i32::from(said.kind) {
                    NLMSG_ERROR | NLMSG_DONE => {
                        answer.errno = ask::error(said.body);
                        open -= 1;
                    }
                    _ => answer.messages.push((said.kind, said.body.to_vec())),
                }
            }
        }
        Ok(answers)
    }
}

/// A message of the routing family, if its content is one.
pub(crate) fn parse(kind: u16, content: &[u8]) -> Option<RouteNetlinkMessage> {
    use netlink_packet_core::NetlinkDeserializable;
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    RouteNetlinkMessage::deserialize(&header, content).ok()
}
