//! Rules that an attachment has: masquerade and the check of hardware addresses.

use serde_json::{Value, json};

use crate::bed::{Bed, addresses, ip};
use crate::traffic::reaches;

fn tables(bed: &Bed) -> String {
    bed.sh("nft list tables")
}

#[test]
fn masquerade_by_either_backend_and_gone_with_the_attachment() {
    for backend in ["nftables", "iptables"] {
        let bed = Bed::new();
        let (a, b, plain) = (bed.pod("a"), bed.pod("b"), bed.pod("plain"));
        let mut conf = bed.bridge_with(json!({"ipMasq": true, "ipMasqBackend": backend}));
        let result = bed.call("bridge", "ADD", &a, &conf).expect("add");
        bed.call("bridge", "ADD", &plain, &bed.bridge())
            .expect("add");
        for target in ["198.51.100.2", "fd51::2"] {
            assert!(
                reaches(&a, target),
                "{backend}: {target}\n{}",
                bed.sh("nft list ruleset")
            );
            assert!(!reaches(&plain, target), "{backend}: {target}");
        }
        // Within the network pods are seen with their own addresses: the node has no rule for them.
        let other = bed.call("bridge", "ADD", &b, &conf).expect("add");
        assert!(reaches(&a, &addresses(&other)[0]));
        conf["prevResult"] = result;
        bed.call("bridge", "CHECK", &a, &conf).expect("sound");
        let break_it = match backend {
            "nftables" => "nft delete table ip keelson-cni",
            _ => "iptables -t nat -F POSTROUTING",
        };
        assert_eq!(bed.sh(break_it), "");
        assert_eq!(
            bed.call("bridge", "CHECK", &a, &conf).expect_err(backend)["code"],
            102
        );
        for pod in [&a, &b] {
            bed.call("bridge", "DEL", pod, &conf).expect("del");
            bed.call("bridge", "DEL", pod, &conf).expect("again");
        }
        let left = bed.sh("nft list ruleset; iptables-save -t nat; ip6tables-save -t nat");
        assert!(
            !left.contains("ksn") && !left.contains("keelson-cni"),
            "{left}"
        );
    }
}

#[test]
fn del_without_a_result_and_gc_free_the_rules_too() {
    let bed = Bed::new();
    let pods = ["a", "b", "c"].map(|n| bed.pod(n));
    let conf = bed.bridge_with(json!({"ipMasq": true, "macspoofchk": true}));
    for pod in &pods {
        bed.call("bridge", "ADD", pod, &conf).expect("add");
    }
    let rules = || bed.sh("nft list ruleset");
    assert_eq!(rules().matches("jump").count(), 3 * 3, "{}", rules());
    ip(&format!("netns del {}", pods[0]));
    bed.call("bridge", "DEL", &pods[0], &conf).expect("del");
    assert_eq!(rules().matches("jump").count(), 2 * 3, "{}", rules());
    let mut gc = conf.clone();
    gc["cni.dev/attachments"] = json!([{"containerID": pods[1], "ifname": "eth0"}]);
    bed.call("bridge", "GC", "", &gc).expect("gc");
    assert_eq!(rules().matches("jump").count(), 3, "{}", rules());
    assert_eq!((bed.allocations().len(), bed.ports()), (2, 1));
    gc["cni.dev/attachments"] = json!([]);
    // Another network's are left alone.
    let mut other = gc.clone();
    other["name"] = json!("others");
    bed.call("bridge", "GC", "", &other).expect("gc");
    assert_eq!(rules().matches("jump").count(), 3, "{}", rules());
    bed.call("bridge", "GC", "", &gc).expect("gc");
    assert_eq!(tables(&bed), "");
    assert_eq!(bed.allocations().len() + bed.ports(), 0);
}

#[test]
fn an_address_that_goes_to_another_keeps_its_masquerade() {
    let bed = Bed::new();
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    let conf = bed.bridge_with(json!({"ipMasq": true}));
    let first = bed.call("bridge", "ADD", &a, &conf).expect("add");
    // The ledger was lost, and with it who has which address: b gets a's.
    ip(&format!("-n {a} link del eth0"));
    std::fs::remove_dir_all(bed.dir.path().join("pods")).expect("ledger");
    let second = bed.call("bridge", "ADD", &b, &conf).expect("add");
    assert_eq!(addresses(&first), addresses(&second));
    let mut late = conf.clone();
    late["prevResult"] = first;
    bed.call("bridge", "DEL", &a, &late).expect("late");
    let mut check = conf;
    check["prevResult"] = second;
    bed.call("bridge", "CHECK", &b, &check)
        .expect("b has its rules and its addresses");
}

#[test]
fn another_hardware_address_gets_nowhere() {
    let bed = Bed::new();
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    let mut conf = bed.bridge_with(json!({"macspoofchk": true}));
    let result = bed.call("bridge", "ADD", &a, &conf).expect("add");
    bed.call("bridge", "ADD", &b, &bed.bridge()).expect("add");
    assert!(reaches(&a, "10.99.0.1"));
    let other = "-n POD link set eth0 address 0a:00:00:00:00:07";
    for pod in [&a, &b] {
        ip(&other.replace("POD", pod));
    }
    assert!(!reaches(&a, "10.99.0.1"), "{}", bed.sh("nft list ruleset"));
    assert!(reaches(&b, "10.99.0.1"), "not checked");
    conf["prevResult"] = result;
    assert_eq!(
        bed.call("bridge", "CHECK", &a, &conf).expect_err("changed")["code"],
        102
    );
    assert_eq!(bed.call("bridge", "DEL", &a, &conf), Ok(Value::Null));
    assert_eq!(tables(&bed), "");
}

#[test]
fn gc_removes_what_killed_calls_left() {
    let bed = Bed::new();
    let pod = bed.pod("a");
    let conf = bed.bridge_with(json!({"ipMasq": true, "macspoofchk": true}));
    bed.call("bridge", "ADD", &pod, &conf).expect("add");
    // As a DEL that was killed after it had taken the elements, and an ADD before it had an address.
    let flush = "nft flush map ip keelson-cni sources; nft flush map ip6 keelson-cni sources;
        nft flush map bridge keelson-cni ports";
    assert_eq!(bed.sh(flush), "");
    std::fs::remove_dir_all(bed.dir.path().join("pods")).expect("ledger");
    let mut gc = conf;
    gc["cni.dev/valid-attachments"] = json!([]);
    bed.call("bridge", "GC", "", &gc).expect("gc");
    assert_eq!(tables(&bed), "");
    assert_eq!(bed.ports(), 0, "the link is found by its alias");
}
