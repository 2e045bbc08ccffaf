//! Which UDP flows the kernel still sends to a port of the proxy that is not there any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::portals::{Listener, Place, listener, portals};
use super::rules::Options;
use crate::conntrack::Flow;
use crate::model::{Protocol, Served};

/// Which ports of the proxy UDP flows to services may go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirected {
    by_address: BTreeMap<(IpAddr, u16), BTreeSet<u16>>,
    by_node_port: BTreeMap<u16, BTreeSet<u16>>,
}

impl Redirected {
    /// Adds one family's services and the ports that their listeners have.
    pub fn add(
        &mut self,
        served: &[Served<'_>],
        options: &Options,
        open: &BTreeMap<Listener, u16>,
    ) {
        for s in served.iter().filter(|s| s.port.protocol == Protocol::Udp) {
            for portal in portals(s.port, options) {
                let ports = match portal.place {
                    Place::Address(ip) => self.by_address.entry((ip, portal.port)).or_default(),
                    Place::Node => self.by_node_port.entry(portal.port).or_default(),
                };
                let ways = portal.pods.iter().chain(&portal.node);
                ports.extend(ways.filter_map(|way| {
                    open.get(&listener(s.port, options.family, way.local_only)?)
                }));
            }
        }
    }

    /// Whether there is anything that a flow could go to.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_node_port.is_empty()
    }

    /// Whether a flow must be removed: it goes to a service, and to none of its ports here. That was the proxy before
    /// a restart, another backend, or nobody as there was no rule yet. `own` tells on which addresses node ports are
    /// reached.
    pub fn is_stale(&self, flow: &Flow, own: impl Fn(&IpAddr) -> bool) -> bool {
        let (ip, port) = flow.destination;
        let ports = match self.by_address.get(&flow.destination) {
            None => self.by_node_port.get(&port).filter(|_| own(&ip)),
            ports => ports,
        };
        ports.is_some_and(|ports| match flow.is_translated() {
            true => !ports.contains(&flow.answerer.1),
            false => !ports.is_empty(),
        })
    }
}
