//! Address management: our `host-local` beside Debian's.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::bed::{Bed, addresses, with};

/// host-local's configuration, in a version that Debian's knows.
fn conf(bed: &Bed) -> Value {
    bed.bridge_with(json!({"cniVersion": "1.0.0"}))
}

#[test]
fn either_host_local_takes_over_from_the_other() {
    let bed = Bed::new();
    let conf = conf(&bed);
    let call = |plugin: &str, command: &str, pod: &str| bed.call(plugin, command, pod, &conf);
    let (ours, theirs) = ("host-local", "debian:host-local");
    for (one, other) in [(ours, theirs), (theirs, ours)] {
        let first = call(one, "ADD", "first").expect(one);
        let second = call(other, "ADD", "second").expect(other);
        assert_eq!(first["cniVersion"], second["cniVersion"]);
        let all: BTreeSet<String> = [&first, &second].into_iter().flat_map(addresses).collect();
        assert_eq!(all, bed.allocations(), "{one} then {other}");
        // Freed by the one that did not give it.
        call(other, "DEL", "first").expect(other);
        call(one, "DEL", "second").expect(one);
        assert!(bed.allocations().is_empty(), "{one} then {other}");
    }
    // The addresses went on in turn: neither began again.
    let next = call(ours, "ADD", "next").expect("add");
    assert_eq!(addresses(&next), ["10.99.0.6", "fd99::6"]);
    let mut check = conf.clone();
    check["prevResult"] = next;
    for plugin in [ours, theirs] {
        bed.call(plugin, "CHECK", "next", &check).expect(plugin);
    }
    assert_eq!(
        bed.call(ours, "CHECK", "nobody", &check).expect_err("none")["code"],
        102
    );
}

#[test]
fn results_are_the_references() {
    let resolv = "nameserver 10.0.0.53\nsearch a.example b.example\noptions ndots:5\n";
    let versions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"];
    for version in versions {
        let told = ["host-local", "debian:host-local"].map(|plugin| {
            let bed = Bed::new();
            let file = bed.dir.path().join("resolv.conf");
            std::fs::write(&file, resolv).expect("resolv.conf");
            let mut conf = conf(&bed);
            conf["cniVersion"] = json!(version);
            conf["ipam"]["resolvConf"] = json!(file);
            conf["runtimeConfig"] = json!({"ips": ["10.99.0.77/24"]});
            bed.call_with(plugin, "ADD", "a", &conf, &[("CNI_ARGS", "IP=fd99::77")])
                .expect(plugin)
        });
        let sorted = |mut v: Value| {
            // What is not there, and an empty list or string, are the same.
            v.as_object_mut()
                .expect("result")
                .retain(|_, v| *v != json!([]));
            v
        };
        let [ours, theirs] = told.map(sorted);
        assert_eq!(ours, theirs, "{version}");
    }
}

#[test]
fn requested_addresses_are_given_or_refused() {
    let bed = Bed::new();
    let add = |pod: &str, fields: Value, args: &str| {
        let conf = with(conf(&bed), fields);
        bed.call_with("host-local", "ADD", pod, &conf, &[("CNI_ARGS", args)])
    };
    let given = add(
        "a",
        json!({"args": {"cni": {"ips": ["fd99::50"]}}}),
        "IP=10.99.0.50",
    );
    assert_eq!(
        addresses(&given.expect("given")),
        ["10.99.0.50", "fd99::50"]
    );
    let rows = [
        ("IP=10.99.0.50", 101),
        ("IP=10.99.0.1", 101),
        ("IP=10.1.1.1", 101),
        ("IP=x", 4),
        ("IP", 4),
    ];
    for (args, code) in rows {
        let refused = add("b", json!({}), args).expect_err(args);
        assert_eq!(refused["code"], code, "{refused}");
    }
    assert_eq!(
        bed.allocations().len(),
        2,
        "nothing is left of what was refused"
    );
    let ranges = json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.97.0.0/24", "rangeStart": "10.97.0.40"}]]}});
    let ranged = add("c", ranges, "").expect("ranges");
    assert_eq!(addresses(&ranged)[0], "10.97.0.40");
}

#[test]
fn sixty_four_at_a_time_get_sixty_four_addresses() {
    let bed = Bed::new();
    let mut conf = conf(&bed);
    conf["ipam"]["ranges"] = json!([[{"subnet": "10.99.0.0/25"}]]);
    let given = std::thread::scope(|s| {
        let call = |i: usize| {
            let plugin = if i.is_multiple_of(4) {
                "debian:host-local"
            } else {
                "host-local"
            };
            let (bed, conf) = (&bed, &conf);
            s.spawn(move || {
                bed.call(plugin, "ADD", &format!("p{i}"), conf)
                    .expect("add")
            })
        };
        let calls: Vec<_> = (0..64).map(call).collect();
        let results = calls.into_iter().map(|c| c.join().expect("thread"));
        results.flat_map(|r| addresses(&r)).collect::<BTreeSet<_>>()
    });
    assert_eq!(given.len(), 64);
    assert_eq!(given, bed.allocations());
}
