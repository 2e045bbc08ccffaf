//! Generic netlink: families that are found by name (`linux/genetlink.h`).

use std::convert::Infallible;
use std::io;

use netlink_packet_core::{
    DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlaBuffer,
    NlasIterator,
};

use crate::netlink::Line;

/// The family that knows the others.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`: command, version, two bytes of nothing.
const HEADER: usize = 4;

/// A message of a family.
pub(super) struct Message {
    pub(super) family: u16,
    pub(super) command: u8,
    attributes: Vec<u8>,
}

impl Message {
    pub(super) fn new(family: u16, command: u8, attributes: &[DefaultNla]) -> Self {
        Self {
            family,
            command,
            attributes: pack(attributes),
        }
    }

    /// The value of an attribute.
    pub(super) fn get(&self, kind: u16) -> Option<&[u8]> {
        find(&self.attributes, kind)
    }
}

/// Attributes one after the other.
pub(super) fn pack(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// The value of an attribute among packed ones.
pub(super) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut all = NlasIterator::new(attributes).flatten();
    all.find(|nla: &NlaBuffer<&[u8]>| nla.kind() == kind)
        .and_then(|nla| {
            let value = nla.into_inner();
            let length = u16::from_ne_bytes([*value.first()?, *value.get(1)?]);
            value.get(HEADER..usize::from(length))
        })
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // All families here have version 1.
        let header = [self.command, 1, 0, 0];
        let all = header.iter().chain(&self.attributes);
        buffer
            .iter_mut()
            .zip(all)
            .for_each(|(place, byte)| *place = *byte);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            family: header.message_type,
            command: payload.first().copied().unwrap_or_default(),
            attributes: payload.get(HEADER..).unwrap_or_default().to_vec(),
        })
    }
}

/// The number of a family. The kernel loads the module that has it, if there is one.
pub(super) fn family(line: &mut Line, name: &str) -> io::Result<u16> {
    let name = [name.as_bytes(), &[0]].concat();
    let ask = Message::new(CONTROL, GET_FAMILY, &[DefaultNla::new(FAMILY_NAME, name)]);
    let mut id = None;
    line.get(ask, |answer| {
        id = answer
            .get(FAMILY_ID)
            .and_then(|b| Some(u16::from_ne_bytes(b.try_into().ok()?)));
    })?;
    id.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
