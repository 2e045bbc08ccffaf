//! Host ports in iptables, for machines without nftables and for options that speak its language. Plans are made from
//! what `iptables-save -t nat` prints and are what `iptables-restore --noflush` reads. A chain each container; those
//! that came last are asked first.
//!
//! ```text
//! PREROUTING, OUTPUT -> KEELSON-HOSTPORTS -> KEELSON-HP-<attachment> { mark, translate }
//! POSTROUTING -> KEELSON-HP-MASQ-13 { with bit 13: masquerade }
//! ```

use std::fmt::Write;

use super::{Forward, Mark, Wanted};

const TOP: &str = "KEELSON-HOSTPORTS";
/// Ports that `multiport` takes.
const PORTS: usize = 15;

/// Whether iptables takes it as a chain's name.
pub(super) fn valid_chain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-:".contains(c);
    (1..=28).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('-')
}

/// An attachment's own chain, by what its rules are tagged with: a link's name first.
fn own_chain(owner: &str) -> String {
    let link = owner.split(' ').next().unwrap_or_default();
    let own = link.strip_prefix(crate::names::LINK).unwrap_or(link);
    format!("KEELSON-HP-{own}")
}

struct Plan<'a> {
    saved: &'a str,
    chains: String,
    rules: String,
}

impl<'a> Plan<'a> {
    fn new(saved: &'a str) -> Self {
        Self {
            saved,
            chains: String::new(),
            rules: String::new(),
        }
    }

    fn has_chain(&self, name: &str) -> bool {
        self.saved
            .lines()
            .any(|l| l.starts_with(&format!(":{name} ")))
    }

    /// Makes a chain if it is not there, with a rule; naming one that is there would empty it.
    fn chain(&mut self, name: &str, rule: Option<&str>) {
        if !self.has_chain(name) {
            let _ = writeln!(self.chains, ":{name} - [0:0]");
            if let Some(rule) = rule {
                self.rule(&format!("-A {name} {rule}"));
            }
        }
    }

    /// Leads to a chain if nothing does.
    fn jump(&mut self, how: &str, from: &str, condition: &str, to: &str) {
        if !leads(self.saved, from, to) {
            self.rule(&format!("{how} {from} {condition}-j {to}"));
        }
    }

    fn rule(&mut self, rule: &str) {
        let _ = writeln!(self.rules, "{rule}");
    }

    fn text(self) -> Option<String> {
        let empty = self.chains.is_empty() && self.rules.is_empty();
        (!empty).then(|| format!("*nat\n{}{}COMMIT\n", self.chains, self.rules))
    }
}

fn leads(saved: &str, from: &str, to: &str) -> bool {
    let (begin, end) = (format!("-A {from} "), format!("-j {to}"));
    let rules = saved.lines().filter(|l| l.starts_with(&begin));
    rules.filter(|l| l.ends_with(&end)).count() > 0
}

/// Rules that lead to an attachment's chain.
fn entries<'a>(saved: &'a str, chain: &str) -> Vec<&'a str> {
    let target = format!(" -j {chain}");
    let top = format!("-A {TOP} ");
    let all = saved.lines().filter_map(|l| l.strip_prefix(&top));
    all.filter(|rule| rule.ends_with(&target)).collect()
}

/// The rules of an attachment's own chain.
fn own_rules(wanted: &Wanted) -> Vec<String> {
    let target = match &wanted.mark {
        Mark::Bit(bit) => format!("MARK --set-xmark {0:#x}/{0:#x}", 1u32 << bit),
        Mark::Chain(chain) => chain.clone(),
    };
    let mut rules = Vec::new();
    for forward in &wanted.forwards {
        let front = front(forward);
        for source in &wanted.sources {
            rules.push(format!("-s {source} {front} -j {target}"));
        }
        let (ip, port) = forward.to;
        let to = std::net::SocketAddr::new(ip, port);
        rules.push(format!("{front} -j DNAT --to-destination {to}"));
    }
    rules
}

fn front(forward: &Forward) -> String {
    let name = forward.protocol.name();
    let front = format!("-p {name} -m {name} --dport {}", forward.port);
    match forward.host {
        Some(host) => format!("-d {host} {front}"),
        None => front,
    }
}

