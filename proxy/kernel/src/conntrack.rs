//! The connection table: finds and removes UDP flows that outlived their endpoint.

use std::net::IpAddr;

use keelson_proxy_plan::conntrack::Flow;
use keelson_proxy_plan::explain::{Connection, State};
use keelson_proxy_plan::model::Protocol::{Sctp, Tcp, Udp};
use keelson_proxy_plan::model::{self, Family};
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

/// Removes all UDP flows that `stale` says; gives their number. Blocks: call it where that is allowed.
pub fn clean(stale: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
    let mut removed = 0;
    for family in [Family::V4, Family::V6] {
        let flows = udp_flows(family)?.into_iter();
        let gone = flows.filter(|(flow, _)| stale(flow)).map(|(_, t)| t);
        removed += delete(family, gone.collect())?;
    }
    Ok(removed)
}

/// UDP flows of a family, each with the tuple that names it.
fn udp_flows(family: Family) -> Result<Vec<(Flow, Vec<Tuple>)>, Error> {
    let mut flows = Vec::new();
    each_entry(family, |original, reply, state| {
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
    each_entry(family, |original, reply, state| {
        all.extend(connection(&original, &reply, state))
    })?;
    Ok(all)
}

fn each_entry(
    family: Family,
    mut each: impl FnMut(Vec<Tuple>, Vec<Tuple>, State),
) -> Result<(), Error> {
    let all = message(family, ConntrackMessage::Get(vec![]));
    let listed = line()?.dump(all, |entry| {
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
