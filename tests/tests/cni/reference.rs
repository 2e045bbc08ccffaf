//! The reference's own behaviour: the same chain of configurations is run through ours and through Debian's plugins,
//! and what came of it is compared. What differs stands in the table, with the reason; what stands there must differ.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::bed::{Bed, must, run};

/// A chain of plugins with one input.
struct Case {
    name: &'static str,
    /// From the bed's folder for the ledger to the configurations, in order.
    chain: fn(&Value) -> Vec<Value>,
    /// Which outcomes differ, and why.
    differs: &'static [(&'static str, &'static str)],
}

/// Types that only Debian's packages have.
const FOREIGN: &[&str] = &["tuning", "firewall", "sbr", "static"];

fn bridge(ipam: &Value, more: Value) -> Value {
    let mut conf = json!({"type": "bridge", "bridge": "br0", "ipam": ipam});
    merge(&mut conf, more);
    conf
}

fn merge(conf: &mut Value, more: Value) {
    let (Value::Object(conf), Value::Object(more)) = (conf, more) else {
        return;
    };
    conf.extend(more);
}

fn ranged(ipam: &Value, ranges: Value) -> Value {
    let mut ipam = ipam.clone();
    ipam["ranges"] = ranges;
    ipam
}

/// With two host ports.
fn mapped(mut conf: Value) -> Value {
    conf["runtimeConfig"] = json!({"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 80, "protocol": "udp"}]});
    conf
}

fn portmap() -> Value {
    mapped(json!({"type": "portmap", "snat": true}))
}

const CHECK_OF_PORTS: (&str, &str) = (
    "check",
    "Debian's portmap 1.1.1 can't CHECK a mapping of a container without IPv6",
);

const CASES: &[Case] = &[
    Case {
        name: "bridge",
        chain: |ipam| vec![bridge(ipam, json!({}))],
        differs: &[],
    },
    Case {
        name: "bridge as the gateway",
        chain: |ipam| vec![bridge(ipam, json!({"isGateway": true}))],
        differs: &[],
    },
    Case {
        name: "bridge as the default gateway",
        chain: |ipam| vec![bridge(ipam, json!({"isDefaultGateway": true}))],
        differs: &[],
    },
    Case {
        name: "bridge with masquerade",
        chain: |ipam| vec![bridge(ipam, json!({"isGateway": true, "ipMasq": true}))],
        differs: &[],
    },
    Case {
        name: "bridge with an MTU",
        chain: |ipam| vec![bridge(ipam, json!({"mtu": 1400}))],
        differs: &[],
    },
    Case {
        name: "bridge with hairpin mode",
        chain: |ipam| vec![bridge(ipam, json!({"hairpinMode": true}))],
        differs: &[],
    },
    Case {
        name: "promiscuous bridge",
        chain: |ipam| vec![bridge(ipam, json!({"promiscMode": true}))],
        differs: &[],
    },
    Case {
        name: "promiscuous bridge with hairpin mode",
        chain: |ipam| {
            vec![bridge(
                ipam,
                json!({"promiscMode": true, "hairpinMode": true}),
            )]
        },
        differs: &[
            (
                "del",
                "ADD refuses it, so there is nothing to delete: ours refuses it always",
            ),
            ("del again", "the same"),
        ],
    },
    Case {
        name: "bridge with a VLAN",
        chain: |ipam| vec![bridge(ipam, json!({"vlan": 100}))],
        differs: &[],
    },
    Case {
        name: "bridge with a VLAN that can't be",
        chain: |ipam| vec![bridge(ipam, json!({"vlan": 5000}))],
        differs: &[],
    },
    Case {
        name: "bridge without addresses",
        chain: |_| vec![bridge(&json!({}), json!({}))],
        differs: &[(
            "check",
            "the reference's CHECK wants addresses where ADD gave none",
        )],
    },
    Case {
        name: "bridge with two families",
        chain: |ipam| {
            let ranges = json!([[{"subnet": "10.98.0.0/24"}], [{"subnet": "fd98::/64"}]]);
            vec![bridge(&ranged(ipam, ranges), json!({"isGateway": true}))]
        },
        differs: &[],
    },
    Case {
        name: "host-local with a part of a range and routes",
        chain: |ipam| {
            let ranges = json!([[{"subnet": "10.98.0.0/24", "rangeStart": "10.98.0.20",
                "rangeEnd": "10.98.0.30", "gateway": "10.98.0.254"}]]);
            let mut ipam = ranged(ipam, ranges);
            ipam["routes"] =
                json!([{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.98.0.9"}]);
            vec![bridge(&ipam, json!({}))]
        },
        differs: &[("routes", "ours says by which gateway a route leads")],
    },
    Case {
        name: "host-local in the old form",
        chain: |ipam| {
            let mut ipam = ipam.clone();
            merge(&mut ipam, json!({"ranges": [], "subnet": "10.97.0.0/24"}));
            vec![bridge(&ipam, json!({}))]
        },
        differs: &[],
    },
    Case {
        name: "a requested address",
        chain: |ipam| {
            vec![bridge(
                ipam,
                json!({"runtimeConfig": {"ips": ["10.99.0.77"]}}),
            )]
        },
        differs: &[],
    },
    Case {
        name: "a requested address elsewhere",
        chain: |ipam| {
            vec![bridge(
                ipam,
                json!({"runtimeConfig": {"ips": ["10.1.1.1"]}}),
            )]
        },
        differs: &[(
            "left addresses",
            "the reference takes another address before it sees that the wanted one can't be",
        )],
    },
    Case {
        name: "a requested hardware address",
        chain: |ipam| {
            vec![bridge(
                ipam,
                json!({"runtimeConfig": {"mac": "02:11:22:33:44:55"}}),
            )]
        },
        differs: &[],
    },
    Case {
        name: "overlapping ranges",
        chain: |ipam| {
            let ranges = json!([[{"subnet": "10.98.0.0/16"}], [{"subnet": "10.98.1.0/24"}]]);
            vec![bridge(&ranged(ipam, ranges), json!({}))]
        },
        differs: &[(
            "left links",
            "the reference makes the bridge before it reads the ranges",
        )],
    },
    Case {
        name: "ptp",
        chain: |ipam| vec![json!({"type": "ptp", "ipam": ipam})],
        differs: &[],
    },
    Case {
        name: "ptp with masquerade and an MTU",
        chain: |ipam| vec![json!({"type": "ptp", "ipam": ipam, "ipMasq": true, "mtu": 1400})],
        differs: &[],
    },
    Case {
        name: "portmap after the bridge",
        chain: |ipam| vec![bridge(ipam, json!({"isGateway": true})), portmap()],
        differs: &[CHECK_OF_PORTS],
    },
    Case {
        name: "portmap without ports",
        chain: |ipam| vec![bridge(ipam, json!({})), json!({"type": "portmap"})],
        differs: &[],
    },
    Case {
        name: "portmap with a bit that can't be",
        chain: |ipam| {
            let mut portmap = portmap();
            portmap["markMasqBit"] = json!(99);
            vec![bridge(ipam, json!({})), portmap]
        },
        differs: &[],
    },
    Case {
        name: "tuning, portmap and firewall after the bridge",
        chain: |ipam| {
            vec![
                bridge(ipam, json!({"isGateway": true})),
                json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}),
                portmap(),
                json!({"type": "firewall", "backend": "iptables"}),
            ]
        },
        differs: &[CHECK_OF_PORTS],
    },
    Case {
        name: "sbr and bandwidth after the bridge",
        chain: |ipam| {
            vec![
                bridge(ipam, json!({"isGateway": true})),
                json!({"type": "sbr"}),
                json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000,
                    "egressRate": 8_000_000, "egressBurst": 800_000}),
            ]
        },
        differs: &[(
            "check",
            "sbr moves routes to another table, and the reference's bridge misses them",
        )],
    },
];

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
            let text = run("ip", &format!("-n {ns} {what}")).stdout;
            let text = String::from_utf8_lossy(&text).into_owned();
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
    must("ip", &format!("-n {pod} link set lo up"));
    let ipam = json!({"type": "host-local", "dataDir": bed.dir.path().join("ledger"),
        "ranges": [[{"subnet": "10.99.0.0/24"}]]});
    let mut chain = (case.chain)(&ipam);
    for conf in &mut chain {
        merge(conf, json!({"cniVersion": "1.0.0", "name": "net"}));
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
