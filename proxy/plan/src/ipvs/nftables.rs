//! The rules beside IPVS as a table: a few chains, and maps by address, protocol and port, so that a packet costs the
//! same with any number of services.
//!
//! ```text
//! guards   address . protocol . port : goto drop, from-<ranges>-pass, ...      before anything is translated
//! sources  address . protocol . port : goto mask-all, mask-outsiders, ...      the mark, before IPVS takes the packet
//! short    address . protocol . port : address . port             another destination for those from inside
//! bound    address                   what IPVS left of a packet to one of these is refused (input, behind IPVS)
//! hairpin  address . address         an endpoint that was sent to itself
//! ```
//!
//! A packet to a service passes prerouting and input, where IPVS takes it (priority 99), then output and postrouting;
//! one from this node begins in output, where IPVS takes it at priority -98. Answers are forwarded.

use super::rules::{Dropped, Masquerade, Rules, Treatment};
use super::server::ServerKey;
use crate::model::Family;
use crate::nft::parts::{
    self, DSTNAT, GUARD, SRCNAT, first, itself, masquerade_marked, own_source, unserved,
};
use crate::nft::services::{Guard, HAIRPIN, PODS, TABLE, Then, source};
use crate::nft::table::{
    Chain, Field, Holds, Hook, Load, Name, Part, Place, Rule, Set, Table, Value, Verdict, Words,
    Writer,
};
use crate::options::Options;

/// Before destinations are translated too: marks go by what a packet was sent to.
const MARK: i32 = -105;
/// Behind IPVS (`NF_IP_PRI_NAT_SRC - 1`).
const BEHIND: i32 = SRCNAT;

/// The whole table of a family.
pub fn table(rules: &Rules, family: Family, options: &Options) -> Table {
    let mut table = frame(family, options);
    let keys = rules.keys.iter();
    for (key, treatment) in keys.filter(|(k, _)| Family::of(&k.address) == family) {
        put(&mut table, key, treatment, options);
    }
    let address = |a| Writer::default().address(a);
    for a in rules.bound.iter().filter(|a| Family::of(a) == family) {
        element(&mut table, BOUND, address(*a).words(), Value::None);
    }
    for (_, at) in &rules.hairpin {
        if Family::of(&at.ip()) == family {
            let pair = address(at.ip()).address(at.ip()).words();
            element(&mut table, HAIRPIN, pair, Value::None);
        }
    }
    table
}

/// Whether these are the rules beside IPVS, and not those of a mode that does without: their table has the same name.
pub fn is_beside(table: &Table) -> bool {
    table.sets.contains_key(SOURCES)
}

/// Fronts to guards.
const GUARDS: &str = "guards";
/// Fronts to whose sources are masked.
const SOURCES: &str = "sources";
/// Fronts to where those from inside go.
const SHORT: &str = "short";
/// Addresses on our link.
const BOUND: &str = "bound";

fn element(table: &mut Table, set: &str, key: Words, value: Value) {
    if let Some(set) = table.sets.get_mut(set) {
        set.elements.insert(key, value);
    }
}

fn put(table: &mut Table, key: &ServerKey, treatment: &Treatment, options: &Options) {
    let writer = Writer::default().address(key.address);
    let words = writer.protocol(key.protocol).port(key.port).words();
    if let Some(to) = treatment.short_way {
        let to = Writer::default().address(to.ip()).port(to.port());
        element(table, SHORT, words.clone(), Value::Fields(to.words()));
    }
    let goto = |chain: Name| Value::Verdict(Verdict::Goto(chain));
    let mask = match treatment.masquerade {
        Masquerade::All => "mask-all",
        Masquerade::NotPods => "mask-outsiders",
        Masquerade::Node => "mask-own",
    };
    element(table, SOURCES, words.clone(), goto(mask.into()));
    let guard = Guard {
        ranges: treatment.sources.clone(),
        then: match treatment.dropped {
            Dropped::Nobody => Then::Pass,
            Dropped::Outside => Then::DropOutsiders,
            Dropped::Everybody => Then::Drop,
        },
    };
    if guard == Guard::new(Then::Pass) {
        return;
    }
    if let (Some(name), Some(set)) = (guard.set_name(), guard.set(table.family)) {
        table.sets.insert(name, set);
    }
    let rules = guard.rules(options);
    let chain = Chain { hook: None, rules };
    table.chains.insert(guard.name(), chain);
    element(table, GUARDS, words, goto(guard.name()));
}

