//! A ruleset as a value: tables of chains of rules, in the very form `iptables-save` prints, so that what is
//! live and what is wanted can be compared as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use super::variant::KUBELET;

/// The tables we write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Refusals and acceptances.
    Filter,
    /// Translations.
    Nat,
}

impl Table {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Filter, Self::Nat]
            .into_iter()
            .find(|t| t.name() == name)
    }
}

/// A rule, without `-A CHAIN`. Chains that are put together anew share the text of rules that stay.
pub type Line = Arc<str>;

/// Our chains are those whose names begin so, but for a kubelet's.
const OURS: &str = "KUBE-";

fn is_ours(chain: &str) -> bool {
    chain.starts_with(OURS) && !KUBELET.contains(&chain)
}

/// Our chains, and our jumps from the built-in chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    chains: BTreeMap<(Table, String), Vec<Line>>,
    /// Rules in built-in chains that jump to ours, in order.
    jumps: BTreeMap<(Table, &'static str), Vec<Line>>,
}

/// Built-in chains that jumps may stand in.
const BUILTIN: &[&str] = &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

impl Ruleset {
    /// Adds a chain, empty if it is new.
    pub fn chain(&mut self, table: Table, name: impl Into<String>) -> &mut Vec<Line> {
        self.chains.entry((table, name.into())).or_default()
    }

    /// Adds a rule to a chain, without `-A CHAIN`.
    pub fn rule(&mut self, table: Table, chain: &str, rule: impl Into<Line>) {
        self.chain(table, chain).push(rule.into());
    }

    /// Adds a rule to a built-in chain.
    pub fn jump(&mut self, table: Table, chain: &'static str, rule: impl Into<Line>) {
        self.jumps
            .entry((table, chain))
            .or_default()
            .push(rule.into());
    }

    /// Rules of a chain.
    pub fn rules(&self, table: Table, chain: &str) -> Option<&[Line]> {
        self.chains
            .get(&(table, chain.to_owned()))
            .map(Vec::as_slice)
    }

    /// Replaces a chain's rules; gives those that it had, if it was there.
    pub fn replace(&mut self, table: Table, chain: String, rules: Vec<Line>) -> Option<Vec<Line>> {
        self.chains.insert((table, chain), rules)
    }

    /// Removes a chain; gives the rules that it had.
    pub fn remove(&mut self, table: Table, chain: &str) -> Option<Vec<Line>> {
        self.chains.remove(&(table, chain.to_owned()))
    }

    /// All chains with their rules; of built-in chains, our jumps.
    pub fn all(&self) -> impl Iterator<Item = (Table, &str, &[Line])> {
        let ours = self.chains.iter();
        let ours = ours.map(|((table, name), rules)| (*table, name.as_str(), rules.as_slice()));
        let jumps = self.jumps.iter();
        ours.chain(jumps.map(|((table, name), rules)| (*table, *name, rules.as_slice())))
    }

    /// Counts: chains and rules.
    pub fn size(&self) -> (usize, usize) {
        (
            self.chains.len(),
            self.chains
                .values()
                .chain(self.jumps.values())
                .map(Vec::len)
                .sum(),
        )
    }

