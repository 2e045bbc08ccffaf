//! The connection table: finds and removes UDP flows that outlived their endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use keelson_proxy_plan::conntrack::Flow;
use keelson_proxy_plan::explain::{Connection, State};
use keelson_proxy_plan::model::Protocol::{Sctp, Tcp, Udp};
use keelson_proxy_plan::model::{self, Family, Front};
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, Nla};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol,
    Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Error;
use crate::netlink::Line;

/// The kernel is asked so many times for a part of its table; where that is not enough, for all of it once. For each
/// answer it walks through the whole table, some 10 ms; what it hands out has to be read, which takes longer when it is
/// much.
const FEW: usize = 8;

/// `IPCTNL_MSG_CT_GET`.
const GET: u8 = 1;
/// `CTA_TUPLE_ORIG`, `CTA_ZONE`, `CTA_FILTER`, and within the latter `CTA_FILTER_ORIG_FLAGS`.
const ORIGINAL: u16 = 1;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
/// What of a tuple is compared: the bits of the kernel's `CTA_FILTER_FLAG`.
const DESTINATION: u32 = 1 << 1;
const PROTOCOL: u32 = 1 << 3;
const DESTINATION_PORT: u32 = 1 << 5;

/// Removes all UDP flows to some fronts that `stale` says, or, without any, to anywhere; gives their number. Blocks:
/// call it where that is allowed.
pub fn clean<'a>(
    fronts: impl Iterator<Item = &'a Front>,
    stale: impl Fn(&Flow) -> bool,
) -> Result<usize, Error> {
    let mut removed = 0;
    for (family, asked) in questions(fronts) {
        let flows = udp_flows(family, asked)?.into_iter();
        let gone = flows.filter(|(flow, _)| stale(flow)).map(|(_, t)| t);
        removed += delete(family, gone.collect())?;
    }
    Ok(removed)
}

/// What to ask the kernel for: a port at a time, of an address where there is but one.
fn questions<'a>(fronts: impl Iterator<Item = &'a Front>) -> Vec<(Family, Vec<DefaultNla>)> {
    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
    let mut ports = BTreeMap::<(Family, u16), BTreeSet<Option<IpAddr>>>::new();
    for front in fronts {
        let (families, ip, port) = match front {
            Front::Address(ip, _, port) => (&[Family::of(ip)][..], Some(*ip), *port),
            Front::Node(_, port) => (&FAMILIES[..], None, *port),
        };
        for family in families {
            ports.entry((*family, port)).or_default().insert(ip);
        }
    }
    if !(1..=FEW).contains(&ports.len()) {
        return FAMILIES.map(|f| (f, only(None, None))).into();
    }
    let questions = ports.into_iter().map(|((family, port), ips)| {
        let one = ips.first().filter(|_| ips.len() == 1);
        (family, only(one.copied().flatten(), Some(port)))
    });
    questions.collect()
}

/// UDP to an address and a port. Kernels before 5.8 don't know filters and give all.
fn only(ip: Option<IpAddr>, port: Option<u16>) -> Vec<DefaultNla> {
    let mut compared = PROTOCOL;
    let mut tuple = Vec::new();
    if let Some(ip) = ip {
        compared |= DESTINATION;
        tuple.push(Tuple::Ip(vec![IPTuple::DestinationAddress(ip)]));
    }
    let mut proto = vec![ProtoTuple::Protocol(Protocol::Udp)];
    if let Some(port) = port {
        compared |= DESTINATION_PORT;
        proto.push(ProtoTuple::DestinationPort(port));
    }
    tuple.push(Tuple::Proto(proto));
    let filter = DefaultNla::new(FILTER_ORIGINAL, compared.to_ne_bytes().into());
    // The crate's own attributes lack the filter, and don't say of others that they are nested.
    vec![
        DefaultNla::new(ORIGINAL | NLA_F_NESTED, pack(&tuple)),
        DefaultNla::new(FILTER | NLA_F_NESTED, pack(&[filter])),
    ]
}

fn pack<T: Nla>(attributes: &[T]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// UDP flows of a family, as far as they were asked for, each with the tuple that names it.
fn udp_flows(family: Family, asked: Vec<DefaultNla>) -> Result<Vec<(Flow, Vec<Tuple>)>, Error> {
    let mut flows = Vec::new();
    each_entry(family, asked, |original, reply, state| {
        if let Some(c) = connection(&original, &reply, state)
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
    each_entry(family, Vec::new(), |original, reply, state| {
        all.extend(connection(&original, &reply, state))
    })?;
    Ok(all)
}

/// Both tuples and the state of each entry. Those of a zone are left out: no rule of ours puts packets into one.
fn each_entry(
    family: Family,
    asked: Vec<DefaultNla>,
    mut each: impl FnMut(Vec<Tuple>, Vec<Tuple>, State),
) -> Result<(), Error> {
    let get = ConntrackMessage::Other {
        message_type: GET,
        attributes: asked,
    };
    let ask = message(family, get);
    let listed = line()?.dump(ask, |entry| {
        let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = entry.inner
        else {
            return;
        };
        let (mut original, mut reply) = (None, None);
        let (mut tcp, mut answered) = (None, State::Unanswered);
        for attribute in attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(t) => original = Some(t),
                ConntrackAttribute::CtaTupleReply(t) => reply = Some(t),
                ConntrackAttribute::CtaProtoInfo(info) => tcp = info.iter().find_map(tcp_state),
                ConntrackAttribute::CtaStatus(s) if s.contains(Status::SeenReply) => {
                    answered = State::Answered;
                }
                ConntrackAttribute::Other(nla) if nla.kind() == ZONE => return,
                _ => {}
            }
        }
        if let (Some(original), Some(reply)) = (original, reply) {
            each(original, reply, tcp.unwrap_or(answered));
        }
    });
    listed.map_err(|source| Error::Netlink {
        action: "dump conntrack",
        source,
    })
}

/// Goes on after errors, and gives the first.
fn delete(family: Family, originals: Vec<Vec<Tuple>>) -> Result<usize, Error> {
    let messages = originals.into_iter().map(|original| {
        let gone = ConntrackMessage::Delete(vec![ConntrackAttribute::CtaTupleOrig(original)]);
        (message(family, gone), 0)
    });
    let results = line()?.change(messages.collect());
    let mut removed = 0;
    let mut failed = Ok(());
    for result in results {
        match result {
            Ok(()) => removed += 1,
            // It ended by itself meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                failed = failed.and(Err(Error::Netlink {
                    action: "delete conntrack entry",
                    source,
                }));
            }
        }
    }
    failed.map(|()| removed)
}

fn tcp_state(info: &ProtoInfo) -> Option<State> {
    let ProtoInfo::TCP(parts) = info else {
        return None;
    };
    parts.iter().find_map(|part| match part {
        ProtoInfoTCP::State(number) => State::tcp(*number),
        _ => None,
    })
}

fn connection(original: &[Tuple], reply: &[Tuple], state: State) -> Option<Connection> {
    let (protocol, client, destination) = ends(original)?;
    let (_, answerer, answered) = ends(reply)?;
    Some(Connection {
        protocol,
        client,
        destination,
        answerer,
        answered,
        state,
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

fn line() -> Result<Line, Error> {
    Line::open(NETLINK_NETFILTER).map_err(|source| Error::Netlink {
        action: "ask for the connection table",
        source,
    })
}

fn message(family: Family, inner: ConntrackMessage) -> NetfilterMessage {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner)
}
