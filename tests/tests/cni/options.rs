//! The bridge's options, one by one, as the kernel has them then.

use serde_json::{Value, json};

use crate::bed::{Bed, addresses, ip, sh};
use crate::traffic::reaches;

/// A link on the host as `ip` describes it.
fn link(ns: &str, name: &str) -> Value {
    let all: Value =
        serde_json::from_str(&ip(&format!("-n {ns} -d -j link show {name}"))).expect("json");
    all[0].clone()
}

fn port(result: &Value) -> String {
    result["interfaces"][1]["name"]
        .as_str()
        .expect("name")
        .to_owned()
}

#[test]
fn each_option_is_seen_in_the_kernel() {
    type Check = fn(&Bed, &str, &Value);
    let rows: &[(&str, Value, Check)] = &[
        (
            "not a gateway",
            json!({"isGateway": false}),
            |bed, pod, _| {
                assert!(!ip(&format!("-n {} addr", bed.node)).contains("10.99.0.1"));
                assert!(ip(&format!("-n {pod} route")).contains("default via 10.99.0.1"));
            },
        ),
        (
            "default gateway",
            json!({"isGateway": false, "isDefaultGateway": true}),
            |bed, pod, result| {
                assert!(ip(&format!("-n {} addr", bed.node)).contains("10.99.0.1/24"));
                assert!(ip(&format!("-n {pod} route")).contains("default via 10.99.0.1"));
                assert!(ip(&format!("-n {pod} -6 route")).contains("default via fd99::1"));
                assert_eq!(
                    result["routes"].as_array().map(Vec::len),
                    Some(2),
                    "{result}"
                );
            },
        ),
        ("one queue at either end", json!({}), |bed, pod, result| {
            for end in [link(&bed.node, &port(result)), link(pod, "eth0")] {
                assert_eq!(
                    (&end["num_tx_queues"], &end["num_rx_queues"]),
                    (&json!(1), &json!(1)),
                    "{end}"
                );
            }
        }),
        ("hairpin", json!({"hairpinMode": true}), |bed, _, result| {
            let port = link(&bed.node, &port(result));
            assert_eq!(
                port["linkinfo"]["info_slave_data"]["hairpin"], true,
                "{port}"
            );
        }),
        (
            "no hairpin",
            json!({"hairpinMode": false}),
            |bed, _, result| {
                let port = link(&bed.node, &port(result));
                assert_eq!(
                    port["linkinfo"]["info_slave_data"]["hairpin"], false,
                    "{port}"
                );
            },
        ),
        (
            "isolated",
            json!({"portIsolation": true}),
            |bed, _, result| {
                let port = link(&bed.node, &port(result));
                assert_eq!(
                    port["linkinfo"]["info_slave_data"]["isolated"], true,
                    "{port}"
                );
            },
        ),
        (
            "promiscuous",
            json!({"hairpinMode": false, "promiscMode": true}),
            |bed, _, _| {
                assert_eq!(link(&bed.node, "keelson0")["promiscuity"], 1);
            },
        ),
        ("mtu", json!({"mtu": 1300}), |bed, pod, result| {
            for (ns, name) in [
                (bed.node.as_str(), "keelson0"),
                (bed.node.as_str(), &port(result)),
                (pod, "eth0"),
            ] {
                assert_eq!(link(ns, name)["mtu"], 1300, "{name}");
            }
        }),
        (
            "duplicate address detection",
            json!({"enabledad": true}),
            |_, pod, _| {
                assert_eq!(
                    sh(pod, "cat /proc/sys/net/ipv6/conf/eth0/accept_dad").trim(),
                    "1"
                );
                let addresses = ip(&format!("-n {pod} addr show eth0 scope global"));
                assert!(
                    addresses.contains("fd99::2") && !addresses.contains("tentative"),
                    "{addresses}"
                );
            },
        ),
        (
            "dns",
            json!({"dns": {"nameservers": ["10.0.0.53"]}, "runtimeConfig": {"dns": {"searches": ["a"]}}}),
            |_, _, result| {
                assert_eq!(
                    result["dns"],
                    json!({"nameservers": ["10.0.0.53"], "search": ["a"]})
                );
            },
        ),
    ];
    for (name, fields, check) in rows {
        eprintln!("{name}");
        let bed = Bed::new();
        let (pod, mut conf) = (bed.pod("a"), bed.bridge_with(fields.clone()));
        if fields.get("isDefaultGateway").is_some() {
            conf["ipam"]["routes"] = json!([]);
        }
        let result = bed.call("bridge", "ADD", &pod, &conf).expect(name);
        check(&bed, &pod, &result);
        conf["prevResult"] = result;
        assert_eq!(
            bed.call("bridge", "CHECK", &pod, &conf),
            Ok(Value::Null),
            "{name}"
        );
        bed.call("bridge", "DEL", &pod, &conf).expect("del");
        assert_eq!(
            bed.allocations().len() + bed.ports(),
            usize::from(fields.get("vlan").is_some()),
            "{name}"
        );
    }
}