/// Which ports lead to the attachment's chain: protocol by protocol, as many at a time as fit.
fn matches(wanted: &Wanted, owner: &str) -> Vec<String> {
    let conditions = wanted.conditions.iter().map(|c| format!(" {}", quote(c)));
    let conditions: String = conditions.collect();
    let mut all = Vec::new();
    for protocol in super::Protocol::ALL {
        let own = wanted.forwards.iter().filter(|f| f.protocol == protocol);
        let mut ports: Vec<String> = own.map(|f| f.port.to_string()).collect();
        ports.dedup();
        for some in ports.chunks(PORTS) {
            let (name, ports) = (protocol.name(), some.join(","));
            // First the owner: conditions may have comments too.
            let comment = format!("-m comment --comment \"{owner}\"");
            all.push(format!(
                "-p {name} -m multiport --dports {ports} {comment}{conditions}"
            ));
        }
    }
    all
}

/// A word that the program reads as one.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/,!=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What adds an attachment's rules, in place of those it had.
pub fn add(saved: &str, wanted: &Wanted, owner: &str) -> String {
    let own = own_chain(owner);
    let mut plan = Plan::new(saved);
    plan.chain(TOP, None);
    for from in ["PREROUTING", "OUTPUT"] {
        plan.jump("-A", from, "-m addrtype --dst-type LOCAL ", TOP);
    }
    if let (Mark::Bit(bit), false) = (&wanted.mark, wanted.sources.is_empty()) {
        let chain = format!("KEELSON-HP-MASQ-{bit}");
        let rule = format!("-m mark --mark {0:#x}/{0:#x} -j MASQUERADE", 1u32 << bit);
        plan.chain(&chain, Some(&rule));
        // Before those that other plugins masquerade or don't.
        plan.jump("-I", "POSTROUTING", "", &chain);
    }
    for entry in entries(saved, &own) {
        plan.rule(&format!("-D {TOP} {entry}"));
    }
    // Naming it empties it.
    let _ = writeln!(plan.chains, ":{own} - [0:0]");
    for rule in own_rules(wanted) {
        plan.rule(&format!("-A {own} {rule}"));
    }
    for ports in matches(wanted, owner) {
        plan.rule(&format!("-I {TOP} 1 {ports} -j {own}"));
    }
    plan.text().unwrap_or_default()
}

/// What removes the rules of owners that are gone; `None` where there are none.
pub fn remove(saved: &str, gone: impl Fn(&str) -> bool) -> Option<String> {
    let mut plan = Plan::new(saved);
    let top = format!("-A {TOP} ");
    let mut chains = Vec::new();
    for rule in saved.lines().filter_map(|l| l.strip_prefix(&top)) {
        let comment = rule.split("--comment \"").nth(1);
        let owner = comment.and_then(|c| c.split('"').next());
        let owner = owner.unwrap_or_default();
        if gone(owner) {
            plan.rule(&format!("-D {TOP} {rule}"));
            let own = own_chain(owner);
            if !chains.contains(&own) {
                chains.push(own);
            }
        }
    }
    for chain in chains.iter().filter(|c| Plan::new(saved).has_chain(c)) {
        let _ = writeln!(plan.chains, ":{chain} - [0:0]");
        let _ = writeln!(plan.rules, "-X {chain}");
    }
    plan.text()
}

/// What is not there of what an attachment is to have.
pub fn missing(saved: &str, wanted: &Wanted, owner: &str) -> Option<String> {
    let own = own_chain(owner);
    let count = |chain: &str| {
        let begin = format!("-A {chain} ");
        saved.lines().filter(|l| l.starts_with(&begin)).count()
    };
    let there = entries(saved, &own).len();
    if there < matches(wanted, owner).len() || count(&own) < own_rules(wanted).len() {
        return Some(format!("rules of chain {own} are gone"));
    }
    let lost = ["PREROUTING", "OUTPUT"]
        .into_iter()
        .find(|from| !leads(saved, from, TOP))?;
    Some(format!("chain {lost} does not lead to {TOP}"))
}
