//! A node with two pods on a bridge and a client on another link, each a network namespace of its own; the proxy runs
//! in the node's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use keelson_proxy::userspace::{Config, Error, Userspace};
use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_kernel::sysctl;
use keelson_proxy_plan::iptables::Ruleset;
use keelson_proxy_plan::model::Family;
use keelson_proxy_plan::state::State;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const CLIENT: &str = "192.168.9.2";
pub(crate) const NODE: &str = "192.168.9.1";
pub(crate) const CLUSTER_IP: &str = "10.43.0.9";
pub(crate) const A: &str = "10.42.0.2";
pub(crate) const B: &str = "10.42.0.3";

/// Runs a command to its end.
pub(crate) fn run(program: &str, args: &str) {
    let out = Command::new(program)
        .args(args.split_whitespace())
        .output()
        .expect("program (Debian: iproute2, procps)");
    assert!(
        out.status.success(),
        "{program} {args}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn ip(args: &str) {
    run("ip", args);
}

fn enter(ns: &str) {
    let file = File::open(format!("/run/netns/{ns}")).expect("namespace");
    setns(file, CloneFlags::CLONE_NEWNET).expect("run as root");
}

/// Runs in a network namespace, on a thread of its own: the namespace is the thread's.
pub(crate) fn inside<T: Send + 'static>(ns: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let ns = ns.to_owned();
    let thread = std::thread::spawn(move || {
        enter(&ns);
        f()
    });
    thread.join().expect("inside")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
}

type Job = Box<dyn FnOnce(&tokio::runtime::Runtime, &mut Userspace) + Send>;

