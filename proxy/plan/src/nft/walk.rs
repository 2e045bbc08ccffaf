//! Walks a packet through a table, as the kernel does: for tests, and for people who ask where it goes and why.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::render::{Text, endpoint};
use super::table::{
    Chain, LOCAL, Load, Name, Part, Place, Rule, Set, Table, Value, Verdict, Words, Writer, state,
    status,
};
use crate::packet::{Node, Outcome, Packet, Source};
use crate::walk::{self, Step, Way};

/// Jumps within jumps, at most (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// All ways that a packet may take: as many as its endpoint is chosen from.
pub fn ways(table: &Table, node: &Node, packet: &Packet) -> Vec<Way> {
    let first = way(table, node, packet, 0);
    let others = (1..first.of).map(|n| way(table, node, packet, n));
    let others: Vec<Way> = others.collect();
    std::iter::once(first).chain(others).collect()
}

/// What becomes of a packet, whatever is chosen.
pub fn outcome(table: &Table, node: &Node, packet: &Packet) -> Result<Outcome, String> {
    walk::outcome(&ways(table, node, packet))
}

fn way(table: &Table, node: &Node, packet: &Packet, choice: u32) -> Way {
    let mut walker = Walker {
        table,
        node,
        packet: packet.clone(),
        original: (packet.destination, packet.port),
        mark: 0,
        translated: false,
        masked: false,
        choice,
        of: 1,
        steps: Vec::new(),
    };
    let end = walker.hooks();
    let outcome = match end {
        Some(End::Refused) => Outcome::Refused,
        Some(End::Dropped) => Outcome::Dropped,
        None if walker.translated => {
            let masked = if walker.masked {
                Source::Masked
            } else {
                Source::Kept
            };
            let to = (walker.packet.destination, walker.packet.port);
            Outcome::Sent(BTreeMap::from([(to, masked)]))
        }
        None => Outcome::Pass,
    };
    Way {
        outcome,
        of: walker.of,
        steps: walker.steps,
    }
}

enum End {
    Refused,
    Dropped,
}

/// What a chain or a rule ends with, if it ends the walk through this hook.
enum Stop {
    Accept,
    End(End),
    /// A chain goes on after the rule that jumped.
    Return,
}

struct Walker<'a> {
    table: &'a Table,
    node: &'a Node,
    packet: Packet,
    original: (IpAddr, u16),
    mark: u32,
    translated: bool,
    masked: bool,
    choice: u32,
    of: u32,
    steps: Vec<Step>,
}

