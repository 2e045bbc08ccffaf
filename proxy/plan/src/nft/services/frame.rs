//! What is in the table whatever the services are: base chains, shared sets, and who looks into which map in which order.

use super::TABLE;
use super::names::{CLUSTER_IPS, HAIRPIN, Maps, NODE_PORT_NETS, PATHS, PODS, clients};
use super::source;
use crate::model::Family;
use crate::nft::parts::{
    self, DSTNAT, GUARD, SRCNAT, bits, first, itself, masquerade_marked, translated, unserved,
};
use crate::nft::table::{
    Chain, Field, Holds, Hook, LOCAL, Load, Name, Part, Place, Rule, Set, Table, Verdict, state,
    status,
};
use crate::options::{Options, loopback};

/// After destinations are translated.
const REMEMBER: i32 = -90;
/// Where packets are filtered (`NF_IP_PRI_FILTER`).
const FILTER: i32 = 0;
/// The table without any service.
pub(super) fn frame(family: Family, options: &Options) -> Table {
    let mut table = Table::new(TABLE, family);
    let address = [Field::Address];
    let pair = [Field::Address, Field::Address];
    table
        .sets
        .insert(CLUSTER_IPS.into(), Set::new(&address, Holds::Nothing));
    table
        .sets
        .insert(HAIRPIN.into(), Set::new(&pair, Holds::Nothing));
    table
        .sets
        .insert(PATHS.into(), Set::new(&[Field::Class], Holds::Verdicts));
    for (name, nets) in [
        (PODS, options.pod_nets(family)),
        (NODE_PORT_NETS, options.node_port_nets(family)),
    ] {
        table.sets.insert(name.into(), parts::nets(nets.iter()));
    }
    table.sets.extend(clients());
    for node_port in [false, true] {
        table.sets.extend(Maps::of(node_port).sets());
    }
    let frame = Frame { family, options };
    for (name, hook, rules) in frame.chains() {
        table.chains.insert(name.into(), Chain { hook, rules });
    }
    table
}

struct Frame<'a> {
    family: Family,
    options: &'a Options,
}

