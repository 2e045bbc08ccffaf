//! A node and its pods, each a network namespace, and a plugin called there as the agent would.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

/// Where Debian has the reference's plugins.
pub(crate) const DEBIANS: &str = "/usr/lib/cni";

pub(crate) fn run(program: &str, args: &str) -> Output {
    let output = Command::new(program).args(args.split_whitespace()).output();
    output.unwrap_or_else(|e| panic!("start {program}: {e}"))
}

/// What a command prints; it must succeed.
pub(crate) fn must(program: &str, args: &str) -> String {
    let output = run(program, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn ip(args: &str) -> String {
    must("ip", args)
}

/// A node and its pods; all namespaces go with it.
pub(crate) struct Bed {
    pub(crate) node: String,
    pub(crate) dir: tempfile::TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let node = format!("plugin-{}-{count}", std::process::id());
        let dir = tempfile::tempdir().expect("tempdir");
        let bed = Self { node, dir };
        ip(&format!("netns add {}", bed.node));
        bed
    }

    pub(crate) fn pod(&self, name: &str) -> String {
        let ns = format!("{}-{name}", self.node);
        ip(&format!("netns add {ns}"));
        ns
    }

    /// A bridge with addresses of both families.
    pub(crate) fn conf(&self) -> Value {
        json!({"cniVersion": "1.1.0", "name": "pods", "type": "keelson-cni", "bridge": "keelson0",
            "isGateway": true, "hairpinMode": true, "mtu": 1400,
            "ipam": {"type": "host-local", "dataDir": self.dir.path(), "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd99::/64"}]]}})
    }

    /// The same with some fields of its own.
    pub(crate) fn conf_with(&self, fields: Value) -> Value {
        let mut conf = self.conf();
        for (key, value) in fields.as_object().expect("fields") {
            conf[key] = value.clone();
        }
        conf
    }

    /// Calls the bridge in the node's namespace. No other plugin is to be found.
    pub(crate) fn call(&self, command: &str, pod: &str, conf: &Value) -> Result<Value, Value> {
        self.call_as("keelson-cni", command, pod, conf, &[])
    }

    /// Calls a plugin, one of ours or `debian:NAME`, with more environment than the usual.
    pub(crate) fn call_as(
        &self,
        plugin: &str,
        command: &str,
        pod: &str,
        conf: &Value,
        more: &[(&str, &str)],
    ) -> Result<Value, Value> {
        let mut child = Command::new("ip");
        child.args(["netns", "exec", &self.node]);
        child.arg(self.program(plugin));
        child.envs([
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", pod),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/none"),
        ]);
        child.env("CNI_NETNS", format!("/run/netns/{pod}"));
        child.envs(more.iter().copied());
        let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("start plugin");
        let mut input = child.stdin.take().expect("stdin");
        let sent = input.write_all(conf.to_string().as_bytes());
        drop(input);
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

    /// A plugin's path: ours is one binary under several names.
    pub(crate) fn program(&self, plugin: &str) -> PathBuf {
        if let Some(name) = plugin.strip_prefix("debian:") {
            let path = Path::new(DEBIANS).join(name);
            assert!(path.exists(), "install containernetworking-plugins");
            return path;
        }
        let link = self.bin().join(plugin);
        let _ = std::fs::create_dir_all(self.bin());
        // It may be there already.
        let _ = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_keelson-cni"), &link);
        link
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    pub(crate) fn links(&self) -> String {
        ip(&format!("-n {} -br link", self.node))
    }

    /// How many links of pods the node has.
    pub(crate) fn ports(&self) -> usize {
        self.links().matches("ksn").count()
    }

    /// Runs a script in a namespace; what it prints.
    pub(crate) fn sh(&self, ns: &str, script: &str) -> String {
        let out = Command::new("ip")
            .args(["netns", "exec", ns, "sh", "-c", script])
            .output();
        let out = out.expect("sh");
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
    }

    pub(crate) fn allocations(&self) -> BTreeSet<String> {
        let Ok(dir) = std::fs::read_dir(self.dir.path().join("pods")) else {
            return BTreeSet::new();
        };
        let names = dir.filter_map(|e| e.ok()?.file_name().into_string().ok());
        names.filter(|n| n.parse::<IpAddr>().is_ok()).collect()
    }

    /// Somebody outside, who knows no way to the pods: whoever reaches them came with the node's address.
    pub(crate) fn outside(&self) -> String {
        let ns = self.pod("outside");
        ip(&format!(
            "-n {} link add out type veth peer name out netns {ns}",
            self.node
        ));
        for (ns, host) in [(&self.node, 1), (&ns, 2)] {
            ip(&format!("-n {ns} addr add 198.51.100.{host}/24 dev out"));
            ip(&format!("-n {ns} addr add fd51::{host}/64 dev out nodad"));
            ip(&format!("-n {ns} link set out up"));
        }
        ns
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let list = String::from_utf8_lossy(&run("ip", "netns list").stdout).into_owned();
        for ns in list.lines().filter_map(|l| l.split_whitespace().next()) {
            if ns == self.node || ns.starts_with(&format!("{}-", self.node)) {
                run("ip", &format!("netns del {ns}"));
            }
        }
    }
}

/// The addresses of a result, without their prefixes.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().expect("ips").iter();
    let texts = ips.map(|i| i["address"].as_str().expect("address"));
    texts
        .map(|t| t.split('/').next().expect("ip").to_owned())
        .collect()
}

/// Whether somebody answers. Debian's minimal systems have no ping: a TCP connect that is refused shows the way there
/// and back.
pub(crate) fn reaches(from: &str, to: &str) -> bool {
    let probe = format!("exec 3<>/dev/tcp/{to}/9");
    let args = ["netns", "exec", from, "timeout", "3", "bash", "-c", &probe];
    let out = Command::new("ip").args(args).output().expect("bash");
    String::from_utf8_lossy(&out.stderr).contains("refused")
}
