//! Virtual servers and destinations as attributes of the family `IPVS` (`linux/ip_vs.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use keelson_proxy_plan::ipvs::{
    Destination, Flags, Forwarding, Scheduler, ServerKey, Timeouts, VirtualServer,
};
use netlink_packet_core::{DefaultNla, NLA_F_NESTED};

use super::genl::{Message, find, pack};

pub(super) const NAME: &str = "IPVS";

/// `IPVS_CMD_*`.
pub(super) mod command {
    pub(crate) const NEW_SERVICE: u8 = 1;
    pub(crate) const SET_SERVICE: u8 = 2;
    pub(crate) const DEL_SERVICE: u8 = 3;
    pub(crate) const GET_SERVICE: u8 = 4;
    pub(crate) const NEW_DEST: u8 = 5;
    pub(crate) const SET_DEST: u8 = 6;
    pub(crate) const DEL_DEST: u8 = 7;
    pub(crate) const GET_DEST: u8 = 8;
    pub(crate) const SET_CONFIG: u8 = 12;
    pub(crate) const GET_CONFIG: u8 = 13;
}

/// `IPVS_CMD_ATTR_*`.
mod part {
    pub(super) const SERVICE: u16 = 1;
    pub(super) const DEST: u16 = 2;
    pub(super) const TIMEOUT_TCP: u16 = 4;
    pub(super) const TIMEOUT_TCP_FIN: u16 = 5;
    pub(super) const TIMEOUT_UDP: u16 = 6;
}

/// `IPVS_SVC_ATTR_*`.
mod service {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ADDRESS: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const SCHEDULER: u16 = 6;
    pub(super) const FLAGS: u16 = 7;
    pub(super) const TIMEOUT: u16 = 8;
    pub(super) const NETMASK: u16 = 9;
}

/// `IPVS_DEST_ATTR_*`.
mod dest {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const PORT: u16 = 2;
    pub(super) const FORWARDING: u16 = 3;
    pub(super) const WEIGHT: u16 = 4;
    pub(super) const UPPER: u16 = 5;
    pub(super) const LOWER: u16 = 6;
    pub(super) const ACTIVE: u16 = 7;
    pub(super) const INACTIVE: u16 = 8;
    pub(super) const FAMILY: u16 = 11;
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// `IP_VS_CONN_F_FWD_MASK`.
const FORWARDING: u32 = 7;

fn short(kind: u16, value: u16) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().into())
}

fn word(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().into())
}

fn port(kind: u16, value: u16) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().into())
}

fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NLA_F_NESTED, pack(inner))
}

fn family(address: &IpAddr) -> u16 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// `union nf_inet_addr`: as long for both families.
fn address(kind: u16, address: &IpAddr) -> DefaultNla {
    let mut bytes = match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    bytes.resize(16, 0);
    DefaultNla::new(kind, bytes)
}

fn named(key: &ServerKey) -> Vec<DefaultNla> {
    vec![
        short(service::FAMILY, family(&key.address)),
        short(service::PROTOCOL, key.protocol.number().into()),
        address(service::ADDRESS, &key.address),
        port(service::PORT, key.port),
    ]
}

/// The attribute that names a virtual server.
pub(super) fn key(key: &ServerKey) -> DefaultNla {
    nested(part::SERVICE, &named(key))
}

