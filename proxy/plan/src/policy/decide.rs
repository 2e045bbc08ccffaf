//! What the specification says of a packet, read off the policies themselves: slow, and independent of how they are
//! compiled. The oracle of tests, and the words for people who ask why.

use std::net::IpAddr;

use super::model::{
    Direction, Host, IpBlock, Name, Packet, Peer, Pod, Policy, PolicyRule, Port, Scope, Transport,
    Verdict,
};
use super::selector::Selector;
use super::state::State;

/// What policies say of one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// That end is no pod of this node: it is not decided here.
    NotHere,
    /// The pod talks with itself or with its node, which no policy can keep it from.
    Exempt,
    /// No policy of this direction selects the pod.
    Open,
    /// These policies allow it.
    Allowed(Vec<Name>),
    /// These policies select the pod, and none of them allows it.
    Denied(Vec<Name>),
}

/// What policies say of a connection, at both its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Of the sender's egress policies.
    pub egress: Outcome,
    /// Of the receiver's ingress policies.
    pub ingress: Outcome,
}

impl Decision {
    /// What happens on this node.
    pub fn verdict(&self) -> Verdict {
        match (&self.egress, &self.ingress) {
            (Outcome::Denied(_), _) => Verdict::Deny(Direction::Egress),
            (_, Outcome::Denied(_)) => Verdict::Deny(Direction::Ingress),
            _ => Verdict::Allow,
        }
    }
}

/// What happens on this node to the first packet of a connection.
pub fn decide(state: &State, packet: &Packet) -> Verdict {
    explain(state, packet).verdict()
}

/// What policies say of the first packet of a connection, with their names.
pub fn explain(state: &State, packet: &Packet) -> Decision {
    Decision {
        egress: outcome(state, packet, Direction::Egress),
        ingress: outcome(state, packet, Direction::Ingress),
    }
}

/// What a policy that selects a pod lacks for a connection to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It has no rule in this direction: it allows nobody.
    Rules,
    /// A rule has this port, and not this peer.
    Peer,
    /// A rule has this peer, and not this port.
    Port,
    /// No rule has either.
    Both,
}

/// Why a policy does not allow the first packet of a connection; `None`: there is no such policy, or it does.
pub fn why(state: &State, packet: &Packet, direction: Direction, policy: &Name) -> Option<Lack> {
    let policy = state.policies().find(|p| p.name == *policy)?;
    let rules = policy.rules(direction)?;
    if rules.iter().any(|r| allows(state, packet, direction, r)) {
        return None;
    }
    let any = |matches: &dyn Fn(&PolicyRule) -> bool| rules.iter().any(matches);
    let peer = any(&|r| is_any_peer(state, packet, direction, r));
    let port = any(&|r| is_any_port(state, packet, r));
    Some(match (rules.is_empty(), peer, port) {
        (true, ..) => Lack::Rules,
        // Of two rules each may have one of both: the peer is what is looked for first.
        (_, true, _) => Lack::Port,
        (_, _, true) => Lack::Peer,
        _ => Lack::Both,
    })
}

/// A pod with its name.
type Named<'a> = (Name, &'a Pod);

fn outcome(state: &State, packet: &Packet, direction: Direction) -> Outcome {
    let (address, own_host, other_host) = match direction {
        Direction::Egress => (packet.source, Host::Source, Host::Destination),
        Direction::Ingress => (packet.destination, Host::Destination, Host::Source),
    };
    let Some((name, pod)) =
        pod_at(state, address).filter(|(_, p)| p.local && packet.host != own_host)
    else {
        return Outcome::NotHere;
    };
    if packet.host == other_host || packet.source == packet.destination {
        return Outcome::Exempt;
    }
    let in_namespace = state
        .policies()
        .filter(|p| p.name.namespace == name.namespace);
    let applying: Vec<&Policy> = in_namespace
        .filter(|p| {
            p.rules(direction).is_some() && p.pods.as_ref().is_some_and(|s| s.matches(&pod.labels))
        })
        .collect();
    if applying.is_empty() {
        return Outcome::Open;
    }
    let allows = |p: &&&Policy| {
        p.rules(direction)
            .into_iter()
            .flatten()
            .any(|r| allows(state, packet, direction, r))
    };
    let names = |policies: &mut dyn Iterator<Item = &&Policy>| {
        policies.map(|p| p.name.clone()).collect::<Vec<_>>()
    };
    let allowing = names(&mut applying.iter().filter(allows));
    if allowing.is_empty() {
        Outcome::Denied(names(&mut applying.iter()))
    } else {
        Outcome::Allowed(allowing)
    }
}

/// The pod that has an address: of several that say so, first one that stays, then the youngest.
fn pod_at(state: &State, address: IpAddr) -> Option<Named<'_>> {
    let mut best: Option<Named<'_>> = None;
    for (name, pod, _) in state
        .pods()
        .filter(|(_, _, addresses)| addresses.contains(&address))
    {
        let is_better = match &best {
            None => true,
            Some((_, b)) if b.ending != pod.ending => b.ending,
            Some((_, b)) if b.created != pod.created => b.created < pod.created,
            Some((n, _)) => *n < name,
        };
        if is_better {
            best = Some((name, pod));
        }
    }
    best
}

/// "The traffic must match both ports and from" (or to).
fn allows(state: &State, packet: &Packet, direction: Direction, rule: &PolicyRule) -> bool {
    is_any_peer(state, packet, direction, rule) && is_any_port(state, packet, rule)
}

fn is_any_peer(state: &State, packet: &Packet, direction: Direction, rule: &PolicyRule) -> bool {
    let peer = match direction {
        Direction::Egress => packet.destination,
        Direction::Ingress => packet.source,
    };
    let peers = rule.peers.as_ref();
    peers.is_none_or(|peers| peers.iter().any(|p| is_peer(state, peer, p)))
}

fn is_any_port(state: &State, packet: &Packet, rule: &PolicyRule) -> bool {
    let ports = rule.ports.as_ref();
    ports.is_none_or(|ports| ports.iter().any(|p| is_port(state, packet, p)))
}

fn is_peer(state: &State, address: IpAddr, peer: &Peer) -> bool {
    match peer {
        Peer::Block(IpBlock { cidr, except }) => {
            cidr.contains(&address) && !except.iter().any(|e| e.contains(&address))
        }
        Peer::Pods(scope, pods) => pod_at(state, address).is_some_and(|(name, pod)| {
            let in_scope = match scope {
                Scope::One(namespace) => *namespace == name.namespace,
                Scope::Matching(selector) => is_selected(state, &name, selector),
            };
            in_scope && pods.matches(&pod.labels)
        }),
    }
}

/// Without labels known, only a selector that takes all namespaces takes this one.
fn is_selected(state: &State, pod: &Name, selector: &Selector) -> bool {
    match state.namespace(&pod.namespace) {
        Some(labels) => selector.matches(labels),
        None => *selector == Selector::everything(),
    }
}

/// A name means a port of the pod that the packet goes to, whichever direction the policy is about.
fn is_port(state: &State, packet: &Packet, port: &Port) -> bool {
    let Transport::Port(protocol, number) = packet.transport else {
        return false;
    };
    match port {
        Port::Numbers(range) => {
            range.protocol == protocol && range.first <= number && number <= range.last
        }
        Port::Named(wanted) => pod_at(state, packet.destination).is_some_and(|(_, pod)| {
            let named = pod.ports.iter().filter(|p| p.name == *wanted);
            named
                .filter(|p| p.name.protocol == protocol)
                .any(|p| p.port == number)
        }),
    }
}