    /// Reads back what `iptables-save` printed: only what is ours.
    pub fn parse(saved: &str) -> Self {
        let mut set = Self::default();
        let mut table = None;
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::parse(name.trim());
                continue;
            }
            let Some(table) = table else { continue };
            if let Some(chain) = line
                .strip_prefix(':')
                .and_then(|l| l.split_whitespace().next())
            {
                if is_ours(chain) {
                    set.chain(table, chain);
                }
            } else if let Some((chain, rule)) =
                line.strip_prefix("-A ").and_then(|l| l.split_once(' '))
            {
                if is_ours(chain) {
                    set.rule(table, chain, rule);
                } else if let Some(builtin) =
                    BUILTIN.iter().find(|b| **b == chain && jumps_to_ours(rule))
                {
                    set.jump(table, builtin, rule);
                }
            }
        }
        set
    }

    /// The input of `iptables-restore --noflush` that makes `self` out of `have`; `None`: nothing differs.
    /// A chain that differs is written anew; others are not named at all, so their rules and counters stay.
    pub fn transaction(&self, have: &Self) -> Option<String> {
        let differs =
            |(key, rules): &(&(Table, String), &Vec<Line>)| have.chains.get(*key) != Some(*rules);
        let changed = self
            .chains
            .iter()
            .filter(differs)
            .map(|(key, _)| key.clone());
        let gone = have.chains.keys().filter(|k| !self.chains.contains_key(*k));
        let chains = changed.chain(gone.cloned()).collect();
        self.write(&chains, |table, out| self.jump_changes(have, table, out))
    }

    /// The same where it is known which chains are other than they were, or gone, and that the jumps are as they were.
    pub fn partial(&self, chains: &BTreeSet<(Table, String)>) -> Option<String> {
        self.write(chains, |_, _| ())
    }

    fn write(
        &self,
        chains: &BTreeSet<(Table, String)>,
        jumps: impl Fn(Table, &mut String),
    ) -> Option<String> {
        let mut text = String::new();
        for table in [Table::Filter, Table::Nat] {
            let mut body = String::new();
            let mine = || {
                chains
                    .iter()
                    .filter(|(t, _)| *t == table)
                    .map(|(_, name)| name)
            };
            // Declared first (which empties them), so that any rule may jump to any chain.
            for name in mine() {
                let _ = writeln!(body, ":{name} - [0:0]");
            }
            jumps(table, &mut body);
            for (name, rules) in mine().filter_map(|n| Some((n, self.rules(table, n)?))) {
                lines(&mut body, &format!("-A {name}"), rules.iter());
            }
            for name in mine().filter(|n| self.rules(table, n).is_none()) {
                let _ = writeln!(body, "-X {name}");
            }
            if !body.is_empty() {
                let _ = write!(text, "*{}\n{body}COMMIT\n", table.name());
            }
        }
        (!text.is_empty()).then_some(text)
    }

    fn jump_changes(&self, have: &Self, table: Table, out: &mut String) {
        for chain in BUILTIN {
            let none = Vec::new();
            let want = self.jumps.get(&(table, *chain)).unwrap_or(&none);
            let is = have.jumps.get(&(table, *chain)).unwrap_or(&none);
            if want == is {
                continue;
            }
            lines(out, &format!("-D {chain}"), is.iter());
            // Ours come before what others appended: inserted last to first, each at the top.
            lines(out, &format!("-I {chain}"), want.iter().rev());
        }
    }

    /// What must change to make `self` out of `have`, a line each, in the words of iptables: for people. Rules that only
    /// stand in another order are told as such.
    pub fn differences(&self, have: &Self) -> String {
        let mut out = String::new();
        for key @ (table, name) in self.chains.keys() {
            if !have.chains.contains_key(key) {
                let _ = writeln!(out, "-t {} -N {name}", table.name());
            }
        }
        let none = Vec::new();
        let chains: BTreeSet<_> = have.chains.keys().chain(self.chains.keys()).collect();
        for key @ (table, name) in chains {
            let (is, want) = (have.chains.get(key), self.chains.get(key));
            let head = ("-A", *table, name.as_str());
            lines_of(&mut out, head, is.unwrap_or(&none), want.unwrap_or(&none));
        }
        let jumps: BTreeSet<_> = have.jumps.keys().chain(self.jumps.keys()).collect();
        for key @ (table, name) in jumps {
            let (is, want) = (have.jumps.get(key), self.jumps.get(key));
            let head = ("-I", *table, *name);
            lines_of(&mut out, head, is.unwrap_or(&none), want.unwrap_or(&none));
        }
        for key @ (table, name) in have.chains.keys() {
            if !self.chains.contains_key(key) {
                let _ = writeln!(out, "-t {} -X {name}", table.name());
            }
        }
        out
    }

    /// All as one would restore it into an empty kernel: for people and snapshots.
    pub fn render(&self) -> String {
        self.transaction(&Self::default()).unwrap_or_default()
    }
}

fn lines_of(
    out: &mut String,
    (add, table, chain): (&str, Table, &str),
    is: &[Line],
    want: &[Line],
) {
    let before = out.len();
    let table = table.name();
    for rule in is.iter().filter(|r| !want.contains(r)) {
        let _ = writeln!(out, "-t {table} -D {chain} {rule}");
    }
    for rule in want.iter().filter(|r| !is.contains(r)) {
        let _ = writeln!(out, "-t {table} {add} {chain} {rule}");
    }
    if out.len() == before && is != want {
        let _ = writeln!(
            out,
            "-t {table} {chain}: the same rules in another order, or more than once"
        );
    }
}

/// A line a rule, each with the same command before it.
fn lines<'a>(out: &mut String, command: &str, rules: impl Iterator<Item = &'a Line>) {
    for rule in rules {
        let _ = writeln!(out, "{command} {rule}");
    }
}

