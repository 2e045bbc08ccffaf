//! Chains, delegation and results (sections 3 to 5).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::Walk;
use crate::bed::{DEBIANS, ip};

pub(crate) fn handed_on(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    let before = w.call("ADD", &pod, &w.conf()).expect("add");
    for plugin in ["loopback", "portmap"] {
        let conf =
            json!({"cniVersion": w.version, "name": "pods", "type": plugin, "prevResult": before});
        assert_eq!(
            w.bed.call(plugin, "ADD", &pod, &conf).as_ref(),
            Ok(&before),
            "{plugin}"
        );
    }
}

fn by_debian(w: &Walk<'_>) -> Value {
    let mut conf = w.conf();
    conf["ipam"]["type"] = json!("theirs");
    conf
}

/// Debian's under a name that is not built in: it notes what it is asked for.
fn theirs(w: &Walk<'_>) -> String {
    let bin = w.bed.bin();
    std::fs::create_dir_all(&bin).expect("folder");
    let (bin, script) = (bin.display(), bin.join("theirs"));
    let text = format!("#!/bin/sh\necho $CNI_COMMAND >> {bin}/calls\nexec {DEBIANS}/host-local\n");
    std::fs::write(&script, text).expect("script");
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("chmod");
    bin.to_string()
}

fn delegate(w: &Walk<'_>, command: &str, pod: &str, conf: &Value) -> Result<Value, Value> {
    let path = [("CNI_PATH", &*theirs(w))];
    w.bed.call_with("bridge", command, pod, conf, &path)
}

fn calls(w: &Walk<'_>) -> Vec<String> {
    let text = std::fs::read_to_string(w.bed.bin().join("calls")).expect("calls");
    // In a version that it does not know it is asked twice.
    let mut all: Vec<String> = text.lines().map(str::to_owned).collect();
    all.dedup();
    all
}

pub(crate) fn delegated(w: &Walk<'_>) {
    let (pod, conf) = (w.bed.pod("a"), by_debian(w));
    let result = delegate(w, "ADD", &pod, &conf).expect("add");
    assert_eq!(result["cniVersion"], w.version);
    assert!(ip(&format!("-n {pod} addr show eth0")).contains("10.99.0.2/24"));
    delegate(w, "DEL", &pod, &conf).expect("del");
    assert_eq!(calls(w), ["ADD", "DEL"]);
    w.assert_empty();
    let mut missing = conf;
    missing["ipam"]["type"] = json!("no-such-plugin");
    let error = delegate(w, "ADD", &pod, &missing).expect_err("missing");
    assert!(error["code"].as_u64() >= Some(100), "{error}");
}

pub(crate) fn delegated_failure(w: &Walk<'_>) {
    let (pod, mut conf) = (w.bed.pod("a"), by_debian(w));
    conf["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}]);
    delegate(w, "ADD", &pod, &conf).expect_err("a next hop that is nowhere");
    assert_eq!(calls(w), ["ADD", "DEL"]);
    w.assert_empty();
}

pub(crate) fn delegated_check(w: &Walk<'_>) {
    let (pod, mut conf) = (w.bed.pod("a"), by_debian(w));
    conf["prevResult"] = delegate(w, "ADD", &pod, &conf).expect("add");
    delegate(w, "CHECK", &pod, &conf).expect("sound");
    std::fs::remove_dir_all(w.bed.dir.path().join("pods")).expect("ledger");
    delegate(w, "CHECK", &pod, &conf).expect_err("no reservation");
    assert_eq!(calls(w), ["ADD", "CHECK"]);
}

pub(crate) fn forms(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    let result = w.call("ADD", &pod, &w.conf()).expect("add");
    assert_eq!(result["cniVersion"], w.version);
    if w.version < "0.3.0" {
        assert_eq!(result["ip4"]["ip"], "10.99.0.2/24");
        assert_eq!(result["ip4"]["gateway"], "10.99.0.1");
        assert_eq!(result["ip6"]["routes"][0]["dst"], "::/0");
        assert!(result.get("ips").is_none() && result.get("interfaces").is_none());
        return;
    }
    let inner = &result["interfaces"][2];
    assert_eq!(inner["name"], "eth0");
    assert_eq!(inner["sandbox"], format!("/run/netns/{pod}"));
    assert_eq!(inner["mtu"].is_u64(), w.version >= "1.1.0");
    assert!(result["interfaces"][0].get("sandbox").is_none());
    for (i, (address, version)) in [("10.99.0.2/24", "4"), ("fd99::2/64", "6")]
        .iter()
        .enumerate()
    {
        let ip = &result["ips"][i];
        assert_eq!(
            (&ip["address"], &ip["interface"]),
            (&json!(address), &json!(2))
        );
        let told = (w.version < "1.0.0").then_some(*version);
        assert_eq!(ip["version"].as_str(), told);
    }
    assert_eq!(
        result["routes"][0],
        json!({"dst": "0.0.0.0/0", "gw": "10.99.0.1"})
    );
}

pub(crate) fn abbreviated(w: &Walk<'_>) {
    let mut conf = w.conf();
    conf["ipam"]["routes"] = json!([{"dst": "10.0.0.0/8", "mtu": 1400, "priority": 5}]);
    let result = w.bed.call("host-local", "ADD", "a", &conf).expect("add");
    assert_eq!(result["cniVersion"], w.version);
    assert!(result.get("interfaces").is_none());
    let route = match w.version < "0.3.0" {
        true => &result["ip4"]["routes"][0],
        false => &result["routes"][0],
    };
    let want = match w.version {
        "1.1.0" => json!({"dst": "10.0.0.0/8", "mtu": 1400, "priority": 5}),
        _ => json!({"dst": "10.0.0.0/8"}),
    };
    assert_eq!(*route, want);
}
