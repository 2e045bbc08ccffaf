//! The life of an attachment.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::bed::{Bed, addresses, ip, reaches};

#[test]
fn pods_reach_each_other_and_the_node_and_all_is_gone_after() {
    let bed = Bed::new();
    let (a, b, conf) = (bed.pod("a"), bed.pod("b"), bed.conf());
    let (ra, rb) = (
        bed.call("ADD", &a, &conf).expect("add a"),
        bed.call("ADD", &b, &conf).expect("add b"),
    );
    assert_eq!(addresses(&ra), ["10.99.0.2", "fd99::2"]);
    assert_eq!(ra["interfaces"][2]["mtu"], 1400);
    for target in addresses(&rb)
        .iter()
        .chain(&["10.99.0.1".to_owned(), "fd99::1".to_owned()])
    {
        assert!(reaches(&a, target), "{a} to {target}\n{}", bed.links());
    }
    let mut with_result = conf.clone();
    with_result["prevResult"] = ra;
    assert_eq!(bed.call("CHECK", &a, &with_result), Ok(Value::Null));
    assert_eq!(bed.call("ADD", &a, &conf).expect_err("twice")["code"], 4);
    for pod in [&a, &b] {
        bed.call("DEL", pod, &conf).expect("del");
        bed.call("DEL", pod, &conf).expect("del again");
    }
    assert_eq!(bed.ports(), 0, "{}", bed.links());
    assert!(bed.allocations().is_empty());
    assert!(bed.call("CHECK", &a, &with_result).is_err());
}

#[test]
fn check_sees_what_is_broken() {
    type Break = fn(&Bed, &str);
    let breaks: &[(&str, Break)] = &[
        ("address", |_, pod| {
            drop(ip(&format!("-n {pod} addr flush dev eth0 scope global")))
        }),
        ("route", |_, pod| {
            drop(ip(&format!("-n {pod} route del default")))
        }),
        ("link down", |_, pod| {
            drop(ip(&format!("-n {pod} link set eth0 down")))
        }),
        ("port", |bed, _| {
            drop(ip(&format!("-n {} link del keelson0", bed.node)))
        }),
        ("allocation", |bed, _| {
            std::fs::remove_file(bed.dir.path().join("pods/10.99.0.2")).expect("remove")
        }),
    ];
    for (name, break_it) in breaks {
        let bed = Bed::new();
        let pod = bed.pod("a");
        let mut conf = bed.conf();
        conf["prevResult"] = bed.call("ADD", &pod, &conf).expect("add");
        bed.call("CHECK", &pod, &conf).expect("sound");
        break_it(&bed, &pod);
        assert_eq!(
            bed.call("CHECK", &pod, &conf).expect_err(name)["code"],
            102,
            "{name}"
        );
    }
}

#[test]
fn parallel_adds_give_every_pod_its_own_address() {
    let bed = Bed::new();
    let pods: Vec<String> = (0..16).map(|i| bed.pod(&format!("p{i}"))).collect();
    let conf = bed.conf();
    let results: Vec<Value> = std::thread::scope(|s| {
        let calls: Vec<_> = pods
            .iter()
            .map(|p| s.spawn(|| bed.call("ADD", p, &conf).expect("add")))
            .collect();
        calls
            .into_iter()
            .map(|c| c.join().expect("thread"))
            .collect()
    });
    let distinct: BTreeSet<String> = results.iter().flat_map(addresses).collect();
    assert_eq!(distinct.len(), 32);
    assert_eq!(distinct, bed.allocations());
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": pods[3], "ifname": "eth0"}]);
    bed.call("GC", &pods[0], &gc).expect("gc");
    assert_eq!(bed.allocations().len(), 2);
    assert_eq!(bed.ports(), 1);
}

#[test]
fn a_full_range_says_so_and_leaves_nothing() {
    let bed = Bed::new();
    let mut conf = bed.conf();
    conf["ipam"]["ranges"] = json!([[{"subnet": "10.99.0.0/30"}]]);
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    bed.call("ADD", &a, &conf).expect("the one address");
    assert_eq!(bed.call("STATUS", &a, &conf).expect_err("full")["code"], 50);
    assert_eq!(bed.call("ADD", &b, &conf).expect_err("full")["code"], 101);
    assert_eq!(bed.ports(), 1);
    bed.call("DEL", &a, &conf).expect("del");
    bed.call("ADD", &b, &conf).expect("freed");
}

#[test]
fn odd_calls_get_cni_errors() {
    let bed = Bed::new();
    let conf = bed.conf();
    assert_eq!(
        bed.call("ADD", "no-such-namespace", &conf)
            .expect_err("namespace")["code"],
        3
    );
    assert_eq!(
        bed.call("FROB", "a", &conf).expect_err("command")["code"],
        4
    );
    assert_eq!(
        bed.call("ADD", "a", &json!("text")).expect_err("form")["code"],
        6
    );
    let mut old = conf.clone();
    old["cniVersion"] = json!("7.0.0");
    assert_eq!(bed.call("ADD", "a", &old).expect_err("version")["code"], 1);
    let versions = bed.call("VERSION", "a", &conf).expect("version");
    assert_eq!(
        versions["supportedVersions"].as_array().map(Vec::len),
        Some(7)
    );
    // A pod whose namespace is gone is deleted all the same.
    bed.call("DEL", "no-such-namespace", &conf).expect("del");
}
