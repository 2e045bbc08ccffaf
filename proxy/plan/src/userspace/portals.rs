//! Portals: the addresses of a service port, and which listener traffic to them may go to.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::rules::Options;
use crate::model::{Family, Policy, PortName, Protocol, Served, ServicePort};
use crate::select::usable;

/// A port that the proxy listens on: one for each policy that a service port needs, as they have other endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// IP version of clients and endpoints.
    pub family: Family,
    /// The service port.
    pub name: PortName,
    /// Its protocol: TCP or UDP.
    pub protocol: Protocol,
    /// Only endpoints of this node stand behind it.
    pub local_only: bool,
}

/// Who stands behind a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Endpoints that may be used now.
    pub endpoints: Vec<SocketAddr>,
    /// A client stays with its endpoint for so many seconds.
    pub affinity: Option<u32>,
}

/// All listeners that are needed for one family's services. There are none for SCTP: no program can forward it
/// without the kernel's help, which is not everywhere.
pub fn listeners(served: &[Served<'_>], options: &Options) -> BTreeMap<Listener, Behind> {
    let mut all = BTreeMap::new();
    for s in served {
        let portals = portals(s.port, options);
        for way in portals.iter().flat_map(|p| p.pods.iter().chain(&p.node)) {
            if let Some(listener) = listener(s.port, options.family, way.local_only) {
                all.entry(listener).or_insert_with(|| behind(s, way));
            }
        }
    }
    all
}

fn behind(served: &Served<'_>, way: &Way) -> Behind {
    let usable = usable(&served.endpoints, policy(way.local_only));
    Behind {
        endpoints: usable
            .iter()
            .map(|e| SocketAddr::new(e.ip, e.port))
            .collect(),
        affinity: served.port.affinity,
    }
}

/// The listener of a service port for a policy; `None`: it can't be proxied.
pub(super) fn listener(port: &ServicePort, family: Family, local_only: bool) -> Option<Listener> {
    (port.protocol != Protocol::Sctp).then(|| Listener {
        family,
        name: port.name.clone(),
        protocol: port.protocol,
        local_only,
    })
}

fn policy(local_only: bool) -> Policy {
    if local_only {
        Policy::Local
    } else {
        Policy::Cluster
    }
}

/// Where a portal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// An address of the service.
    Address(IpAddr),
    /// All addresses of the node that have node ports.
    Node,
}

/// From where traffic takes which listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Only from there.
    pub(super) from: Option<IpNet>,
    /// To which listener.
    pub(super) local_only: bool,
}

/// An address and port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Portal {
    pub(super) place: Place,
    pub(super) port: u16,
    /// Policy of traffic that has no other way.
    pub(super) local_only: bool,
    /// For what comes in: the first that fits.
    pub(super) pods: Vec<Way>,
    /// For what this node sends itself.
    pub(super) node: Vec<Way>,
}

/// All portals of a service port in a family.
pub(super) fn portals(port: &ServicePort, options: &Options) -> Vec<Portal> {
    let of_family = |list: &[IpAddr]| -> Vec<IpAddr> {
        let same = |ip: &&IpAddr| Family::of(ip) == options.family;
        list.iter().filter(same).copied().collect()
    };
    let mut all = Vec::new();
    let local_only = port.internal_policy == Policy::Local;
    for ip in of_family(&port.cluster_ips) {
        let ways = vec![Way {
            from: None,
            local_only,
        }];
        all.push(Portal {
            place: Place::Address(ip),
            port: port.port,
            local_only,
            pods: ways.clone(),
            node: ways,
        });
    }
    let external = |place, number, ranges: &[IpNet]| external(port, options, place, number, ranges);
    for ip in of_family(&port.external_ips) {
        all.push(external(Place::Address(ip), port.port, &[]));
    }
    for ip in of_family(&port.load_balancer_ips) {
        let place = Place::Address(ip);
        all.push(external(place, port.port, &port.source_ranges));
    }
    if let Some(number) = port.node_port {
        all.push(external(Place::Node, number, &[]));
    }
    all
}

/// With policy Local, traffic of pods and of this node still may go anywhere: for them it never left the cluster.
fn external(
    port: &ServicePort,
    options: &Options,
    place: Place,
    number: u16,
    ranges: &[IpNet],
) -> Portal {
    let local_only = port.external_policy == Policy::Local;
    let anywhere = Way {
        from: None,
        local_only: false,
    };
    let mut pods = Vec::new();
    if local_only {
        pods.extend(options.cidrs().map(|cidr| Way {
            from: Some(cidr),
            ..anywhere
        }));
    }
    pods.push(Way {
        from: None,
        local_only,
    });
    Portal {
        place,
        port: number,
        local_only,
        pods: within(&pods, ranges, options.family),
        node: within(&[anywhere], ranges, options.family),
    }
}

/// Ways limited to ranges of sources; no ranges: no limit.
fn within(ways: &[Way], ranges: &[IpNet], family: Family) -> Vec<Way> {
    if ranges.is_empty() {
        return ways.to_vec();
    }
    let ranges = ranges.iter().filter(|r| Family::of(&r.addr()) == family);
    let limited = ranges.flat_map(|range| ways.iter().filter_map(|way| limit(*way, range)));
    let mut limited: Vec<Way> = limited.collect();
    // The narrower ways (pods' short way) stay before the others.
    limited.sort_by_key(|way| way.local_only);
    limited
}

fn limit(way: Way, range: &IpNet) -> Option<Way> {
    let from = match way.from {
        None => *range,
        Some(from) if range.contains(&from) => from,
        Some(from) if from.contains(range) => *range,
        Some(_) => return None,
    };
    Some(Way {
        from: Some(from.trunc()).filter(|f| f.prefix_len() > 0),
        ..way
    })
}
