//! Changes to links, addresses and routes, as the messages that ask for them.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use keelson_cni_plan::result::Route;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    AfSpecBridge, AfSpecInet6, AfSpecUnspec, BridgeVlanInfo, BridgeVlanInfoFlags, In6AddrGenMode,
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc::{EAFNOSUPPORT, EEXIST, ENODEV};

/// A change: what it is called when it fails, the message, and the refusals that are no failures.
pub(crate) struct Step {
    pub(crate) what: String,
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
    pub(crate) fine: &'static [i32],
}

/// The flag that keeps the kernel from adding the route to an address's network.
const NO_PREFIX_ROUTE: u32 = 0x200;

/// What a new bridge is to be.
pub(crate) struct NewBridge<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) vlans: bool,
}

/// What a new pair of links is to be: `host` here, the other born in the container's namespace.
pub(crate) struct NewPair<'a> {
    pub(crate) host: &'a str,
    pub(crate) peer: &'a str,
    /// None: the peer stays here.
    pub(crate) netns: Option<&'a File>,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: u32,
    /// Index of the bridge that the host's end is a port of.
    pub(crate) bridge: Option<u32>,
}

/// How a bridge treats a port.
pub(crate) struct Port<'a> {
    pub(crate) name: &'a str,
    /// Says whose link it is, for people and for GC.
    pub(crate) alias: String,
    pub(crate) hairpin: bool,
    pub(crate) isolated: bool,
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn raise(message: &mut LinkMessage, flags: LinkFlags) {
    message.header.flags |= flags;
    message.header.change_mask |= flags;
}

fn size(message: &mut LinkMessage, mtu: u32) {
    if mtu != 0 {
        message.attributes.push(LinkAttribute::Mtu(mtu));
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Makes a bridge, not up yet; one that is there is fine.
pub(crate) fn new_bridge(new: &NewBridge<'_>) -> Step {
    let mut message = named(new.name);
    size(&mut message, new.mtu);
    message
        .attributes
        .push(LinkAttribute::Address(new.mac.to_vec()));
    message
        .attributes
        .push(LinkAttribute::LinkInfo(bridge_info(new.vlans)));
    Step {
        what: format!("add bridge {}", new.name),
        message: RouteNetlinkMessage::NewLink(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        fine: &[EEXIST],
    }
}

fn bridge_info(vlans: bool) -> Vec<LinkInfo> {
    let mut info = vec![LinkInfo::Kind(InfoKind::Bridge)];
    if vlans {
        let options = vec![InfoBridge::VlanFiltering(true)];
        info.push(LinkInfo::Data(InfoData::Bridge(options)));
    }
    info
}

/// Sets a bridge up, and what else is missing of it.
pub(crate) fn raise_bridge(name: &str, promisc: bool, vlans: bool) -> Step {
    let mut message = named(name);
    raise(&mut message, LinkFlags::Up);
    if promisc {
        raise(&mut message, LinkFlags::Promisc);
    }
    if vlans {
        message
            .attributes
            .push(LinkAttribute::LinkInfo(bridge_info(true)));
    }
    change(format!("set bridge {name} up"), message)
}

fn change(what: String, message: LinkMessage) -> Step {
    Step {
        what,
        message: RouteNetlinkMessage::NewLink(message),
        flags: 0,
        fine: &[],
    }
}

/// Makes a pair of links; the host's end is up.
pub(crate) fn new_pair(new: &NewPair<'_>) -> Step {
    let (mut inner, mut outer) = (named(new.peer), named(new.host));
    for end in [&mut inner, &mut outer] {
        size(end, new.mtu);
        // Not told, the kernel makes as many as there are processors, and then takes all but one out of use.
        let one = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
        end.attributes.extend(one);
    }
    if let Some(netns) = new.netns {
        inner
            .attributes
            .push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
    }
    if let Some(mac) = new.mac {
        inner.attributes.push(LinkAttribute::Address(mac.to_vec()));
    }
    raise(&mut outer, LinkFlags::Up);
    if let Some(bridge) = new.bridge {
        outer.attributes.push(LinkAttribute::Controller(bridge));
    }
    let peer = InfoData::Veth(InfoVeth::Peer(inner));
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(peer)];
    outer.attributes.push(LinkAttribute::LinkInfo(info));
    Step {
        what: format!("add link {} with {}", new.host, new.peer),
        message: RouteNetlinkMessage::NewLink(outer),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        fine: &[],
    }
}

/// Says whose link it is, and how its bridge treats it.
pub(crate) fn set_port(port: &Port<'_>) -> Step {
    let mut message = named(port.name);
    message
        .attributes
        .push(LinkAttribute::IfAlias(port.alias.clone()));
    let wanted = [
        (port.hairpin, InfoBridgePort::HairpinMode(true)),
        (port.isolated, InfoBridgePort::Isolated(true)),
    ];
    let options: Vec<InfoBridgePort> = wanted
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, o)| o)
        .collect();
    if !options.is_empty() {
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(options)),
        ]));
    }
    change(format!("set port {}", port.name), message)
}

/// Keeps a port without an IPv6 address of its own: nobody talks to it. A kernel without IPv6 needs not be told.
pub(crate) fn no_address(name: &str) -> Step {
    let mut message = named(name);
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let spec = vec![AfSpecUnspec::Inet6(vec![none])];
    message.attributes.push(LinkAttribute::AfSpecUnspec(spec));
    let mut step = change(format!("set port {name}"), message);
    step.fine = &[EAFNOSUPPORT];
    step
}

