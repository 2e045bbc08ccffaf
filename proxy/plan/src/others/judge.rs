//! Walks a packet through rules of others. What is not known of a rule is never taken for a match or for none: it is
//! told beside what the rules do otherwise.

use std::net::IpAddr;

use super::{Chain, Does, Hook, Rule, Table, Test, What};
use crate::model::{Family, Protocol};
use crate::nft::table::Place;
use crate::packet::Node;

/// Jumps within jumps, at most: more are a loop, which the kernel doesn't take.
const DEPTH: usize = 16;

/// A new connection's first packet, as it is at some place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// By which interface it came; none: from this node.
    pub input: Option<String>,
    /// By which it leaves; none: it stays, or it is not decided yet.
    pub output: Option<String>,
    /// Its destination was translated.
    pub translated: bool,
}

/// Chains of these priorities see the packet so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Where.
    pub place: Place,
    /// From this priority on.
    pub from: i32,
    /// To this one.
    pub to: i32,
    /// The packet.
    pub seen: Seen,
}

/// What a base chain does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It passes, as far as the rules are understood.
    Passes,
    /// Gone, by this rule.
    Dropped(String),
    /// The sender learns it, by this rule.
    Refused(String),
    /// Source or destination are replaced, by this rule: what comes after is not followed.
    Translated(String),
}

/// What somebody's base chain does with the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Table, chain, hook and priority.
    pub chain: String,
    /// What it does.
    pub judged: Judged,
    /// Rules on the way of which it is not known whether they match, and which would change this.
    pub unjudged: Vec<String>,
}

/// What others' base chains do, in the order in which the packet meets them. After one that turns it away there is none.
pub fn judge(tables: &[Table], node: &Node, stages: &[Stage]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for stage in stages {
        let mut met: Vec<_> = tables.iter().flat_map(|t| base(t, stage)).collect();
        met.sort_by_key(|(.., hook)| hook.priority);
        for (table, name, chain, hook) in met {
            let mut judge = Judge {
                table,
                node,
                seen: &stage.seen,
                unjudged: Vec::new(),
            };
            let end = judge.chain(name, chain, 0);
            let judged = judge.over(end, name, hook);
            let ends = matches!(judged, Judged::Dropped(_) | Judged::Refused(_));
            let changes = |does: &Does| judge.changes(&judged, hook, does, 0);
            let unjudged = judge.unjudged.iter().filter(|(_, does)| changes(does));
            let unjudged = unjudged.map(|(text, _)| text.clone()).collect();
            let (place, priority) = (place(stage.place), hook.priority);
            findings.push(Finding {
                chain: format!(
                    "{}, chain {name} ({place}, priority {priority})",
                    table.name
                ),
                judged,
                unjudged,
            });
            if ends {
                return findings;
            }
        }
    }
    findings
}

fn base<'a>(
    table: &'a Table,
    stage: &Stage,
) -> impl Iterator<Item = (&'a Table, &'a str, &'a Chain, Hook)> {
    let family = Family::of(&stage.seen.destination);
    let sees = table.family.is_none_or(|f| f == family);
    let (place, range) = (stage.place, stage.from..=stage.to);
    // One translation a connection and direction: chains of that kind are not asked again.
    let again = stage.seen.translated && matches!(place, Place::Prerouting | Place::Output);
    let chains = table.chains.iter().filter(move |_| sees);
    chains.filter_map(move |(name, chain)| {
        let hook = chain.hook.filter(|h| h.place == place)?;
        let empty = chain.rules.is_empty() && !hook.drops;
        let meets = range.contains(&hook.priority) && !(hook.nat && again) && !empty;
        meets.then_some((table, name.as_str(), chain, hook))
    })
}

fn place(place: Place) -> &'static str {
    match place {
        Place::Prerouting => "prerouting",
        Place::Input => "input",
        Place::Forward => "forward",
        Place::Output => "output",
        Place::Postrouting => "postrouting",
    }
}

/// How a chain ended; nothing: no rule decided.
enum End {
    Accept,
    Return,
    Drop(String),
    Refuse(String),
    Translate(String),
}

struct Judge<'a> {
    table: &'a Table,
    node: &'a Node,
    seen: &'a Seen,
    unjudged: Vec<(String, Does)>,
}

