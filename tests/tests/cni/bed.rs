//! A node with pods and somebody outside, each a network namespace of the test's own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keelson_tests::bins::program;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

/// Where Debian has the reference plugins.
pub(crate) const DEBIANS: &str = "/usr/lib/cni";

/// Runs a program; its output.
pub(crate) fn run(program: &str, args: &str) -> Output {
    let output = Command::new(program).args(args.split_whitespace()).output();
    output.unwrap_or_else(|e| panic!("start {program}: {e}"))
}

/// The same, and it must succeed.
pub(crate) fn must(program: &str, args: &str) -> String {
    let output = run(program, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A node, its pods, and a client on the network outside; all namespaces go with it.
pub(crate) struct Bed {
    pub(crate) node: String,
    pub(crate) dir: tempfile::TempDir,
}

/// The node's addresses on the network outside, and the client's.
pub(crate) const NODE: [&str; 2] = ["198.51.100.1", "fd51::1"];
pub(crate) const CLIENT: [&str; 2] = ["198.51.100.2", "fd51::2"];

impl Bed {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let node = format!("portmap-cni-{}-{count}", std::process::id());
        let dir = tempfile::tempdir().expect("tempdir");
        let bed = Self { node, dir };
        let (node, client) = (&bed.node, bed.client());
        must("ip", &format!("netns add {node}"));
        must("ip", &format!("netns add {client}"));
        let pair = format!("-n {node} link add out type veth peer name out netns {client}");
        must("ip", &pair);
        for (ns, addresses) in [(node, NODE), (&client, CLIENT)] {
            must("ip", &format!("-n {ns} link set lo up"));
            must(
                "ip",
                &format!("-n {ns} addr add {}/24 dev out", addresses[0]),
            );
            must(
                "ip",
                &format!("-n {ns} addr add {}/64 dev out nodad", addresses[1]),
            );
            must("ip", &format!("-n {ns} link set out up"));
        }
        bed
    }

    pub(crate) fn client(&self) -> String {
        format!("{}-client", self.node)
    }

    pub(crate) fn pod(&self, name: &str) -> String {
        let ns = format!("{}-{name}", self.node);
        must("ip", &format!("netns add {ns}"));
        ns
    }

    /// Calls a plugin in the node's namespace, as an agent would there: one of ours, or `debian:NAME`.
    pub(crate) fn call(
        &self,
        plugin: &str,
        command: &str,
        pod: &str,
        conf: &Value,
    ) -> Result<Value, Value> {
        self.call_bytes(plugin, command, pod, conf.to_string().as_bytes())
    }

    /// The same with whatever bytes as the configuration.
    pub(crate) fn call_bytes(
        &self,
        plugin: &str,
        command: &str,
        pod: &str,
        conf: &[u8],
    ) -> Result<Value, Value> {
        let env = environment(command, pod, "eth0");
        let output = self.run(plugin, &env, conf);
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() {
            Ok(value)
        } else {
            Err(value)
        }
    }

    /// A plugin's whole output, with a given environment.
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
        let refused = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
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
        let link = self.dir.path().join("bin").join(plugin);
        if !link.exists() {
            let _ = std::fs::create_dir_all(self.dir.path().join("bin"));
            // Another thread of the test may have been first.
            let _ = std::os::unix::fs::symlink(program("keelson-cni"), &link);
        }
        link
    }

    /// A pod on the bridge with addresses of both families; its result.
    pub(crate) fn on_bridge(&self, pod: &str) -> Value {
        self.call("bridge", "ADD", pod, &self.bridge())
            .expect("add")
    }

    pub(crate) fn bridge(&self) -> Value {
        json!({"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "pm0", "hairpinMode": true,
            "isGateway": true,
            "ipam": {"type": "host-local", "dataDir": self.dir.path(),
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd99::/64"}]]}})
    }

    /// Runs a command in the node's namespace; its output.
    pub(crate) fn sh(&self, script: &str) -> String {
        let args = ["netns", "exec", &self.node, "sh", "-c", script];
        let out = Command::new("ip").args(args).output().expect("sh");
        let (out, err) = (out.stdout, out.stderr);
        String::from_utf8_lossy(&[out, err].concat()).into_owned()
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

/// The addresses in a result.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().expect("ips");
    let texts = ips.iter().filter_map(|ip| ip["address"].as_str());
    texts
        .map(|t| t.split('/').next().expect("ip").parse().expect("ip"))
        .collect()
}

/// Runs code in a namespace.
pub(crate) fn inside<T: Send>(ns: &str, code: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{ns}")).expect("namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(file, CloneFlags::CLONE_NEWNET).expect("enter");
            code()
        });
        thread.join().expect("thread")
    })
}

const PATIENCE: Duration = Duration::from_secs(3);

/// Serves a TCP and a UDP port in a namespace: to whoever comes it says its own name and their address.
pub(crate) fn serve(ns: &str, name: &'static str, port: u16) {
    let any = SocketAddr::from(([0u16; 8], port));
    let (tcp, udp) = inside(ns, || (TcpListener::bind(any), UdpSocket::bind(any)));
    let (tcp, udp) = (tcp.expect("tcp"), udp.expect("udp"));
    let say = move |peer: SocketAddr| format!("{name} {}", peer.ip().to_canonical());
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = tcp.accept() {
            let _ = stream.write_all(say(peer).as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(say(peer).as_bytes(), peer);
        }
    });
}

/// What a TCP server says to somebody in a namespace, if it can be reached.
pub(crate) fn tcp(ns: &str, to: SocketAddr) -> Option<String> {
    inside(ns, || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said)
    })
}

/// A socket in a namespace that asks a UDP server.
pub(crate) fn udp_socket(ns: &str, to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = inside(ns, || UdpSocket::bind(any)).expect("socket");
    socket.connect(to).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

/// What a UDP server says, if it answers. What a datagram before met is not of interest.
pub(crate) fn ask(socket: &UdpSocket) -> Option<String> {
    let mut buffer = [0; 64];
    let _ = socket.take_error();
    socket.send(b"?").ok()?;
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
