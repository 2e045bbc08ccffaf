//! The form in which the kernel is told of pieces, and tells of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol,
};
use rtnetlink::{LinkUnspec, LinkVxlan, LinkWireguard, RouteMessageBuilder};

use crate::plan::{Entry, Key, Link, LinkKind, Mac, Route};

/// `ip route show proto 107` lists our routes. (`k`; unassigned in rt_protos.)
const PROTOCOL: RouteProtocol = RouteProtocol::Other(107);

/// Our links by number.
pub(crate) type Names = BTreeMap<u32, String>;

/// Bits of a whole address.
pub(crate) fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// To make a link.
pub(crate) fn link(link: &Link) -> LinkMessage {
    match &link.kind {
        LinkKind::WireGuard { .. } => LinkWireguard::new(&link.name).mtu(link.mtu).build(),
        LinkKind::Vxlan {
            vni,
            port,
            local,
            mac,
        } => {
            let made = LinkVxlan::new(&link.name, *vni).port(*port).learning(false);
            let made = match local {
                IpAddr::V4(local) => made.local(*local),
                IpAddr::V6(local) => made.local6(*local),
            };
            made.address(mac.0.to_vec()).mtu(link.mtu).build()
        }
    }
}

/// To start a link that there is.
pub(crate) fn up(index: u32, mtu: u32) -> LinkMessage {
    LinkUnspec::new_with_index(index).mtu(mtu).up().build()
}

/// A link's name.
pub(crate) fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// A link's largest packet.
pub(crate) fn mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

/// An address on a link.
pub(crate) fn address(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = whole(address);
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Address(address),
        AddressAttribute::Local(address),
    ];
    message
}

/// Where a VXLAN link finds an Ethernet address.
pub(crate) fn forward(index: u32, mac: Mac, to: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        NeighbourAttribute::Destination(to.into()),
    ];
    message
}

