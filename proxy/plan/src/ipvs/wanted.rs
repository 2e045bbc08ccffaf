//! Services to virtual servers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::rules::{Dropped, Masquerade, Rules, Treatment};
use super::server::{Flags, Scheduler, ServerKey, VirtualServer};
use crate::model::{Endpoint, Entry, Family, Front, Kind, Policy, Protocol, ServicePort};
use crate::options::{self, Pods};
use crate::select::usable;

/// What virtual servers depend on beside the services.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What other backends depend on too. Node ports on the loopback address are not to be had: IPVS can't translate
    /// what goes from there elsewhere (as kube-proxy).
    pub common: options::Options,
    /// How endpoints are chosen.
    pub scheduler: Scheduler,
    /// This node's addresses on links that are not ours, without those of loopback. A service's address among them is
    /// not bound again; node ports answer there.
    pub own_addresses: BTreeSet<IpAddr>,
    /// The kernel has no IPv6: services' addresses of that family are left out.
    pub no_ipv6: bool,
}

/// What is to be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Virtual servers; one without destinations refuses (the kernel answers ICMP port unreachable).
    pub servers: BTreeMap<ServerKey, WantedServer>,
    /// Addresses on our link.
    pub addresses: BTreeSet<IpAddr>,
    /// What netfilter does.
    pub rules: Rules,
}

/// A virtual server and where it sends to, each destination with the same weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedServer {
    /// The virtual server.
    pub server: VirtualServer,
    /// Its destinations.
    pub destinations: BTreeSet<SocketAddr>,
}

/// From all service ports, of both families.
///
/// Those from inside that go to an external address with policy Local are sent to the cluster address before IPVS sees
/// them. Where that has policy Local too, or is not there, the virtual server has this node's endpoints if there are
/// any, for everybody, else all of them, and clients from outside are dropped (as kube-proxy has it always).
pub fn wanted<'a>(entries: impl IntoIterator<Item = &'a Entry>, options: &Options) -> Wanted {
    let mut wanted = Wanted::default();
    let mut node_ports = Vec::new();
    for entry in entries {
        for (front, kind) in &entry.fronts {
            match *front {
                Front::Address(IpAddr::V6(_), ..) if options.no_ipv6 => {}
                Front::Address(address, ..) if !is_of(entry, Family::of(&address)) => {}
                Front::Address(address, protocol, port) => {
                    let key = ServerKey {
                        address,
                        protocol,
                        port,
                    };
                    wanted.put(key, *kind, entry, options);
                    if !options.own_addresses.contains(&address) {
                        wanted.addresses.insert(address);
                    }
                }
                Front::Node(protocol, port) => node_ports.push((entry, protocol, port)),
            }
        }
    }
    // Last: an address of a service wins over the node's own.
    for (entry, protocol, port) in node_ports {
        for address in options.node_port_addresses() {
            let key = ServerKey {
                address,
                protocol,
                port,
            };
            let taken = wanted.rules.keys.contains_key(&key);
            if !taken && is_of(entry, Family::of(&address)) {
                wanted.put(key, Kind::NodePort, entry, options);
            }
        }
    }
    wanted.rules.bound = wanted.addresses.clone();
    wanted
}

/// A Service is of the families that it has cluster addresses of.
fn is_of(entry: &Entry, family: Family) -> bool {
    let ips = &entry.port.cluster_ips;
    ips.iter().any(|ip| Family::of(ip) == family)
}

impl Options {
    fn node_port_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.own_addresses.iter().copied().filter(|a| {
            let nets = self.common.node_port_nets(Family::of(a));
            // Networks of one family say nothing of the other.
            nets.is_empty() || nets.iter().any(|n| n.contains(a))
        })
    }

    fn knows_pods(&self, family: Family) -> bool {
        match &self.common.pods {
            Pods::Unknown => false,
            Pods::Within(_) => !self.common.pod_nets(family).is_empty(),
            Pods::Behind(_) => true,
        }
    }
}

