//! Many calls at once.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::bed::{Bed, addresses, ip};

/// What a node has: links, addresses, routes, rules, and what the ledger has. What the kernel makes of its own, and
/// whether a link has a carrier just now, is left out.
pub(crate) fn state(bed: &Bed) -> Vec<String> {
    let rules = "nft -s list ruleset; iptables-save -t nat | grep '^-A'";
    let mut all: Vec<String> = bed.sh(rules).lines().map(str::to_owned).collect();
    for (what, fields) in [
        ("link", &["ifname", "mtu", "master"][..]),
        ("addr", &["ifname", "addr_info"]),
        ("-4 route", &["dst", "gateway", "dev"]),
        ("-6 route", &["dst", "gateway", "dev"]),
    ] {
        let text = ip(&format!("-n {} -j {what}", bed.node));
        let list: Value = serde_json::from_str(&text).expect("JSON of iproute2");
        for entry in list.as_array().expect("a list") {
            let parts = fields.iter().map(|field| match entry[field].as_array() {
                Some(own) => own.iter().map(|a| &a["local"]).filter(|a| !local(a)).join(),
                None => entry[field].to_string(),
            });
            let line: Vec<String> = parts.collect();
            all.extend((!local(&entry["dst"])).then(|| format!("{what} {}", line.join(" "))));
        }
    }
    all.extend(bed.allocations());
    all.sort();
    all
}

/// An address or network of one link alone.
fn local(address: &Value) -> bool {
    let text = address.as_str().unwrap_or_default();
    text.starts_with("fe80") || text.starts_with("ff00")
}

trait Join {
    fn join(self) -> String;
}

impl<'a, I: Iterator<Item = &'a Value>> Join for I {
    fn join(self) -> String {
        self.map(|v| format!("{v} ")).collect()
    }
}

/// What is in one state and not in the other.
pub(crate) fn assert_same(before: &[String], after: &[String], what: &str) {
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        a.iter().filter(|l| !b.contains(l)).cloned().collect()
    };
    let (gone, new) = (only(before, after), only(after, before));
    assert!(
        gone.is_empty() && new.is_empty() && before.len() == after.len(),
        "{what}\ngone: {gone:#?}\nnew: {new:#?}"
    );
}

/// Runs `count` jobs, so many at a time.
pub(crate) fn in_parallel<T: Send>(
    count: usize,
    at_once: usize,
    job: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let own = next.fetch_add(1, Ordering::Relaxed);
                    if own >= count {
                        return;
                    }
                    let result = job(own);
                    done.lock().expect("no panic").push(result);
                }
            });
        }
    });
    done.into_inner().expect("no panic")
}

fn conf(bed: &Bed, port: usize) -> Value {
    let mut conf = bed.bridge();
    conf["runtimeConfig"] =
        json!({"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "udp"}]});
    conf
}

#[test]
fn a_thousand_pods_come_and_go_and_nothing_is_left() {
    const WORKERS: usize = 16;
    let bed = Bed::new();
    let pods: Vec<String> = (0..WORKERS).map(|i| bed.pod(&format!("p{i}"))).collect();
    let round = |pod: &String, port: usize| {
        let mut conf = conf(&bed, port);
        let added = bed.call("bridge", "ADD", pod, &conf);
        conf["prevResult"] = added.unwrap_or_else(|e| panic!("add {pod}: {e}"));
        let deleted = bed.call("bridge", "DEL", pod, &conf);
        assert_eq!(deleted, Ok(Value::Null), "{pod}");
    };
    // What stays for the next pod, the bridge and empty maps, is there before.
    round(&pods[0], 9999);
    let before = state(&bed);
    // One worker, one pod: a name is not in use twice.
    std::thread::scope(|scope| {
        for (i, pod) in pods.iter().enumerate() {
            scope.spawn(move || (0..1000 / WORKERS + 1).for_each(|_| round(pod, 8000 + i)));
        }
    });
    assert_same(&before, &state(&bed), "a thousand later");
}

#[test]
fn sixty_four_at_once_get_addresses_of_their_own() {
    const PODS: usize = 64;
    let bed = Bed::new();
    let pods: Vec<String> = (0..PODS).map(|i| bed.pod(&format!("p{i}"))).collect();
    let results = in_parallel(PODS, PODS, |i| {
        let added = bed.call("bridge", "ADD", &pods[i], &conf(&bed, 8000 + i));
        added.unwrap_or_else(|e| panic!("add {i}: {e}"))
    });
    let all: Vec<String> = results.iter().flat_map(addresses).collect();
    let distinct: BTreeSet<&String> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (2 * PODS, 2 * PODS));
    let mapped = bed.sh("nft list map ip keelson-hostports ports");
    assert_eq!(mapped.matches("udp . 80").count(), PODS, "{mapped}");
    in_parallel(PODS, PODS, |i| {
        let deleted = bed.call("bridge", "DEL", &pods[i], &conf(&bed, 8000 + i));
        assert_eq!(deleted, Ok(Value::Null), "{i}");
    });
    let left = state(&bed);
    let has = |what: &str| left.iter().any(|l| l.contains(what));
    assert!(!has("10.99.0.2") && !has("ksn"), "{left:#?}");
}
