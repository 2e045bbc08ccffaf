//! Services to virtual servers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::rules::{Dropped, Masquerade, Rules, Treatment};
use super::server::{Flags, Scheduler, ServerKey, VirtualServer};
use crate::model::{Endpoint, Family, Policy, Protocol, Served, ServicePort};
use crate::select::usable;

/// What virtual servers depend on beside the services. Addresses may be of both families.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How endpoints are chosen.
    pub scheduler: Scheduler,
    /// All pods' addresses. Without any of a family nobody is told for a pod: only this node's own connections to
    /// cluster addresses are masqueraded then.
    pub cluster_cidrs: Vec<IpNet>,
    /// Mask every source (kube-proxy's `masqueradeAll`).
    pub masquerade_all: bool,
    /// This node's addresses on links that are not ours. A service's address among them is not bound again.
    pub own_addresses: BTreeSet<IpAddr>,
    /// Those of them where node ports answer. 127.0.0.1 is not among them: IPVS can't translate what goes from the
    /// loopback link elsewhere, and so has no node ports there (as kube-proxy).
    pub node_port_addresses: BTreeSet<IpAddr>,
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

/// From all service ports of both families.
///
/// With policy Local a virtual server has this node's endpoints if there are any, else all of them, and clients from
/// outside are dropped: unlike in other backends, a pod that goes to a service's external address stays on its node
/// as long as an endpoint is there, since IPVS chooses by destination alone (as kube-proxy).
pub fn wanted(families: &[(Family, Vec<Served<'_>>)], options: &Options) -> Wanted {
    let mut wanted = Wanted::default();
    // Cluster addresses first: nobody takes them by naming them as his external ones (CVE-2020-8554). Node ports last:
    // an address of a service wins over the node's own.
    for kind in [
        Kind::Cluster,
        Kind::External,
        Kind::LoadBalancer,
        Kind::NodePort,
    ] {
        for (family, served) in families {
            for s in served {
                Writer {
                    wanted: &mut wanted,
                    options,
                    served: s,
                    family: *family,
                }
                .write(kind);
            }
        }
    }
    wanted.rules.bound = wanted.addresses.clone();
    wanted
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cluster,
    External,
    LoadBalancer,
    NodePort,
}

struct Writer<'a> {
    wanted: &'a mut Wanted,
    options: &'a Options,
    served: &'a Served<'a>,
    family: Family,
}

impl Writer<'_> {
    fn write(&mut self, kind: Kind) {
        let port = self.served.port;
        let own = &self.options.own_addresses;
        let addresses: Vec<IpAddr> = match kind {
            Kind::Cluster => port.cluster_ips.clone(),
            Kind::External => port.external_ips.clone(),
            Kind::LoadBalancer => port.load_balancer_ips.clone(),
            Kind::NodePort => self.options.node_port_addresses.iter().copied().collect(),
        };
        let number = if kind == Kind::NodePort {
            port.node_port
        } else {
            Some(port.port)
        };
        let Some(number) = number else { return };
        let family = self.family;
        for address in addresses.into_iter().filter(|a| Family::of(a) == family) {
            let key = ServerKey {
                address,
                protocol: port.protocol,
                port: number,
            };
            if self.wanted.rules.keys.contains_key(&key) {
                continue;
            }
            self.write_key(key, kind);
            if kind != Kind::NodePort && !own.contains(&address) {
                self.wanted.addresses.insert(address);
            }
        }
    }

    fn write_key(&mut self, key: ServerKey, kind: Kind) {
        let port = self.served.port;
        let policy = if kind == Kind::Cluster {
            port.internal_policy
        } else {
            port.external_policy
        };
        let (destinations, dropped) = self.destinations(policy, kind);
        let masquerade = match (kind, policy) {
            _ if self.options.masquerade_all => Masquerade::All,
            (Kind::Cluster, _) if self.knows_pods() => Masquerade::NotPods,
            (Kind::Cluster, _) | (_, Policy::Local) => Masquerade::Node,
            (_, Policy::Cluster) => Masquerade::All,
        };
        let sources = (kind == Kind::LoadBalancer && !port.source_ranges.is_empty())
            .then(|| self.sources(key));
        self.wanted.rules.keys.insert(
            key,
            Treatment {
                masquerade,
                dropped,
                sources,
            },
        );
        if dropped == Dropped::Everybody {
            return;
        }
        let hairpin = destinations
            .iter()
            .filter(|e| e.local)
            .map(|e| (port.protocol, at(e)));
        self.wanted.rules.hairpin.extend(hairpin);
        let destinations = destinations.iter().map(at).collect();
        let server = server(key, port, &self.options.scheduler);
        self.wanted.servers.insert(
            key,
            WantedServer {
                server,
                destinations,
            },
        );
    }

    /// Endpoints that a policy lets traffic go to, and for whom they are not meant.
    fn destinations(&self, policy: Policy, kind: Kind) -> (Vec<Endpoint>, Dropped) {
        let chosen = usable(&self.served.endpoints, policy);
        if policy == Policy::Cluster || !chosen.is_empty() {
            return (chosen, Dropped::Nobody);
        }
        let all = usable(&self.served.endpoints, Policy::Cluster);
        let dropped = match kind {
            _ if all.is_empty() => Dropped::Nobody,
            Kind::Cluster => Dropped::Everybody,
            _ => Dropped::Outside,
        };
        (all, dropped)
    }

    fn knows_pods(&self) -> bool {
        self.options
            .cluster_cidrs
            .iter()
            .any(|c| Family::of(&c.addr()) == self.family)
    }

    fn sources(&self, key: ServerKey) -> Vec<IpNet> {
        let ranges = self.served.port.source_ranges.iter();
        let mut sources: Vec<IpNet> = ranges
            .filter(|r| Family::of(&r.addr()) == self.family)
            .copied()
            .collect();
        let node = self
            .options
            .own_addresses
            .iter()
            .any(|a| sources.iter().any(|r| r.contains(a)));
        sources.extend(node.then(|| IpNet::from(key.address)));
        sources
    }
}

fn at(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.ip, endpoint.port)
}

fn server(key: ServerKey, port: &ServicePort, scheduler: &Scheduler) -> VirtualServer {
    let flags = scheduler.flags().with(Flags::OURS);
    let flags = if port.affinity.is_some() {
        flags.with(Flags::PERSISTENT)
    } else {
        flags
    };
    VirtualServer {
        key,
        scheduler: scheduler.clone(),
        flags,
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
