//! A sample of the oracle's cases by IPVS: random services, real packets, and what the model says of them.

use keelson_proxy_kernel::ipvs::{self as kernel, Ipvs};
use keelson_proxy_plan::decide::decide;
use keelson_proxy_plan::ipvs::{Options, Timeouts, wanted};
use keelson_proxy_plan::model::{Entry, Policy};
use keelson_proxy_plan::options::{self, Pods};
use keelson_proxy_plan::packet::{Outcome, Packet};
use keelson_tests_packets::{Bed, Case, sample, sh};

use crate::bed::{Beside, inside as inside_of};

/// At a time.
const BEDS: usize = 2;
/// Worlds, if nobody says how many.
const WORLDS: u64 = 60;

pub(crate) fn inside() {
    sh("modprobe br_netfilter");
    let asked = std::env::var(crate::WORLDS).ok();
    let worlds = asked.and_then(|n| n.parse().ok()).unwrap_or(WORLDS);
    // iptables programs take their time under emulation.
    for (beside, seeds) in [
        (Beside::Nftables, 0..worlds),
        (Beside::Iptables, worlds..worlds + worlds / 3),
    ] {
        let told = sample(
            seeds,
            BEDS,
            |bed, case| write(beside, bed, case),
            |case, packet| expected(beside, case, packet),
        );
        told.assert_same(&format!("IPVS and {beside:?}"));
    }
}

fn write(beside: Beside, bed: &Bed, case: &Case) {
    let node = bed.node();
    let common = common(&case.options);
    inside_of(node, || {
        // What connections of the last world still hold would be refused where it is to pass.
        let errors = kernel::cleanup();
        assert!(errors.is_empty(), "{errors:?}");
        let mut ipvs = Ipvs::open().expect("open");
        ipvs.prepare(false, &Timeouts::default()).expect("prepare");
        let options = Options {
            own_addresses: ipvs.own_addresses().expect("addresses"),
            common: common.clone(),
            ..Options::default()
        };
        let wanted = wanted(&case.entries, &options);
        beside.write(node, &wanted.rules, &common);
        ipvs.sync(&wanted).expect("sync");
    });
}

/// Node ports on the loopback address are not to be had.
fn common(options: &options::Options) -> options::Options {
    options::Options {
        localhost_node_ports: false,
        ..options.clone()
    }
}

/// The model's word, as far as IPVS can follow it.
fn expected(beside: Beside, case: &Case, packet: &Packet) -> Option<Outcome> {
    let options = common(&case.options);
    // Its own connections begin with a service's address, and must not leave with it.
    let own = packet.interface.is_none() && options.pods == Pods::Unknown;
    if own || case.entries.iter().any(|e| has_no_short_way(e, packet)) {
        return None;
    }
    let outcome = decide(&case.entries, &options, &case.node, packet);
    // All addresses of services are the node's own: no other port of theirs leads anywhere.
    let fronts = case.entries.iter().flat_map(|e| {
        let p = &e.port;
        let lists = [&p.cluster_ips, &p.external_ips, &p.load_balancer_ips];
        lists.into_iter().flatten()
    });
    let bound = fronts.into_iter().any(|ip| *ip == packet.destination);
    match outcome {
        Outcome::Pass if bound => Some(Outcome::Refused),
        // IPVS takes this node's own before iptables' filter, and refuses where it has no destination.
        Outcome::Dropped if beside == Beside::Iptables && packet.interface.is_none() => None,
        other => Some(other),
    }
}

/// Without a virtual server that has all endpoints those from inside are not sent to them (see `ipvs::wanted`).
fn has_no_short_way(entry: &Entry, packet: &Packet) -> bool {
    let p = &entry.port;
    let mut addresses = p.external_ips.iter().chain(&p.load_balancer_ips);
    let meant = p.node_port == Some(packet.port) || addresses.any(|a| *a == packet.destination);
    meant && p.internal_policy == Policy::Local && p.external_policy == Policy::Local
}
