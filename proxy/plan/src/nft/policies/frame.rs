//! What is in the table whatever the policies are.

use super::TABLE;
use super::names::{EGRESS, FORWARD, INGRESS, ITSELF, OUTPUT, REFUSE, UNTRACKED};
use crate::model::Family;
use crate::nft::parts::own_source;
use crate::nft::table::{
    Chain, Field, Holds, Hook, Load, Part, Place, Rule, Set, Table, Verdict, state,
};

/// Where packets are filtered (`NF_IP_PRI_FILTER`): destinations are translated before, sources after.
const FILTER: i32 = 0;
/// ICMPv6's protocol number.
const ICMPV6: u8 = 58;
/// Neighbour discovery's messages (RFC 4861): without them two pods on a bridge never learn of one another.
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// The table without any policy.
pub(super) fn frame(family: Family) -> Table {
    let mut table = Table::new(TABLE, family);
    let address = [Field::Address];
    for name in [EGRESS, INGRESS] {
        let map = Set::new(&address, Holds::Verdicts);
        table.sets.insert(name.into(), map);
    }
    let pairs = Set::new(&[Field::Address, Field::Address], Holds::Nothing);
    table.sets.insert(ITSELF.into(), pairs);
    let hook = Hook {
        nat: false,
        place: Place::Forward,
        priority: FILTER,
    };
    for (name, hook, rules) in [
        (FORWARD, Some(hook), forward()),
        (REFUSE, None, refuse()),
        (UNTRACKED, None, untracked(family)),
    ] {
        table.chains.insert(name.into(), Chain { hook, rules });
    }
    table
}

/// Judges what IPVS hands on as well: it takes packets in and sends them out, so that they never come by the forward
/// hook. What this node sends of its own is exempt there as everywhere.
pub fn judge_ipvs(table: &mut Table) {
    let own = vec![own_source(), Part::Verdict(Verdict::Return)];
    let chain = Chain {
        hook: Some(Hook {
            nat: false,
            place: Place::Output,
            priority: FILTER,
        }),
        rules: [vec![own], forward()].concat(),
    };
    table.chains.insert(OUTPUT.into(), chain);
}

fn forward() -> Vec<Rule> {
    let state = |mask| Part::Bits {
        load: Load::State,
        mask,
        not: false,
    };
    vec![
        // An error about a connection is for who has it: whoever may send may learn that it does not arrive.
        vec![state(state::RELATED), Part::Verdict(Verdict::Return)],
        vec![
            state(state::INVALID | state::UNTRACKED),
            Part::Verdict(Verdict::Goto(UNTRACKED.into())),
        ],
        decide(Load::OriginalSource, EGRESS),
        decide(Load::ReplySource, INGRESS),
    ]
}

fn refuse() -> Vec<Rule> {
    let itself = Part::In {
        key: vec![Load::OriginalSource, Load::ReplySource],
        set: ITSELF.into(),
        not: false,
    };
    vec![
        vec![itself, Part::Verdict(Verdict::Return)],
        vec![Part::Verdict(Verdict::Drop)],
    ]
}

/// Nothing is known of such packets but what stands in them: what isn't allowed to everybody is refused.
fn untracked(family: Family) -> Vec<Rule> {
    let mut rules = Vec::new();
    if family == Family::V6 {
        rules.extend(NEIGHBOUR_DISCOVERY.map(|kind| {
            vec![
                is(Load::Protocol, &[ICMPV6]),
                is(Load::Icmpv6Type, &[kind]),
                Part::Verdict(Verdict::Return),
            ]
        }));
    }
    rules.push(decide(Load::Source, EGRESS));
    rules.push(decide(Load::Destination, INGRESS));
    rules
}

fn decide(address: Load, map: &str) -> Rule {
    let (key, map) = (vec![address], map.into());
    vec![Part::Decide { key, map }]
}

fn is(load: Load, bytes: &[u8]) -> Part {
    Part::Is {
        load,
        bytes: bytes.into(),
        not: false,
    }
}
