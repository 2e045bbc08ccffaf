//! What the model says of a packet: written from the Services' specification alone, without any backend's rules in
//! mind, so that those can be held against it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::{Endpoint, Entry, Family, Front, Kind, Policy};
use crate::options::{Options, Pods};
use crate::packet::{Node, Outcome, Packet, Source};
use crate::select::usable;

/// Where a packet comes from, as far as services care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Pod,
    Node,
    Outside,
    /// Nobody said how to know a pod.
    Unknown,
}

/// What becomes of a connection's first packet.
pub fn decide(entries: &[Entry], options: &Options, node: &Node, packet: &Packet) -> Outcome {
    let family = Family::of(&packet.destination);
    let address = Front::Address(packet.destination, packet.protocol, packet.port);
    let of_node = Front::Node(packet.protocol, packet.port);
    let with = |front: Front| {
        let served = entries.iter().filter(|e| is_of(e, family));
        served
            .flat_map(|e| e.fronts.iter().map(move |(f, kind)| (e, *f, *kind)))
            .find(|(_, f, _)| *f == front)
    };
    let found = with(address).or_else(|| {
        let reached = reaches_node_ports(options, node, packet);
        reached.then(|| with(of_node)).flatten()
    });
    let Some((entry, _, kind)) = found else {
        return without_service(entries, options, packet);
    };
    let endpoints: Vec<Endpoint> = entry.of(family).copied().collect();
    let case = Case {
        entry,
        options,
        packet,
        from: from(options, packet),
        endpoints,
    };
    match kind {
        Kind::Cluster => case.cluster(),
        kind => case.external(kind),
    }
}

/// A Service is of the families that it has cluster addresses of.
fn is_of(entry: &Entry, family: Family) -> bool {
    let ips = &entry.port.cluster_ips;
    ips.iter().any(|ip| Family::of(ip) == family)
}

/// A cluster address has nothing but its services' ports. And where node ports on loopback made the kernel take
/// packets from elsewhere for it, nothing comes in by that.
fn without_service(entries: &[Entry], options: &Options, packet: &Packet) -> Outcome {
    let family = Family::of(&packet.destination);
    let opened = options.node_ports_on_loopback(family);
    let loopback = packet.destination.is_loopback() && !packet.source.is_loopback();
    if opened && loopback && packet.interface.is_some() {
        return Outcome::Dropped;
    }
    let served = entries.iter().filter(|e| is_of(e, family));
    let mut fronts = served.flat_map(|e| &e.fronts);
    let is_cluster_ip = fronts.any(|(front, kind)| {
        let same = matches!(front, Front::Address(ip, ..) if *ip == packet.destination);
        same && *kind == Kind::Cluster
    });
    if is_cluster_ip {
        Outcome::Refused
    } else {
        Outcome::Pass
    }
}

fn reaches_node_ports(options: &Options, node: &Node, packet: &Packet) -> bool {
    let ip = &packet.destination;
    if ip.is_loopback() {
        let own = packet.interface.is_none();
        return own && options.node_ports_on_loopback(Family::of(ip));
    }
    let nets = &options.node_port_nets;
    node.has(ip) && (nets.is_empty() || nets.iter().any(|n| n.contains(ip)))
}

fn from(options: &Options, packet: &Packet) -> From {
    let pod = match (&options.pods, &packet.interface) {
        (Pods::Unknown, Some(_)) => return From::Unknown,
        (Pods::Within(nets), _) => nets.iter().any(|n| n.contains(&packet.source)),
        (Pods::Behind(name), Some(interface)) => match name.strip_suffix('*') {
            Some(prefix) => interface.starts_with(prefix),
            None => interface == name,
        },
        (_, None) => false,
    };
    match (pod, &packet.interface) {
        (true, _) => From::Pod,
        (_, None) => From::Node,
        (..) => From::Outside,
    }
}

struct Case<'a> {
    entry: &'a Entry,
    options: &'a Options,
    packet: &'a Packet,
    from: From,
    endpoints: Vec<Endpoint>,
}

impl Case<'_> {
    fn cluster(&self) -> Outcome {
        let policy = self.entry.port.internal_policy;
        let chosen = usable(&self.endpoints, policy);
        if chosen.is_empty() {
            let elsewhere = !usable(&self.endpoints, Policy::Cluster).is_empty();
            return if elsewhere {
                Outcome::Dropped
            } else {
                Outcome::Refused
            };
        }
        let unknown = self.options.pods == Pods::Unknown;
        let outsider = !unknown && self.from != From::Pod;
        self.sent(chosen, self.options.masquerade_all || outsider)
    }

    fn external(&self, kind: Kind) -> Outcome {
        let ranges = &self.entry.port.source_ranges;
        let limited = kind == Kind::LoadBalancer && !ranges.is_empty();
        if limited && !ranges.iter().any(|r| r.contains(&self.packet.source)) {
            return Outcome::Dropped;
        }
        let all = usable(&self.endpoints, Policy::Cluster);
        if all.is_empty() {
            return Outcome::Refused;
        }
        if self.entry.port.external_policy == Policy::Cluster {
            return self.sent(all, true);
        }
        match self.from {
            // They are inside: no load balancer chose this node for them.
            From::Pod => self.sent(all, false),
            From::Node => self.sent(all, true),
            From::Outside | From::Unknown => {
                let local = usable(&self.endpoints, Policy::Local);
                if local.is_empty() {
                    Outcome::Dropped
                } else {
                    self.sent(local, false)
                }
            }
        }
    }

    fn sent(&self, endpoints: Vec<Endpoint>, masked: bool) -> Outcome {
        let to: BTreeMap<(IpAddr, u16), Source> = endpoints
            .iter()
            .map(|e| {
                // A pod that is sent to itself must see another source, or it answers past this node.
                let masked = masked || e.ip == self.packet.source;
                let source = if masked { Source::Masked } else { Source::Kept };
                ((e.ip, e.port), source)
            })
            .collect();
        Outcome::Sent(to)
    }
}