impl Frame<'_> {
    fn chains(&self) -> Vec<(&'static str, Option<Hook>, Vec<Rule>)> {
        let at = |nat, place, priority| {
            Some(Hook {
                nat,
                place,
                priority,
            })
        };
        let guard = |place| at(false, place, GUARD);
        let on_loopback = self.options.node_ports_on_loopback(self.family);
        vec![
            (
                "guard-prerouting",
                guard(Place::Prerouting),
                self.guard(true),
            ),
            (
                "guard-output",
                guard(Place::Output),
                self.guard(!on_loopback),
            ),
            (
                "nat-prerouting",
                at(true, Place::Prerouting, DSTNAT),
                self.prerouting(),
            ),
            ("nat-output", at(true, Place::Output, DSTNAT), self.output()),
            (
                "remember-prerouting",
                at(false, Place::Prerouting, REMEMBER),
                self.remember(true),
            ),
            (
                "remember-output",
                at(false, Place::Output, REMEMBER),
                self.remember(false),
            ),
            (
                "filter-input",
                at(false, Place::Input, FILTER),
                self.input(),
            ),
            (
                "filter-forward",
                at(false, Place::Forward, FILTER),
                self.forward(),
            ),
            (
                "filter-output",
                at(false, Place::Output, FILTER),
                vec![unserved(CLUSTER_IPS)],
            ),
            (
                "nat-postrouting",
                at(true, Place::Postrouting, SRCNAT),
                self.postrouting(),
            ),
        ]
    }

    fn guard(&self, without_loopback: bool) -> Vec<Rule> {
        let (addresses, nodes) = (Maps::of(false), Maps::of(true));
        let node = self.to_node(without_loopback);
        let new = || vec![first()];
        vec![
            [new(), vec![decide(&addresses, addresses.guards())]].concat(),
            [new(), node, vec![decide(&nodes, nodes.guards())]].concat(),
        ]
    }

    /// A service's address goes before the node's own.
    fn prerouting(&self) -> Vec<Rule> {
        let (addresses, nodes) = (Maps::of(false), Maps::of(true));
        let from_outside = source::outsiders(self.options).unwrap_or_default();
        let node = || self.to_node(true);
        let outside = || from_outside.clone();
        vec![
            [outside(), sent(&addresses, addresses.outside())].concat(),
            sent(&addresses, addresses.services()),
            [node(), outside(), sent(&nodes, nodes.outside())].concat(),
            [node(), sent(&nodes, nodes.services())].concat(),
        ]
    }

    fn output(&self) -> Vec<Rule> {
        let (addresses, nodes) = (Maps::of(false), Maps::of(true));
        let node = self.to_node(!self.options.node_ports_on_loopback(self.family));
        vec![
            sent(&addresses, addresses.services()),
            [node, sent(&nodes, nodes.services())].concat(),
        ]
    }

    /// The same order as when the path was chosen: what was chosen for those from outside is remembered apart.
    fn remember(&self, prerouting: bool) -> Vec<Rule> {
        let rule = |from: Rule, maps: Maps, outside| {
            let decide = Part::Decide {
                key: maps.original_key(),
                map: maps.remember(outside),
            };
            [vec![first(), translated()], from, vec![decide]].concat()
        };
        let from_outside = || source::outsiders(self.options).unwrap_or_default();
        let mut rules = Vec::new();
        for maps in [Maps::of(false), Maps::of(true)] {
            if prerouting {
                rules.push(rule(from_outside(), maps, true));
            }
            rules.push(rule(Rule::new(), maps, false));
        }
        rules
    }

    /// Matches what is sent to an address of this node on which node ports are reached.
    fn to_node(&self, without_loopback: bool) -> Rule {
        let mut rule = vec![Part::Is {
            load: Load::DestinationType,
            bytes: LOCAL.to_ne_bytes().into(),
            not: false,
        }];
        if without_loopback {
            rule.push(Part::Within {
                load: Load::Destination,
                net: loopback(self.family),
                not: true,
            });
        }
        if !self.options.node_port_nets.is_empty() {
            rule.push(Part::In {
                key: vec![Load::Destination],
                set: NODE_PORT_NETS.into(),
                not: false,
            });
        }
        rule
    }

    /// Node ports on 127.0.0.1 need `route_localnet`, which lets neighbours send to this machine's loopback
    /// addresses (CVE-2020-8558): nothing comes in from elsewhere for them.
    fn input(&self) -> Vec<Rule> {
        if !self.options.node_ports_on_loopback(self.family) {
            return Vec::new();
        }
        let net = loopback(self.family);
        let within = |load, not| Part::Within { load, net, not };
        let none_of = |load, mask| Part::Bits {
            load,
            mask,
            not: true,
        };
        vec![vec![
            Part::Is {
                load: Load::Interface,
                bytes: (*b"lo\0").into(),
                not: true,
            },
            within(Load::Destination, false),
            within(Load::Source, true),
            none_of(Load::State, state::ESTABLISHED | state::RELATED),
            none_of(Load::Status, status::DNAT),
            Part::Verdict(Verdict::Drop),
        ]]
    }

    /// A packet that conntrack can't place is not translated back: its receiver would see a stranger and reset
    /// the connection.
    fn forward(&self) -> Vec<Rule> {
        let invalid = bits(Load::State, state::INVALID);
        let mut drop = vec![invalid];
        drop.extend(source::insiders(self.options).unwrap_or_default());
        drop.push(Part::Verdict(Verdict::Drop));
        vec![drop, unserved(CLUSTER_IPS)]
    }

    fn postrouting(&self) -> Vec<Rule> {
        vec![
            masquerade_marked(self.options.masquerade_mark),
            vec![translated(), itself(), Part::Masquerade],
        ]
    }
}

/// On by the path of a front's class.
fn sent(maps: &Maps, map: Name) -> Rule {
    let key = maps.key();
    let path = Part::Decide {
        key: vec![Load::Class],
        map: PATHS.into(),
    };
    vec![Part::Classify { key, map }, path]
}

fn decide(maps: &Maps, map: Name) -> Part {
    Part::Decide {
        key: maps.key(),
        map,
    }
}
