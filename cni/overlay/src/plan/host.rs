//! This machine's own links, addresses and routes, as far as a path to another node depends on them. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

/// What most links carry, where nothing is known.
const ETHERNET: u32 = 1500;

/// A link that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// Its number.
    pub index: u32,
    /// Bytes of the largest packet.
    pub mtu: u32,
}

/// A route that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Where to.
    pub to: IpNet,
    /// By which link.
    pub link: u32,
    /// There is a router between.
    pub gateway: bool,
    /// Of several to the same place the smallest counts.
    pub metric: u32,
    /// Bytes of the largest packet, where the route says it.
    pub mtu: Option<u32>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Links.
    pub links: Vec<HostLink>,
    /// Addresses by their link's number.
    pub addresses: Vec<(u32, IpAddr)>,
    /// Routes.
    pub routes: Vec<HostRoute>,
}

impl Host {
    /// Whether the machine has this address.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(_, a)| *a == address)
    }

    /// Whether an address is on a segment that the machine is on: the kernel takes it as a next hop.
    pub fn is_near(&self, address: IpAddr) -> bool {
        !self.has(address) && self.route(address).is_some_and(|r| !r.gateway)
    }

    /// The largest packet on the way to an address of another, or on the link of one of our own, in bytes.
    pub fn mtu(&self, address: IpAddr) -> u32 {
        let own = self.addresses.iter().find(|(_, a)| *a == address);
        let route = self.route(address).filter(|_| own.is_none());
        let link = own.map(|(link, _)| *link).or(route.map(|r| r.link));
        let link = self.links.iter().find(|l| Some(l.index) == link);
        let told = route.and_then(|r| r.mtu);
        let all = link.map(|l| l.mtu).into_iter().chain(told);
        all.min().unwrap_or(ETHERNET)
    }

    /// The most exact one; of those the one with the smallest metric.
    fn route(&self, address: IpAddr) -> Option<&HostRoute> {
        let all = self.routes.iter().filter(|r| r.to.contains(&address));
        all.min_by_key(|r| (u8::MAX - r.to.prefix_len(), r.metric))
    }
}
