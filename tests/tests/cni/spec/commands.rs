//! The commands (section 2).

use serde_json::{Value, json};

use super::{VERSIONS, Walk};
use crate::bed::{addresses, environment, ip, said};

pub(crate) fn add(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    let output = w.with_env("ADD", &pod, &[("CNI_IFNAME", Some("net7"))]);
    assert!(output.status.success(), "{}", said(&output));
    let link = ip(&format!("-n {pod} addr show net7"));
    assert!(
        link.contains("10.99.0.2/24") && link.contains("fd99::2/64"),
        "{link}"
    );
    assert!(ip(&format!("-n {pod} route")).contains("default via 10.99.0.1 dev net7"));
    let mac = said(&output)["interfaces"][2]["mac"].clone();
    assert!(
        mac.is_null() || link.contains(mac.as_str().expect("text")),
        "{mac} {link}"
    );
}

pub(crate) fn add_twice(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    w.call("ADD", &pod, &w.conf()).expect("add");
    assert_eq!(w.code("ADD", &pod, &w.conf()), 4);
    assert_eq!(w.held(), (2, 1), "the first is whole");
    assert!(ip(&format!("-n {pod} addr show eth0")).contains("10.99.0.2/24"));
}

pub(crate) fn add_fails(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    let mut conf = w.conf();
    conf["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}]);
    w.code("ADD", &pod, &conf);
    w.assert_empty();
    assert!(!ip(&format!("-n {pod} link")).contains("eth0"));
}

pub(crate) fn del(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    w.call("ADD", &pod, &w.conf()).expect("add");
    for again in ["first", "again"] {
        assert_eq!(w.call("DEL", &pod, &w.conf()), Ok(Value::Null), "{again}");
        w.assert_empty();
        assert!(!ip(&format!("-n {pod} link")).contains("eth0"));
    }
}

pub(crate) fn del_without_namespace(w: &Walk<'_>) {
    let (a, b) = (w.bed.pod("a"), w.bed.pod("b"));
    w.call("ADD", &a, &w.conf()).expect("add");
    w.call("ADD", &b, &w.conf()).expect("add");
    ip(&format!("netns del {a}"));
    assert_eq!(w.call("DEL", &a, &w.conf()), Ok(Value::Null));
    let output = w.with_env("DEL", &b, &[("CNI_NETNS", None)]);
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{}",
        said(&output)
    );
    w.assert_empty();
}

pub(crate) fn del_of_nothing(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    assert_eq!(
        w.call("DEL", &pod, &w.conf()),
        Ok(Value::Null),
        "never added"
    );
    w.call("ADD", &pod, &w.conf()).expect("add");
    ip(&format!("-n {pod} link del eth0"));
    std::fs::remove_dir_all(w.bed.dir.path().join("pods")).expect("ledger");
    assert_eq!(w.call("DEL", &pod, &w.conf()), Ok(Value::Null));
    w.assert_empty();
}

pub(crate) fn del_with_result(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    let result = w
        .call("ADD", &pod, &w.with(json!({"ipMasq": true})))
        .expect("add");
    let conf = w.with(json!({"ipMasq": true, "prevResult": result}));
    assert_eq!(w.call("DEL", &pod, &conf), Ok(Value::Null));
    assert!(!w.bed.sh("nft list ruleset").contains("keelson-cni"));
}

pub(crate) fn check(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    let result = w.call("ADD", &pod, &w.conf()).expect("add");
    let conf = w.with(json!({"prevResult": result})).to_string();
    let output = w.bed.run(
        "bridge",
        &environment("CHECK", &pod, "eth0"),
        conf.as_bytes(),
    );
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{}",
        said(&output)
    );
}

pub(crate) fn check_needs_result(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    w.call("ADD", &pod, &w.conf()).expect("add");
    assert_eq!(w.code("CHECK", &pod, &w.conf()), 7);
}

pub(crate) fn check_finds(w: &Walk<'_>) {
    let breaks = [
        "ip -n POD link del eth0",
        "ip -n POD link set eth0 down",
        "ip -n POD addr del V4/24 dev eth0",
        "ip -n POD addr del V6/64 dev eth0",
        "ip -n POD route del default",
        "ip -n POD -6 route del default",
        "rm LEDGER/V4",
        "ip link del keelson0",
    ];
    for (i, harm) in breaks.iter().enumerate() {
        let pod = w.bed.pod(&format!("p{i}"));
        let result = w.call("ADD", &pod, &w.conf()).expect("add");
        let ledger = w.bed.dir.path().join("pods").display().to_string();
        let [v4, v6] = <[String; 2]>::try_from(addresses(&result)).expect("two");
        let words = [("POD", &pod), ("LEDGER", &ledger), ("V4", &v4), ("V6", &v6)];
        let harm = words
            .iter()
            .fold((*harm).to_owned(), |h, (k, v)| h.replace(k, v));
        let conf = w.with(json!({"prevResult": result}));
        assert_eq!(
            w.call("CHECK", &pod, &conf),
            Ok(Value::Null),
            "before {harm}"
        );
        assert_eq!(w.bed.sh(&harm), "", "{harm}");
        assert_eq!(w.code("CHECK", &pod, &conf), 102, "{harm}");
    }
}

pub(crate) fn status(w: &Walk<'_>) {
    assert_eq!(w.call("STATUS", "", &w.conf()), Ok(Value::Null));
    let mut conf = w.conf();
    conf["ipam"]["ranges"] = json!([[{"subnet": "10.98.0.0/30"}]]);
    w.call("ADD", &w.bed.pod("a"), &conf)
        .expect("the one address");
    assert_eq!(w.code("STATUS", "", &conf), 50);
}

pub(crate) fn gc(w: &Walk<'_>) {
    let (a, b) = (w.bed.pod("a"), w.bed.pod("b"));
    w.call("ADD", &a, &w.conf()).expect("add");
    let kept = w.call("ADD", &b, &w.conf()).expect("add");
    let valid = json!([{"containerID": b, "ifname": "eth0"}]);
    let conf = w.with(json!({"cni.dev/valid-attachments": valid}));
    assert_eq!(w.call("GC", "", &conf), Ok(Value::Null));
    assert_eq!(w.held(), (2, 1));
    w.call("CHECK", &b, &w.with(json!({"prevResult": kept})))
        .expect("the valid one is whole");
    let none = w.with(json!({"cni.dev/valid-attachments": []}));
    assert_eq!(w.call("GC", "", &none), Ok(Value::Null));
    w.assert_empty();
}

pub(crate) fn gc_needs_list(w: &Walk<'_>) {
    assert_eq!(w.code("GC", "", &w.conf()), 7);
    let other = w.with(json!({"cni.dev/attachments": []}));
    assert_eq!(w.call("GC", "", &other), Ok(Value::Null));
}

pub(crate) fn versions(w: &Walk<'_>) {
    for plugin in ["bridge", "ptp", "loopback", "host-local", "portmap"] {
        let input = json!({"cniVersion": w.version}).to_string();
        let env = [("CNI_COMMAND", "VERSION".to_owned())];
        let told = said(&w.bed.run(plugin, &env, input.as_bytes()));
        assert_eq!(told["cniVersion"], w.version, "{plugin}");
        assert_eq!(told["supportedVersions"], json!(VERSIONS), "{plugin}");
    }
}

pub(crate) fn newer_commands(w: &Walk<'_>) {
    for (command, since) in [("CHECK", "0.4.0"), ("STATUS", "1.1.0"), ("GC", "1.1.0")] {
        if w.version < since {
            assert_eq!(w.code(command, "a", &w.conf()), 1, "{command}");
        }
    }
}
