//! Policies as a ruleset wants them: which group of rules a pod's address goes to, and shared sets that the rules look
//! addresses up in. Names are hashes of contents, so they are the same after a restart and on every node, and what
//! changed has another name: groups and ranges never change, only sets of pods do, element by element.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::blocks::Blocks;
use super::model::{Direction, PortName, PortRange, Scope, Transport};
use super::selector::Selector;
use crate::model::Protocol;

/// A name made of contents: the first 80 bits of a SHA-256, written as 20 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; 10]);

impl Id {
    pub(super) fn of(kind: &str, contents: &impl fmt::Display) -> Self {
        let digest = Sha256::digest(format!("{kind} {contents}"));
        let mut id = [0; 10];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self(id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Everything that a node enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Addresses of this node's pods to which a policy applies. Others are not restricted.
    pub pods: BTreeMap<IpAddr, Membership>,
    /// Rules, shared by pods that the same rules apply to.
    pub groups: BTreeMap<Id, Arc<Group>>,
    /// Pods as peers, shared by all policies that select the same. Not every set must be in use.
    pub sets: BTreeMap<Id, AddressSet>,
    /// Address ranges as peers. Not all must be in use.
    pub blocks: BTreeMap<Id, Arc<Blocks>>,
}

/// What applies to a pod. Without a group nothing is restricted in that direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The rules for connections to it.
    pub ingress: Option<Id>,
    /// The rules for connections from it.
    pub egress: Option<Id>,
}

impl Membership {
    /// The group of a direction.
    pub fn group(&self, direction: Direction) -> Option<Id> {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// What is allowed: whatever one of the rules matches. Nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Whether the peer is the sender (ingress) or the receiver.
    pub direction: Direction,
    /// In a fixed order, without doubles; their order does not matter.
    pub rules: Vec<Rule>,
}

/// Allows what both parts match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The other end's address.
    pub peers: Peers,
    /// Destination and its port.
    pub ports: Ports,
}

/// Whose address the peer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peers {
    /// Anybody's.
    Any,
    /// One of a set of pods' addresses.
    Addresses(Id),
    /// One of these ranges.
    Blocks(Id),
}

/// Where a packet goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// Anywhere, by any protocol.
    All,
    /// To one of these ports: ordered, disjoint, not adjacent.
    Numbers(Arc<[PortRange]>),
    /// Destination address, protocol and port are an element of this set.
    Named(Id),
}

/// What a set of pods is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetKey {
    /// In which namespaces.
    pub scope: Scope,
    /// Which pods.
    pub pods: Selector,
    /// Their addresses only, or with the port that they give this name.
    pub port: Option<PortName>,
}

impl SetKey {
    /// The set's name.
    pub fn id(&self) -> Id {
        Id::of("set", self)
    }
}

/// A set of pods' addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSet {
    /// What it is made of.
    pub key: Arc<SetKey>,
    /// Its contents, of both families. With a port exactly if the key has one.
    pub elements: BTreeSet<Element>,
}

/// An element of a set of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// Address.
    pub address: IpAddr,
    /// Protocol and port, in sets of a named port.
    pub port: Option<(Protocol, u16)>,
}

/// Ordered, with what overlaps or touches made one.
pub(super) fn union(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut out: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(before)
                if before.protocol == range.protocol
                    && range.first <= before.last.saturating_add(1) =>
            {
                before.last = before.last.max(range.last);
            }
            _ => out.push(range),
        }
    }
    out
}

impl Group {
    /// The rules of several policies together: what allows the same peers becomes one, and beside a rule that allows
    /// everything there is no other.
    pub(super) fn new<'a>(direction: Direction, rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        let mut all = BTreeSet::new();
        let mut numbers = BTreeMap::<Peers, Vec<PortRange>>::new();
        for rule in rules {
            match &rule.ports {
                Ports::Numbers(ranges) => {
                    numbers.entry(rule.peers).or_default().extend(ranges.iter())
                }
                Ports::All | Ports::Named(_) => {
                    all.insert(rule.clone());
                }
            }
        }
        let whole = |peers| Rule {
            peers,
            ports: Ports::All,
        };
        if all.contains(&whole(Peers::Any)) {
            let rules = vec![whole(Peers::Any)];
            return Self { direction, rules };
        }
        numbers.retain(|peers, _| !all.contains(&whole(*peers)));
        all.extend(numbers.into_iter().map(|(peers, ranges)| Rule {
            peers,
            ports: Ports::Numbers(union(ranges).into()),
        }));
        Self {
            direction,
            rules: all.into_iter().collect(),
        }
    }

    /// The group's name.
    pub fn id(&self) -> Id {
        Id::of("group", self)
    }
}

impl Rule {
    /// Whether a port matches; the destination's address counts for named ones.
    pub(super) fn port_matches(
        &self,
        compiled: &Compiled,
        destination: IpAddr,
        transport: Transport,
    ) -> bool {
        match (&self.ports, transport) {
            (Ports::All, _) => true,
            (Ports::Numbers(ranges), _) => ranges.iter().any(|r| r.contains(transport)),
            (Ports::Named(set), Transport::Port(protocol, port)) => {
                compiled.holds(*set, destination, Some((protocol, port)))
            }
            (Ports::Named(_), Transport::Other) => false,
        }
    }

    /// Whether the other end's address matches.
    pub(super) fn peer_matches(&self, compiled: &Compiled, peer: IpAddr) -> bool {
        match self.peers {
            Peers::Any => true,
            Peers::Addresses(set) => compiled.holds(set, peer, None),
            Peers::Blocks(id) => compiled.blocks.get(&id).is_some_and(|b| b.contains(peer)),
        }
    }
}

impl Compiled {
    fn holds(&self, set: Id, address: IpAddr, port: Option<(Protocol, u16)>) -> bool {
        let element = Element { address, port };
        self.sets
            .get(&set)
            .is_some_and(|s| s.elements.contains(&element))
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.direction)?;
        self.rules.iter().try_for_each(|r| write!(f, "\n{r}"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peers {
            Peers::Any => f.write_str("any")?,
            Peers::Addresses(id) => write!(f, "pods {id}")?,
            Peers::Blocks(id) => write!(f, "blocks {id}")?,
        }
        match &self.ports {
            Ports::All => Ok(()),
            Ports::Numbers(ranges) => {
                let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
                write!(f, " {}", ranges.join(","))
            }
            Ports::Named(id) => write!(f, " ports {id}"),
        }
    }
}

impl fmt::Display for SetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Scope::One(namespace) => write!(f, "namespace {namespace}")?,
            Scope::Matching(selector) => write!(f, "namespaces ({selector})")?,
        }
        write!(f, " pods ({})", self.pods)?;
        match &self.port {
            Some(port) => write!(f, " port {} {}", port.protocol.name(), port.name),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some((protocol, port)) => write!(f, "{} . {} . {port}", self.address, protocol.name()),
            None => write!(f, "{}", self.address),
        }
    }
}
