//! A blocking conversation with a part of the kernel.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// A dump's messages come in pieces of at most this many bytes (`NLMSG_GOODSIZE` and some).
const BUFFER: usize = 64 * 1024;
/// Requests sent at once: their acknowledgements must fit into the socket's buffer.
const AT_ONCE: usize = 64;

/// A socket to a part of the kernel.
pub(crate) struct Line {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Line {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Asks for all of a kind, and hands each on.
    pub(crate) fn dump<M>(&mut self, message: M, each: impl FnMut(M)) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let sequence = self.put(&mut Vec::new(), message, NLM_F_DUMP, true)?;
        self.answers(sequence, 1, each).pop().unwrap_or(Ok(()))
    }

    /// Asks for one thing, and hands the answer on.
    pub(crate) fn get<M>(&mut self, message: M, each: impl FnMut(M)) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let sequence = self.put(&mut Vec::new(), message, NLM_F_ACK, true)?;
        self.answers(sequence, 1, each).pop().unwrap_or(Ok(()))
    }

    /// Has requests carried out, in order, each with flags of its own beside those that all have. Goes on after one
    /// that fails; gives what became of each.
    pub(crate) fn change<M>(&mut self, messages: Vec<(M, u16)>) -> Vec<io::Result<()>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut results = Vec::with_capacity(messages.len());
        let mut rest = messages.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut bytes, mut count, mut first) = (Vec::new(), 0, None);
            for (message, flags) in rest.by_ref().take(AT_ONCE) {
                let put = self.put(&mut bytes, message, flags | NLM_F_ACK, false);
                first = first.or(put.ok());
                count += 1;
            }
            match self.socket.send(&bytes, 0) {
                Ok(_) => {
                    results.extend(self.answers::<M>(first.unwrap_or_default(), count, |_| ()))
                }
                Err(error) => results.extend((0..count).map(|_| Err(error.kind().into()))),
            }
        }
        results
    }

    /// Appends a request, and sends it if told to; its number.
    fn put<M>(&mut self, bytes: &mut Vec<u8>, message: M, flags: u16, send: bool) -> io::Result<u32>
    where
        M: NetlinkSerializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let start = bytes.len();
        bytes.resize(start + packet.buffer_len().next_multiple_of(4), 0);
        if let Some(place) = bytes.get_mut(start..start + packet.buffer_len()) {
            packet.serialize(place);
        }
        if send {
            self.socket.send(bytes, 0)?;
        }
        Ok(self.sequence)
    }

    /// Reads until each of the requests from a number on has its end: an acknowledgement, an error or a dump's last.
    fn answers<M: NetlinkDeserializable>(
        &mut self,
        first: u32,
        count: usize,
        mut each: impl FnMut(M),
    ) -> Vec<io::Result<()>> {
        let mut results: Vec<Option<io::Result<()>>> = (0..count).map(|_| None).collect();
        let (mut open, mut interrupted) = (count, false);
        while open > 0 {
            let size = match self.socket.recv(&mut self.buffer.as_mut_slice(), 0) {
                Ok(size) => size,
                Err(error) => {
                    return results
                        .into_iter()
                        .map(|r| r.unwrap_or(Err(error.kind().into())))
                        .collect();
                }
            };
            let mut rest = self.buffer.get(..size).unwrap_or_default();
            while !rest.is_empty() {
                let answer = match NetlinkMessage::<M>::deserialize(rest) {
                    Ok(answer) => answer,
                    Err(_) => {
                        return results
                            .into_iter()
                            .map(|r| r.unwrap_or(Err(io::ErrorKind::InvalidData.into())))
                            .collect();
                    }
                };
                interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                let end = match answer.payload {
                    NetlinkPayload::Error(e) => Some(e.code.map_or(Ok(()), |_| Err(e.to_io()))),
                    NetlinkPayload::Done(_) if interrupted => {
                        Some(Err(io::ErrorKind::Interrupted.into()))
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        Some(Err(io::Error::from_raw_os_error(-done.code)))
                    }
                    NetlinkPayload::Done(_) => Some(Ok(())),
                    NetlinkPayload::InnerMessage(inner) => {
                        each(inner);
                        None
                    }
                    _ => None,
                };
                // An answer to somebody else's question, of before, is not ours to take.
                let number = answer.header.sequence_number.wrapping_sub(first) as usize;
                if let (Some(end), Some(place @ None)) = (end, results.get_mut(number)) {
                    *place = Some(end);
                    open -= 1;
                }
                rest = rest
                    .get((answer.header.length as usize).next_multiple_of(4).max(16)..)
                    .unwrap_or_default();
            }
        }
        results.into_iter().map(|r| r.unwrap_or(Ok(()))).collect()
    }
}
