//! The plugin as a runtime calls it, in network namespaces of the test's own: one plays the node.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

fn ip(args: &str) -> Output {
    Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .expect("ip (Debian: iproute2)")
}

/// A node and its pods; all namespaces go with it.
struct Bed {
    node: String,
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let node = format!(
            "kscni-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        assert!(
            ip(&format!("netns add {node}")).status.success(),
            "run as root"
        );
        Self {
            node,
            dir: tempfile::tempdir().expect("tempdir"),
        }
    }

    fn pod(&self, name: &str) -> String {
        let ns = format!("{}-{name}", self.node);
        assert!(ip(&format!("netns add {ns}")).status.success());
        ns
    }

    fn conf(&self) -> Value {
        json!({"cniVersion": "1.1.0", "name": "pods", "type": "keelson-cni", "bridge": "keelson0",
            "isGateway": true, "hairpinMode": true, "mtu": 1400, "ipam": {"type": "host-local", "dataDir": self.dir.path(), "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd99::/64"}]]}})
    }

    /// Calls the plugin in the node's namespace, as the agent would there. No other plugin is to be found.
    fn call(&self, command: &str, pod: &str, conf: &Value) -> Result<Value, Value> {
        self.call_among("/none", command, pod, conf)
    }

    /// The same with others where `path` says.
    fn call_among(
        &self,
        path: &str,
        command: &str,
        pod: &str,
        conf: &Value,
    ) -> Result<Value, Value> {
        let mut child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.node,
                env!("CARGO_BIN_EXE_keelson-cni"),
            ])
            .envs([
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", pod),
                ("CNI_IFNAME", "eth0"),
                ("CNI_PATH", path),
            ])
            .env("CNI_NETNS", format!("/run/netns/{pod}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start plugin");
        let sent = child
            .stdin
            .take()
            .expect("stdin")
            .write_all(conf.to_string().as_bytes());
        // One that refuses its environment may have ended before it read anything.
        let refused = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
        assert!(sent.as_ref().err().is_none_or(refused), "{sent:?}");
        let out = child.wait_with_output().expect("plugin");
        let value = serde_json::from_slice(&out.stdout).unwrap_or(Value::Null);
        if out.status.success() {
            Ok(value)
        } else {
            Err(value)
        }
    }

    fn links(&self) -> String {
        String::from_utf8_lossy(&ip(&format!("-n {} -br link", self.node)).stdout).into_owned()
    }

    fn allocations(&self) -> BTreeSet<String> {
        let dir = std::fs::read_dir(self.dir.path().join("pods")).expect("ledger");
        let names = dir.filter_map(|e| e.ok()?.file_name().into_string().ok());
        names
            .filter(|n| n.parse::<std::net::IpAddr>().is_ok())
            .collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let list = String::from_utf8_lossy(&ip("netns list").stdout).into_owned();
        for ns in list.lines().filter_map(|l| l.split_whitespace().next()) {
            if ns == self.node || ns.starts_with(&format!("{}-", self.node)) {
                ip(&format!("netns del {ns}"));
            }
        }
    }
}

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().expect("ips").iter();
    ips.map(|i| {
        i["address"]
            .as_str()
            .expect("address")
            .split('/')
            .next()
            .expect("ip")
            .to_owned()
    })
    .collect()
}

fn ping(from: &str, to: &str) -> bool {
    // Debian's minimal systems have no ping: a TCP connect that is refused shows the way there and back.
    let probe = format!("exec 3<>/dev/tcp/{to}/9");
    let out = Command::new("ip")
        .args(["netns", "exec", from, "timeout", "3", "bash", "-c", &probe])
        .output()
        .expect("bash");
    String::from_utf8_lossy(&out.stderr).contains("refused")
}

#[test]
fn pods_reach_each_other_and_the_node_and_all_is_gone_after() {
    let bed = Bed::new();
    let (a, b, conf) = (bed.pod("a"), bed.pod("b"), bed.conf());
    let (ra, rb) = (
        bed.call("ADD", &a, &conf).expect("add a"),
        bed.call("ADD", &b, &conf).expect("add b"),
    );
    assert_eq!(addresses(&ra), ["10.99.0.2", "fd99::2"]);
    assert_eq!(ra["interfaces"][2]["mtu"], 1400);
    for target in addresses(&rb)
        .iter()
        .chain(&["10.99.0.1".to_owned(), "fd99::1".to_owned()])
    {
        assert!(ping(&a, target), "{a} to {target}\n{}", bed.links());
    }
    let mut with_result = conf.clone();
    with_result["prevResult"] = ra;
    assert_eq!(bed.call("CHECK", &a, &with_result), Ok(Value::Null));
    assert_eq!(bed.call("ADD", &a, &conf).expect_err("twice")["code"], 4);
    for pod in [&a, &b] {
        bed.call("DEL", pod, &conf).expect("del");
        bed.call("DEL", pod, &conf).expect("del again");
    }
    assert!(!bed.links().contains("ksn"), "{}", bed.links());
    assert!(bed.allocations().is_empty());
    assert!(bed.call("CHECK", &a, &with_result).is_err());
}

