//! The types `ptp` and `loopback`.

use serde_json::{Value, json};

use crate::bed::{Bed, addresses, ip};
use crate::traffic::reaches;

#[test]
fn ptp_leads_to_the_host_and_through_it() {
    let bed = Bed::new();
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    let mut conf = bed.bridge_with(json!({"type": "ptp", "ipMasq": true}));
    let call = |command: &str, pod: &str, conf: &Value| bed.call("ptp", command, pod, conf);
    let first = call("ADD", &a, &conf).expect("a");
    let second = call("ADD", &b, &conf).expect("b");
    assert_eq!(first["interfaces"].as_array().map(Vec::len), Some(2));
    assert_eq!(first["ips"][0]["interface"], 1);
    for target in addresses(&second).iter().map(String::as_str).chain([
        "10.99.0.1",
        "fd99::1",
        "198.51.100.2",
        "fd51::2",
    ]) {
        assert!(
            reaches(&a, target),
            "{target}\n{}",
            ip(&format!("-n {a} route"))
        );
    }
    // All of the network through the gateway, and that on the link.
    let routes = ip(&format!("-n {a} route"));
    assert!(
        routes.contains("10.99.0.1 dev eth0 scope link src 10.99.0.2"),
        "{routes}"
    );
    assert!(
        routes.contains("10.99.0.0/24 via 10.99.0.1 dev eth0 src 10.99.0.2"),
        "{routes}"
    );
    assert!(!routes.contains("proto kernel"), "{routes}");
    conf["prevResult"] = first;
    call("CHECK", &a, &conf).expect("sound");
    ip(&format!("-n {a} route del default"));
    assert_eq!(call("CHECK", &a, &conf).expect_err("route")["code"], 102);
    assert_eq!(call("ADD", &a, &conf).expect_err("twice")["code"], 4);
    for pod in [&a, &b] {
        call("DEL", pod, &conf).expect("del");
        call("DEL", pod, &conf).expect("again");
    }
    assert_eq!(bed.allocations().len() + bed.ports(), 0);
    assert_eq!(bed.sh("nft list tables"), "");
    let none = bed.bridge_with(json!({"ipam": {}}));
    assert_eq!(call("ADD", &a, &none).expect_err("no addresses")["code"], 7);
}

#[test]
fn loopback_is_up_and_says_so_like_the_reference() {
    let bed = Bed::new();
    let conf = json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"});
    let told = ["loopback", "debian:loopback"].map(|plugin| {
        let pod = bed.pod(
            plugin
                .trim_start_matches("debian:")
                .trim_end_matches("back")
                .trim_matches('-'),
        );
        let mut result = bed.call(plugin, "ADD", &pod, &conf).expect(plugin);
        assert!(
            ip(&format!("-n {pod} -br link show lo")).contains("UP"),
            "{plugin}"
        );
        assert!(
            reaches(&pod, "127.0.0.1") && reaches(&pod, "::1"),
            "{plugin}"
        );
        let mut check = conf.clone();
        check["prevResult"] = result.clone();
        bed.call(plugin, "CHECK", &pod, &check).expect(plugin);
        bed.call(plugin, "DEL", &pod, &conf).expect(plugin);
        assert!(
            ip(&format!("-n {pod} -br link show lo")).contains("DOWN"),
            "{plugin}"
        );
        bed.call(plugin, "CHECK", &pod, &check).expect_err("down");
        result["interfaces"][0]["sandbox"] = json!("");
        ip(&format!("netns del {pod}"));
        bed.call(plugin, "DEL", &pod, &conf)
            .expect("a namespace that is gone");
        result
            .as_object_mut()
            .expect("result")
            .retain(|_, v| *v != json!([]));
        result
    });
    assert_eq!(told[0], told[1]);
}

#[test]
fn loopback_hands_on_the_result_before_it() {
    let bed = Bed::new();
    let pod = bed.pod("a");
    let before = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/n", "mtu": 1400}],
        "ips": [{"address": "10.0.0.2/24", "interface": 0}], "routes": [], "dns": {}});
    let conf =
        json!({"cniVersion": "1.1.0", "name": "lo", "type": "loopback", "prevResult": before});
    assert_eq!(bed.call("loopback", "ADD", &pod, &conf), Ok(before));
}