#[test]
fn isolated_ports_do_not_meet() {
    let bed = Bed::new();
    let isolated = bed.bridge_with(json!({"portIsolation": true}));
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    bed.call("bridge", "ADD", &a, &isolated).expect("add");
    let b = bed.call("bridge", "ADD", &b, &isolated).expect("add");
    assert!(!reaches(&a, &addresses(&b)[0]) && reaches(&a, "10.99.0.1"));
}

#[test]
fn another_address_on_the_bridge_is_refused_or_replaced() {
    let bed = Bed::new();
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    bed.call("bridge", "ADD", &a, &bed.bridge()).expect("first");
    let mut other = bed.bridge_with(json!({"name": "others"}));
    other["ipam"]["ranges"] = json!([[{"subnet": "10.98.0.0/24"}], [{"subnet": "fd98::/64"}]]);
    let refused = bed.call("bridge", "ADD", &b, &other).expect_err("refused");
    assert_eq!(refused["code"], 7, "{refused}");
    assert_eq!(bed.ports(), 1, "undone");
    other["forceAddress"] = json!(true);
    bed.call("bridge", "ADD", &b, &other).expect("forced");
    let addresses = ip(&format!("-n {} addr show keelson0", bed.node));
    assert!(
        addresses.contains("10.98.0.1/24") && !addresses.contains("10.99.0.1"),
        "{addresses}"
    );
    // Of IPv6 it has one of each network.
    assert!(
        addresses.contains("fd98::1/64") && addresses.contains("fd99::1/64"),
        "{addresses}"
    );
}

#[test]
fn hardware_addresses_are_given_in_three_ways() {
    let bed = Bed::new();
    let mac = |n: u8| format!("0a:00:00:00:00:0{n}");
    let rows = [
        (
            json!({"runtimeConfig": {"mac": mac(1)}, "args": {"cni": {"mac": mac(2)}}}),
            mac(1),
        ),
        (json!({"args": {"cni": {"mac": mac(2)}}}), mac(2)),
        (json!({}), mac(3)),
    ];
    let args = format!("MAC={}", mac(3));
    for (i, (fields, want)) in rows.into_iter().enumerate() {
        let pod = bed.pod(&format!("p{i}"));
        let conf = bed.bridge_with(fields);
        let result = bed
            .call_with("bridge", "ADD", &pod, &conf, &[("CNI_ARGS", &args)])
            .expect("add");
        assert_eq!(result["interfaces"][2]["mac"], want);
        assert_eq!(link(&pod, "eth0")["address"], want);
    }
    let pod = bed.pod("x");
    let bad = bed.bridge_with(json!({"runtimeConfig": {"mac": "01:00:00:00:00:01"}}));
    assert_eq!(
        bed.call("bridge", "ADD", &pod, &bad)
            .expect_err("a group's")["code"],
        7
    );
    let unknown = bed.call_with(
        "bridge",
        "ADD",
        &pod,
        &bed.bridge(),
        &[("CNI_ARGS", "FOO=BAR")],
    );
    assert_eq!(unknown.expect_err("unknown")["code"], 4);
}

#[test]
fn a_link_without_addresses() {
    for (fields, state) in [
        (json!({}), "UP"),
        (json!({"disableContainerInterface": true}), "DOWN"),
    ] {
        let bed = Bed::new();
        let pod = bed.pod("a");
        let mut conf = bed.bridge_with(fields);
        conf["ipam"] = json!({});
        let result = bed.call("bridge", "ADD", &pod, &conf).expect("add");
        assert_eq!(result["ips"], json!([]));
        let flags = link(&pod, "eth0")["flags"].to_string();
        assert_eq!(flags.contains("\"UP\""), state == "UP", "{flags}");
        conf["prevResult"] = result;
        bed.call("bridge", "CHECK", &pod, &conf).expect("sound");
        bed.call("bridge", "DEL", &pod, &conf).expect("del");
        assert_eq!(bed.ports(), 0);
    }
}

#[test]
fn what_is_no_bridge_is_not_used() {
    let bed = Bed::new();
    let pod = bed.pod("a");
    ip(&format!(
        "-n {} link add keelson0 type veth peer name other",
        bed.node
    ));
    let refused = bed
        .call("bridge", "ADD", &pod, &bed.bridge())
        .expect_err("a pair");
    assert_eq!(refused["code"], 7, "{refused}");
    assert_eq!(bed.allocations().len() + bed.ports(), 0);
}
