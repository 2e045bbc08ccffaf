//! Walks a packet through the rules, as the kernel does: for tests, and for people who ask where it goes and why.
//! Rules are read from their text, of ours or of what `iptables-save` printed; one that isn't understood is an error.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::rule::{Match, Rule, Target, parse};
use super::ruleset::{Ruleset, Table};
use crate::packet::{Node, Outcome, Packet};
use crate::walk::{self, End, Step, Way};

/// Jumps within jumps, at most: more are a loop, which the kernel doesn't take.
const DEPTH: usize = 16;

/// Ways through one ruleset, at most: a service's endpoints, all of them.
const WAYS: usize = 65_536;

/// A ruleset, understood.
#[derive(Clone, Debug)]
pub struct Rules {
    chains: BTreeMap<Table, HashMap<String, Chain>>,
}

#[derive(Clone, Debug)]
struct Chain {
    /// For people: its table and its name.
    name: Arc<str>,
    rules: Vec<(Arc<str>, Rule)>,
}

/// The tables that a packet goes through at a hook, in the kernel's order.
const HOOKS: &[(&str, &[Table])] = &[
    ("PREROUTING", &[Table::Nat]),
    ("INPUT", &[Table::Filter, Table::Nat]),
    ("FORWARD", &[Table::Filter]),
    ("OUTPUT", &[Table::Nat, Table::Filter]),
    ("POSTROUTING", &[Table::Nat]),
];

/// By which interface packets come that a node sends to itself.
const LOOPBACK: &str = "lo";

impl Rules {
    /// Understands all rules; the error names the one that isn't understood.
    pub fn new(set: &Ruleset) -> Result<Self, String> {
        let mut chains = BTreeMap::<_, HashMap<_, _>>::new();
        for (table, name, rules) in set.all() {
            let understood = rules.iter().map(|text| {
                let rule = parse(text)
                    .map_err(|e| format!("-t {} -A {name} {text}: {e}", table.name()))?;
                Ok((text.clone(), rule))
            });
            let chain = Chain {
                name: format!("{} {name}", table.name()).into(),
                rules: understood.collect::<Result<_, String>>()?,
            };
            chains
                .entry(table)
                .or_default()
                .insert(name.to_owned(), chain);
        }
        Ok(Self { chains })
    }

    /// All ways that a packet may take: as many as its endpoint is chosen from. Who was sent to an endpoint before
    /// (session affinity) is not known here: it is the way of a client who comes for the first time.
    pub fn ways(&self, node: &Node, packet: &Packet) -> Result<Vec<Way>, String> {
        let (mut ways, mut choices) = (Vec::new(), Vec::new());
        loop {
            let mut walker = Walker::new(self, node, packet, &choices);
            let end = walker.hooks()?;
            let chosen = std::mem::take(&mut walker.chosen);
            ways.push(walker.way(end));
            choices = chosen;
            // The last that was chosen is not chosen next; what comes after it is open again.
            while choices.last() == Some(&false) {
                choices.pop();
            }
            match choices.last_mut() {
                Some(last) => *last = false,
                None => return Ok(ways),
            }
            if ways.len() > WAYS {
                return Err(format!("more than {WAYS} ways"));
            }
        }
    }

    /// What becomes of a packet, whatever is chosen.
    pub fn outcome(&self, node: &Node, packet: &Packet) -> Result<Outcome, String> {
        walk::outcome(&self.ways(node, packet)?)
    }
}

/// What a chain or a rule ends with, if it ends the walk through this table.
enum Stop {
    Accept,
    End(End),
    /// A chain goes on after the rule that jumped.
    Return,
}

struct Walker<'a> {
    rules: &'a Rules,
    node: &'a Node,
    packet: Packet,
    mark: u32,
    translated: bool,
    masked: bool,
    choices: &'a [bool],
    chosen: Vec<bool>,
    probability: f64,
    steps: Vec<Step>,
}

impl<'a> Walker<'a> {
    fn new(rules: &'a Rules, node: &'a Node, packet: &Packet, choices: &'a [bool]) -> Self {
        Self {
            rules,
            node,
            packet: packet.clone(),
            mark: 0,
            translated: false,
            masked: false,
            choices,
            chosen: Vec::new(),
            probability: 1.0,
            steps: Vec::new(),
        }
    }

