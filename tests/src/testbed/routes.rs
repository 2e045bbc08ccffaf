//! The way from a machine to all networks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::layout::{Kind, Machine};

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Route {
    /// Where to: a network, or all that is not known better (length 0).
    pub to: IpNet,
    /// The router's address.
    pub via: IpAddr,
}

/// Gives every machine its routes. `networks` is what routers lead to, by name.
pub(super) fn set(machines: &mut [Machine], networks: &BTreeMap<String, Vec<IpNet>>) {
    let routers: Vec<Machine> = machines
        .iter()
        .filter(|m| m.kind == Kind::Router)
        .cloned()
        .collect();
    for machine in machines {
        let ways = first_hops(machine, &routers);
        let far = networks.iter().filter(|(name, _)| !machine.is_on(name));
        let mut routes: BTreeSet<Route> = far
            .filter_map(|(name, cidrs)| Some((ways.get(name)?, cidrs)))
            .flat_map(|(hop, cidrs)| to_each(hop, cidrs))
            .collect();
        for default in defaults(machine, &routers) {
            routes.retain(|route| route.via != default.via);
            routes.insert(default);
        }
        machine.routes = routes.into_iter().collect();
    }
}

/// The addresses of the first router on the way to each network, the nearest first.
fn first_hops(machine: &Machine, routers: &[Machine]) -> BTreeMap<String, Vec<IpNet>> {
    let mut known: BTreeMap<String, Vec<IpNet>> = BTreeMap::new();
    let mut ahead: VecDeque<(String, Vec<IpNet>)> = VecDeque::new();
    ahead.extend(
        machine
            .nics
            .iter()
            .map(|nic| (nic.network.clone(), Vec::new())),
    );
    while let Some((network, hop)) = ahead.pop_front() {
        if known.contains_key(&network) {
            continue;
        }
        for router in routers.iter().filter(|r| r.name != machine.name) {
            let Some(own) = router.nics.iter().find(|nic| nic.network == network) else {
                continue;
            };
            let hop = if hop.is_empty() { &own.addresses } else { &hop };
            ahead.extend(
                router
                    .nics
                    .iter()
                    .map(|nic| (nic.network.clone(), hop.clone())),
            );
        }
        known.insert(network, hop);
    }
    known
}

/// A route to each range through the router's address of its family.
fn to_each(hop: &[IpNet], cidrs: &[IpNet]) -> Vec<Route> {
    let via = |to: &IpNet| {
        hop.iter()
            .find(|h| h.addr().is_ipv4() == to.addr().is_ipv4())
    };
    cidrs
        .iter()
        .filter_map(|to| {
            Some(Route {
                to: to.trunc(),
                via: via(to)?.addr(),
            })
        })
        .collect()
}

/// Where all else goes: to the gateway of the first network that has one. A router has no such route.
fn defaults(machine: &Machine, routers: &[Machine]) -> Vec<Route> {
    if machine.kind == Kind::Router {
        return Vec::new();
    }
    let on = |network: &str| {
        let there = routers
            .iter()
            .flat_map(|r| &r.nics)
            .find(|nic| nic.network == network);
        there.map(|nic| nic.addresses.clone())
    };
    let gateway = machine.nics.iter().find_map(|nic| {
        let behind = (!nic.nat_gateway.is_empty()).then(|| nic.nat_gateway.clone());
        behind.or_else(|| on(&nic.network))
    });
    let all = ["0.0.0.0/0", "::/0"].map(|all| all.parse().expect("a range"));
    gateway.map(|hop| to_each(&hop, &all)).unwrap_or_default()
}
