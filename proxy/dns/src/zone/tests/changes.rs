//! It does not matter how the zone came to be what it is.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn a_pod_in_two_slices_is_told_once() {
    let mut zone = zone();
    zone.set_slice(&slice(
        "hdls1-5",
        "hdls1",
        "IPv4",
        http(),
        json!([{"addresses": ["172.0.0.3"]}, {"addresses": ["172.0.0.9"]}]),
    ));
    let message = ask_at(&zone, "hdls1.testns.svc.cluster.local.", A, 0, 512).expect("answer");
    assert_eq!(message.answers.len(), 5, "{message}");
    let reverse = "3.0.0.172.in-addr.arpa.";
    assert!(zone.remove_slice("testns", "hdls1-4"));
    assert!(
        ask(&zone, reverse, PTR).contains("172-0-0-3.hdls1"),
        "the other slice has it still"
    );
    assert!(zone.remove_slice("testns", "hdls1-5"));
    assert_eq!(ask(&zone, reverse, PTR), "elsewhere");
}

#[test]
fn a_slice_can_change_its_service() {
    let mut zone = zone();
    let moved = slice(
        "hdls1-4",
        "hdlsprtls",
        "IPv4",
        http(),
        json!([{"addresses": ["172.0.0.2"]}]),
    );
    assert!(zone.set_slice(&moved) && !zone.set_slice(&moved));
    assert_eq!(ask(&zone, "hdls1.testns.svc.cluster.local.", A), NODATA);
    assert!(ask(&zone, "2.0.0.172.in-addr.arpa.", PTR).contains("hdlsprtls"));
}

/// Last byte of its address; it is ready; it has a host name.
type Pod = (u8, bool, bool);

/// A change to the cluster.
#[derive(Clone, Debug)]
enum Change {
    Service(u8, Option<u8>),
    /// Of which service, and its endpoints.
    Slice(u8, Option<(u8, Vec<Pod>)>),
    Relist,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let endpoints = prop::collection::vec((0..6_u8, any::<bool>(), any::<bool>()), 0..5);
    let change = prop_oneof![
        (0..4_u8, prop::option::of(0..6_u8)).prop_map(|(name, kind)| Change::Service(name, kind)),
        (0..4_u8, prop::option::of((0..4_u8, endpoints)))
            .prop_map(|(name, slice)| Change::Slice(name, slice)),
        Just(Change::Relist),
    ];
    prop::collection::vec(change, 1..40)
}

/// What the cluster is after changes: one object at most under a name.
type Cluster<T> = std::collections::BTreeMap<u8, T>;

fn service_object(name: u8, kind: u8) -> Service {
    let ip = format!("10.0.0.{name}");
    let spec = match kind {
        0 => json!({"clusterIP": "None", "ports": http()}),
        1 => json!({"type": "ExternalName", "externalName": "a.example"}),
        2 => json!({"clusterIPs": [ip, format!("fd00::{name}")], "ports": http()}),
        3 => json!({"clusterIP": ""}),
        4 => json!({"clusterIP": "10.0.0.9", "ports": http()}),
        _ => json!({"clusterIP": ip}),
    };
    service(&format!("s{name}"), spec)
}

fn slice_object(name: u8, of: u8, endpoints: &[(u8, bool, bool)]) -> EndpointSlice {
    let endpoint = |(ip, ready, named): &(u8, bool, bool)| {
        json!({"addresses": [format!("172.0.0.{ip}")], "conditions": {"ready": ready},
            "hostname": named.then(|| format!("h{}", ip % 3))})
    };
    let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    slice(
        &format!("e{name}"),
        &format!("s{of}"),
        "IPv4",
        http(),
        json!(endpoints),
    )
}

fn everything(zone: &Zone) -> Vec<String> {
    let mut names = vec![
        "testns.svc.cluster.local.".to_owned(),
        "9.0.0.10.in-addr.arpa.".to_owned(),
    ];
    for i in 0..6 {
        names.extend([
            format!("{i}.0.0.10.in-addr.arpa."),
            format!("{i}.0.0.172.in-addr.arpa."),
        ]);
        for prefix in [
            "",
            "_http._tcp.",
            "_tcp.",
            "h0.",
            "h1.",
            "h2.",
            "172-0-0-0.",
            "172-0-0-3.",
            "172-0-0-5.",
        ] {
            names.push(format!("{prefix}s{i}.testns.svc.cluster.local."));
        }
    }
    let kinds = [A, AAAA, SRV, PTR];
    names
        .iter()
        .flat_map(|name| kinds.map(|kind| format!("{name} {kind} {}", ask(zone, name, kind))))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_way_does_not_matter(changes in changes()) {
        let new = || Zone::new("cluster.local", Vec::new()).expect("zone");
        let mut zone = new();
        let (mut services, mut slices) = (Cluster::new(), Cluster::new());
        for change in changes {
            match change {
                Change::Service(name, Some(kind)) => {
                    zone.set_service(&service_object(name, kind));
                    services.insert(name, kind);
                }
                Change::Service(name, None) => {
                    zone.remove_service("testns", &format!("s{name}"));
                    services.remove(&name);
                }
                Change::Slice(name, Some((of, endpoints))) => {
                    zone.set_slice(&slice_object(name, of, &endpoints));
                    slices.insert(name, (of, endpoints));
                }
                Change::Slice(name, None) => {
                    zone.remove_slice("testns", &format!("e{name}"));
                    slices.remove(&name);
                }
                Change::Relist => {
                    // A list that lacks what has an even number: the rest is what stays.
                    services.retain(|name, _| name % 2 == 1);
                    slices.retain(|name, _| name % 2 == 1);
                    let names = |prefix: &str, all: Vec<u8>| all.iter().map(|n| ("testns".to_owned(), format!("{prefix}{n}"))).collect();
                    let (a, b) = (names("s", services.keys().copied().collect()), names("e", slices.keys().copied().collect()));
                    zone.retain(Some(&a), Some(&b));
                }
            }
        }
        let mut fresh = new();
        for (name, (of, endpoints)) in slices.iter().rev() {
            fresh.set_slice(&slice_object(*name, *of, endpoints));
        }
        for (name, kind) in &services {
            fresh.set_service(&service_object(*name, *kind));
        }
        prop_assert_eq!(everything(&zone), everything(&fresh));
        prop_assert_eq!(zone.names.len(), fresh.names.len());
        prop_assert_eq!(zone.reverse_v4.len(), fresh.reverse_v4.len());
        prop_assert_eq!(zone.reverse_v6.len(), fresh.reverse_v6.len());
        prop_assert_eq!((&zone.namespaces, zone.owners.len()), (&fresh.namespaces, fresh.owners.len()));
        zone.retain(Some(&BTreeSet::new()), Some(&BTreeSet::new()));
        prop_assert!(zone.names.is_empty() && zone.owners.is_empty() && zone.namespaces.is_empty());
        prop_assert!(zone.reverse_v4.is_empty() && zone.reverse_v6.is_empty() && zone.free.len() == zone.entries.len());
    }
}
