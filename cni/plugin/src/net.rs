//! Links, addresses and routes as they are, in the host's namespace or in a container's, and changes to them.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use keelson_cni_plan::config::mac_text;
use keelson_cni_plan::nft::wire::find;
use keelson_cni_plan::protocol::{Error, code};
use keelson_cni_plan::result::Route;
use netlink_packet_core::{NLM_F_DUMP, Nla};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage, State,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::tc::{TcAttribute, TcMessage, TcOption};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc::ENODEV;
use nix::sched::{CloneFlags, setns};

use crate::netlink::{Answer, Routing, parse};
use crate::steps::Step;

/// A socket into a network namespace.
pub(crate) struct Net {
    socket: Routing,
}

/// A link, as far as plugins want to know it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) controller: Option<u32>,
    /// Index of the other end of a pair, in its own namespace.
    pub(crate) peer: Option<u32>,
    pub(crate) up: bool,
    pub(crate) promisc: bool,
    /// Packets go through.
    pub(crate) works: bool,
    pub(crate) kind: Option<InfoKind>,
    pub(crate) filters_vlans: bool,
    pub(crate) alias: String,
}

impl Link {
    /// The hardware address, lower case with colons.
    pub(crate) fn mac(&self) -> String {
        mac_text(&self.mac)
    }
}

/// An address of a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub(crate) net: IpNet,
    /// It is looked whether somebody else has it.
    pub(crate) tentative: bool,
    /// Somebody else has it.
    pub(crate) failed: bool,
    /// IPv6: it is the link's own, and was not given to it.
    pub(crate) local: bool,
}

/// The kernel refused.
pub(crate) fn refused(what: &str, errno: i32) -> Error {
    Error::new(code::KERNEL, what, io::Error::from_raw_os_error(errno))
}

fn failed(what: &str) -> impl Fn(io::Error) -> Error {
    move |e| Error::new(code::KERNEL, what, e)
}

