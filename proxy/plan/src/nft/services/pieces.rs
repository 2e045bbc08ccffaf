//! What one service port puts into the table.

use std::net::IpAddr;

use ipnet::IpNet;

use super::guard::{Guard, Then};
use super::names::{CLUSTER_IPS, HAIRPIN, Maps};
use super::path::{Mask, Path, Slots, Sticky};
use crate::model::{Endpoint, Entry, Family, Front, Kind, Policy, ServicePort};
use crate::nft::table::{Name, Value, Verdict, Words, Writer};
use crate::options::Options;
use crate::select::usable;

/// Something in the table that is there for a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Piece {
    /// An element that other services may want too: it is there once. As an address, of which there may be many, and
    /// all are remembered.
    Shared(Shared, IpAddr),
    /// An element of one service only.
    Own(Name, Words, Value),
    /// The class of a front of one service only: in a map, that of a path.
    Class(Name, Words, Path),
    /// The chain of a path.
    Path(Path),
    /// The chain of a guard.
    Guard(Guard),
    /// The chain that remembers clients.
    Memory(Sticky),
    /// In a map of clients, those of a front may stay with this endpoint. Nothing of it is in the table.
    Stays(Name, Words, Words),
}

/// Sets whose elements are there for one address each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shared {
    /// Cluster addresses.
    ClusterIp,
    /// Endpoints that may send to themselves.
    Hairpin,
}

impl Shared {
    /// The set and its element.
    pub fn element(self, ip: IpAddr) -> (Name, Words) {
        let address = Writer::default().address(ip);
        match self {
            Self::ClusterIp => (CLUSTER_IPS.into(), address.words()),
            Self::Hairpin => (HAIRPIN.into(), address.address(ip).words()),
        }
    }
}

/// Endpoints by who may be sent to them: slots of those for packets that stay on this node come first, then slots
/// of those for both, then the others. So one list serves two policies, each with slots that follow one another.
struct Choice {
    endpoints: Vec<Endpoint>,
    local: Slots,
    cluster: Slots,
}

impl Choice {
    fn new(endpoints: &[Endpoint], uses_local: bool, uses_cluster: bool) -> Self {
        let of = |policy, used| {
            if used {
                usable(endpoints, policy)
            } else {
                Vec::new()
            }
        };
        let local = of(Policy::Local, uses_local);
        let cluster = of(Policy::Cluster, uses_cluster);
        let (both, rest): (Vec<_>, Vec<_>) = cluster.iter().partition(|e| local.contains(e));
        let only: Vec<_> = local
            .iter()
            .filter(|e| !cluster.contains(e))
            .copied()
            .collect();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            local: Slots {
                count: count(local.len()),
                first: 0,
            },
            cluster: Slots {
                count: count(cluster.len()),
                first: count(only.len()),
            },
            endpoints: [only, both, rest].concat(),
        }
    }

    fn slots(&self, policy: Policy) -> Slots {
        match policy {
            Policy::Local => self.local,
            Policy::Cluster => self.cluster,
        }
    }

    fn of(&self, policy: Policy) -> impl Iterator<Item = &Endpoint> {
        let Slots { count, first } = self.slots(policy);
        let (skip, take) = (first as usize, count as usize);
        self.endpoints.iter().skip(skip).take(take)
    }
}

/// All that a service port puts into the table of a family.
pub fn pieces(entry: &Entry, family: Family, options: &Options) -> Vec<Piece> {
    let port = &*entry.port;
    let mine = |ip: &IpAddr| Family::of(ip) == family;
    // A Service without a cluster address of the family is not of this family, whatever its node ports.
    if !port.cluster_ips.iter().any(mine) {
        return Vec::new();
    }
    let endpoints: Vec<Endpoint> = entry.of(family).copied().collect();
    let external = entry.fronts.iter().any(|(_, kind)| *kind != Kind::Cluster);
    let uses = |policy| {
        let inside = port.internal_policy == policy;
        // Who is inside may go to all endpoints by an external front too.
        inside || external && (policy == Policy::Cluster || port.external_policy == policy)
    };
    let maker = Maker {
        port,
        options,
        choice: Choice::new(&endpoints, uses(Policy::Local), uses(Policy::Cluster)),
        any: endpoints
            .iter()
            .any(|e| e.ready || e.serving && e.terminating),
        pieces: Vec::new(),
    };
    maker.make(entry, family)
}

struct Maker<'a> {
    port: &'a ServicePort,
    options: &'a Options,
    choice: Choice,
    /// There is an endpoint somewhere that takes connections.
    any: bool,
    pieces: Vec<Piece>,
}

