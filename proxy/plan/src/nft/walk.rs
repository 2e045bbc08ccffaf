//! Walks a packet through a table, as the kernel does: for tests, and for people who ask where it goes and why.

use std::net::IpAddr;

use super::render::{Text, endpoint};
use super::table::{
    Chain, LOCAL, Load, Name, Part, Place, Rule, Set, Table, Value, Verdict, Words, Writer, state,
    status,
};
use crate::model::{Protocol, socket};
use crate::packet::{Node, Outcome, Packet};
use crate::walk::{self, End, Step, Way};

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

/// A packet between others, as the forward hook sees it: after translation of the destination, before that of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Who began the connection.
    pub source: IpAddr,
    /// Who is reached.
    pub destination: IpAddr,
    /// Protocol's number.
    pub protocol: u8,
    /// Port that is reached; for other protocols, what stands in its place.
    pub port: u16,
    /// It is of a connection.
    pub tracked: bool,
}

/// What becomes of a packet that is sent on: it passes or is dropped.
pub fn forwarded(table: &Table, packet: &Forwarded) -> Way {
    sent_on(table, packet, Place::Forward)
}

/// The same of one that comes by another hook: IPVS hands on what it takes by the output hook.
pub fn sent_on(table: &Table, packet: &Forwarded, place: Place) -> Way {
    let whole = Packet {
        source: packet.source,
        destination: packet.destination,
        protocol: Protocol::Tcp,
        port: packet.port,
        interface: None,
    };
    let node = Node::default();
    let mut walker = Walker::new(table, &node, &whole, 0);
    (walker.protocol, walker.tracked) = (packet.protocol, packet.tracked);
    let end = walker.hook(place);
    walker.over(end)
}

/// What steps in IPVS stand under, beside chains.
pub const IPVS: &str = "ipvs";

/// Where IPVS has a destination's packets go: addresses and ports that are chosen from; none: it is no virtual server's.
pub type Balances<'a> = &'a dyn Fn(IpAddr, u16) -> Option<Vec<(IpAddr, u16)>>;

/// All ways that a packet may take where IPVS takes it over between our chains: as many as there are destinations, in
/// the order in which it is told of them. How likely each is depends on the scheduler.
pub fn balanced(table: &Table, node: &Node, packet: &Packet, balances: Balances<'_>) -> Vec<Way> {
    let way = |choice| {
        let mut walker = Walker::new(table, node, packet, choice);
        let end = walker.balanced(balances);
        walker.over(end)
    };
    let first = way(0);
    let others = (1..first.of).map(way);
    let others: Vec<Way> = others.collect();
    std::iter::once(first).chain(others).collect()
}

fn way(table: &Table, node: &Node, packet: &Packet, choice: u32) -> Way {
    let mut walker = Walker::new(table, node, packet, choice);
    let end = walker.hooks();
    walker.over(end)
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
    /// Its number: not all protocols are those of services.
    protocol: u8,
    /// Of a connection; without one nothing is known of it.
    tracked: bool,
    original: (IpAddr, u16),
    mark: u32,
    class: u32,
    translated: bool,
    masked: bool,
    choice: u32,
    of: u32,
    steps: Vec<Step>,
}

impl<'a> Walker<'a> {
    fn new(table: &'a Table, node: &'a Node, packet: &Packet, choice: u32) -> Self {
        Self {
            table,
            node,
            packet: packet.clone(),
            protocol: packet.protocol.number(),
            tracked: true,
            original: (packet.destination, packet.port),
            mark: 0,
            class: 0,
            translated: false,
            masked: false,
            choice,
            of: 1,
            steps: Vec::new(),
        }
    }

    fn over(self, end: Option<End>) -> Way {
        let outcome = walk::over(end, &self.packet, self.translated, self.masked);
        Way {
            outcome,
            of: self.of,
            steps: self.steps,
        }
    }

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

