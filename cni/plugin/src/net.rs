//! Links, addresses and routes, by netlink, in the host's namespace or in a container's.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use futures::TryStreamExt;
use keelson_cni_plan::config::Route;
use keelson_cni_plan::protocol::{Error, code};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};

/// A socket into a network namespace.
pub(crate) struct Net {
    handle: Handle,
}

/// A link, as far as the plugin wants to know it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    pub(crate) controller: Option<u32>,
    pub(crate) up: bool,
}

fn kernel(action: String) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |e| Error::new(code::KERNEL, action, e)
}

/// The errno of a refusal, positive.
fn errno(e: &rtnetlink::Error) -> i32 {
    match e {
        rtnetlink::Error::NetlinkError(m) => -m.raw_code(),
        _ => 0,
    }
}

/// Opens a namespace's file; one that is gone is an unknown container.
pub(crate) fn open_netns(path: &Path) -> Result<File, Error> {
    let unknown = |e: &dyn std::fmt::Display| {
        Error::new(
            code::UNKNOWN_CONTAINER,
            format!("open namespace {}", path.display()),
            e,
        )
    };
    let file = File::open(path).map_err(|e| unknown(&e))?;
    // The path of a namespace whose mount is gone is an empty file of the file system below.
    let fs = rustix::fs::fstatfs(&file).map_err(|e| unknown(&e))?;
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    if fs.f_type as i64 != NSFS_MAGIC {
        return Err(unknown(&"it is no network namespace"));
    }
    Ok(file)
}