/// Puts a port into VLANs: into one with its untagged packets, or into several with tagged ones.
pub(crate) fn port_vlans(port: u32, untagged: bool, vlans: impl IntoIterator<Item = u16>) -> Step {
    let flags = match untagged {
        true => BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged,
        false => BridgeVlanInfoFlags::empty(),
    };
    let mut step = vlan_step(port, flags, vlans);
    step.what = "put the port into its VLANs".into();
    step
}

/// Takes a port out of the bridge's default VLAN.
pub(crate) fn leave_default_vlan(port: u32) -> Step {
    const DEFAULT: u16 = 1;
    let mut step = vlan_step(port, BridgeVlanInfoFlags::empty(), [DEFAULT]);
    step.what = "take the port out of the default VLAN".into();
    if let RouteNetlinkMessage::SetLink(message) = step.message {
        step.message = RouteNetlinkMessage::DelLink(message);
    }
    step
}

fn vlan_step(port: u32, flags: BridgeVlanInfoFlags, vlans: impl IntoIterator<Item = u16>) -> Step {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = port;
    let spec = vlans
        .into_iter()
        .map(|vid| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid }));
    message
        .attributes
        .push(LinkAttribute::AfSpecBridge(spec.collect()));
    Step {
        what: String::new(),
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
        fine: &[],
    }
}

/// Sets a link up.
pub(crate) fn up(name: &str) -> Step {
    let mut message = named(name);
    raise(&mut message, LinkFlags::Up);
    change(format!("set link {name} up"), message)
}

/// Sets a link down.
pub(crate) fn down(name: &str) -> Step {
    let mut message = named(name);
    message.header.change_mask |= LinkFlags::Up;
    change(format!("set link {name} down"), message)
}

/// Keeps a link's hardware address: a bridge that was not given one changes it with its ports.
pub(crate) fn keep_mac(name: &str, mac: [u8; 6]) -> Step {
    let mut message = named(name);
    message
        .attributes
        .push(LinkAttribute::Address(mac.to_vec()));
    change(format!("set hardware address of {name}"), message)
}

/// Deletes a link; one that is gone is fine.
pub(crate) fn delete(name: &str) -> Step {
    Step {
        what: format!("delete link {name}"),
        message: RouteNetlinkMessage::DelLink(named(name)),
        flags: 0,
        fine: &[ENODEV],
    }
}

/// How an address is added.
#[derive(Clone, Copy, Default)]
pub(crate) struct Manner {
    /// IPv6: look first whether somebody else has it.
    pub(crate) detect: bool,
    /// Without the route to its network.
    pub(crate) bare: bool,
}

/// Gives a link an address; one that it has is fine.
pub(crate) fn address(link: u32, address: IpNet, manner: Manner) -> Step {
    let mut message = address_message(link, address);
    let mut flags = AddressFlags::empty();
    if address.addr().is_ipv6() && !manner.detect {
        // The allocation is the proof, and who has a tentative address can't answer for a second.
        message.header.flags |= AddressHeaderFlags::Nodad;
        flags |= AddressFlags::Nodad;
    }
    if manner.bare {
        flags |= AddressFlags::from_bits_retain(NO_PREFIX_ROUTE);
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    Step {
        what: format!("add address {address}"),
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        fine: &[EEXIST],
    }
}

/// Takes an address off a link.
pub(crate) fn remove_address(link: u32, address: IpNet) -> Step {
    Step {
        what: format!("remove address {address}"),
        message: RouteNetlinkMessage::DelAddress(address_message(link, address)),
        flags: 0,
        fine: &[nix::libc::EADDRNOTAVAIL],
    }
}

fn address_message(link: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = link;
    message
        .attributes
        .push(AddressAttribute::Local(address.addr()));
    message
        .attributes
        .push(AddressAttribute::Address(address.addr()));
    if let IpNet::V4(net) = address {
        message
            .attributes
            .push(AddressAttribute::Broadcast(net.broadcast()));
    }
    message
}

/// Adds a route through a link. As with the reference, the first of several to one destination stays.
pub(crate) fn route(link: u32, route: &Route, source: Option<IpAddr>) -> Step {
    let mut message = RouteMessage::default();
    let default = if route.gw.is_none() {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    let table = route.table.unwrap_or(main);
    message.header.address_family = family(route.dst.addr());
    message.header.destination_prefix_length = route.dst.prefix_len();
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = route.scope.map_or(default, RouteScope::from);
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(route_address(
        route.dst.network(),
    )));
    attributes.push(RouteAttribute::Oif(link));
    attributes.extend(route.gw.map(|g| RouteAttribute::Gateway(route_address(g))));
    attributes.extend(source.map(|s| RouteAttribute::PrefSource(route_address(s))));
    attributes.extend(route.priority.map(RouteAttribute::Priority));
    attributes.extend(route.table.map(RouteAttribute::Table));
    let metrics = [
        route.mtu.map(RouteMetric::Mtu),
        route.advmss.map(RouteMetric::Advmss),
    ];
    let metrics: Vec<RouteMetric> = metrics.into_iter().flatten().collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    Step {
        what: format!("add route to {}", route.dst),
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        fine: &[EEXIST],
    }
}

/// The same in place of another to the same destination: a host's route to a container that a killed call left.
pub(crate) fn replace_route(link: u32, to: &Route) -> Step {
    let mut step = route(link, to, None);
    step.flags = NLM_F_CREATE | NLM_F_REPLACE;
    step
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}