    /// A packet to one of the node's addresses is IPVS's before our last chain of the input hook, what the node sends
    /// before it is routed; what it sends on meets the output hook and leaves.
    fn balanced(&mut self, balances: Balances<'_>) -> Option<End> {
        let own = self.packet.interface.is_none();
        let first = if own {
            Place::Output
        } else {
            Place::Prerouting
        };
        if let Some(end) = self.hook(first) {
            return Some(end);
        }
        let here = self.node.has(&self.packet.destination);
        let (ip, port) = (self.packet.destination, self.packet.port);
        let found = balances(ip, port).filter(|_| here || own);
        let Some(destinations) = found else {
            let next: &[Place] = match (here, own) {
                (true, _) => &[Place::Input],
                (false, true) => &[Place::Postrouting],
                (false, false) => &[Place::Forward, Place::Postrouting],
            };
            return next.iter().find_map(|place| self.hook(*place));
        };
        let at = socket(ip, port);
        self.of = u32::try_from(destinations.len()).unwrap_or(u32::MAX).max(1);
        let chosen = destinations.get(self.choice as usize);
        let rule = match chosen {
            Some((ip, port)) => format!("virtual server {at}: to {}", socket(*ip, *port)),
            None => format!("virtual server {at} has no destination"),
        };
        let chain = IPVS.into();
        self.steps.push(Step { chain, rule });
        let Some((ip, port)) = chosen else {
            return Some(End::Refused);
        };
        (self.packet.destination, self.packet.port) = (*ip, *port);
        self.translated = true;
        self.hook(Place::Postrouting)
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

    /// What can't be read matches nothing.
    fn part(&mut self, part: &Part) -> Done {
        self.try_part(part).unwrap_or(Done::NoMatch)
    }

    fn try_part(&mut self, part: &Part) -> Option<Done> {
        Some(match part {
            Part::Is { load, bytes, not } => {
                let found = self.load(load)?.words();
                Done::matching(found.starts_with(bytes) != *not)
            }
            Part::Bits { load, mask, not } => {
                let bits = <[u8; 4]>::try_from(&*self.load(load)?.words());
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
                let bytes = self.load(load)?.words();
                let port = match &*bytes {
                    [a, b, ..] => u16::from_be_bytes([*a, *b]),
                    _ => return None,
                };
                Done::matching((first..=last).contains(&&port))
            }
            Part::In { key, set, not } => {
                let key = self.loads(key)?;
                let set = self.table.sets.get(set);
                Done::matching(set.is_some_and(|s| contains(s, &key)) != *not)
            }
            Part::Decide { key, map } => {
                let key = self.loads(key)?;
                match self.found(map, &key) {
                    Some(Value::Verdict(verdict)) => Done::Verdict(verdict),
                    _ => Done::NoMatch,
                }
            }
            Part::Classify { key, map } => {
                let key = self.loads(key)?;
                let Some(Value::Fields(class)) = self.found(map, &key) else {
                    return None;
                };
                self.class = u32::from_ne_bytes((*class).try_into().ok()?);
                Done::Next
            }
            Part::Unclassify => {
                self.class = 0;
                Done::Next
            }
            Part::Translate { key, map } => self.translate(key, map)?,
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
        })
    }

    fn translate(&mut self, key: &[Load], map: &Name) -> Option<Done> {
        let key = self.loads(key)?;
        let Value::Fields(words) = self.found(map, &key)? else {
            return None;
        };
        let (ip, port) = endpoint(self.table.family, &words)?;
        (self.packet.destination, self.packet.port) = (ip, port);
        self.translated = true;
        Some(Done::Verdict(Verdict::Accept))
    }

    fn found(&self, map: &Name, key: &Words) -> Option<Value> {
        self.table.sets.get(map)?.elements.get(key).cloned()
    }

    fn loads(&mut self, key: &[Load]) -> Option<Words> {
        let parts = key.iter().map(|l| Some(self.load(l)?.words()));
        let parts: Option<Vec<Words>> = parts.collect();
        Some(parts?.concat().into())
    }

    fn load(&mut self, load: &Load) -> Option<Writer> {
        let new = Writer::default();
        let of_connection = |writer| self.tracked.then_some(writer);
        let kind = |ip: &IpAddr| if self.node.has(ip) { LOCAL } else { 1 };
        Some(match load {
            Load::Source => new.address(self.packet.source),
            Load::Destination => new.address(self.packet.destination),
            Load::Protocol => new.byte(self.protocol),
            Load::Port => new.port(self.packet.port),
            Load::OriginalDestination => return of_connection(new.address(self.original.0)),
            Load::OriginalPort => return of_connection(new.port(self.original.1)),
            Load::OriginalSource => return of_connection(new.address(self.packet.source)),
            Load::ReplySource => return of_connection(new.address(self.packet.destination)),
            Load::ReplyPort => return of_connection(new.port(self.packet.port)),
            Load::Icmpv6Type => new.byte(self.packet.port.to_be_bytes()[0]),
            Load::Interface => new.text(self.packet.interface.as_deref().unwrap_or_default()),
            Load::State if self.tracked => new.number(state::NEW),
            Load::State => new.number(state::UNTRACKED),
            Load::Status => new.number(if self.translated { status::DNAT } else { 0 }),
            Load::Mark => new.number(self.mark),
            Load::Class => new.number(self.class),
            Load::SourceType => new.number(kind(&self.packet.source)),
            Load::DestinationType => new.number(kind(&self.packet.destination)),
            Load::Random { count, first } => {
                self.of = (*count).max(1);
                new.number(first + self.choice % self.of)
            }
        })
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
