//! The connection table: finds and removes UDP flows that outlived their endpoint.

use std::net::IpAddr;

use keelson_proxy_plan::conntrack::{Flow, Wanted};
use keelson_proxy_plan::explain::Connection;
use keelson_proxy_plan::model::Protocol::{Sctp, Tcp, Udp};
use keelson_proxy_plan::model::{self, Family};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::Error;

/// A dump's messages come in pieces of at most this many bytes (`NLMSG_GOODSIZE` and some).
const BUFFER: usize = 64 * 1024;

/// Removes all stale UDP flows; gives their number. Blocks: call it where that is allowed.
pub fn clean(wanted: &Wanted) -> Result<usize, Error> {
    if wanted.is_empty() {
        return Ok(0);
    }
    clean_if(|flow| wanted.is_stale(flow))
}

/// Removes all UDP flows that `stale` says; gives their number. Blocks: call it where that is allowed.
pub fn clean_if(stale: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
    let mut removed = 0;
    for family in [Family::V4, Family::V6] {
        for (_, original) in udp_flows(family)?
            .into_iter()
            .filter(|(flow, _)| stale(flow))
        {
            delete(family, original)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// UDP flows of a family, each with the tuple that names it.
fn udp_flows(family: Family) -> Result<Vec<(Flow, Vec<Tuple>)>, Error> {
    let mut flows = Vec::new();
    each_entry(family, |original, reply| {
        if let Some(c) = connection(&original, &reply)
            && c.protocol == Udp
        {
            let flow = Flow {
                destination: c.destination,
                answerer: c.answerer,
            };
            flows.push((flow, original));
        }
    })?;
    Ok(flows)
}

/// All connections of a family. Blocks: call it where that is allowed.
pub fn connections(family: Family) -> Result<Vec<Connection>, Error> {
    let mut all = Vec::new();
    each_entry(family, |original, reply| {
        all.extend(connection(&original, &reply))
    })?;
    Ok(all)
}

fn each_entry(family: Family, mut each: impl FnMut(Vec<Tuple>, Vec<Tuple>)) -> Result<(), Error> {
    converse(
        family,
        ConntrackMessage::Get(vec![]),
        NLM_F_DUMP,
        "dump conntrack",
        |message| {
            let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner
            else {
                return;
            };
            let (mut original, mut reply) = (None, None);
            for attribute in attributes {
                match attribute {
                    ConntrackAttribute::CtaTupleOrig(t) => original = Some(t),
                    ConntrackAttribute::CtaTupleReply(t) => reply = Some(t),
                    _ => {}
                }
            }
            if let (Some(original), Some(reply)) = (original, reply) {
                each(original, reply);
            }
        },
    )
}

fn delete(family: Family, original: Vec<Tuple>) -> Result<(), Error> {
    let message = ConntrackMessage::Delete(vec![ConntrackAttribute::CtaTupleOrig(original)]);
    match converse(family, message, NLM_F_ACK, "delete conntrack entry", |_| ()) {
        // It ended by itself meanwhile.
        Err(Error::Netlink { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}

fn connection(original: &[Tuple], reply: &[Tuple]) -> Option<Connection> {
    let (protocol, client, destination) = ends(original)?;
    let (_, answerer, answered) = ends(reply)?;
    Some(Connection {
        protocol,
        client,
        destination,
        answerer,
        answered,
    })
}

type End = (IpAddr, u16);

/// Protocol, source and destination of a tuple; `None` for protocols without ports.
fn ends(tuple: &[Tuple]) -> Option<(model::Protocol, End, End)> {
    let (mut ips, mut ports, mut protocol) = ((None, None), (None, None), None);
    for part in tuple {
        match part {
            Tuple::Ip(list) => list.iter().for_each(|ip| match ip {
                IPTuple::SourceAddress(a) => ips.0 = Some(*a),
                IPTuple::DestinationAddress(a) => ips.1 = Some(*a),
                _ => {}
            }),
            Tuple::Proto(list) => list.iter().for_each(|p| match p {
                ProtoTuple::Protocol(p) => protocol = known(p),
                ProtoTuple::SourcePort(p) => ports.0 = Some(*p),
                ProtoTuple::DestinationPort(p) => ports.1 = Some(*p),
                _ => {}
            }),
            _ => {}
        }
    }
    Some((protocol?, (ips.0?, ports.0?), (ips.1?, ports.1?)))
}

fn known(protocol: &Protocol) -> Option<model::Protocol> {
    let number = u8::from(*protocol);
    let all = [Tcp, Udp, Sctp];
    all.into_iter().find(|p| p.number() == number)
}

/// Sends a message and hands every answer on until the kernel says that it was the last.
fn converse(
    family: Family,
    message: ConntrackMessage,
    flags: u16,
    action: &'static str,
    mut each: impl FnMut(NetfilterMessage),
) -> Result<(), Error> {
    let fail = |source| Error::Netlink { action, source };
    let invalid = |e: &dyn std::fmt::Display| {
        fail(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            e.to_string(),
        ))
    };
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(fail)?;
    socket.bind_auto().map_err(fail)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let inner = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(inner));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0).map_err(fail)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let size = socket.recv(&mut buffer.as_mut_slice(), 0).map_err(fail)?;
        let mut rest = buffer.get(..size).unwrap_or_default();
        while !rest.is_empty() {
            let answer =
                NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(|e| invalid(&e))?;
            let length = (answer.header.length as usize).next_multiple_of(4).max(16);
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(e) => return e.code.map_or(Ok(()), |_| Err(fail(e.to_io()))),
                NetlinkPayload::InnerMessage(inner) => each(inner),
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
