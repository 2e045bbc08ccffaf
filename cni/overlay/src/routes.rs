//! Routes in the kernel. Ours carry a protocol number of our own: no other route is ever touched.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::Error;
use crate::plan::{Route, diff};

/// `ip route show proto 107` lists our routes. (`k`; unassigned in rt_protos.)
const PROTOCOL: RouteProtocol = RouteProtocol::Other(107);

/// Host ends of pods' links, as the plugin names them.
const LINK_PREFIX: &str = "ksn";

pub(crate) struct Kernel {
    handle: Handle,
}

impl Kernel {
    pub(crate) fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Makes our routes what they are to be; gives the errors of single routes.
    pub(crate) async fn sync(&self, want: &BTreeMap<IpNet, Route>) -> Result<Vec<Error>, Error> {
        let (set, remove) = diff(&self.ours().await?, want);
        let mut errors = Vec::new();
        for route in remove {
            if let Err(source) = self.handle.route().del(message(route)).execute().await {
                errors.push(Error::Route {
                    action: "remove",
                    route,
                    source,
                });
            }
        }
        for route in set {
            if let Err(source) = self
                .handle
                .route()
                .add(message(route))
                .replace()
                .execute()
                .await
            {
                errors.push(Error::Route {
                    action: "set",
                    route,
                    source,
                });
            }
        }
        Ok(errors)
    }

    async fn ours(&self) -> Result<BTreeMap<IpNet, Route>, Error> {
        let mut routes = BTreeMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessageBuilder::<IpAddr>::new().build();
            query.header.address_family = family;
            let all: Vec<RouteMessage> = self
                .handle
                .route()
                .get(query)
                .execute()
                .try_collect()
                .await
                .map_err(Error::Read)?;
            let ours = all
                .iter()
                .filter(|m| m.header.protocol == PROTOCOL)
                .filter_map(parse);
            routes.extend(ours.map(|r| (r.to, r)));
        }
        Ok(routes)
    }

    /// Removes the bridge and the pods' links.
    pub(crate) async fn remove_links(&self, bridge: &str) -> Vec<Error> {
        let all: Result<Vec<_>, _> = self.handle.link().get().execute().try_collect().await;
        let all = match all {
            Ok(all) => all,
            Err(e) => return vec![Error::Read(e)],
        };
        let mut errors = Vec::new();
        for link in &all {
            let name = link.attributes.iter().find_map(|a| {
                if let LinkAttribute::IfName(n) = a {
                    Some(n)
                } else {
                    None
                }
            });
            let Some(name) = name.filter(|n| *n == bridge || n.starts_with(LINK_PREFIX)) else {
                continue;
            };
            if let Err(source) = self.handle.link().del(link.header.index).execute().await {
                errors.push(Error::Link {
                    name: name.clone(),
                    source,
                });
            }
        }
        errors
    }
}

fn message(route: Route) -> RouteMessage {
    let builder = RouteMessageBuilder::<IpAddr>::new().protocol(PROTOCOL);
    // Both have the same family (`wanted`), and a prefix length that `IpNet` has checked.
    let builder = builder.destination_prefix(route.to.network(), route.to.prefix_len());
    let built = builder
        .and_then(|b| b.gateway(route.via))
        .map(RouteMessageBuilder::build);
    built.unwrap_or_default()
}

fn parse(message: &RouteMessage) -> Option<Route> {
    let address = |a: &RouteAddress| match a {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let find = |pick: fn(&RouteAttribute) -> Option<&RouteAddress>| {
        message.attributes.iter().find_map(pick).and_then(address)
    };
    let to = find(|a| {
        if let RouteAttribute::Destination(d) = a {
            Some(d)
        } else {
            None
        }
    })?;
    let via = find(|a| {
        if let RouteAttribute::Gateway(g) = a {
            Some(g)
        } else {
            None
        }
    })?;
    Some(Route {
        to: IpNet::new(to, message.header.destination_prefix_length).ok()?,
        via,
    })
}
