//! A node with pods and somebody outside, each a network namespace of the test's own, and plugins called there as a
//! runtime would.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use keelson_tests::bins::program;
use serde_json::{Value, json};

/// Where Debian has the reference plugins.
pub(crate) const DEBIANS: &str = "/usr/lib/cni";

/// The node's addresses on the network outside, and the client's, which knows no way to the pods.
pub(crate) const NODE: [&str; 2] = ["198.51.100.1", "fd51::1"];
pub(crate) const CLIENT: [&str; 2] = ["198.51.100.2", "fd51::2"];

/// Runs a program; its output.
fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output();
    output.unwrap_or_else(|e| panic!("start {program}: {e}"))
}

/// What `ip` prints; it must succeed.
pub(crate) fn ip(args: &str) -> String {
    let output = run("ip", &args.split_whitespace().collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a script in a namespace; all it prints.
pub(crate) fn sh(ns: &str, script: &str) -> String {
    let output = run("ip", &["netns", "exec", ns, "sh", "-c", script]);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// A node, its pods, and a client on the network outside; all namespaces go with it.
pub(crate) struct Bed {
    pub(crate) node: String,
    pub(crate) dir: tempfile::TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let node = format!("cni-{}-{count}", std::process::id());
        let dir = tempfile::tempdir().expect("tempdir");
        let bed = Self { node, dir };
        let (node, client) = (&bed.node, bed.client());
        ip(&format!("netns add {node}"));
        ip(&format!("netns add {client}"));
        ip(&format!(
            "-n {node} link add out type veth peer name out netns {client}"
        ));
        for (ns, [v4, v6]) in [(node, NODE), (&client, CLIENT)] {
            ip(&format!("-n {ns} link set lo up"));
            ip(&format!("-n {ns} addr add {v4}/24 dev out"));
            ip(&format!("-n {ns} addr add {v6}/64 dev out nodad"));
            ip(&format!("-n {ns} link set out up"));
        }
        bed
    }

    pub(crate) fn client(&self) -> String {
        format!("{}-client", self.node)
    }

    pub(crate) fn pod(&self, name: &str) -> String {
        let ns = format!("{}-{name}", self.node);
        ip(&format!("netns add {ns}"));
        ns
    }

    /// A bridge with addresses of both families.
    pub(crate) fn bridge(&self) -> Value {
        json!({"cniVersion": "1.1.0", "name": "pods", "type": "bridge", "bridge": "keelson0",
            "isGateway": true, "hairpinMode": true, "mtu": 1400,
            "ipam": {"type": "host-local", "dataDir": self.dir.path(),
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd99::/64"}]]}})
    }

    /// The same with some fields of its own.
    pub(crate) fn bridge_with(&self, fields: Value) -> Value {
        with(self.bridge(), fields)
    }

    /// A pod on the bridge; its result.
    pub(crate) fn on_bridge(&self, pod: &str) -> Value {
        let added = self.call("bridge", "ADD", pod, &self.bridge());
        added.expect("add")
    }

    /// Calls a plugin in the node's namespace, as an agent would there: one of ours, or `debian:NAME`.
    pub(crate) fn call(
        &self,
        plugin: &str,
        command: &str,
        pod: &str,
        conf: &Value,
    ) -> Result<Value, Value> {
        self.call_with(plugin, command, pod, conf, &[])
    }

    /// The same with more environment than the usual, or another.
    pub(crate) fn call_with(
        &self,
        plugin: &str,
        command: &str,
        pod: &str,
        conf: &Value,
        more: &[(&'static str, &str)],
    ) -> Result<Value, Value> {
        let mut env = environment(command, pod, "eth0");
        env.extend(more.iter().map(|(k, v)| (*k, (*v).to_owned())));
        outcome(&self.run(plugin, &env, conf.to_string().as_bytes()))
    }

    /// A plugin's whole output, with a given environment (of two with one name the last counts).
    pub(crate) fn run(&self, plugin: &str, env: &[(&str, String)], conf: &[u8]) -> Output {
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.node))
            .arg(self.program(plugin))
            .envs(env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nsenter (Debian: util-linux)");
        let mut input = child.stdin.take().expect("stdin");
        // One that refuses its environment, or so much, may have ended before it read all.
        let sent = input.write_all(conf);
        drop(input);
        let refused = |e: &std::io::Error| e.kind() == ErrorKind::BrokenPipe;
        assert!(sent.as_ref().err().is_none_or(refused), "{sent:?}");
        child.wait_with_output().expect("plugin")
    }

    /// The path of a plugin: ours is one binary under several names.
    pub(crate) fn program(&self, plugin: &str) -> PathBuf {
        if let Some(name) = plugin.strip_prefix("debian:") {
            let path = PathBuf::from(DEBIANS).join(name);
            assert!(path.exists(), "install containernetworking-plugins");
            return path;
        }
        let link = self.bin().join(plugin);
        // Another thread of the test may have been first.
        let _ = std::fs::create_dir_all(self.bin());
        let _ = std::os::unix::fs::symlink(program("keelson-cni"), &link);
        link
    }

    /// Where our plugins are, and those that a test makes.
    pub(crate) fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    /// Runs a script in the node's namespace; all it prints.
    pub(crate) fn sh(&self, script: &str) -> String {
        sh(&self.node, script)
    }

    /// The node's links.
    pub(crate) fn links(&self) -> String {
        ip(&format!("-n {} -br link", self.node))
    }

    /// How many links of pods the node has.
    pub(crate) fn ports(&self) -> usize {
        self.links().matches("ksn").count()
    }

    /// Addresses that the ledger says are given out.
    pub(crate) fn allocations(&self) -> BTreeSet<String> {
        let files = std::fs::read_dir(self.dir.path().join("pods"));
        let files = files.into_iter().flatten().flatten();
        let names = files.filter_map(|e| e.file_name().into_string().ok());
        names.filter(|n| n.parse::<IpAddr>().is_ok()).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let list = String::from_utf8_lossy(&run("ip", &["netns", "list"]).stdout).into_owned();
        for ns in list.lines().filter_map(|l| l.split_whitespace().next()) {
            if ns == self.node || ns.starts_with(&format!("{}-", self.node)) {
                run("ip", &["netns", "del", ns]);
            }
        }
    }
}

/// An object with some fields of another.
pub(crate) fn with(mut object: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().expect("fields") {
        object[key] = value.clone();
    }
    object
}

/// The environment of a call.
pub(crate) fn environment(command: &str, pod: &str, ifname: &str) -> Vec<(&'static str, String)> {
    vec![
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", pod.to_owned()),
        ("CNI_IFNAME", ifname.to_owned()),
        ("CNI_NETNS", format!("/run/netns/{pod}")),
        ("CNI_PATH", DEBIANS.to_owned()),
    ]
}

/// What a plugin printed, as it ended.
pub(crate) fn outcome(output: &Output) -> Result<Value, Value> {
    let printed = said(output);
    if output.status.success() {
        Ok(printed)
    } else {
        Err(printed)
    }
}

/// What a plugin printed.
pub(crate) fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// The addresses in a result, without their prefixes.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().expect("ips").iter();
    let texts = ips.filter_map(|ip| ip["address"].as_str());
    let alone = texts.map(|t| t.split('/').next().expect("ip").to_owned());
    alone.collect()
}
