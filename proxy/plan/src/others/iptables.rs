//! Tables as `iptables-save` prints them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Chain, Does, Hook, Rule, Table, Test, What};
use crate::iptables::words;
use crate::model::Family;
use crate::nft::table::Place;

/// Tables, and the priority of their chains (`NF_IP_PRI_*`).
const TABLES: &[(&str, i32)] = &[
    ("raw", -300),
    ("mangle", -150),
    ("nat", -100),
    ("filter", 0),
    ("security", 50),
];
/// Where the table `nat` replaces sources.
const SOURCES: i32 = 100;

/// Built-in chains.
const PLACES: &[(&str, Place)] = &[
    ("PREROUTING", Place::Prerouting),
    ("INPUT", Place::Input),
    ("FORWARD", Place::Forward),
    ("OUTPUT", Place::Output),
    ("POSTROUTING", Place::Postrouting),
];

/// Chains of services are not others': they are walked as what they are.
const SERVICES: &str = "KUBE-";

/// A table's name, the table, and its rules with their chains: they name chains that come after them.
type Read<'a> = (&'a str, Table, Vec<(&'a str, &'a str)>);

/// All tables of a family, without services' chains. `program` is whose they are, for people.
pub fn tables(saved: &str, family: Family, program: &str) -> Vec<Table> {
    let mut tables: Vec<Read<'_>> = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let table = Table {
                name: format!("{program} table {name}"),
                family: Some(family),
                ..Table::default()
            };
            tables.push((name, table, Vec::new()));
        }
        let Some((name, table, rules)) = tables.last_mut() else {
            continue;
        };
        if let Some((chain, rest)) = line.strip_prefix(':').and_then(|l| l.split_once(' ')) {
            let hook = hook(name, chain, rest.starts_with("DROP"));
            let rules = Vec::new();
            table.chains.insert(chain.to_owned(), Chain { hook, rules });
        } else if let Some(rule) = line.strip_prefix("-A ").and_then(|l| l.split_once(' ')) {
            rules.push(rule);
        }
    }
    let understood = tables.into_iter().map(|(_, mut table, rules)| {
        for (name, text) in rules {
            let rule = rule(text, &table.chains);
            let to = match &rule.does {
                Does::Jump(to) | Does::Goto(to) => to.as_str(),
                _ => "",
            };
            let ours = name.starts_with(SERVICES) || to.starts_with(SERVICES);
            if let Some(chain) = table.chains.get_mut(name).filter(|_| !ours) {
                chain.rules.push(rule);
            }
        }
        table
    });
    understood.collect()
}

fn hook(table: &str, chain: &str, drops: bool) -> Option<Hook> {
    let (_, place) = PLACES.iter().find(|(name, _)| *name == chain)?;
    let (_, priority) = TABLES.iter().find(|(name, _)| *name == table)?;
    let nat = table == "nat";
    let sources = nat && matches!(place, Place::Input | Place::Postrouting);
    Some(Hook {
        place: *place,
        priority: if sources { SOURCES } else { *priority },
        nat,
        drops,
    })
}

/// Modules that match nothing by their name alone, and whose options are known or said to be not.
const MODULES: &[&str] = &[
    "addrtype",
    "comment",
    "conntrack",
    "multiport",
    "sctp",
    "state",
    "tcp",
    "udp",
];

/// Options that are understood; each has a value.
const OPTIONS: &[&str] = &[
    "-s",
    "-d",
    "-p",
    "-i",
    "-o",
    "--dport",
    "--dports",
    "--ctstate",
    "--state",
    "--ctstatus",
    "--src-type",
    "--dst-type",
];

/// Targets after which the next rule is looked at.
const PLAIN: &[&str] = &[
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DSCP",
    "LOG",
    "MARK",
    "NFLOG",
    "NOTRACK",
    "SECMARK",
    "SET",
    "TCPMSS",
    "TOS",
    "TRACE",
    "TTL",
    "ULOG",
];

