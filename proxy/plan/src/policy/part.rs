//! A policy's rules for a direction, compiled: one rule for each peer and kind of port, over sets of pods and ranges of
//! addresses.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::blocks::Blocks;
use super::compiled::{Id, Peers, Ports, Rule, SetKey, union};
use super::model::{Direction, Peer, Policy, PolicyRule, Port, PortName, PortRange, Scope};
use super::selector::Selector;

/// What a policy allows in a direction, ready to be put together with others' parts.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) rules: Vec<Rule>,
    pub(super) sets: BTreeMap<Id, Arc<SetKey>>,
    pub(super) blocks: BTreeMap<Id, Arc<Blocks>>,
}

impl Part {
    /// A policy's rules for a direction; `None`: it does not isolate in that direction.
    pub(super) fn new(policy: &Policy, direction: Direction) -> Option<Self> {
        let mut part = Self::default();
        for rule in policy.rules(direction)? {
            part.add(policy, direction, rule);
        }
        Some(part)
    }

    fn add(&mut self, policy: &Policy, direction: Direction, rule: &PolicyRule) {
        let numbers = rule.ports.as_deref().map(numbers);
        let numbers = match numbers {
            None => Some(Ports::All),
            Some(numbers) => (!numbers.is_empty()).then(|| Ports::Numbers(numbers.into())),
        };
        for peer in peers(rule.peers.as_deref()) {
            if let Some(ports) = numbers.clone() {
                let peers = self.peers(&peer);
                self.rules.push(Rule { peers, ports });
            }
            for port in rule.ports.iter().flatten().filter_map(named) {
                let rule = self.named(policy, direction, &peer, port);
                self.rules.push(rule);
            }
        }
    }

    fn peers(&mut self, peer: &Other<'_>) -> Peers {
        match peer {
            Other::Anybody => Peers::Any,
            Other::Pods(scope, pods) => Peers::Addresses(self.set(scope, pods, None)),
            Other::Blocks(blocks) => {
                let id = Id::of("blocks", blocks);
                self.blocks.insert(id, blocks.clone());
                Peers::Blocks(id)
            }
        }
    }

    /// A name is that of the destination's port: of the selected pod's, or of the peer's, who must be a pod then.
    fn named(
        &mut self,
        policy: &Policy,
        direction: Direction,
        peer: &Other<'_>,
        port: &PortName,
    ) -> Rule {
        let all = (
            Scope::Matching(Selector::everything()),
            Selector::everything(),
        );
        let own = Scope::One(policy.name.namespace.clone());
        let (peers, scope, pods) = match (direction, peer) {
            // The set of ports has only the peers' addresses, so it says who the peers are too.
            (Direction::Egress, Other::Pods(scope, pods)) => (Peers::Any, *scope, *pods),
            (Direction::Egress, _) => (self.peers(peer), &all.0, &all.1),
            (Direction::Ingress, _) => (
                self.peers(peer),
                &own,
                policy.pods.as_ref().unwrap_or(&all.1),
            ),
        };
        let ports = Ports::Named(self.set(scope, pods, Some(port.clone())));
        Rule { peers, ports }
    }

    fn set(&mut self, scope: &Scope, pods: &Selector, port: Option<PortName>) -> Id {
        let key = SetKey {
            scope: scope.clone(),
            pods: pods.clone(),
            port,
        };
        let id = key.id();
        self.sets.entry(id).or_insert_with(|| Arc::new(key));
        id
    }
}

/// A peer of a rule, all its address blocks being one.
enum Other<'a> {
    Anybody,
    Pods(&'a Scope, &'a Selector),
    Blocks(Arc<Blocks>),
}

fn peers(peers: Option<&[Peer]>) -> Vec<Other<'_>> {
    let Some(peers) = peers else {
        return vec![Other::Anybody];
    };
    let blocks = Blocks::new(peers.iter().filter_map(|p| match p {
        Peer::Block(block) => Some(block),
        Peer::Pods(..) => None,
    }));
    let pods = peers.iter().filter_map(|p| match p {
        Peer::Pods(scope, pods) => Some(Other::Pods(scope, pods)),
        Peer::Block(_) => None,
    });
    let blocks = (!blocks.is_empty()).then(|| Other::Blocks(Arc::new(blocks)));
    pods.chain(blocks).collect()
}

fn named(port: &Port) -> Option<&PortName> {
    match port {
        Port::Named(port) => Some(port),
        Port::Numbers(_) => None,
    }
}

/// The numbers among the ports.
fn numbers(ports: &[Port]) -> Vec<PortRange> {
    let numbers = ports.iter().filter_map(|p| match p {
        Port::Numbers(range) => Some(*range),
        Port::Named(_) => None,
    });
    union(numbers.collect())
}