fn jumps_to_ours(rule: &str) -> bool {
    rule.split(' ')
        .skip_while(|w| *w != "-j")
        .nth(1)
        .is_some_and(is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(chains: &[(&str, &[&str])], jumps: &[&str]) -> Ruleset {
        let mut set = Ruleset::default();
        for (name, rules) in chains {
            set.chain(Table::Nat, *name)
                .extend(rules.iter().map(|r| Line::from(*r)));
        }
        jumps
            .iter()
            .for_each(|j| set.jump(Table::Nat, "OUTPUT", *j));
        set
    }

    #[test]
    fn only_what_differs_is_written() {
        let have = set(
            &[
                ("KUBE-A", &["-j KUBE-B"]),
                ("KUBE-B", &["-j RETURN"]),
                ("KUBE-C", &[]),
            ],
            &["-j KUBE-A"],
        );
        assert_eq!(have.transaction(&have), None);
        let want = set(
            &[
                ("KUBE-A", &["-j KUBE-B"]),
                ("KUBE-B", &["-j ACCEPT"]),
                ("KUBE-D", &[]),
            ],
            &["-j KUBE-A"],
        );
        let text = want.transaction(&have).expect("differs");
        assert_eq!(
            text,
            "*nat\n:KUBE-B - [0:0]\n:KUBE-C - [0:0]\n:KUBE-D - [0:0]\n-A KUBE-B -j ACCEPT\n-X KUBE-C\nCOMMIT\n"
        );
    }

    #[test]
    fn jumps_keep_their_order_and_foreign_rules_are_not_seen() {
        let saved = "*nat\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-A - [3:99]\n-A OUTPUT -j DOCKER\n-A OUTPUT -j KUBE-A\n-A DOCKER -j RETURN\n-A KUBE-A -j RETURN\nCOMMIT\n*raw\n:KUBE-A - [0:0]\nCOMMIT\n";
        let have = Ruleset::parse(saved);
        assert_eq!(have, set(&[("KUBE-A", &["-j RETURN"])], &["-j KUBE-A"]));
        let text = set(
            &[("KUBE-A", &["-j RETURN"])],
            &["-m x -j KUBE-A", "-j KUBE-A"],
        )
        .transaction(&have)
        .expect("differs");
        assert_eq!(
            text,
            "*nat\n-D OUTPUT -j KUBE-A\n-I OUTPUT -j KUBE-A\n-I OUTPUT -m x -j KUBE-A\nCOMMIT\n"
        );
        let nothing = Ruleset::default().transaction(&have).expect("differs");
        assert_eq!(
            nothing,
            "*nat\n:KUBE-A - [0:0]\n-D OUTPUT -j KUBE-A\n-X KUBE-A\nCOMMIT\n"
        );
    }

    #[test]
    fn differences_are_told_rule_by_rule() {
        let have = set(
            &[
                ("KUBE-A", &["-j KUBE-B", "-j KUBE-D"]),
                ("KUBE-B", &["-j RETURN", "-j ACCEPT"]),
                ("KUBE-C", &["-j DROP"]),
            ],
            &["-m x -j KUBE-A"],
        );
        assert_eq!(have.differences(&have), "");
        let want = set(
            &[
                ("KUBE-A", &["-j KUBE-B"]),
                ("KUBE-B", &["-j ACCEPT", "-j RETURN"]),
                ("KUBE-D", &["-j RETURN"]),
            ],
            &["-j KUBE-A"],
        );
        let lines = [
            "-t nat -N KUBE-D",
            "-t nat -D KUBE-A -j KUBE-D",
            "-t nat KUBE-B: the same rules in another order, or more than once",
            "-t nat -D KUBE-C -j DROP",
            "-t nat -A KUBE-D -j RETURN",
            "-t nat -D OUTPUT -m x -j KUBE-A",
            "-t nat -I OUTPUT -j KUBE-A",
            "-t nat -X KUBE-C",
        ];
        assert_eq!(want.differences(&have).lines().collect::<Vec<_>>(), lines);
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_back(chains in proptest::collection::btree_map("KUBE-[A-F]{1,3}", proptest::collection::vec("-j [A-Z]{1,5}", 0..4), 0..6)) {
            let mut want = Ruleset::default();
            for (name, rules) in chains {
                want.chain(Table::Filter, name)
                    .extend(rules.into_iter().map(Line::from));
            }
            prop_assert_eq!(Ruleset::parse(&want.render()), want);
        }
    }
}