/// The table without any service.
fn frame(family: Family, options: &Options) -> Table {
    let mut table = Table::new(TABLE, family);
    let front = [Field::Address, Field::Protocol, Field::Port];
    let pair = [Field::Address, Field::Address];
    for (name, set) in [
        (GUARDS, Set::new(&front, Holds::Verdicts)),
        (SOURCES, Set::new(&front, Holds::Verdicts)),
        (
            SHORT,
            Set::new(&front, Holds::Fields(vec![Field::Address, Field::Port])),
        ),
        (BOUND, Set::new(&[Field::Address], Holds::Nothing)),
        (HAIRPIN, Set::new(&pair, Holds::Nothing)),
        (PODS, parts::nets(options.pod_nets(family).iter())),
    ] {
        table.sets.insert(name.into(), set);
    }
    for (name, hook, rules) in chains(options) {
        table.chains.insert(name.into(), Chain { hook, rules });
    }
    table
}

fn chains(options: &Options) -> Vec<(&'static str, Option<Hook>, Vec<Rule>)> {
    let at = |nat, place, priority| {
        Some(Hook {
            nat,
            place,
            priority,
        })
    };
    let key = || vec![Load::Destination, Load::Protocol, Load::Port];
    let decide = |map: &str| {
        let (key, map) = (key(), map.into());
        vec![vec![first(), Part::Decide { key, map }]]
    };
    let short = || Part::Translate {
        key: key(),
        map: SHORT.into(),
    };
    let insiders = source::insiders(options);
    let from_pods = insiders.map(|rule| [rule, vec![short()]].concat());
    let mark = Part::SetMark(options.masquerade_mark);
    let outsiders = source::outsiders(options).unwrap_or_default();
    let (before, after) = (
        at(false, Place::Prerouting, GUARD),
        at(false, Place::Prerouting, MARK),
    );
    vec![
        ("guard-prerouting", before, decide(GUARDS)),
        (
            "guard-output",
            at(false, Place::Output, GUARD),
            decide(GUARDS),
        ),
        ("mask-prerouting", after, decide(SOURCES)),
        (
            "mask-output",
            at(false, Place::Output, MARK),
            decide(SOURCES),
        ),
        (
            "nat-prerouting",
            at(true, Place::Prerouting, DSTNAT),
            from_pods.into_iter().collect(),
        ),
        (
            "nat-output",
            at(true, Place::Output, DSTNAT),
            vec![vec![short()]],
        ),
        ("mask-all", None, vec![vec![mark.clone()]]),
        (
            "mask-outsiders",
            None,
            vec![[outsiders, vec![mark.clone()]].concat()],
        ),
        ("mask-own", None, vec![vec![own_source(), mark]]),
        (
            "filter-input",
            at(false, Place::Input, BEHIND),
            vec![unserved(BOUND)],
        ),
        (
            "nat-postrouting",
            at(true, Place::Postrouting, BEHIND),
            postrouting(options),
        ),
    ]
}

fn postrouting(options: &Options) -> Vec<Rule> {
    vec![
        masquerade_marked(options.masquerade_mark),
        vec![itself(), Part::Masquerade],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::rules::tests::{example, options};
    use crate::nft::services;

    #[test]
    fn every_rule_has_its_place() {
        insta::assert_snapshot!(table(&example(), Family::V4, &options()));
    }

    #[test]
    fn another_modes_rules_are_told_from_these() {
        for family in [Family::V4, Family::V6] {
            assert!(is_beside(&table(&Rules::default(), family, &options())));
            let other = services::table(std::iter::empty(), family, &options());
            assert!(!is_beside(&other));
        }
    }

    #[test]
    fn every_verdict_has_its_chain() {
        for family in [Family::V4, Family::V6] {
            let table = table(&example(), family, &options());
            for value in table.sets.values().flat_map(|s| s.elements.values()) {
                if let Value::Verdict(Verdict::Goto(chain)) = value {
                    assert!(table.chains.contains_key(chain), "{chain}");
                }
            }
        }
    }
}