/// The attribute that says all of a virtual server.
pub(super) fn server(server: &VirtualServer) -> DefaultNla {
    let mut inner = named(&server.key);
    let scheduler = [server.scheduler.name().as_bytes(), &[0]].concat();
    // `struct ip_vs_flags`: the flags, and which of them are meant.
    let flags = [server.flags.0.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
    inner.extend([
        DefaultNla::new(service::SCHEDULER, scheduler),
        DefaultNla::new(service::FLAGS, flags),
        word(service::TIMEOUT, server.timeout),
        word(service::NETMASK, server.netmask),
    ]);
    nested(part::SERVICE, &inner)
}

/// The attribute that names a destination.
pub(super) fn place(at: &SocketAddr) -> DefaultNla {
    nested(part::DEST, &places(at))
}

fn places(at: &SocketAddr) -> Vec<DefaultNla> {
    vec![
        address(dest::ADDRESS, &at.ip()),
        port(dest::PORT, at.port()),
        short(dest::FAMILY, family(&at.ip())),
    ]
}

/// The attribute that says all of a destination.
pub(super) fn destination(destination: &Destination) -> DefaultNla {
    let mut inner = places(&destination.at);
    let forwarding = match destination.forwarding {
        Forwarding::Masquerade => 0,
        Forwarding::Other(number) => number,
    };
    inner.extend([
        word(dest::FORWARDING, forwarding),
        word(dest::WEIGHT, destination.weight),
        // No limits of connections.
        word(dest::UPPER, 0),
        word(dest::LOWER, 0),
    ]);
    nested(part::DEST, &inner)
}

/// The attributes of the timeouts that are given.
pub(super) fn timeouts(t: &Timeouts) -> Vec<DefaultNla> {
    let all = [
        (part::TIMEOUT_TCP, t.tcp),
        (part::TIMEOUT_TCP_FIN, t.tcp_fin),
        (part::TIMEOUT_UDP, t.udp),
    ];
    all.into_iter()
        .filter(|(_, seconds)| *seconds > 0)
        .map(|(kind, seconds)| word(kind, seconds))
        .collect()
}

fn read_short(attributes: &[u8], kind: u16) -> Option<u16> {
    find(attributes, kind)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

fn read_word(attributes: &[u8], kind: u16) -> Option<u32> {
    find(attributes, kind)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

fn read_port(attributes: &[u8], kind: u16) -> Option<u16> {
    find(attributes, kind)?
        .try_into()
        .ok()
        .map(u16::from_be_bytes)
}

fn read_address(attributes: &[u8], kind: u16, family: u16) -> Option<IpAddr> {
    let bytes = find(attributes, kind)?;
    match family {
        AF_INET => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// A virtual server from a message; `None` for one that is found by a packet's mark, or whose protocol no service has.
pub(super) fn read_server(message: &Message) -> Option<VirtualServer> {
    let inner = message.get(part::SERVICE)?;
    let family = read_short(inner, service::FAMILY)?;
    let protocol = u8::try_from(read_short(inner, service::PROTOCOL)?).ok()?;
    let key = ServerKey {
        address: read_address(inner, service::ADDRESS, family)?,
        protocol: ServerKey::protocol_of(protocol)?,
        port: read_port(inner, service::PORT)?,
    };
    let name = find(inner, service::SCHEDULER)?.split(|b| *b == 0).next()?;
    let flags = find(inner, service::FLAGS)?
        .first_chunk::<4>()
        .map(|b| Flags(u32::from_ne_bytes(*b)))?;
    Some(VirtualServer {
        key,
        scheduler: Scheduler::read(&String::from_utf8_lossy(name)),
        flags: flags.without(Flags::HASHED),
        timeout: read_word(inner, service::TIMEOUT)?,
        netmask: read_word(inner, service::NETMASK)?,
    })
}

/// A destination from a message, of a virtual server of an address (kernels before 3.18 don't say its family).
pub(super) fn read_destination(message: &Message, of: &IpAddr) -> Option<Destination> {
    let inner = message.get(part::DEST)?;
    let family = read_short(inner, dest::FAMILY).unwrap_or(family(of));
    let ip = read_address(inner, dest::ADDRESS, family)?;
    let forwarding = match read_word(inner, dest::FORWARDING)? & FORWARDING {
        0 => Forwarding::Masquerade,
        number => Forwarding::Other(number),
    };
    Some(Destination {
        at: SocketAddr::new(ip, read_port(inner, dest::PORT)?),
        weight: read_word(inner, dest::WEIGHT)?,
        forwarding,
        active: read_word(inner, dest::ACTIVE)?,
        inactive: read_word(inner, dest::INACTIVE)?,
    })
}

/// Timeouts from a message.
pub(super) fn read_timeouts(message: &Message) -> Option<Timeouts> {
    let seconds = |kind| message.get(kind)?.try_into().ok().map(u32::from_ne_bytes);
    Some(Timeouts {
        tcp: seconds(part::TIMEOUT_TCP)?,
        tcp_fin: seconds(part::TIMEOUT_TCP_FIN)?,
        udp: seconds(part::TIMEOUT_UDP)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_proxy_plan::model::Protocol;

    /// Independent of what reads it: the kernel's documented layout, byte by byte.
    #[test]
    fn a_server_is_laid_out_as_the_kernel_reads_it() {
        let key = ServerKey {
            address: [10, 43, 0, 9].into(),
            protocol: Protocol::Tcp,
            port: 80,
        };
        let bytes = pack(&[super::key(&key)]);
        let want: &[u8] = &[
            48, 0, 1, 0x80, // IPVS_CMD_ATTR_SERVICE, nested
            6, 0, 1, 0, 2, 0, 0, 0, // AF
            6, 0, 2, 0, 6, 0, 0, 0, // PROTOCOL
            20, 0, 3, 0, 10, 43, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // ADDR
            6, 0, 4, 0, 0, 80, 0, 0, // PORT, network order
        ];
        assert_eq!(bytes, want);
    }

    #[test]
    fn what_is_written_reads_back() {
        for address in ["10.43.0.9", "fd43::9"] {
            let address: IpAddr = address.parse().expect("address");
            let key = ServerKey {
                address,
                protocol: Protocol::Udp,
                port: 53,
            };
            let server = VirtualServer {
                key,
                scheduler: Scheduler::read("wlc"),
                flags: Flags::OURS.with(Flags::PERSISTENT),
                timeout: 10_800,
                netmask: VirtualServer::full_mask(&address),
            };
            let message = Message::new(30, command::NEW_SERVICE, &[super::server(&server)]);
            assert_eq!(read_server(&message), Some(server));
        }
        let cut = Message::new(
            30,
            command::NEW_SERVICE,
            &[nested(part::SERVICE, &[short(service::FAMILY, AF_INET)])],
        );
        assert_eq!(read_server(&cut), None);
    }
}
