//! The reference's own behaviour: the same chain of configurations is run through ours and through Debian's plugins,
//! and what came of it is compared. What differs stands in the table, with the reason; what stands there ip differ.

mod cases;

use std::collections::BTreeMap;

use cases::{CASES, Case};
use serde_json::{Value, json};

use crate::bed::{Bed, ip, sh, with};

/// Types that only Debian's packages have.
const FOREIGN: &[&str] = &["tuning", "firewall", "sbr", "static"];

/// What came of a chain, by what it is about.
type Outcome = BTreeMap<&'static str, String>;

struct Runner<'a> {
    bed: &'a Bed,
    pod: String,
    ours: bool,
}

impl Runner<'_> {
    /// Runs a plugin of a chain.
    fn call(&self, command: &str, conf: &Value) -> Result<Value, Value> {
        let kind = conf["type"].as_str().expect("a type");
        let theirs = !self.ours || FOREIGN.contains(&kind);
        let name = if theirs {
            format!("debian:{kind}")
        } else {
            kind.to_owned()
        };
        self.bed.call(&name, command, &self.pod, conf)
    }

    /// Runs a chain as a runtime does: forwards to add, backwards to delete.
    fn chain(&self, chain: &[Value]) -> Outcome {
        let mut out = Outcome::new();
        let mut result = Value::Null;
        let mut added = Vec::new();
        for conf in chain {
            let mut conf = conf.clone();
            if !result.is_null() {
                conf["prevResult"] = result.clone();
            }
            match self.call("ADD", &conf) {
                Ok(value) => result = value,
                Err(_) => {
                    out.insert("error", conf["type"].to_string());
                    break;
                }
            }
            added.push(conf);
        }
        if !out.contains_key("error") {
            self.describe(&result, &mut out);
            let check = |conf: &Value| {
                let mut conf = conf.clone();
                conf["prevResult"] = result.clone();
                self.call("CHECK", &conf)
            };
            let checks: Vec<bool> = chain.iter().map(|c| check(c).is_ok()).collect();
            out.insert("check", format!("{checks:?}"));
        }
        for attempt in ["del", "del again"] {
            let one = |conf: &Value| {
                let mut conf = conf.clone();
                if !result.is_null() {
                    conf["prevResult"] = result.clone();
                }
                self.call("DEL", &conf).is_ok()
            };
            let deleted: Vec<bool> = chain.iter().rev().map(one).collect();
            out.insert(attempt, format!("{deleted:?}"));
        }
        out.insert("left links", self.links());
        out.insert("left addresses", self.ledger());
        out.insert("left in the pod", self.inside());
        out
    }

    fn describe(&self, result: &Value, out: &mut Outcome) {
        let mut ips: Vec<String> = result["ips"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|ip| format!("{} {} {}", ip["address"], ip["gateway"], ip["interface"]))
            .collect();
        ips.sort();
        out.insert("addresses", ips.join(", "));
        // Without any, the reference says nothing, and we say that there are none.
        let routes = result["routes"].as_array().cloned().unwrap_or_default();
        out.insert("routes", Value::Array(routes).to_string());
        out.insert("dns", result["dns"].to_string());
        let interfaces = result["interfaces"].as_array().into_iter().flatten();
        let places = interfaces.map(|i| {
            let inside = i["sandbox"].as_str().is_some_and(|s| !s.is_empty());
            let name = i["name"].as_str().unwrap_or_default();
            let known = ["br0", "eth0"].contains(&name);
            (if known { name } else { "link" }, inside)
        });
        out.insert("interfaces", format!("{:?}", places.collect::<Vec<_>>()));
        out.insert("links", self.links());
        out.insert("in the pod", self.inside());
        out.insert("ledger", self.ledger());
        out.insert(
            "forwarding",
            self.bed.sh("cat /proc/sys/net/ipv4/ip_forward"),
        );
    }

    /// Links of the node: their kind and what is said about them, without names that are made up.
    fn links(&self) -> String {
        let text = self.bed.sh("ip -d -j link");
        let links: Value = serde_json::from_str(&text).unwrap_or_default();
        let mut all = Vec::new();
        for link in links.as_array().into_iter().flatten() {
            let info = &link["linkinfo"];
            let Some(kind) = info["info_kind"]
                .as_str()
                .filter(|_| link["ifname"] != "out")
            else {
                continue;
            };
            let port = &info["info_slave_data"];
            all.push(format!(
                "{kind} up={} mtu={} promisc={} port={} hairpin={} vlans={}",
                link["flags"].to_string().contains("\"UP\""),
                link["mtu"],
                link["promiscuity"] != 0 && kind == "bridge",
                link["master"].is_string(),
                port["hairpin"],
                info["info_data"]["vlan_filtering"]
            ));
        }
        all.sort();
        all.join("\n")
    }

    /// Addresses and routes in the pod, without the kernel's own.
    fn inside(&self) -> String {
        let ns = &self.pod;
        let ask = |what: &str| {
            let text = sh(ns, &format!("ip {what}"));
            let own = text
                .lines()
                .filter(|l| !l.contains("fe80") && !l.contains("ff00"));
            let mut lines: Vec<String> = own
                .map(|l| {
                    l.split_whitespace()
                        .filter(|w| !w.contains('@'))
                        .collect::<Vec<_>>()
                        .join(" ")
                })
                .collect();
            lines.sort();
            lines.join("\n")
        };
        [ask("-br -4 addr"), ask("-4 route"), ask("-6 route")].join("\n")
    }

    fn ledger(&self) -> String {
        let dir = self.bed.dir.path().join("ledger/net");
        let mut all: Vec<String> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            // Ours also remembers which start of the machine it is of: addresses of the one before are free.
            .filter(|e| e.file_name() != "lock" && e.file_name() != "boot_id")
            .map(|e| {
                let text = std::fs::read_to_string(e.path()).unwrap_or_default();
                format!(
                    "{} {:?}",
                    e.file_name().display(),
                    text.replace(&self.pod, "POD")
                )
            })
            .collect();
        all.sort();
        all.join(", ")
    }
}

fn outcome(case: &Case, ours: bool) -> Outcome {
    let bed = Bed::new();
    let pod = bed.pod("a");
    // Our bridge sees to it; with the reference's a runtime runs `loopback` before.
    ip(&format!("-n {pod} link set lo up"));
    let ipam = json!({"type": "host-local", "dataDir": bed.dir.path().join("ledger"),
        "ranges": [[{"subnet": "10.99.0.0/24"}]]});
    let mut chain = (case.chain)(&ipam);
    for conf in &mut chain {
        *conf = with(conf.take(), json!({"cniVersion": "1.0.0", "name": "net"}));
    }
    Runner {
        bed: &bed,
        pod,
        ours,
    }
    .chain(&chain)
}

#[test]
fn ours_does_what_the_reference_does() {
    let only = std::env::var("KEELSON_STEP").unwrap_or_default();
    let mut wrong = Vec::new();
    for case in CASES.iter().filter(|c| c.name.contains(&only)) {
        let (ours, theirs) = (outcome(case, true), outcome(case, false));
        let keys = ours.keys().chain(theirs.keys()).copied();
        let mut keys: Vec<&str> = keys.collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let differs = ours.get(key) != theirs.get(key);
            let told = case.differs.iter().any(|(k, _)| *k == key);
            if differs != told {
                let [a, b] = [&ours, &theirs].map(|o| o.get(key).cloned().unwrap_or("-".into()));
                let why = if told { "is told to differ" } else { "differs" };
                wrong.push(format!(
                    "{}: {key} {why}\n  ours:\n{a}\n  theirs:\n{b}",
                    case.name
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differences\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}