fn rule(text: &str, chains: &BTreeMap<String, Chain>) -> Rule {
    let mut rule = Rule {
        text: text.to_owned(),
        tests: Vec::new(),
        does: Does::Nothing,
    };
    let Ok(all) = words(text) else {
        (rule.tests, rule.does) = (vec![What::Unknown.into()], Does::Unknown);
        return rule;
    };
    let (mut words, mut not) = (all.iter().map(String::as_str), false);
    while let Some(word) = words.next() {
        match word {
            "!" => {
                not = true;
                continue;
            }
            "--comment" => drop(words.next()),
            "-m" => {
                let known = words.next().is_some_and(|m| MODULES.contains(&m));
                let unknown = (!known).then(|| What::Unknown.into());
                rule.tests.extend(unknown);
            }
            "-j" | "-g" => {
                let to = words.next().unwrap_or_default();
                rule.does = does(word, to, chains);
                // What follows are the target's own options.
                break;
            }
            option if OPTIONS.contains(&option) => {
                let value = words.next().unwrap_or_default();
                let what = what(option, value).unwrap_or(What::Unknown);
                rule.tests.push(Test { what, not });
            }
            // How many values it has isn't known: they are passed over, as they don't begin so.
            option if option.starts_with('-') => rule.tests.push(What::Unknown.into()),
            _ => {}
        }
        not = false;
    }
    rule
}

fn does(how: &str, to: &str, chains: &BTreeMap<String, Chain>) -> Does {
    match to {
        "ACCEPT" => Does::Accept,
        "DROP" => Does::Drop,
        "REJECT" => Does::Refuse,
        "RETURN" => Does::Return,
        "DNAT" | "MASQUERADE" | "NETMAP" | "REDIRECT" | "SNAT" => Does::Translate,
        plain if PLAIN.contains(&plain) => Does::Nothing,
        chain if chains.contains_key(chain) && how == "-g" => Does::Goto(chain.into()),
        chain if chains.contains_key(chain) => Does::Jump(chain.into()),
        _ => Does::Unknown,
    }
}

fn what(option: &str, value: &str) -> Option<What> {
    let any = |name: &str| value.split(',').any(|v| v == name);
    Some(match option {
        "-s" => What::Source(vec![net(value)?]),
        "-d" => What::Destination(vec![net(value)?]),
        "-p" => What::Protocol(protocols(value)?),
        "-i" => What::In(vec![value.replace('+', "*")]),
        "-o" => What::Out(vec![value.replace('+', "*")]),
        "--dport" => What::Port(vec![ports(value)?]),
        "--dports" => What::Port(value.split(',').map(ports).collect::<Option<_>>()?),
        "--ctstate" | "--state" => What::State {
            new: any("NEW"),
            translated: any("DNAT"),
        },
        "--ctstatus" if value == "DNAT" => What::State {
            new: false,
            translated: true,
        },
        "--src-type" if value == "LOCAL" => What::SourceLocal,
        "--dst-type" if value == "LOCAL" => What::DestinationLocal,
        _ => return None,
    })
}

fn net(text: &str) -> Option<(IpAddr, IpAddr)> {
    let net = text.parse::<IpNet>().ok();
    let net = net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    Some((net.network(), net.broadcast()))
}

/// Numbers of protocols by name, those of services and those that are no service's.
fn protocols(name: &str) -> Option<Vec<u8>> {
    let known = [
        ("tcp", 6),
        ("udp", 17),
        ("sctp", 132),
        ("icmp", 1),
        ("ipv6-icmp", 58),
        ("igmp", 2),
        ("gre", 47),
        ("esp", 50),
        ("ah", 51),
    ];
    let named = known.iter().find(|(n, _)| *n == name).map(|(_, n)| *n);
    named.or_else(|| name.parse().ok()).map(|n| vec![n])
}

/// `PORT` or `FIRST:LAST`.
fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}