/// A neighbour on a link.
pub(crate) fn neighbour(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

/// A route; by the link of this number.
pub(crate) fn route(route: &Route, index: Option<u32>) -> RouteMessage {
    let builder = RouteMessageBuilder::<IpAddr>::new().protocol(PROTOCOL);
    // Gateway and destination have the same family (the plan), and `IpNet` has checked the prefix length.
    let builder = builder.destination_prefix(route.to.network(), route.to.prefix_len());
    let builder = builder.and_then(|b| match route.via {
        Some(via) => b.gateway(via),
        None => Ok(b),
    });
    let Ok(mut builder) = builder else {
        return RouteMessage::default();
    };
    if let Some(index) = index {
        builder = builder.output_interface(index);
        if route.via.is_some() {
            // The other end's address is in no network of the tunnel's.
            builder = builder.onlink();
        }
    }
    builder.build()
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Our pieces among what the kernel tells of.
pub(crate) mod parse {
    use super::*;

    /// A tunnel that is up; without a WireGuard link's key and port, which only it itself tells.
    pub(crate) fn vxlan(message: &LinkMessage) -> Option<Entry> {
        let info = message.attributes.iter().find_map(|a| match a {
            LinkAttribute::LinkInfo(info) => Some(info),
            _ => None,
        })?;
        let data = info.iter().find_map(|i| match i {
            LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
            _ => None,
        })?;
        let find = |pick: &dyn Fn(&InfoVxlan) -> Option<IpAddr>| data.iter().find_map(pick);
        let local = find(&|d| match d {
            InfoVxlan::Local(a) => Some(IpAddr::V4(*a)),
            InfoVxlan::Local6(a) => Some(IpAddr::V6(*a)),
            _ => None,
        })?;
        let vni = data.iter().find_map(|d| match d {
            InfoVxlan::Id(id) => Some(*id),
            _ => None,
        })?;
        let port = data.iter().find_map(|d| match d {
            InfoVxlan::Port(port) => Some(*port),
            _ => None,
        })?;
        let mac = message.attributes.iter().find_map(|a| match a {
            LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok().map(Mac),
            _ => None,
        })?;
        Some(Entry::Link(Link {
            name: name(message)?.to_owned(),
            mtu: mtu(message)?,
            kind: LinkKind::Vxlan {
                vni,
                port,
                local,
                mac,
            },
        }))
    }

    pub(crate) fn is_up(message: &LinkMessage) -> bool {
        message.header.flags.contains(LinkFlags::Up)
    }

    pub(crate) fn is_wireguard(message: &LinkMessage) -> bool {
        message.attributes.iter().any(|a| {
            matches!(a, LinkAttribute::LinkInfo(info) if info.contains(&LinkInfo::Kind(InfoKind::Wireguard)))
        })
    }

    /// An address on a tunnel of ours.
    pub(crate) fn address(message: &AddressMessage, names: &Names) -> Option<Entry> {
        let link = names.get(&message.header.index)?.clone();
        let address = self::local(message)?;
        (!super::super::is_link_local(address)).then_some(Entry::Address { link, address })
    }

    /// The address itself.
    pub(crate) fn local(message: &AddressMessage) -> Option<IpAddr> {
        let local = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
        local.or_else(|| {
            message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            })
        })
    }

    /// What somebody set on a tunnel of ours and the kernel has not found out by itself.
    pub(crate) fn neighbour(message: &NeighbourMessage, names: &Names) -> Option<Entry> {
        names.get(&message.header.ifindex)?;
        let (mac, address) = (mac(message)?, destination(message)?);
        match message.header.family {
            AddressFamily::Bridge => Some(Entry::Forward { mac, to: address }),
            _ if message.header.state == NeighbourState::Permanent => {
                Some(Entry::Neighbour { address, mac })
            }
            _ => None,
        }
    }

    /// Whom a notification speaks of: of one that goes it does not say more.
    pub(crate) fn neighbour_key(message: &NeighbourMessage, names: &Names) -> Option<Key> {
        names.get(&message.header.ifindex)?;
        if message.header.family == AddressFamily::Bridge {
            return mac(message).map(Key::Forward);
        }
        destination(message).map(Key::Neighbour)
    }

    fn mac(message: &NeighbourMessage) -> Option<Mac> {
        message.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                bytes.as_slice().try_into().ok().map(Mac)
            }
            _ => None,
        })
    }

    fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
        message.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
            // A bridge's tables have bytes.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => ip(bytes),
            _ => None,
        })
    }

    fn ip(bytes: &[u8]) -> Option<IpAddr> {
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
            .ok()
    }

    /// A route of the main table, ours or not.
    pub(crate) struct Parsed {
        pub(crate) ours: bool,
        pub(crate) to: IpNet,
        pub(crate) via: Option<IpAddr>,
        pub(crate) link: Option<u32>,
        pub(crate) metric: u32,
        pub(crate) mtu: Option<u32>,
    }

    impl Parsed {
        /// It, if it is ours.
        pub(crate) fn entry(&self, names: &Names) -> Option<Entry> {
            let link = self.link.and_then(|index| names.get(&index)).cloned();
            let (to, via) = (self.to, self.via);
            self.ours.then_some(Entry::Route(Route { to, via, link }))
        }
    }

    pub(crate) fn route(message: &RouteMessage) -> Option<Parsed> {
        use netlink_packet_route::route::{RouteMetric, RouteType};
        let header = &message.header;
        if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
            return None;
        }
        let mut to = match header.address_family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        let (mut via, mut link, mut metric, mut mtu) = (None, None, 0, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(a) => to = plain(a)?,
                RouteAttribute::Gateway(a) => via = plain(a),
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::Metrics(all) => {
                    mtu = all.iter().find_map(|m| match m {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(Parsed {
            ours: header.protocol == PROTOCOL,
            to: IpNet::new(to, header.destination_prefix_length).ok()?,
            via,
            link,
            metric,
            mtu,
        })
    }

    fn plain(address: &RouteAddress) -> Option<IpAddr> {
        match address {
            RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
            RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
            _ => None,
        }
    }
}