/// The backend on a thread of its own; dropped, it ends as a killed process does: connections reset, rules left.
struct Proxy {
    jobs: mpsc::Sender<Job>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    fn start(ns: String, config: Config) -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let thread = std::thread::spawn(move || {
            enter(&ns);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("runtime");
            let mut proxy = {
                let _entered = runtime.enter();
                Userspace::new(config)
            };
            for job in todo {
                job(&runtime, &mut proxy);
            }
            runtime.shutdown_timeout(Duration::from_secs(5));
        });
        Self {
            jobs,
            thread: Some(thread),
        }
    }

    fn call<T: Send + 'static>(
        &self,
        f: impl AsyncFnOnce(&mut Userspace) -> T + Send + 'static,
    ) -> T {
        let (tell, told) = mpsc::channel();
        let job: Job = Box::new(move |runtime, proxy| {
            tell.send(runtime.block_on(f(proxy))).expect("asked");
        });
        self.jobs.send(job).expect("proxy runs");
        told.recv().expect("proxy did it")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel();
        self.jobs = closed;
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

pub(crate) struct Bed {
    name: String,
    pub(crate) state: State,
    proxy: Option<Proxy>,
}

impl Bed {
    pub(crate) fn new(config: Config) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut bed = Self {
            name: format!("ksus{}{count}", std::process::id()),
            state: State::default(),
            proxy: None,
        };
        for ns in ["node", "a", "b", "client"] {
            ip(&format!("netns add {}", bed.ns(ns)));
            ip(&format!("-n {} link set lo up", bed.ns(ns)));
        }
        let node = bed.ns("node");
        ip(&format!("-n {node} link add br0 type bridge"));
        ip(&format!("-n {node} link set br0 up"));
        for pod in ["a", "b"] {
            let peer = bed.ns(pod);
            ip(&format!(
                "-n {node} link add port-{pod} type veth peer name eth0 netns {peer}"
            ));
            ip(&format!("-n {node} link set port-{pod} master br0"));
            ip(&format!("-n {node} link set port-{pod} up"));
        }
        let client = bed.ns("client");
        ip(&format!(
            "-n {node} link add out type veth peer name eth0 netns {client}"
        ));
        ip(&format!("-n {node} link set out up"));
        for (who, link, address, gateway) in [
            ("node", "br0", "10.42.0.1/24", ""),
            ("node", "br0", "fd42::1/64", ""),
            ("node", "out", "192.168.9.1/24", CLIENT),
            ("node", "out", "fd99::1/64", "fd99::2"),
            ("a", "eth0", "10.42.0.2/24", "10.42.0.1"),
            ("a", "eth0", "fd42::2/64", "fd42::1"),
            ("b", "eth0", "10.42.0.3/24", "10.42.0.1"),
            ("b", "eth0", "fd42::3/64", "fd42::1"),
            ("client", "eth0", "192.168.9.2/24", NODE),
            ("client", "eth0", "fd99::2/64", "fd99::1"),
        ] {
            let ns = bed.ns(who);
            let nodad = if address.contains(':') { "nodad" } else { "" };
            ip(&format!("-n {ns} link set {link} up"));
            ip(&format!("-n {ns} addr add {address} dev {link} {nodad}"));
            if !gateway.is_empty() {
                ip(&format!("-n {ns} route add default via {gateway}"));
            }
        }
        inside(&node, || {
            for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
                sysctl::enable(name).expect("sysctl");
            }
        });
        for pod in ["a", "b"] {
            bed.serve(pod);
        }
        bed.restart(config);
        bed
    }

    /// Ends the proxy and starts a new one.
    pub(crate) fn restart(&mut self, config: Config) {
        self.proxy = None;
        self.proxy = Some(Proxy::start(self.ns("node"), config));
    }

    pub(crate) fn ns(&self, who: &str) -> String {
        format!("{}-{who}", self.name)
    }

    /// Port 8080 answers each TCP connection and UDP packet with the pod's name and the source it sees, 8081 sends
    /// back what it gets, and `|end` after the end of it. They end with the test.
    fn serve(&self, pod: &'static str) {
        let ns = self.ns(pod);
        let (ready, wait) = mpsc::channel();
        std::thread::spawn(move || {
            enter(&ns);
            runtime().block_on(async {
                let listen = |port: u16| tokio::net::TcpListener::bind(("::", port));
                let (name, echo) = (
                    listen(8080).await.expect("bind"),
                    listen(8081).await.expect("bind"),
                );
                let udp = tokio::net::UdpSocket::bind(("::", 8080))
                    .await
                    .expect("bind");
                ready.send(()).expect("waiting");
                tokio::join!(names(pod, name), echoes(echo), datagrams(pod, udp));
            });
        });
        wait.recv().expect("server");
    }

    fn call<T: Send + 'static>(
        &self,
        f: impl AsyncFnOnce(&mut Userspace) -> T + Send + 'static,
    ) -> T {
        self.proxy.as_ref().expect("proxy").call(f)
    }

    pub(crate) fn service(&mut self, change: impl Fn(&mut Value), endpoints: &[&str]) {
        let port = |name: &str, port: u16, protocol: &str| json!({"name": name, "port": port, "nodePort": 30000 + port, "protocol": protocol});
        let mut service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"type": "NodePort",
            "clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP, "fd43::9"],
            "ports": [port("t", 80, "TCP"), port("u", 80, "UDP"), port("e", 81, "TCP")]}});
        change(&mut service);
        let service = serde_json::from_value(service).expect("service");
        self.state.set_service(&service);
        self.endpoints(endpoints);
    }

    /// Sets the endpoints (one that begins with `!` is on another node) and brings them about.
    pub(crate) fn endpoints(&mut self, endpoints: &[&str]) {
        for (kind, v6) in [("IPv4", false), ("IPv6", true)] {
            let list = endpoints.iter().filter(|e| e.contains(':') == v6);
            let list = list.map(|e| match e.strip_prefix('!') {
                Some(e) => json!({"addresses": [e], "nodeName": "other"}),
                None => json!({"addresses": [e], "nodeName": "me"}),
            });
            let slice = json!({"metadata": {"namespace": "d", "name": format!("web-{kind}"), "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": kind, "endpoints": list.collect::<Vec<_>>(), "ports": [{"name": "t", "port": 8080, "protocol": "TCP"},
                {"name": "u", "port": 8080, "protocol": "UDP"}, {"name": "e", "port": 8081, "protocol": "TCP"}]});
            let slice = serde_json::from_value(slice).expect("slice");
            self.state.set_slice(&slice, &"me".into());
        }
        self.sync();
    }

    /// Makes listeners and rules as the state wants, and looks whether the kernel has just that.
    pub(crate) fn sync(&self) {
        self.try_sync().expect("sync");
        for family in [Family::V4, Family::V6] {
            let want = self.rules(family);
            let now = self.live(family);
            assert_eq!(want.transaction(&now), None, "reads back as it was written");
        }
    }

    pub(crate) fn try_sync(&self) -> Result<(), Error> {
        let state = self.state.clone();
        self.call(async move |proxy| proxy.sync(&state).await)
    }

    pub(crate) fn rules(&self, family: Family) -> Ruleset {
        let rules = self.call(async move |proxy| proxy.applied(family).cloned());
        rules.expect("written")
    }

    pub(crate) fn live(&self, family: Family) -> Ruleset {
        let read = async move |_: &mut Userspace| {
            let programs = Programs::detect().await.programs;
            programs.read(family).await
        };
        self.call(read).expect("read")
    }

    pub(crate) fn cleanup(&self) {
        let errors = self.call(async |proxy| proxy.cleanup().await);
        assert!(errors.is_empty(), "{errors:?}");
    }

    pub(crate) fn connect(&self, from: &str, to: &str) -> Result<TcpStream, ErrorKind> {
        let to: SocketAddr = to.parse().expect("address");
        inside(&self.ns(from), move || {
            let within = Duration::from_millis(1500);
            let stream = TcpStream::connect_timeout(&to, within).map_err(|e| e.kind())?;
            // Far beyond what anything here takes: a test that hangs tells less than one that fails.
            let patience = Some(Duration::from_secs(20));
            stream.set_read_timeout(patience).expect("timeout");
            Ok(stream)
        })
    }

    /// Connects and reads to the end: the answer, or the error's kind.
    pub(crate) fn tcp(&self, from: &str, to: &str) -> Result<String, ErrorKind> {
        let mut text = String::new();
        let mut stream = self.connect(from, to)?;
        stream.read_to_string(&mut text).map_err(|e| e.kind())?;
        Ok(text)
    }

    /// How often each pod answers.
    pub(crate) fn counts(&self, from: &str, to: &str, n: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..n {
            let answer = self.tcp(from, to).expect("answer");
            let name = answer.split(' ').next().expect("name");
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        counts
    }

    /// A socket that speaks to one address, and takes answers from just there.
    pub(crate) fn udp(&self, from: &str, to: &str) -> UdpSocket {
        let to: SocketAddr = to.parse().expect("address");
        inside(&self.ns(from), move || {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("bind");
            socket.connect(to).expect("connect");
            let patience = Some(Duration::from_millis(1500));
            socket.set_read_timeout(patience).expect("timeout");
            socket
        })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.proxy = None;
        for ns in ["node", "a", "b", "client"] {
            let ns = self.ns(ns);
            let _ = Command::new("ip").args(["netns", "del", &ns]).output();
        }
    }
}

/// Asks and waits for the answer; `None`: there was none.
pub(crate) fn ask(socket: &UdpSocket) -> Option<String> {
    let mut buffer = [0; 256];
    socket.send(b"?").ok()?;
    let size = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..size]).into_owned())
}

pub(crate) fn to(address: &str, port: u16) -> String {
    let ip: std::net::IpAddr = address.parse().expect("ip");
    SocketAddr::new(ip, port).to_string()
}

async fn names(pod: &'static str, listener: tokio::net::TcpListener) {
    loop {
        let (mut stream, peer) = listener.accept().await.expect("accept");
        let answer = format!("{pod} {}", peer.ip().to_canonical());
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

async fn echoes(listener: tokio::net::TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("accept");
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(size) = stream.read(&mut buffer).await {
                if size == 0 {
                    let _ = stream.write_all(b"|end").await;
                    return;
                }
                // What asks for it is reset in the middle of the answer.
                if buffer[..size].ends_with(b"!reset") {
                    let _ = stream.write_all(b"half an answer").await;
                    let _ = stream.set_zero_linger();
                    return;
                }
                if stream.write_all(&buffer[..size]).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn datagrams(pod: &'static str, socket: tokio::net::UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        let (size, peer) = socket.recv_from(&mut buffer).await.expect("receive");
        let answer = if size > 100 {
            buffer[..size].to_vec()
        } else {
            format!("{pod} {}", peer.ip().to_canonical()).into_bytes()
        };
        let _ = socket.send_to(&answer, peer).await;
    }
}
