//! The link that has the services' addresses: to the kernel they are the node's own, which is when IPVS looks at a
//! packet.
//!
//! A dummy that is never up, as kube-proxy's `kube-ipvs0`: it sends nothing, and gets no address by itself. Addresses
//! on it are not meant to be used as sources: they have scope host (IPv4) or are deprecated (IPv6), so that a node
//! whose other links have no address doesn't speak with a service's. They bring no route but the local one, and wait
//! for no duplicate.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::Line;

/// The link's name.
pub const LINK: &str = "keelson-ipvs0";
/// Kube-proxy's link: what is on it are services' addresses too.
const ALIKE: &str = "kube-ipvs0";
/// Links whose addresses are services'.
pub(crate) const LINKS: [&str; 2] = [LINK, ALIKE];

/// No such link.
const ENODEV: i32 = 19;

/// A line to rtnetlink, and the link, if it is there.
pub(super) struct Link {
    line: Line,
    index: Option<u32>,
}

impl Link {
    pub(super) fn open() -> io::Result<Self> {
        let mut link = Self {
            line: Line::open(NETLINK_ROUTE)?,
            index: None,
        };
        link.find()?;
        Ok(link)
    }

    fn find(&mut self) -> io::Result<()> {
        self.index = match self.look_up(LINK)? {
            Some((_, false)) => {
                return Err(io::Error::other(
                    "the link of this name is none of ours (no dummy)",
                ));
            }
            found => found.map(|(index, _)| index),
        };
        Ok(())
    }

    /// A link's index, and whether it is a dummy.
    fn look_up(&mut self, name: &str) -> io::Result<Option<(u32, bool)>> {
        let mut ask = LinkMessage::default();
        ask.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut found = None;
        let asked = self.line.get(RouteNetlinkMessage::GetLink(ask), |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = Some((link.header.index, is_dummy(&link)));
            }
        });
        match asked {
            Err(e) if e.raw_os_error() == Some(ENODEV) => Ok(None),
            other => other.map(|()| found),
        }
    }

    /// Makes the link if it is not there; whether it was not.
    pub(super) fn ensure(&mut self) -> io::Result<bool> {
        self.find()?;
        if self.index.is_some() {
            return Ok(false);
        }
        let mut new = LinkMessage::default();
        new.attributes.push(LinkAttribute::IfName(LINK.to_owned()));
        new.attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
                InfoKind::Dummy,
            )]));
        self.change(vec![(
            RouteNetlinkMessage::NewLink(new),
            NLM_F_CREATE | NLM_F_EXCL,
        )])?;
        // Where links begin without IPv6, this one has it all the same; where the kernel has none, there is no such file.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{LINK}/disable_ipv6"), "0");
        self.find()?;
        Ok(true)
    }

    /// Removes the link with all its addresses.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        self.find()?;
        let Some(index) = self.index.take() else {
            return Ok(());
        };
        let mut old = LinkMessage::default();
        old.header.index = index;
        self.change(vec![(RouteNetlinkMessage::DelLink(old), 0)])
    }

    /// Addresses on our link, and this node's own on others, as far as they can be reached from elsewhere.
    pub(super) fn addresses(&mut self) -> io::Result<(BTreeSet<IpAddr>, BTreeSet<IpAddr>)> {
        let (mut ours, mut others) = (BTreeSet::new(), BTreeSet::new());
        let index = self.index;
        let alike = self.look_up(ALIKE)?.map(|(index, _)| index);
        let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.line.dump(ask, |answer| {
            if let RouteNetlinkMessage::NewAddress(message) = answer
                && let Some(address) = address_of(&message)
                && is_reachable(&address)
            {
                let on = Some(message.header.index);
                if on == index {
                    ours.insert(address);
                } else if on != alike {
                    others.insert(address);
                }
            }
        })?;
        Ok((ours, others))
    }

    /// Adds and removes addresses, in order; what became of each.
    pub(super) fn bind(&mut self, changes: &[(IpAddr, bool)]) -> io::Result<Vec<io::Result<()>>> {
        let index = self.index.ok_or(io::ErrorKind::NotFound)?;
        let messages = changes.iter().map(|(address, add)| {
            let message = message(address, index);
            if *add {
                (
                    RouteNetlinkMessage::NewAddress(message),
                    NLM_F_CREATE | NLM_F_EXCL,
                )
            } else {
                (RouteNetlinkMessage::DelAddress(message), 0)
            }
        });
        let messages = messages.collect();
        let mut results = self.line.change(messages);
        for (result, (_, add)) in results.iter_mut().zip(changes) {
            let done = if *add {
                io::ErrorKind::AlreadyExists
            } else {
                io::ErrorKind::AddrNotAvailable
            };
            if result.as_ref().is_err_and(|e| e.kind() == done) {
                *result = Ok(());
            }
        }
        Ok(results)
    }

    fn change(&mut self, messages: Vec<(RouteNetlinkMessage, u16)>) -> io::Result<()> {
        self.line.change(messages).into_iter().collect()
    }
}

fn is_dummy(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|a| match a {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Dummy)),
        _ => false,
    })
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    // IPv6 tells the other end's address, which is its own but for point-to-point links.
    local.or_else(|| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn is_reachable(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    !address.is_loopback() && !link_local
}

fn message(address: &IpAddr, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(*address));
    message.attributes.push(AddressAttribute::Address(*address));
    match address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.header.prefix_len = 32;
            message.header.scope = AddressScope::Host;
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.prefix_len = 128;
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            message.attributes.push(AddressAttribute::Flags(flags));
            let mut life = CacheInfo::default();
            life.ifa_preferred = 0;
            life.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(life));
        }
    }
    message
}
