//! A sample of the oracle's cases with real packets: what the model says of a packet is what becomes of it in the kernel,
//! by each backend's rules.
#![allow(missing_docs)]

mod rules;

use std::ops::Range;

use keelson_proxy_plan::decide::decide;
use keelson_proxy_plan::iptables::variant::Variant;
use keelson_tests_packets::sample;
use rules::{BACKENDS, Backend};

/// At a time: most of a packet's time is spent waiting.
const BEDS: usize = 3;

fn packets_meet_what_the_model_says(backend: Backend, seeds: Range<u64>) {
    let told = sample(
        seeds,
        BEDS,
        |bed, case| {
            backend.write(bed.node(), &case.entries, case.family, &case.options);
        },
        |case, packet| Some(decide(&case.entries, &case.options, &case.node, packet)),
    );
    told.assert_same(&format!("{backend:?}"));
}

#[test]
fn nftables() {
    packets_meet_what_the_model_says(Backend::Nftables, 0..60);
}

#[test]
fn iptables_nft() {
    packets_meet_what_the_model_says(Backend::Iptables(Variant::Nft), 0..60);
}

#[test]
fn iptables_legacy() {
    packets_meet_what_the_model_says(Backend::Iptables(Variant::Legacy), 0..60);
}

/// `scripts/test --long` has this one too.
#[test]
fn a_long_sample() {
    for backend in BACKENDS {
        packets_meet_what_the_model_says(backend, 1_000..1_300);
    }
}
