//! Address management: ours beside Debian's, and that of others.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::bed::{Bed, DEBIANS, addresses};

/// host-local's configuration, in a version that Debian's knows.
fn conf(bed: &Bed) -> Value {
    let mut conf = bed.conf();
    conf["cniVersion"] = json!("1.0.0");
    conf
}

#[test]
fn either_host_local_takes_over_from_the_other() {
    let bed = Bed::new();
    let conf = conf(&bed);
    let call =
        |plugin: &str, command: &str, pod: &str| bed.call_as(plugin, command, pod, &conf, &[]);
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
        bed.call_as(plugin, "CHECK", "next", &check, &[])
            .expect(plugin);
    }
    assert_eq!(
        bed.call_as(ours, "CHECK", "nobody", &check, &[])
            .expect_err("none")["code"],
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
            bed.call_as(plugin, "ADD", "a", &conf, &[("CNI_ARGS", "IP=fd99::77")])
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
        let mut conf = conf(&bed);
        for (key, value) in fields.as_object().expect("fields") {
            conf[key] = value.clone();
        }
        bed.call_as("host-local", "ADD", pod, &conf, &[("CNI_ARGS", args)])
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
                bed.call_as(plugin, "ADD", &format!("p{i}"), conf, &[])
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

#[test]
fn addresses_of_others_are_asked_for_by_the_name_of_their_plugin() {
    let bed = Bed::new();
    let path = ("CNI_PATH", DEBIANS);
    bed.program("debian:static");
    // Debian's knows no 1.1.0, which the configuration is in.
    let fixed = json!({"type": "static", "addresses": [{"address": "10.99.0.7/24", "gateway": "10.99.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}]});
    for version in ["0.2.0", "0.4.0", "1.1.0"] {
        let pod = bed.pod(&version.replace('.', "-"));
        let mut conf = bed.conf_with(json!({"ipam": fixed, "cniVersion": version}));
        let result = bed
            .call_as("bridge", "ADD", &pod, &conf, &[path])
            .expect(version);
        assert_eq!(result["cniVersion"], version);
        let addresses = crate::bed::ip(&format!("-n {pod} addr show eth0"));
        assert!(addresses.contains("10.99.0.7/24"), "{addresses}");
        assert!(crate::bed::ip(&format!("-n {pod} route")).contains("default via 10.99.0.1"));
        conf["prevResult"] = result;
        if version != "0.2.0" {
            bed.call_as("bridge", "CHECK", &pod, &conf, &[path])
                .expect("check");
        }
        bed.call_as("bridge", "DEL", &pod, &conf, &[path])
            .expect("del");
    }
    let (pod, conf) = (bed.pod("x"), bed.conf_with(json!({"ipam": fixed})));
    bed.call_as("bridge", "STATUS", "", &conf, &[path])
        .expect("status");
    for (ipam, code) in [("no-such-plugin", 103), ("../static", 103)] {
        let conf = bed.conf_with(json!({"ipam": {"type": ipam}}));
        let missing = bed
            .call_as("bridge", "ADD", &pod, &conf, &[path])
            .expect_err(ipam);
        assert_eq!(missing["code"], code, "{missing}");
        assert_eq!(bed.ports(), 0, "undone");
    }
}

#[test]
fn a_failed_add_gives_back_what_another_plugin_gave() {
    let bed = Bed::new();
    let pod = bed.pod("a");
    // Our own, as somebody else's: by a name that is not built in.
    std::fs::create_dir_all(bed.bin()).expect("bin");
    let script = "#!/bin/sh\necho $CNI_COMMAND >> \"$(dirname \"$0\")/calls\"\nexec \"$(dirname \"$0\")/host-local\"\n";
    let other = bed.bin().join("other");
    std::fs::write(&other, script).expect("script");
    bed.program("host-local");
    crate::bed::must("chmod", &format!("+x {}", other.display()));
    let mut conf = bed.conf();
    conf["ipam"]["type"] = json!("other");
    // A route over a next hop that is nowhere can't be made.
    conf["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}]);
    let bin = bed.bin().display().to_string();
    let failed = bed
        .call_as("bridge", "ADD", &pod, &conf, &[("CNI_PATH", &bin)])
        .expect_err("route");
    assert_eq!(failed["code"], 100, "{failed}");
    let calls = std::fs::read_to_string(bed.bin().join("calls")).expect("calls");
    assert_eq!(calls, "ADD\nDEL\n");
    assert_eq!(bed.allocations().len() + bed.ports(), 0);
}