impl Judge<'_> {
    fn chain(&mut self, name: &str, chain: &Chain, depth: usize) -> Option<End> {
        if depth > DEPTH {
            return None;
        }
        for rule in &chain.rules {
            let end = match self.holds(&rule.tests) {
                Some(false) => None,
                Some(true) => self.does(name, rule, &rule.does, depth),
                None => self.doubt(name, rule, rule.does.clone()),
            };
            if end.is_some() {
                return end;
            }
        }
        None
    }

    fn doubt(&mut self, chain: &str, rule: &Rule, does: Does) -> Option<End> {
        if does != Does::Nothing {
            self.unjudged.push((told(chain, rule), does));
        }
        None
    }

    fn does(&mut self, chain: &str, rule: &Rule, does: &Does, depth: usize) -> Option<End> {
        Some(match does {
            Does::Nothing => return None,
            Does::Accept => End::Accept,
            Does::Return => End::Return,
            Does::Drop => End::Drop(told(chain, rule)),
            Does::Refuse => End::Refuse(told(chain, rule)),
            Does::Translate => End::Translate(told(chain, rule)),
            Does::Unknown => return self.doubt(chain, rule, Does::Unknown),
            Does::Jump(to) => {
                let end = self.call(to, depth)?;
                return Some(end).filter(|e| !matches!(e, End::Return));
            }
            Does::Goto(to) => self.call(to, depth).unwrap_or(End::Return),
            Does::Choose(cases) => {
                for (test, then) in cases {
                    match self.test(test) {
                        Some(false) => {}
                        Some(true) => return self.does(chain, rule, then, depth),
                        None => return self.doubt(chain, rule, does.clone()),
                    }
                }
                return None;
            }
        })
    }

    fn call(&mut self, to: &str, depth: usize) -> Option<End> {
        let table = self.table;
        self.chain(to, table.chains.get(to)?, depth + 1)
    }

    fn over(&self, end: Option<End>, name: &str, hook: Hook) -> Judged {
        match end {
            Some(End::Drop(rule)) => Judged::Dropped(rule),
            Some(End::Refuse(rule)) => Judged::Refused(rule),
            Some(End::Translate(rule)) => Judged::Translated(rule),
            None | Some(End::Return) if hook.drops => {
                Judged::Dropped(format!("{name}: policy drop, no rule accepts it"))
            }
            None | Some(End::Accept | End::Return) => Judged::Passes,
        }
    }

    /// Whether the packet would fare otherwise if this were done with it.
    fn changes(&self, judged: &Judged, hook: Hook, does: &Does, depth: usize) -> bool {
        let passes = matches!(judged, Judged::Passes | Judged::Translated(_));
        let within = |to: &String| match self.table.chains.get(to) {
            Some(chain) if depth <= DEPTH => chain
                .rules
                .iter()
                .any(|r| self.changes(judged, hook, &r.does, depth + 1)),
            _ => false,
        };
        match does {
            Does::Nothing => false,
            Does::Accept => !passes,
            Does::Return => hook.drops || !passes,
            Does::Drop | Does::Refuse => passes,
            Does::Translate | Does::Unknown => true,
            Does::Jump(to) => within(to),
            Does::Goto(to) => hook.drops || within(to),
            Does::Choose(cases) => cases
                .iter()
                .any(|(_, then)| self.changes(judged, hook, then, depth)),
        }
    }

    /// Whether all hold; `None`: not known.
    fn holds(&self, tests: &[Test]) -> Option<bool> {
        let mut all = Some(true);
        for test in tests {
            match self.test(test) {
                Some(false) => return Some(false),
                Some(true) => {}
                None => all = None,
            }
        }
        all
    }

    fn test(&self, test: &Test) -> Option<bool> {
        let seen = self.seen;
        let within = |ranges: &[(IpAddr, IpAddr)], ip| {
            ranges
                .iter()
                .any(|(first, last)| *first <= ip && ip <= *last)
        };
        let named = |names: &[String], name: &Option<String>| {
            let name = name.as_deref().unwrap_or_default();
            names.iter().any(|n| match n.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == n,
            })
        };
        let found = match &test.what {
            What::Source(ranges) => within(ranges, seen.source),
            What::Destination(ranges) => within(ranges, seen.destination),
            What::Protocol(numbers) => numbers.contains(&seen.protocol.number()),
            What::Port(ranges) => ranges.iter().any(|(a, b)| (*a..=*b).contains(&seen.port)),
            What::In(names) => named(names, &seen.input),
            What::Out(names) => named(names, &seen.output),
            What::State { new, translated } => *new || *translated && seen.translated,
            What::Family(family) => Family::of(&seen.destination) == *family,
            What::SourceLocal => self.node.has(&seen.source),
            What::DestinationLocal => self.node.has(&seen.destination),
            What::Unknown => return None,
        };
        Some(found != test.not)
    }
}

fn told(chain: &str, rule: &Rule) -> String {
    format!("{chain}: {}", rule.text)
}
