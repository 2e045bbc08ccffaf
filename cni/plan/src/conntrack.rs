//! The kernel's table of connections (linux/netfilter/nfnetlink_conntrack.h), as far as UDP needs it: a flow keeps the
//! translation that it began with, so those that began before a port led somewhere else must be forgotten.

use std::net::IpAddr;

use crate::nft::Family;
use crate::nft::wire::{Attributes, find, request};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
/// Attributes of an entry (`CTA_*`).
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// Parts of a tuple.
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;
/// `IPPROTO_UDP`.
const UDP: u8 = 17;

fn write(family: Family, kind: u16, flags: u16, body: &Attributes) -> Vec<u8> {
    request(SUBSYSTEM << 8 | kind, flags, family.number(), body)
}

/// Asks for the UDP flows, those to a port if it is one. Kernels before 5.8 don't know filters and give all.
pub fn ask(family: Family, ports: &[u16]) -> Vec<u8> {
    /// Protocol and destination port (`CTA_FILTER_FLAG`).
    const COMPARED: (u32, u32) = (1 << 3, 1 << 5);
    let (mut protocol, mut compared) = (Attributes::new().bytes(1, &[UDP]), COMPARED.0);
    if let [port] = ports {
        protocol = protocol.bytes(3, &port.to_be_bytes());
        compared |= COMPARED.1;
    }
    let body = Attributes::new()
        .nest(ORIGINAL, &Attributes::new().nest(PROTOCOL, &protocol))
        .nest(FILTER, &Attributes::new().bytes(1, &compared.to_ne_bytes()));
    write(family, GET, DUMP, &body)
}

/// The message that deletes the flow in an answer's attributes, if it is one of UDP to one of these ports and who answers
/// it is stale.
pub fn delete(
    family: Family,
    answer: &[u8],
    ports: &[u16],
    stale: impl Fn((IpAddr, u16)) -> bool,
) -> Option<Vec<u8>> {
    let (original, reply) = (find(answer, ORIGINAL)?, find(answer, REPLY)?);
    let protocol = find(original, PROTOCOL)?;
    let to = u16::from_be_bytes(find(protocol, 3)?.try_into().ok()?);
    if find(protocol, 1)? != [UDP] || !ports.contains(&to) || find(answer, ZONE).is_some() {
        return None;
    }
    let addresses = find(reply, ADDRESSES)?;
    let answerer: IpAddr = match family {
        Family::V4 => <[u8; 4]>::try_from(find(addresses, 1)?).ok()?.into(),
        Family::V6 => <[u8; 16]>::try_from(find(addresses, 3)?).ok()?.into(),
    };
    let from = find(find(reply, PROTOCOL)?, 2)?;
    let from = u16::from_be_bytes(from.try_into().ok()?);
    let named = || Attributes::new().nest(ORIGINAL, &Attributes::from(original));
    stale((answerer, from)).then(|| write(family, DELETE, 0, &named()))
}