impl Wanted {
    fn put(&mut self, key: ServerKey, kind: Kind, entry: &Entry, options: &Options) {
        let port = &entry.port;
        let family = Family::of(&key.address);
        let policy = match kind {
            Kind::Cluster => port.internal_policy,
            _ => port.external_policy,
        };
        let short_way = match kind {
            Kind::Cluster => None,
            _ => short_way(entry, family),
        };
        let endpoints: Vec<Endpoint> = entry.of(family).copied().collect();
        let (destinations, dropped) = destinations(&endpoints, policy, kind);
        let masquerade = match (kind, policy) {
            (Kind::Cluster, _) if options.common.masquerade_all => Masquerade::All,
            (Kind::Cluster, _) if options.knows_pods(family) => Masquerade::NotPods,
            (Kind::Cluster, _) | (_, Policy::Local) => Masquerade::Node,
            (_, Policy::Cluster) => Masquerade::All,
        };
        let limited = kind == Kind::LoadBalancer && !port.source_ranges.is_empty();
        let sources = limited.then(|| sources(key, port, &options.own_addresses));
        let treatment = Treatment {
            masquerade,
            dropped,
            sources,
            short_way,
        };
        self.rules.keys.insert(key, treatment);
        // Nobody comes here: all are dropped, or those that are not go another way.
        if dropped == Dropped::Everybody || (dropped == Dropped::Outside && short_way.is_some()) {
            return;
        }
        let here = destinations.iter().filter(|e| e.local);
        self.rules
            .hairpin
            .extend(here.map(|e| (key.protocol, at(e))));
        let server = server(key, port, &options.scheduler);
        let destinations = destinations.iter().map(at).collect();
        self.servers.insert(
            key,
            WantedServer {
                server,
                destinations,
            },
        );
    }
}

/// Where those from inside go that are sent to an external address with policy Local: IPVS chooses by destination alone,
/// and so they need another one, which any endpoint may answer for.
fn short_way(entry: &Entry, family: Family) -> Option<SocketAddr> {
    let port = &entry.port;
    if port.external_policy == Policy::Cluster || port.internal_policy == Policy::Local {
        return None;
    }
    entry.fronts.iter().find_map(|(front, kind)| match front {
        Front::Address(ip, _, number) if *kind == Kind::Cluster && Family::of(ip) == family => {
            Some(SocketAddr::new(*ip, *number))
        }
        _ => None,
    })
}

/// Endpoints that a policy lets traffic go to, and for whom they are not meant.
fn destinations(endpoints: &[Endpoint], policy: Policy, kind: Kind) -> (Vec<Endpoint>, Dropped) {
    let chosen = usable(endpoints, policy);
    if policy == Policy::Cluster || !chosen.is_empty() {
        return (chosen, Dropped::Nobody);
    }
    let all = usable(endpoints, Policy::Cluster);
    let dropped = match kind {
        _ if all.is_empty() => Dropped::Nobody,
        Kind::Cluster => Dropped::Everybody,
        _ => Dropped::Outside,
    };
    (all, dropped)
}

fn sources(key: ServerKey, port: &ServicePort, own: &BTreeSet<IpAddr>) -> Vec<IpNet> {
    let family = Family::of(&key.address);
    let ranges = port.source_ranges.iter().copied();
    let mut sources: Vec<IpNet> = ranges.filter(|r| Family::of(&r.addr()) == family).collect();
    let node = own.iter().any(|a| sources.iter().any(|r| r.contains(a)));
    sources.extend(node.then(|| IpNet::from(key.address)));
    sources
}

fn at(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.ip, endpoint.port)
}

fn server(key: ServerKey, port: &ServicePort, scheduler: &Scheduler) -> VirtualServer {
    let flags = scheduler.flags().with(Flags::OURS);
    VirtualServer {
        key,
        scheduler: scheduler.clone(),
        flags: match port.affinity {
            Some(_) => flags.with(Flags::PERSISTENT),
            None => flags,
        },
        timeout: port.affinity.unwrap_or(0),
        netmask: VirtualServer::full_mask(&key.address),
    }
}

/// Protocols whose connections a destination is kept for. A UDP client can't tell whether anybody is there, and an
/// SCTP client has other addresses to go to: kube-proxy waits for neither.
pub(super) fn is_graceful(protocol: Protocol) -> bool {
    protocol == Protocol::Tcp
}

#[cfg(test)]
mod tests;