#[test]
fn check_sees_what_is_broken() {
    type Break = fn(&Bed, &str);
    let breaks: &[(&str, Break)] = &[
        ("address", |_, pod| {
            drop(ip(&format!("-n {pod} addr flush dev eth0 scope global")))
        }),
        ("route", |_, pod| {
            drop(ip(&format!("-n {pod} route del default")))
        }),
        ("link down", |_, pod| {
            drop(ip(&format!("-n {pod} link set eth0 down")))
        }),
        ("port", |bed, _| {
            drop(ip(&format!("-n {} link del keelson0", bed.node)))
        }),
        ("allocation", |bed, _| {
            std::fs::remove_file(bed.dir.path().join("pods/10.99.0.2")).expect("remove")
        }),
    ];
    for (name, break_it) in breaks {
        let bed = Bed::new();
        let pod = bed.pod("a");
        let mut conf = bed.conf();
        conf["prevResult"] = bed.call("ADD", &pod, &conf).expect("add");
        bed.call("CHECK", &pod, &conf).expect("sound");
        break_it(&bed, &pod);
        assert_eq!(
            bed.call("CHECK", &pod, &conf).expect_err(name)["code"],
            102,
            "{name}"
        );
    }
}

#[test]
fn parallel_adds_give_every_pod_its_own_address() {
    let bed = Bed::new();
    let pods: Vec<String> = (0..16).map(|i| bed.pod(&format!("p{i}"))).collect();
    let conf = bed.conf();
    let results: Vec<Value> = std::thread::scope(|s| {
        let calls: Vec<_> = pods
            .iter()
            .map(|p| s.spawn(|| bed.call("ADD", p, &conf).expect("add")))
            .collect();
        calls
            .into_iter()
            .map(|c| c.join().expect("thread"))
            .collect()
    });
    let distinct: BTreeSet<String> = results.iter().flat_map(addresses).collect();
    assert_eq!(distinct.len(), 32);
    assert_eq!(distinct, bed.allocations());
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": pods[3], "ifname": "eth0"}]);
    bed.call("GC", &pods[0], &gc).expect("gc");
    assert_eq!(bed.allocations().len(), 2);
    assert_eq!(bed.links().matches("ksn").count(), 1);
}

#[test]
fn a_full_range_says_so_and_leaves_nothing() {
    let bed = Bed::new();
    let mut conf = bed.conf();
    conf["ipam"]["ranges"] = json!([[{"subnet": "10.99.0.0/30"}]]);
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    bed.call("ADD", &a, &conf).expect("the one address");
    assert_eq!(bed.call("STATUS", &a, &conf).expect_err("full")["code"], 50);
    assert_eq!(bed.call("ADD", &b, &conf).expect_err("full")["code"], 101);
    assert_eq!(bed.links().matches("ksn").count(), 1);
    bed.call("DEL", &a, &conf).expect("del");
    bed.call("ADD", &b, &conf).expect("freed");
}

#[test]
fn odd_calls_get_cni_errors() {
    let bed = Bed::new();
    let conf = bed.conf();
    assert_eq!(
        bed.call("ADD", "no-such-namespace", &conf)
            .expect_err("namespace")["code"],
        3
    );
    assert_eq!(
        bed.call("FROB", "a", &conf).expect_err("command")["code"],
        4
    );
    assert_eq!(
        bed.call("ADD", "a", &json!("text")).expect_err("form")["code"],
        6
    );
    let mut old = conf.clone();
    old["cniVersion"] = json!("7.0.0");
    assert_eq!(bed.call("ADD", "a", &old).expect_err("version")["code"], 1);
    let versions = bed.call("VERSION", "a", &conf).expect("version");
    assert_eq!(
        versions["supportedVersions"].as_array().map(Vec::len),
        Some(7)
    );
    // A pod whose namespace is gone is deleted all the same.
    bed.call("DEL", "no-such-namespace", &conf).expect("del");
}