impl Maker<'_> {
    fn make(mut self, entry: &Entry, family: Family) -> Vec<Piece> {
        for (front, kind) in &entry.fronts {
            match front {
                Front::Address(ip, ..) if Family::of(ip) != family => continue,
                Front::Address(ip, ..) if *kind == Kind::Cluster => {
                    self.pieces.push(Piece::Shared(Shared::ClusterIp, *ip));
                }
                _ => {}
            }
            match kind {
                Kind::Cluster => self.cluster(front),
                _ => self.external(front, *kind),
            }
            self.endpoints(front);
        }
        self.hairpin();
        self.pieces
    }

    fn cluster(&mut self, front: &Front) {
        let policy = self.port.internal_policy;
        if self.choice.slots(policy).count == 0 {
            // Endpoints elsewhere only: the client may be one that is sent on later.
            let then = if self.any { Then::Drop } else { Then::Refuse };
            return self.guard(front, Guard::new(then));
        }
        let mask = if self.options.masquerade_all {
            Mask::Always
        } else {
            Mask::Outsiders
        };
        let path = self.path(front, mask, policy);
        self.send(front, Maps::services, path);
    }

    fn external(&mut self, front: &Front, kind: Kind) {
        let local = self.port.external_policy == Policy::Local;
        let then = if self.choice.cluster.count == 0 {
            Then::Refuse
        } else if local && self.choice.local.count == 0 {
            Then::DropOutsiders
        } else {
            Then::Pass
        };
        let guard = Guard {
            ranges: (kind == Kind::LoadBalancer && !self.port.source_ranges.is_empty())
                .then(|| sorted(&self.port.source_ranges)),
            then,
        };
        let refused = then == Then::Refuse;
        if guard != Guard::new(Then::Pass) {
            self.guard(front, guard);
        }
        if refused {
            return;
        }
        let mask = if local { Mask::Node } else { Mask::Always };
        let path = self.path(front, mask, Policy::Cluster);
        self.send(front, Maps::services, path);
        if local && self.choice.local.count > 0 {
            let path = self.path(front, Mask::Never, Policy::Local);
            self.send(front, Maps::outside, path);
        }
    }

    fn path(&self, front: &Front, mask: Mask, policy: Policy) -> Path {
        Path {
            node_port: matches!(front, Front::Node(..)),
            mask,
            sticky: self.port.affinity.map(|seconds| Sticky {
                seconds,
                local: policy == Policy::Local,
            }),
            slots: self.choice.slots(policy),
        }
    }

    fn send(&mut self, front: &Front, map: fn(&Maps) -> Name, path: Path) {
        let map = map(&maps(front));
        self.pieces
            .push(Piece::Class(map, key(front).words(), path));
        self.pieces.push(Piece::Path(path));
        if let Some(sticky) = path.sticky {
            let outside = path.mask == Mask::Never;
            self.stays(front, sticky, outside);
        }
    }

    fn stays(&mut self, front: &Front, sticky: Sticky, outside: bool) {
        let chain = Value::Verdict(Verdict::Goto(sticky.name()));
        let map = maps(front).remember(outside);
        self.pieces.push(Piece::Own(map, key(front).words(), chain));
        self.pieces.push(Piece::Memory(sticky));
        let policy = if sticky.local {
            Policy::Local
        } else {
            Policy::Cluster
        };
        let stays = self.choice.of(policy).map(|e| {
            let front = key(front).words();
            Piece::Stays(sticky.map(), front, at(e))
        });
        self.pieces.extend(stays.collect::<Vec<_>>());
    }

    fn guard(&mut self, front: &Front, guard: Guard) {
        let chain = Value::Verdict(Verdict::Goto(guard.name()));
        let map = maps(front).guards();
        self.pieces.push(Piece::Own(map, key(front).words(), chain));
        self.pieces.push(Piece::Guard(guard));
    }

    fn endpoints(&mut self, front: &Front) {
        let map = maps(front).endpoints();
        for (slot, e) in (0..).zip(&self.choice.endpoints) {
            let (key, value) = (key(front).number(slot).words(), Value::Fields(at(e)));
            self.pieces.push(Piece::Own(map.clone(), key, value));
        }
    }

    /// An endpoint on another node sends to itself by way of this one only where pods' packets for an external
    /// address keep their source.
    fn hairpin(&mut self) {
        let kept = self.port.external_policy == Policy::Local;
        for e in self.choice.endpoints.iter().filter(|e| kept || e.local) {
            self.pieces.push(Piece::Shared(Shared::Hairpin, e.ip));
        }
    }
}

fn maps(front: &Front) -> Maps {
    Maps::of(matches!(front, Front::Node(..)))
}

fn key(front: &Front) -> Writer {
    match front {
        Front::Address(ip, protocol, port) => Writer::default()
            .address(*ip)
            .protocol(*protocol)
            .port(*port),
        Front::Node(protocol, port) => Writer::default().protocol(*protocol).port(*port),
    }
}

fn at(e: &Endpoint) -> Words {
    Writer::default().address(e.ip).port(e.port).words()
}

fn sorted(nets: &[IpNet]) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
    nets.sort_unstable();
    nets.dedup();
    nets
}