impl Walker<'_> {
    fn hooks(&mut self) -> Option<End> {
        if self.packet.interface.is_none() {
            self.hook(Place::Output)
                .or_else(|| self.hook(Place::Postrouting))
        } else {
            let first = self.hook(Place::Prerouting);
            first.or_else(|| {
                if self.node.has(&self.packet.destination) {
                    self.hook(Place::Input)
                } else {
                    let forward = self.hook(Place::Forward);
                    forward.or_else(|| self.hook(Place::Postrouting))
                }
            })
        }
    }

    fn hook(&mut self, place: Place) -> Option<End> {
        let table = self.table;
        let mut chains: Vec<(&Name, &Chain, i32)> = table
            .chains
            .iter()
            .filter_map(|(name, chain)| {
                let hook = chain.hook.filter(|h| h.place == place)?;
                Some((name, chain, hook.priority))
            })
            .collect();
        chains.sort_by_key(|(_, _, priority)| *priority);
        for (name, chain, _) in chains {
            if let Some(Stop::End(end)) = self.chain(name, chain, 0) {
                return Some(end);
            }
        }
        None
    }

    fn chain(&mut self, name: &Name, chain: &Chain, depth: usize) -> Option<Stop> {
        for rule in &chain.rules {
            let stop = self.rule(name, rule, depth);
            if stop.is_some() {
                return stop;
            }
        }
        None
    }

    fn rule(&mut self, chain: &Name, rule: &Rule, depth: usize) -> Option<Stop> {
        let mut decided = None;
        for part in rule {
            match self.part(part) {
                Done::Next => {}
                Done::NoMatch => return None,
                Done::Verdict(verdict) => {
                    decided = Some(verdict);
                    break;
                }
                Done::Refused => {
                    self.step(chain, rule);
                    return Some(Stop::End(End::Refused));
                }
            }
        }
        self.step(chain, rule);
        match decided? {
            Verdict::Accept => Some(Stop::Accept),
            Verdict::Drop => Some(Stop::End(End::Dropped)),
            Verdict::Return => Some(Stop::Return),
            Verdict::Goto(to) => {
                // Where that chain ends, so does the one that was left for it.
                Some(self.call(&to, depth).unwrap_or(Stop::Return))
            }
            Verdict::Jump(to) => self.call(&to, depth).filter(|s| !matches!(s, Stop::Return)),
        }
    }

    fn call(&mut self, to: &Name, depth: usize) -> Option<Stop> {
        let chain = self.table.chains.get(to)?;
        if depth == DEPTH {
            return Some(Stop::End(End::Dropped));
        }
        self.chain(to, chain, depth + 1)
    }

    fn step(&mut self, chain: &Name, rule: &Rule) {
        self.steps.push(Step {
            chain: chain.clone(),
            rule: Text(self.table.family, rule).to_string(),
        });
    }

    fn part(&mut self, part: &Part) -> Done {
        match part {
            Part::Is { load, bytes, not } => {
                let found = self.load(load).words();
                Done::matching(found.starts_with(bytes) != *not)
            }
            Part::Bits { load, mask, not } => {
                let bits = <[u8; 4]>::try_from(&*self.load(load).words());
                let bits = bits.map(u32::from_ne_bytes).unwrap_or_default();
                Done::matching((bits & mask != 0) != *not)
            }
            Part::Within { load, net, not } => {
                let ip = match load {
                    Load::Source => self.packet.source,
                    _ => self.packet.destination,
                };
                Done::matching(net.contains(&ip) != *not)
            }
            Part::Between { load, first, last } => {
                let bytes = self.load(load).words();
                let port = match &*bytes {
                    [a, b, ..] => u16::from_be_bytes([*a, *b]),
                    _ => return Done::NoMatch,
                };
                Done::matching((first..=last).contains(&&port))
            }
            Part::In { key, set, not } => {
                let key = self.loads(key);
                let set = self.table.sets.get(set);
                Done::matching(set.is_some_and(|s| contains(s, &key)) != *not)
            }
            Part::Decide { key, map } => {
                let key = self.loads(key);
                match self.found(map, &key) {
                    Some(Value::Verdict(verdict)) => Done::Verdict(verdict),
                    _ => Done::NoMatch,
                }
            }
            Part::Translate { key, map } => self.translate(key, map),
            Part::Masquerade => {
                self.masked = true;
                Done::Verdict(Verdict::Accept)
            }
            // Whoever is remembered is so from his next connection on.
            Part::Remember { .. } => Done::Next,
            Part::SetMark(bits) => {
                self.mark |= bits;
                Done::Next
            }
            Part::ClearMark(bits) => {
                self.mark &= !bits;
                Done::Next
            }
            Part::Reject => Done::Refused,
            Part::Verdict(verdict) => Done::Verdict(verdict.clone()),
        }
    }

    fn translate(&mut self, key: &[Load], map: &Name) -> Done {
        let key = self.loads(key);
        let Some(Value::Fields(words)) = self.found(map, &key) else {
            return Done::NoMatch;
        };
        let Some((ip, port)) = endpoint(self.table.family, &words) else {
            return Done::NoMatch;
        };
        (self.packet.destination, self.packet.port) = (ip, port);
        self.translated = true;
        Done::Verdict(Verdict::Accept)
    }

    fn found(&self, map: &Name, key: &Words) -> Option<Value> {
        self.table.sets.get(map)?.elements.get(key).cloned()
    }

    fn loads(&mut self, key: &[Load]) -> Words {
        let parts: Vec<Words> = key.iter().map(|l| self.load(l).words()).collect();
        parts.concat().into()
    }

    fn load(&mut self, load: &Load) -> Writer {
        let new = Writer::default();
        let kind = |ip: &IpAddr| if self.node.has(ip) { LOCAL } else { 1 };
        match load {
            Load::Source => new.address(self.packet.source),
            Load::Destination => new.address(self.packet.destination),
            Load::Protocol => new.protocol(self.packet.protocol),
            Load::Port => new.port(self.packet.port),
            Load::OriginalDestination => new.address(self.original.0),
            Load::OriginalPort => new.port(self.original.1),
            Load::Interface => new.text(self.packet.interface.as_deref().unwrap_or_default()),
            Load::State => new.number(state::NEW),
            Load::Status => new.number(if self.translated { status::DNAT } else { 0 }),
            Load::Mark => new.number(self.mark),
            Load::SourceType => new.number(kind(&self.packet.source)),
            Load::DestinationType => new.number(kind(&self.packet.destination)),
            Load::Random { count, first } => {
                self.of = (*count).max(1);
                new.number(first + self.choice % self.of)
            }
        }
    }
}

enum Done {
    Next,
    NoMatch,
    Verdict(Verdict),
    Refused,
}

impl Done {
    fn matching(matches: bool) -> Self {
        if matches { Self::Next } else { Self::NoMatch }
    }
}

fn contains(set: &Set, key: &Words) -> bool {
    if !set.intervals {
        return set.elements.contains_key(key);
    }
    set.elements.keys().any(|ends| {
        let (first, last) = ends.split_at(ends.len() / 2);
        first <= &**key && &**key <= last
    })
}