/// Opens a namespace's file; one that is gone is an unknown container.
pub(crate) fn open_netns(path: &Path) -> Result<File, Error> {
    let unknown = |e: &dyn std::fmt::Display| {
        let what = format!("open namespace {}", path.display());
        Error::new(code::UNKNOWN_CONTAINER, what, e)
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

/// A container's namespace is not the one that the plugin itself is in: what is done there would be done to the host.
pub(crate) fn not_own(netns: &File) -> Result<(), Error> {
    let same = |own: rustix::fs::Stat, other: rustix::fs::Stat| {
        (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)
    };
    let wrong =
        |e: &dyn std::fmt::Display| Error::new(code::INVALID_NETNS, "invalid network namespace", e);
    let own = rustix::fs::stat("/proc/self/ns/net").map_err(|e| wrong(&e))?;
    let other = rustix::fs::fstat(netns).map_err(|e| wrong(&e))?;
    if same(own, other) {
        return Err(wrong(&"CNI_NETNS is the namespace that the plugin is in"));
    }
    Ok(())
}

/// Does something in another namespace. The process has one thread, which goes there and comes back.
pub(crate) fn within<T>(netns: &File, act: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let fail = |e: &dyn std::fmt::Display| Error::new(code::KERNEL, "enter network namespace", e);
    let home = File::open("/proc/self/ns/net").map_err(|e| fail(&e))?;
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|e| fail(&e))?;
    let done = act();
    setns(&home, CloneFlags::CLONE_NEWNET).map_err(|e| fail(&e))?;
    done
}

/// Sets a kernel parameter below `/proc/sys/net`, in the namespace that the thread is in. One that the kernel does not
/// have (IPv6 may be switched off) can't be set, and need not be.
pub(crate) fn sysctl(path: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/net/{path}");
    let fail = |e: io::Error| Error::new(code::IO_FAILURE, format!("set {path} to {value}"), e);
    match std::fs::read_to_string(&path) {
        Ok(now) if now.trim() == value => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => std::fs::write(&path, value).map_err(fail),
        Err(e) => Err(fail(e)),
    }
}

/// A gateway that does not forward is none.
pub(crate) fn forward(family: IpAddr) -> Result<(), Error> {
    match family {
        IpAddr::V4(_) => sysctl("ipv4/ip_forward", "1"),
        IpAddr::V6(_) => sysctl("ipv6/conf/all/forwarding", "1"),
    }
}

impl Net {
    /// In the namespace that the thread is in.
    pub(crate) fn here() -> Result<Self, Error> {
        let socket = Routing::open().map_err(failed("open netlink socket"))?;
        Ok(Self { socket })
    }

    /// In another namespace: a socket stays in the one it was made in.
    pub(crate) fn inside(netns: &File) -> Result<Self, Error> {
        within(netns, Self::here)
    }

    /// Carries steps out, all in one call; the first refusal that is a failure is the error.
    pub(crate) fn carry_out(&mut self, steps: Vec<Step>) -> Result<(), Error> {
        self.try_out(steps)?
            .map_err(|(what, errno)| refused(&what, errno))
    }

    /// The same, and the first refusal with its number.
    pub(crate) fn try_out(&mut self, steps: Vec<Step>) -> Result<Result<(), (String, i32)>, Error> {
        if steps.is_empty() {
            return Ok(Ok(()));
        }
        let said: Vec<_> = steps.iter().map(|s| (s.what.clone(), s.fine)).collect();
        let answers = self
            .socket
            .ask(steps.into_iter().map(|s| (s.message, s.flags)));
        let answers = answers.map_err(failed("talk to the kernel"))?;
        let mut both = said.into_iter().zip(answers);
        let bad = both.find(|((_, fine), a)| a.errno != 0 && !fine.contains(&a.errno));
        Ok(match bad {
            Some(((what, _), answer)) => Err((what, answer.errno)),
            None => Ok(()),
        })
    }

    fn ask(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Answer, Error> {
        let answers = self.socket.ask([(message, flags)]).map_err(failed(what))?;
        Ok(answers.into_iter().next().unwrap_or_default())
    }

    fn dump(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let answer = self.ask(what, message, NLM_F_DUMP)?;
        match answer.errno {
            0 => Ok(answer
                .messages
                .iter()
                .filter_map(|(k, c)| parse(*k, c))
                .collect()),
            errno => Err(refused(what, errno)),
        }
    }

    /// A link by name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let what = format!("read link {name}");
        let message = link_query(Some(name));
        let answer = self.ask(&what, RouteNetlinkMessage::GetLink(message), 0)?;
        match answer.errno {
            0 => Ok(answer
                .messages
                .iter()
                .find_map(|(k, c)| read_link(parse(*k, c)?))),
            ENODEV => Ok(None),
            errno => Err(refused(&what, errno)),
        }
    }

    /// The name of the link that leads to an address; none where nothing does.
    pub(crate) fn towards(&mut self, address: IpAddr) -> Result<Option<String>, Error> {
        let what = format!("find the way to {address}");
        let (mut query, family, to) = match address {
            IpAddr::V4(a) => (
                RouteMessage::default(),
                AddressFamily::Inet,
                RouteAddress::Inet(a),
            ),
            IpAddr::V6(a) => (
                RouteMessage::default(),
                AddressFamily::Inet6,
                RouteAddress::Inet6(a),
            ),
        };
        query.header.address_family = family;
        query.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        query.attributes.push(RouteAttribute::Destination(to));
        // Refused where there is no way.
        let answer = self.ask(&what, RouteNetlinkMessage::GetRoute(query), 0)?;
        let index = answer
            .messages
            .iter()
            .find_map(|(k, c)| match parse(*k, c)? {
                RouteNetlinkMessage::NewRoute(m) => m.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                }),
                _ => None,
            });
        let Some(index) = index else { return Ok(None) };
        Ok(self
            .links()?
            .into_iter()
            .find(|l| l.index == index)
            .map(|l| l.name))
    }

    /// The parameters (`TCA_TBF_PARMS`) of the token bucket by which a link sends, if it has one.
    pub(crate) fn bucket(&mut self, link: u32) -> Result<Option<Vec<u8>>, Error> {
        let query = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let all = self.dump("read queues", query)?;
        Ok(all.into_iter().find_map(|m| match m {
            RouteNetlinkMessage::NewQueueDiscipline(m) => read_bucket(&m, link),
            _ => None,
        }))
    }

    /// A link that must be there.
    pub(crate) fn must(&mut self, name: &str) -> Result<Link, Error> {
        let missing = || Error::new(code::KERNEL, format!("read link {name}"), "no such link");
        self.link(name)?.ok_or_else(missing)
    }

    /// All links.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, Error> {
        let all = self.dump("read links", RouteNetlinkMessage::GetLink(link_query(None)))?;
        Ok(all.into_iter().filter_map(read_link).collect())
    }

    /// Addresses of a link.
    pub(crate) fn addresses(&mut self, link: u32) -> Result<Vec<Address>, Error> {
        let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let all = self.dump("read addresses", query)?;
        let own = all.into_iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewAddress(m) if m.header.index == link => read_address(&m),
            _ => None,
        });
        Ok(own.collect())
    }

    /// Whether there is a route as it is wanted, through a link. Another next hop than the wanted is another route.
    pub(crate) fn has_route(&mut self, link: u32, route: &Route) -> Result<bool, Error> {
        let mut query = RouteMessage::default();
        query.header.address_family = match route.dst {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        let all = self.dump("read routes", RouteNetlinkMessage::GetRoute(query))?;
        Ok(all.iter().any(|m| match m {
            RouteNetlinkMessage::NewRoute(m) => is_route(m, link, route),
            _ => false,
        }))
    }
}

