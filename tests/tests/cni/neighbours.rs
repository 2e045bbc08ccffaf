//! What the network knows of an attachment when ADD comes back.

use serde_json::json;

use crate::bed::{Bed, addresses, ip, sh};
use crate::traffic::reaches;

#[test]
fn nothing_is_tentative_when_add_comes_back() {
    let bed = Bed::new();
    let pod = bed.pod("a");
    bed.call("bridge", "ADD", &pod, &bed.bridge()).expect("add");
    // The very first packet on a new bridge is answered, over both families.
    assert!(reaches(&pod, "fd99::1") && reaches(&pod, "10.99.0.1"));
    for (ns, link) in [(&pod, "eth0"), (&bed.node, "keelson0")] {
        let accept = format!("cat /proc/sys/net/ipv6/conf/{link}/accept_dad");
        assert_eq!(sh(ns, &accept).trim(), "0", "{link}");
        let global = ip(&format!(
            "-n {ns} -6 addr show {link} scope global tentative"
        ));
        assert_eq!(global, "", "{link}");
    }
}

#[test]
fn neighbours_learn_of_a_new_owner_of_an_address() {
    let bed = Bed::new();
    let (a, b, watcher) = (bed.pod("a"), bed.pod("b"), bed.pod("watcher"));
    let conf = |n: u8, mac: u8| {
        bed.bridge_with(json!({"runtimeConfig":
            {"ips": [format!("10.99.0.{n}"), format!("fd99::{n}")], "mac": format!("0a:00:00:00:00:0{mac}")}}))
    };
    bed.call("bridge", "ADD", &watcher, &conf(9, 9))
        .expect("watcher");
    let first = bed.call("bridge", "ADD", &a, &conf(5, 1)).expect("first");
    for target in addresses(&first) {
        assert!(reaches(&watcher, &target), "{target}");
    }
    let known = || ip(&format!("-n {watcher} neigh show dev eth0"));
    assert_eq!(
        known().matches("0a:00:00:00:00:01").count(),
        2,
        "{}",
        known()
    );
    bed.call("bridge", "DEL", &a, &conf(5, 1)).expect("del");
    bed.call("bridge", "ADD", &b, &conf(5, 2)).expect("second");
    // Nobody has asked: it was told.
    let told = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        known().matches("0a:00:00:00:00:02").count() == 2
    });
    assert!(told, "{}", known());
}
