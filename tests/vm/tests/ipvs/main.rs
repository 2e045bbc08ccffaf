//! IPVS with real packets, in a machine whose kernel has it. The machine runs this very program, which finds itself
//! inside and goes through the cases, with a node, pods and a client in network namespaces.

mod bed;
mod cases;
mod sample;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use keelson_tests_vm::in_machine;

use bed::{Bed, Beside};
use cases::{BOTH_RULES, CASES};

/// Set by people: only cases with this in their name.
const ONLY: &str = "KEELSON_STEP";
/// Set by people: of how many services the case of many is.
const SERVICES: &str = "KEELSON_SERVICES";
/// Set by people: of how many worlds the sample is.
const WORLDS: &str = "KEELSON_WORLDS";

#[test]
fn services_by_ipvs() {
    in_machine("services_by_ipvs", &people(), cases_inside);
}

#[test]
fn a_sample_by_ipvs() {
    in_machine("a_sample_by_ipvs", &people(), sample::inside);
}

/// What people have set is so in the machine too.
fn people() -> String {
    let export = |name| {
        format!(
            "export {name}='{}'",
            std::env::var(name).unwrap_or_default()
        )
    };
    [ONLY, SERVICES, WORLDS].map(export).join("; ")
}

/// All cases, one after the other; those that failed are told at the end.
fn cases_inside() {
    let only = std::env::var(ONLY).unwrap_or_default();
    let mut failed = Vec::new();
    let mut bed = Bed::new();
    for (beside, cases) in [
        (Beside::Nftables, [CASES, BOTH_RULES].concat()),
        (Beside::Iptables, BOTH_RULES.to_vec()),
    ] {
        bed.beside = beside;
        for (name, case) in cases.iter().filter(|(name, _)| name.contains(&only)) {
            let begin = Instant::now();
            let done = catch_unwind(AssertUnwindSafe(|| case(&mut bed)));
            bed.clear();
            let word = if done.is_ok() { "ok" } else { "FAILED" };
            let seconds = begin.elapsed().as_secs_f32();
            println!("{word} {seconds:.1} s: {name} ({beside:?})");
            failed.extend(done.is_err().then_some((*name, beside)));
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
