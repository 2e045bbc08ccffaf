//! The differential oracle: random services, endpoints and packets. What the model says of a packet is what it meets
//! in each backend's rules.
#![allow(missing_docs)]

use std::collections::BTreeMap;

use keelson_proxy_plan::decide::decide;
use keelson_proxy_plan::iptables::{self, Live, Ruleset, Table, ruleset};
use keelson_proxy_plan::model::Entry;
use keelson_proxy_plan::nft;
use keelson_proxy_plan::nft::services::table;
use keelson_proxy_plan::packet::Outcome;
use keelson_proxy_plan::walk::{self, Way};
use keelson_tests_packets::World;

const WORLDS: u64 = 1_000;
const PACKETS: usize = 100;

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Refused => "refused",
        Outcome::Dropped => "dropped",
        Outcome::Sent(_) => "sent",
    }
}

#[test]
fn rules_do_what_the_model_says() {
    let mut met = BTreeMap::<_, usize>::new();
    for seed in 0..WORLDS {
        let mut world = World::new(seed);
        let family = world.family();
        let (state, options, node) = (world.state(), world.options(), world.node());
        let entries: Vec<Entry> = state.all().flatten().collect();
        let nft = table(entries.iter(), family, &options);
        let set = ruleset(entries.iter(), family, &options);
        let iptables = iptables::walk::Rules::new(&set).expect("rules that are understood");
        for _ in 0..PACKETS {
            let packet = world.packet();
            let want = decide(&entries, &options, &node, &packet);
            let case = || format!("seed {seed}, {packet}\n{options:?}");
            check(&want, &nft::walk::ways(&nft, &node, &packet), || {
                format!("{}\n{nft}", case())
            });
            let ways = iptables.ways(&node, &packet).expect("ways");
            check(&want, &ways, || format!("{}\n{}", case(), set.render()));
            *met.entry(kind(&want)).or_default() += 1;
        }
    }
    // A test of nothing would pass as well.
    assert!(
        met.len() == 4 && met.values().all(|n| *n > 2_000),
        "{met:?}"
    );
}

/// The ways end as the model says, and each is as likely as the others.
fn check(want: &Outcome, ways: &[Way], rules: impl Fn() -> String) {
    let got = walk::outcome(ways);
    let even = ways.iter().all(|w| usize::try_from(w.of) == Ok(ways.len()));
    if got.as_ref() != Ok(want) || !even {
        let lines: Vec<String> = ways.iter().flat_map(Way::lines).collect();
        panic!(
            "want {want:?}\ngot {got:?}\n{}\n{}",
            lines.join("\n"),
            rules()
        );
    }
}

/// What `iptables-restore --noflush` makes of rules.
fn restored(mut set: Ruleset, text: &str) -> Ruleset {
    for (table, chain, rules) in Ruleset::parse(text).all() {
        set.replace(table, chain.to_owned(), rules.to_vec());
    }
    let mut table = Table::Filter;
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("-X", chain)) => assert!(set.remove(table, chain).is_some(), "{chain} was there"),
            _ if line == "*nat" => table = Table::Nat,
            _ => {}
        }
    }
    set
}

#[test]
fn iptables_rules_changed_bit_by_bit_are_those_made_at_once() {
    let mut written = 0;
    for seed in 0..200 {
        let mut world = World::new(seed);
        let (mut state, options, family) = (world.state(), world.options(), world.family());
        let mut live = Live::new(family, options.clone());
        live.reset(state.all().flatten().collect::<Vec<_>>().iter());
        state.forget_changes();
        let mut kernel = live.ruleset().clone();
        for step in 0..20 {
            world.change(&mut state);
            let text = live.update(&state.take_changes());
            let entries: Vec<Entry> = state.all().flatten().collect();
            let fresh = ruleset(entries.iter(), family, &options);
            assert!(*live.ruleset() == fresh, "seed {seed}, step {step}");
            assert_eq!(
                text.is_none(),
                kernel == fresh,
                "seed {seed}, step {step}: written if other"
            );
            if let Some(text) = text {
                kernel = restored(kernel, &text);
                written += 1;
            }
            assert!(kernel == fresh, "seed {seed}, step {step}: restored");
        }
    }
    assert!(written > 2_000, "{written}");
}