fn link_query(name: Option<&str>) -> LinkMessage {
    let mut message = LinkMessage::default();
    let name = name.map(|n| LinkAttribute::IfName(n.to_owned()));
    message.attributes.extend(name);
    let quick = vec![LinkExtentMask::SkipStats];
    message.attributes.push(LinkAttribute::ExtMask(quick));
    message
}

fn read_link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        promisc: flags.contains(LinkFlags::Promisc),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::OperState(state) => link.works = state == State::Up,
            LinkAttribute::LinkInfo(info) => read_info(info, &mut link),
            _ => {}
        }
    }
    Some(link)
}

fn read_bucket(message: &TcMessage, link: u32) -> Option<Vec<u8>> {
    const PARAMETERS: u16 = 1;
    let kind = TcAttribute::Kind("tbf".to_owned());
    if u32::try_from(message.header.index) != Ok(link) || !message.attributes.contains(&kind) {
        return None;
    }
    message.attributes.iter().find_map(|a| match a {
        // What the crate does not know is all options at once.
        TcAttribute::Options(options) => options.iter().find_map(|o| match o {
            TcOption::Other(nla) => {
                let mut value = vec![0; nla.value_len()];
                nla.emit_value(&mut value);
                find(&value, PARAMETERS).map(<[u8]>::to_vec)
            }
            _ => None,
        }),
        _ => None,
    })
}

fn read_info(info: Vec<LinkInfo>, link: &mut Link) {
    for part in info {
        match part {
            LinkInfo::Kind(kind) => link.kind = Some(kind),
            LinkInfo::Data(InfoData::Bridge(options)) => {
                link.filters_vlans = options.contains(&InfoBridge::VlanFiltering(true));
            }
            _ => {}
        }
    }
}

fn read_address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut flags) = (None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => local = local.or(Some(*ip)),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let ip = local?;
    Some(Address {
        net: IpNet::new(ip, message.header.prefix_len).ok()?,
        tentative: flags.contains(AddressFlags::Tentative),
        failed: flags.contains(AddressFlags::Dadfailed),
        local: matches!(ip, IpAddr::V6(a) if a.is_unicast_link_local()),
    })
}

fn is_route(message: &RouteMessage, link: u32, route: &Route) -> bool {
    let address = |a: &RouteAddress| match a {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    };
    let (mut destination, mut gateway, mut through) = (None, None, false);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => destination = address(a),
            RouteAttribute::Gateway(a) => gateway = address(a),
            RouteAttribute::Oif(index) => through = *index == link,
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    let to_all = route.dst.prefix_len() == 0;
    let wanted = (!to_all).then(|| route.dst.network());
    message.header.destination_prefix_length == route.dst.prefix_len()
        && message.header.kind == RouteType::Unicast
        && destination.filter(|_| !to_all) == wanted
        && (route.gw.is_none() || gateway == route.gw)
        && table == route.table.unwrap_or(254)
        && through
}