    fn hooks(&mut self) -> Result<Option<End>, String> {
        let own = self.packet.interface.is_none();
        let first: &[&str] = if own {
            &["OUTPUT", "POSTROUTING"]
        } else {
            &["PREROUTING"]
        };
        if let Some(end) = self.through(first)? {
            return Ok(Some(end));
        }
        let here = self.node.has(&self.packet.destination);
        match (own, here) {
            // It comes back at once; a connection's destination is translated but once, so PREROUTING is not asked.
            (true, true) => {
                self.packet.interface = Some(LOOPBACK.into());
                self.through(&["INPUT"])
            }
            (true, false) => Ok(None),
            (false, true) => self.through(&["INPUT"]),
            (false, false) => self.through(&["FORWARD", "POSTROUTING"]),
        }
    }

    fn through(&mut self, hooks: &[&str]) -> Result<Option<End>, String> {
        for (hook, tables) in hooks
            .iter()
            .filter_map(|h| HOOKS.iter().find(|(n, _)| n == h))
        {
            for table in *tables {
                if let Some(Stop::End(end)) = self.chain(*table, hook, 0)? {
                    return Ok(Some(end));
                }
            }
        }
        Ok(None)
    }

    fn chain(&mut self, table: Table, name: &str, depth: usize) -> Result<Option<Stop>, String> {
        let chains = self.rules.chains.get(&table);
        let Some(chain) = chains.and_then(|c| c.get(name)) else {
            // Nothing of ours in a built-in chain.
            let missing = || format!("-t {} has no chain {name}", table.name());
            return if depth == 0 { Ok(None) } else { Err(missing()) };
        };
        if depth > DEPTH {
            return Err(format!("-t {} {name}: jumps go round", table.name()));
        }
        for (text, rule) in &chain.rules {
            if !rule.matches.iter().all(|(m, not)| self.matches(m) != *not) {
                continue;
            }
            self.steps.push(Step {
                chain: chain.name.clone(),
                rule: text.to_string(),
            });
            if let Some(stop) = self.target(table, &rule.target, depth)? {
                return Ok(Some(stop));
            }
        }
        Ok(None)
    }

