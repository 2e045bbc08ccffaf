//! Chains, delegation and results (sections 3 to 5).

use serde_json::{Value, json};

use super::{Walk, said};
use crate::bed::{DEBIANS, environment, must};

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

fn theirs(w: &Walk<'_>) -> (&'static str, String) {
    let bin = w.bed.dir.path().join("path");
    std::fs::create_dir_all(&bin).expect("folder");
    let script = format!(
        "#!/bin/sh\necho $CNI_COMMAND >> {0}/calls\nexec {DEBIANS}/host-local\n",
        bin.display()
    );
    std::fs::write(bin.join("theirs"), script).expect("script");
    must("chmod", &format!("+x {}", bin.join("theirs").display()));
    ("CNI_PATH", bin.display().to_string())
}

fn delegate(w: &Walk<'_>, command: &str, pod: &str, conf: &Value) -> Result<Value, Value> {
    let mut env = environment(command, pod, "eth0");
    let path = theirs(w);
    env.retain(|(name, _)| *name != path.0);
    env.push(path);
    let output = w.bed.run("bridge", &env, conf.to_string().as_bytes());
    if output.status.success() {
        Ok(said(&output))
    } else {
        Err(said(&output))
    }
}

fn calls(w: &Walk<'_>) -> Vec<String> {
    let text = std::fs::read_to_string(w.bed.dir.path().join("path/calls")).expect("calls");
    // In a version that it does not know it is asked twice.
    let mut all: Vec<String> = text.lines().map(str::to_owned).collect();
    all.dedup();
    all
}

pub(crate) fn delegated(w: &Walk<'_>) {
    let (pod, conf) = (w.bed.pod("a"), by_debian(w));
    let result = delegate(w, "ADD", &pod, &conf).expect("add");
    assert_eq!(result["cniVersion"], w.version);
    assert!(must("ip", &format!("-n {pod} addr show eth0")).contains("10.99.0.2/24"));
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
