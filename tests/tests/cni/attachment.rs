//! The life of an attachment.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::bed::{Bed, addresses};
use crate::traffic::reaches;

#[test]
fn pods_reach_each_other_and_the_node_and_all_is_gone_after() {
    let bed = Bed::new();
    let (a, b, conf) = (bed.pod("a"), bed.pod("b"), bed.bridge());
    let (ra, rb) = (
        bed.call("bridge", "ADD", &a, &conf).expect("add a"),
        bed.call("bridge", "ADD", &b, &conf).expect("add b"),
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
    assert_eq!(
        bed.call("bridge", "CHECK", &a, &with_result),
        Ok(Value::Null)
    );
    assert_eq!(
        bed.call("bridge", "ADD", &a, &conf).expect_err("twice")["code"],
        4
    );
    for pod in [&a, &b] {
        bed.call("bridge", "DEL", pod, &conf).expect("del");
        bed.call("bridge", "DEL", pod, &conf).expect("del again");
    }
    assert_eq!(bed.ports(), 0, "{}", bed.links());
    assert!(bed.allocations().is_empty());
    assert!(bed.call("bridge", "CHECK", &a, &with_result).is_err());
}

#[test]
fn parallel_adds_give_every_pod_its_own_address() {
    let bed = Bed::new();
    let pods: Vec<String> = (0..16).map(|i| bed.pod(&format!("p{i}"))).collect();
    let conf = bed.bridge();
    let results: Vec<Value> = std::thread::scope(|s| {
        let calls: Vec<_> = pods
            .iter()
            .map(|p| s.spawn(|| bed.call("bridge", "ADD", p, &conf).expect("add")))
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
    bed.call("bridge", "GC", &pods[0], &gc).expect("gc");
    assert_eq!(bed.allocations().len(), 2);
    assert_eq!(bed.ports(), 1);
}

#[test]
fn a_full_range_says_so_and_leaves_nothing() {
    let bed = Bed::new();
    let mut conf = bed.bridge();
    conf["ipam"]["ranges"] = json!([[{"subnet": "10.99.0.0/30"}]]);
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    bed.call("bridge", "ADD", &a, &conf)
        .expect("the one address");
    assert_eq!(
        bed.call("bridge", "STATUS", &a, &conf).expect_err("full")["code"],
        50
    );
    assert_eq!(
        bed.call("bridge", "ADD", &b, &conf).expect_err("full")["code"],
        101
    );
    assert_eq!(bed.ports(), 1);
    bed.call("bridge", "DEL", &a, &conf).expect("del");
    bed.call("bridge", "ADD", &b, &conf).expect("freed");
}
