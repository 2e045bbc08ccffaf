//! What the kernel knows of this node's place in the network.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::RouteMessageBuilder;

use crate::{Error, ipvs};

/// Whether the kernel has IPv6 here.
pub fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// All addresses of this node, without those of services that the IPVS mode gives it.
pub fn addresses() -> Result<BTreeSet<IpAddr>, Error> {
    let fail = |e: nix::Error| Error::Netlink {
        action: "list this node's addresses",
        source: e.into(),
    };
    let all = nix::ifaddrs::getifaddrs().map_err(fail)?;
    let all = all.filter(|a| !ipvs::LINKS.contains(&a.interface_name.as_str()));
    let ips = all.filter_map(|a| {
        let address = a.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().into()))
    });
    Ok(ips.collect())
}

/// The interface behind which the main routing table has an address; rules for other tables are not asked.
pub async fn interface_to(ip: IpAddr) -> Result<Option<String>, Error> {
    let fail = |source| Error::Netlink {
        action: "list routes",
        source,
    };
    let (connection, handle, _) = rtnetlink::new_connection().map_err(fail)?;
    let task = tokio::spawn(connection);
    let found = async {
        let of_family = match ip {
            IpAddr::V4(_) => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            IpAddr::V6(_) => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        };
        let routes: Vec<RouteMessage> = handle
            .route()
            .get(of_family)
            .execute()
            .try_collect()
            .await?;
        let mut routes: Vec<_> = routes.iter().filter(|r| leads_to(r, ip)).collect();
        routes.sort_by_key(|r| r.header.destination_prefix_length);
        let link = routes.last().and_then(|r| {
            r.attributes.iter().find_map(|a| match a {
                RouteAttribute::Oif(link) => Some(*link),
                _ => None,
            })
        });
        let Some(link) = link else { return Ok(None) };
        let mut links = handle.link().get().match_index(link).execute();
        let name = links.try_next().await?.and_then(|l| {
            l.attributes.into_iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        });
        Ok::<_, rtnetlink::Error>(name)
    };
    let found = found.await;
    task.abort();
    found.map_err(|e| fail(std::io::Error::other(e)))
}

fn leads_to(route: &RouteMessage, ip: IpAddr) -> bool {
    let length = route.header.destination_prefix_length;
    let destination = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(a)) => Some(IpAddr::from(*a)),
        RouteAttribute::Destination(RouteAddress::Inet6(a)) => Some(IpAddr::from(*a)),
        _ => None,
    });
    let net = destination.map(|d| ipnet::IpNet::new(d, length));
    let inside = match net {
        Some(net) => net.is_ok_and(|n| n.contains(&ip)),
        None => length == 0,
    };
    inside && route.header.table == RouteHeader::RT_TABLE_MAIN
}