impl Net {
    /// In the namespace of this process.
    pub(crate) fn here() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|e| Error::new(code::KERNEL, "open netlink socket", e))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// In another namespace: a socket stays in the namespace it was made in, so this single thread
    /// goes there for the making and comes back.
    pub(crate) fn inside(netns: &File) -> Result<Self, Error> {
        let io = |e: &dyn std::fmt::Display| Error::new(code::KERNEL, "enter network namespace", e);
        let home = File::open("/proc/thread-self/ns/net").map_err(|e| io(&e))?;
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(|e| io(&e))?;
        let net = Self::here();
        setns(&home, CloneFlags::CLONE_NEWNET).map_err(|e| io(&e))?;
        net
    }

    /// A link by name.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut found = self.handle.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(message) => Ok(message.map(|m| parse(&m))),
            Err(e) if errno(&e) == nix::libc::ENODEV => Ok(None),
            Err(e) => Err(kernel(format!("read link {name}"))(e)),
        }
    }

    /// A link that must be there.
    pub(crate) async fn must(&self, name: &str) -> Result<Link, Error> {
        let missing = || Error::new(code::KERNEL, format!("read link {name}"), "no such link");
        self.link(name).await?.ok_or_else(missing)
    }

    /// Makes the bridge if it is not there. A link of this name that is no bridge shows when a port joins it.
    pub(crate) async fn bridge(&self, name: &str, mac: [u8; 6], mtu: u32) -> Result<Link, Error> {
        if let Some(link) = self.link(name).await?.filter(|l| l.up) {
            return Ok(link);
        }
        let mut wanted = LinkBridge::new(name).address(mac.to_vec()).up();
        if mtu != 0 {
            wanted = wanted.mtu(mtu);
        }
        match self.handle.link().add(wanted.build()).execute().await {
            // Another call was first, or it is there and down.
            Err(e) if errno(&e) == nix::libc::EEXIST => {
                let up = LinkUnspec::new_with_name(name).up().build();
                self.handle
                    .link()
                    .set(up)
                    .execute()
                    .await
                    .map_err(kernel(format!("set bridge {name} up")))?;
            }
            other => other.map_err(kernel(format!("add bridge {name}")))?,
        }
        self.must(name).await
    }

    /// Makes a pair of links: `host` here as the bridge's port, the other born in the container's namespace.
    pub(crate) async fn pair(
        &self,
        host: &str,
        peer: &str,
        netns: &File,
        mtu: u32,
        bridge: u32,
    ) -> Result<Link, Error> {
        let mut inner = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer)
            .setns_by_fd(netns.as_raw_fd());
        let mut outer = LinkVeth::new(host, peer).controller(bridge).up();
        if mtu != 0 {
            (inner, outer) = (inner.mtu(mtu), outer.mtu(mtu));
        }
        let message = outer
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inner.build())))
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(kernel(format!("add link {host} with {peer}")))?;
        self.must(host).await
    }

    /// Lets the bridge send a frame back through the port it came from.
    pub(crate) async fn hairpin(&self, port: u32) -> Result<(), Error> {
        let message = LinkBridgePort::new(port).hairpin(true).build();
        self.handle
            .link()
            .set_port(message)
            .execute()
            .await
            .map_err(kernel("set hairpin mode".into()))
    }

    /// Sets a link up.
    pub(crate) async fn up(&self, name: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(kernel(format!("set link {name} up")))
    }

    /// Deletes a link; tells whether there was one.
    pub(crate) async fn delete(&self, name: &str) -> Result<bool, Error> {
        let Some(link) = self.link(name).await? else {
            return Ok(false);
        };
        match self.handle.link().del(link.index).execute().await {
            Err(e) if errno(&e) == nix::libc::ENODEV => Ok(false),
            other => other
                .map(|()| true)
                .map_err(kernel(format!("delete link {name}"))),
        }
    }

    /// Gives a link an address. No duplicate address detection: the allocation is the proof, and a pod
    /// whose address is tentative can't answer for a second.
    pub(crate) async fn address(
        &self,
        link: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), Error> {
        let mut request = self.handle.address().add(link, address, prefix);
        if address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        match request.execute().await {
            Err(e) if errno(&e) == nix::libc::EEXIST => Ok(()),
            other => other.map_err(kernel(format!("add address {address}/{prefix}"))),
        }
    }

    /// Addresses of a link.
    pub(crate) async fn addresses(&self, link: u32) -> Result<Vec<IpAddr>, Error> {
        let found = self
            .handle
            .address()
            .get()
            .set_link_index_filter(link)
            .execute();
        let messages: Vec<_> = found
            .try_collect()
            .await
            .map_err(kernel("read addresses".into()))?;
        let all = messages.iter().flat_map(|m| &m.attributes);
        Ok(all
            .filter_map(|a| {
                if let AddressAttribute::Address(ip) = a {
                    Some(*ip)
                } else {
                    None
                }
            })
            .collect())
    }

    /// Adds a route through a link.
    pub(crate) async fn route(&self, link: u32, route: &Route) -> Result<(), Error> {
        let fail = |e: &dyn std::fmt::Display| {
            Error::new(code::KERNEL, format!("add route to {}", route.dst), e)
        };
        let builder = RouteMessageBuilder::<IpAddr>::new().output_interface(link);
        let mut builder = builder
            .destination_prefix(route.dst.network(), route.dst.prefix_len())
            .map_err(|e| fail(&e))?;
        if let Some(gw) = route.gw {
            builder = builder.gateway(gw).map_err(|e| fail(&e))?;
        }
        self.handle
            .route()
            .add(builder.build())
            .execute()
            .await
            .map_err(|e| fail(&e))
    }

    /// The name of the link that leads to an address; `None` where nothing does.
    pub(crate) async fn towards(&self, address: IpAddr) -> Result<Option<String>, Error> {
        use netlink_packet_route::route::RouteAttribute;
        let fail = |e: &dyn std::fmt::Display| {
            Error::new(code::KERNEL, format!("find the link towards {address}"), e)
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let query = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(address, bits)
            .map_err(|e| fail(&e))?
            .build();
        let mut answer = self.handle.route().get(query).execute();
        // The kernel refuses where there is no way.
        let Ok(Some(route)) = answer.try_next().await else {
            return Ok(None);
        };
        let index = route.attributes.iter().find_map(|a| match a {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let Some(index) = index else { return Ok(None) };
        let mut found = self.handle.link().get().match_index(index).execute();
        let link = found
            .try_next()
            .await
            .map_err(kernel(format!("read link {index}")))?;
        Ok(link.and_then(|link| {
            link.attributes.into_iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        }))
    }

    /// Whether there is a route to a destination through a link.
    pub(crate) async fn has_route(&self, link: u32, route: &Route) -> Result<bool, Error> {
        use netlink_packet_route::route::RouteAttribute;
        let mut query = RouteMessageBuilder::<IpAddr>::new().build();
        query.header.address_family = if route.dst.addr().is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let all: Vec<_> = self
            .handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(kernel("read routes".into()))?;
        let destination = |m: &netlink_packet_route::route::RouteMessage| {
            m.attributes.iter().find_map(|a| match a {
                RouteAttribute::Destination(netlink_packet_route::route::RouteAddress::Inet(
                    ip,
                )) => Some(IpAddr::V4(*ip)),
                RouteAttribute::Destination(netlink_packet_route::route::RouteAddress::Inet6(
                    ip,
                )) => Some(IpAddr::V6(*ip)),
                _ => None,
            })
        };
        let wanted = (route.dst.prefix_len() > 0).then(|| route.dst.network());
        Ok(all.iter().any(|m| {
            m.header.destination_prefix_length == route.dst.prefix_len()
                && destination(m).filter(|_| wanted.is_some()) == wanted
                && m.attributes.contains(&RouteAttribute::Oif(link))
        }))
    }
}

fn parse(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(mac) => {
                link.mac = mac
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect::<Vec<_>>()
                    .join(":");
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            _ => {}
        }
    }
    link
}