    fn target(
        &mut self,
        table: Table,
        target: &Target,
        depth: usize,
    ) -> Result<Option<Stop>, String> {
        Ok(Some(match target {
            Target::None => return Ok(None),
            Target::Jump(to) => {
                let stop = self.chain(table, to, depth + 1)?;
                return Ok(stop.filter(|s| !matches!(s, Stop::Return)));
            }
            Target::Return => Stop::Return,
            Target::Accept => Stop::Accept,
            Target::Drop => Stop::End(End::Dropped),
            Target::Reject => Stop::End(End::Refused),
            Target::Mark(value, mask) => {
                self.mark = (self.mark & !mask) ^ value;
                return Ok(None);
            }
            Target::Dnat(ip, port) => {
                self.translate(*ip, *port);
                Stop::Accept
            }
            Target::Redirect(port) => {
                let ip: IpAddr = match self.packet.destination {
                    IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                self.translate(ip, *port);
                Stop::Accept
            }
            Target::Masquerade => {
                self.masked = true;
                Stop::Accept
            }
        }))
    }

    fn translate(&mut self, ip: IpAddr, port: Option<u16>) {
        self.packet.destination = ip;
        self.packet.port = port.unwrap_or(self.packet.port);
        self.translated = true;
    }

    fn matches(&mut self, what: &Match) -> bool {
        let packet = &self.packet;
        match what {
            Match::Source(net) => net.contains(&packet.source),
            Match::Destination(net) => net.contains(&packet.destination),
            Match::Protocol(protocol) => packet.protocol == *protocol,
            Match::Port(port) => packet.port == *port,
            Match::Interface(name) => {
                // A packet that comes from here has no such interface: its name is empty.
                let found = packet.interface.as_deref().unwrap_or_default();
                match name.strip_suffix('+') {
                    Some(prefix) => found.starts_with(prefix),
                    None => found == name,
                }
            }
            Match::SourceLocal => self.node.has(&packet.source),
            Match::DestinationLocal => self.node.has(&packet.destination),
            Match::State(states) => states.iter().any(|s| match &**s {
                "NEW" => true,
                "DNAT" => self.translated,
                "SNAT" => self.masked,
                _ => false,
            }),
            Match::Translated => self.translated,
            Match::Mark(value, mask) => self.mark & mask == *value,
            Match::Chance(probability) => {
                let chosen = self.choices.get(self.chosen.len()).copied().unwrap_or(true);
                self.chosen.push(chosen);
                self.probability *= if chosen {
                    *probability
                } else {
                    1.0 - probability
                };
                chosen
            }
            Match::Recent => false,
        }
    }

    fn way(self, end: Option<End>) -> Way {
        let outcome = walk::over(end, &self.packet, self.translated, self.masked);
        Way {
            outcome,
            // Saturates where the probability is nothing.
            of: (1.0 / self.probability).round() as u32,
            steps: self.steps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn packet(interface: Option<&str>) -> Packet {
        Packet {
            source: [10, 42, 0, 2].into(),
            destination: [10, 43, 0, 9].into(),
            protocol: Protocol::Tcp,
            port: 80,
            interface: interface.map(str::to_owned),
        }
    }

    fn rules(rules: &[(Table, &str, &str)]) -> Result<Rules, String> {
        let mut set = Ruleset::default();
        for (table, chain, rule) in rules {
            match *chain {
                "PREROUTING" => set.jump(*table, "PREROUTING", *rule),
                "FORWARD" => set.jump(*table, "FORWARD", *rule),
                chain => set.rule(*table, chain, *rule),
            }
        }
        Rules::new(&set)
    }

    #[test]
    fn what_is_not_known_is_named() {
        let error = rules(&[(Table::Nat, "KUBE-A", "-m set --match-set x dst -j DROP")])
            .expect_err("unknown");
        assert_eq!(
            error,
            "-t nat -A KUBE-A -m set --match-set x dst -j DROP: -m set"
        );
        let round = [
            (Table::Nat, "PREROUTING", "-j KUBE-A"),
            (Table::Nat, "KUBE-A", "-j KUBE-A"),
        ];
        let round = rules(&round)
            .expect("rules")
            .ways(&Node::default(), &packet(Some("eth0")));
        assert_eq!(round.expect_err("a loop"), "-t nat KUBE-A: jumps go round");
        let nowhere = rules(&[(Table::Nat, "PREROUTING", "-j KUBE-A")]).expect("rules");
        let error = nowhere.outcome(&Node::default(), &packet(Some("eth0")));
        assert_eq!(error.expect_err("missing"), "-t nat has no chain KUBE-A");
    }

    #[test]
    fn each_choice_is_a_way_with_its_chance() {
        let third = "-m statistic --mode random --probability 0.33333333349 -j DNAT --to-destination 10.42.0.2:1";
        let half = "-m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 10.42.0.3:2";
        let set = rules(&[
            (Table::Nat, "PREROUTING", "-d 10.43.0.9/32 -j KUBE-A"),
            (Table::Nat, "KUBE-A", third),
            (Table::Nat, "KUBE-A", half),
            (Table::Nat, "KUBE-A", "-j DNAT --to-destination 10.42.0.4"),
            (Table::Filter, "FORWARD", "-d 10.42.0.3/32 -j KUBE-B"),
            (Table::Filter, "KUBE-B", "-j DROP"),
        ])
        .expect("rules");
        let ways = set
            .ways(&Node::default(), &packet(Some("eth0")))
            .expect("ways");
        let found: Vec<_> = ways
            .iter()
            .map(|w| (w.of, w.lines().pop().unwrap_or_default()))
            .collect();
        let want = [
            "to 10.42.0.2:1 from its own address",
            "dropped",
            "to 10.42.0.4:80 from its own address",
        ];
        assert_eq!(found, want.map(|text| (3, text.to_owned())));
        assert!(walk::outcome(&ways).is_err(), "dropped by chance");
        let own = set.outcome(&Node::default(), &packet(None));
        assert_eq!(own, Ok(Outcome::Pass), "no rule in OUTPUT");
    }
}
