//! Where the kernel sends a packet. Blocks: call it where that is allowed.

use std::io;
use std::net::IpAddr;

use keelson_proxy_plan::explain::Route;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use crate::Error;
use crate::netlink::Line;

/// Where a packet goes that comes from an address by an interface; without these, one that this node sends. All rules
/// and tables of routing are asked, as for a packet.
pub fn to(destination: IpAddr, comes: Option<(IpAddr, &str)>) -> Result<Route, Error> {
    let fail = |source| Error::Netlink {
        action: "ask for a route",
        source,
    };
    let mut line = Line::open(NETLINK_ROUTE).map_err(fail)?;
    let mut ask = RouteMessage::default();
    let (family, length) = match destination {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    ask.header.address_family = family;
    ask.header.destination_prefix_length = length;
    ask.attributes
        .push(RouteAttribute::Destination(address(destination)));
    if let Some((source, interface)) = comes {
        ask.header.source_prefix_length = length;
        let index = index(&mut line, interface).map_err(fail)?;
        ask.attributes.push(RouteAttribute::Source(address(source)));
        ask.attributes.push(RouteAttribute::Iif(index));
    }
    let mut found = None;
    let asked = line.get(RouteNetlinkMessage::GetRoute(ask), |answer| {
        if let RouteNetlinkMessage::NewRoute(route) = answer {
            found = Some(route);
        }
    });
    match (asked, found) {
        (Ok(()), Some(route)) => read(&mut line, &route).map_err(fail),
        (Ok(()), None) => Err(fail(io::ErrorKind::InvalidData.into())),
        (Err(error), _) => nowhere(error).map_err(fail),
    }
}

fn read(line: &mut Line, route: &RouteMessage) -> io::Result<Route> {
    let source = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::PrefSource(ip) => ip_of(ip),
        _ => None,
    });
    match route.header.kind {
        RouteType::Local => return Ok(Route::Here { source }),
        RouteType::Unicast => {}
        RouteType::BlackHole => return Ok(Route::Nowhere("its route is a black hole".into())),
        RouteType::Unreachable => return Ok(Route::Nowhere("its route says unreachable".into())),
        RouteType::Prohibit => return Ok(Route::Nowhere("its route prohibits it".into())),
        other => return Ok(Route::Nowhere(format!("its route is of kind {other:?}"))),
    }
    let link = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(link) => Some(*link),
        _ => None,
    });
    let Some(link) = link else {
        return Ok(Route::Nowhere("its route has no interface".into()));
    };
    let gateway = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(ip) => ip_of(ip),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        _ => None,
    });
    Ok(Route::By {
        interface: name(line, link)?,
        gateway,
        source,
    })
}

/// Errors by which the kernel says that there is no way, and what they mean of a route.
fn nowhere(error: io::Error) -> io::Result<Route> {
    let why = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES) => "its route prohibits it",
        Some(Errno::EXDEV) => {
            "packets of this source do not come by this interface (reverse path filter)"
        }
        Some(Errno::EINVAL) => {
            "the kernel takes no such packet (a black hole, or a source that is not behind this interface)"
        }
        Some(Errno::ENETUNREACH) => "network is unreachable",
        Some(Errno::EHOSTUNREACH) => {
            "host is unreachable (its route says so, or this node does not forward)"
        }
        _ => return Err(error),
    };
    Ok(Route::Nowhere(why.into()))
}

fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn index(line: &mut Line, interface: &str) -> io::Result<u32> {
    let mut ask = LinkMessage::default();
    let name = LinkAttribute::IfName(interface.to_owned());
    ask.attributes.push(name);
    let mut found = None;
    line.get(RouteNetlinkMessage::GetLink(ask), |answer| {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            found = Some(link.header.index);
        }
    })?;
    found.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn name(line: &mut Line, index: u32) -> io::Result<String> {
    let mut ask = LinkMessage::default();
    ask.header.index = index;
    let mut found = None;
    line.get(RouteNetlinkMessage::GetLink(ask), |answer| {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            found = link.attributes.into_iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
        }
    })?;
    found.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
