//! Real packets through the rules: a node, pods and a client outside, each a network namespace of its own.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keelson_proxy_kernel::{conntrack, iptables, nft, sysctl};
use keelson_proxy_plan::conntrack::Wanted;
use keelson_proxy_plan::iptables::{Ruleset, ruleset};
use keelson_proxy_plan::model::{Entry, Family};
use keelson_proxy_plan::nft::services::table;
use keelson_proxy_plan::nft::transaction::Transaction;
use keelson_proxy_plan::options::{Options, Pods};
use keelson_proxy_plan::state::State;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

const CLIENT: &str = "192.168.9.2";
const NODE: &str = "192.168.9.1";
const CLUSTER_IP: &str = "10.43.0.9";

fn ip(args: &str) {
    let out = Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .expect("ip (Debian: iproute2)");
    assert!(
        out.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// Runs in a network namespace, on a thread of its own: the namespace is the thread's.
fn inside<T: Send + 'static>(ns: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let file = File::open(format!("/run/netns/{ns}")).expect("namespace");
    let thread = std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).expect("run as root");
        f()
    });
    thread.join().expect("inside")
}

/// By which rules packets are sent on: each property holds with every one of them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Backend {
    Iptables,
    Nftables,
}

const BACKENDS: [Backend; 2] = [Backend::Iptables, Backend::Nftables];

/// A node with two pods on a bridge, and a client on another link.
struct Bed {
    name: String,
    state: State,
    backend: Backend,
}

impl Bed {
    fn new(backend: Backend) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "kspx{}{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let bed = Self {
            name,
            state: State::default(),
            backend,
        };
        for ns in ["node", "a", "b", "client"] {
            ip(&format!("netns add {}", bed.ns(ns)));
            ip(&format!("-n {} link set lo up", bed.ns(ns)));
        }
        let node = bed.ns("node");
        ip(&format!("-n {node} link add br0 type bridge"));
        ip(&format!("-n {node} addr add 10.42.0.1/24 dev br0"));
        ip(&format!("-n {node} link set br0 up"));
        for (pod, address) in [("a", "10.42.0.2"), ("b", "10.42.0.3")] {
            ip(&format!(
                "-n {node} link add port-{pod} type veth peer name eth0 netns {}",
                bed.ns(pod)
            ));
            ip(&format!("-n {node} link set port-{pod} master br0"));
            ip(&format!(
                "-n {node} link set port-{pod} type bridge_slave hairpin on"
            ));
            ip(&format!("-n {node} link set port-{pod} up"));
            bed.join(pod, &format!("{address}/24"), "10.42.0.1");
        }
        ip(&format!(
            "-n {node} link add out type veth peer name eth0 netns {}",
            bed.ns("client")
        ));
        ip(&format!("-n {node} addr add {NODE}/24 dev out"));
        ip(&format!("-n {node} link set out up"));
        bed.join("client", &format!("{CLIENT}/24"), NODE);
        // A cluster address is routed before it is translated: a node without any route to it has no services.
        ip(&format!("-n {node} route add default via {CLIENT}"));
        inside(&node, || {
            for name in ["net.ipv4.ip_forward", sysctl::ROUTE_LOCALNET] {
                sysctl::enable(name).expect("sysctl");
            }
        });
        for pod in ["a", "b"] {
            bed.serve(pod);
        }
        bed
    }

    fn ns(&self, who: &str) -> String {
        format!("{}-{who}", self.name)
    }

    fn join(&self, who: &str, address: &str, gateway: &str) {
        let ns = self.ns(who);
        ip(&format!("-n {ns} addr add {address} dev eth0"));
        ip(&format!("-n {ns} link set eth0 up"));
        ip(&format!("-n {ns} route add default via {gateway}"));
    }

    /// Answers every TCP connection and UDP packet with the pod's name and the source it sees. The threads end with the test.
    fn serve(&self, pod: &'static str) {
        inside(&self.ns(pod), move || {
            let tcp = TcpListener::bind("0.0.0.0:8080").expect("listen");
            std::thread::spawn(move || {
                for mut stream in tcp.incoming().flatten() {
                    let peer = stream.peer_addr().expect("peer").ip();
                    let _ = write!(stream, "{pod} {peer}");
                }
            });
            let udp = UdpSocket::bind("0.0.0.0:8080").expect("bind");
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(format!("{pod} {}", peer.ip()).as_bytes(), peer);
                }
            });
        });
    }

    fn service(&mut self, change: impl Fn(&mut Value), endpoints: &[&str]) {
        let mut service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"type": "NodePort", "clusterIP": CLUSTER_IP,
            "ports": [{"name": "t", "port": 80, "nodePort": 30080, "protocol": "TCP"}, {"name": "u", "port": 80, "nodePort": 30080, "protocol": "UDP"}]}});
        change(&mut service);
        self.state
            .set_service(&serde_json::from_value(service).expect("service"));
        self.endpoints(endpoints);
    }

    fn endpoints(&mut self, endpoints: &[&str]) {
        let list: Vec<Value> = endpoints
            .iter()
            .map(|e| json!({"addresses": [e], "nodeName": "me"}))
            .collect();
        let slice = json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 8080, "protocol": "UDP"}], "endpoints": list});
        self.state
            .set_slice(&serde_json::from_value(slice).expect("slice"), &"me".into());
        self.sync();
    }

    fn wanted(&self) -> Ruleset {
        let options = Options {
            pods: Pods::Within(vec!["10.42.0.0/16".parse().expect("cidr")]),
            ..Options::default()
        };
        let entries: Vec<Entry> = self.state.all().flatten().collect();
        ruleset(entries.iter(), Family::V4, &options)
    }

    /// Makes the rules so; how much was written to the kernel.
    fn sync(&self) -> usize {
        match self.backend {
            Backend::Iptables => self.sync_iptables(),
            Backend::Nftables => self.sync_nftables(),
        }
    }

    fn sync_nftables(&self) -> usize {
        let options = Options {
            pods: Pods::Within(vec!["10.42.0.0/16".parse().expect("cidr")]),
            ..Options::default()
        };
        let entries: Vec<Entry> = self.state.all().flatten().collect();
        let want = table(entries.iter(), Family::V4, &options);
        inside(&self.ns("node"), move || {
            let kernel = nft::Nftables::open().expect("socket");
            let have = kernel.read(Family::V4).expect("read");
            let transaction = Transaction::between(have.as_ref(), &want);
            assert!(!transaction.anew, "the table's form is read back");
            kernel
                .apply(&transaction, have.as_ref().unwrap_or(&want))
                .expect("apply");
            let now = kernel.read(Family::V4).expect("read").expect("table");
            let left = Transaction::between(Some(&now), &want);
            assert!(
                left.is_empty(),
                "reads back as it was written: {}",
                left.render(&want)
            );
            let (added, deleted, chains) = transaction.size();
            added + deleted + chains
        })
    }

    fn sync_iptables(&self) -> usize {
        let want = self.wanted();
        self.in_node(async move || {
            let have = iptables::read(Family::V4).await.expect("read");
            let Some(text) = want.transaction(&have) else {
                return 0;
            };
            iptables::apply(Family::V4, &text).await.expect("apply");
            let now = iptables::read(Family::V4).await.expect("read");
            assert_eq!(want.transaction(&now), None, "reads back as it was written");
            text.len()
        })
    }

    fn in_node<T: Send + 'static>(&self, f: impl AsyncFnOnce() -> T + Send + 'static) -> T {
        inside(&self.ns("node"), move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime")
                .block_on(f())
        })
    }

    /// Connects from a namespace; the answer, or the error's kind.
    fn tcp(&self, from: &str, to: &str) -> Result<String, std::io::ErrorKind> {
        let to: SocketAddr = to.parse().expect("address");
        inside(&self.ns(from), move || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(1500))
                .map_err(|e| e.kind())?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map_err(|e| e.kind())?;
            Ok(text)
        })
    }

    fn counts(&self, from: &str, to: &str, n: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..n {
            let answer = self.tcp(from, to).expect("answer");
            *counts
                .entry(answer.split(' ').next().expect("name").to_owned())
                .or_default() += 1;
        }
        counts
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for ns in ["node", "a", "b", "client"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.ns(ns)])
                .output();
        }
    }
}

const BOTH: &[&str] = &["10.42.0.2", "10.42.0.3"];

fn to(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse::<IpAddr>().expect("ip"), port).to_string()
}

#[test]
fn cluster_ip_and_node_port_from_everywhere() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        bed.service(|_| (), BOTH);
        let cases = [
            ("pod to cluster address", "a", to(CLUSTER_IP, 80)),
            ("node to cluster address", "node", to(CLUSTER_IP, 80)),
            ("client to node port", "client", to(NODE, 30080)),
            ("pod to node port", "a", to(NODE, 30080)),
            ("node to its own node port", "node", to(NODE, 30080)),
            ("localhost node port", "node", to("127.0.0.1", 30080)),
            (
                "client to cluster address, routed",
                "client",
                to(CLUSTER_IP, 80),
            ),
        ];
        for (name, from, address) in cases {
            let counts = bed.counts(from, &address, 24);
            assert_eq!(counts.len(), 2, "{name}: both endpoints answer: {counts:?}");
        }
        assert!(
            bed.tcp("a", &to(CLUSTER_IP, 81)).is_err(),
            "another port is no service"
        );
    }
}

#[test]
fn a_pod_reaches_itself_and_sources_are_kept_where_they_may_be() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        bed.service(|_| (), &["10.42.0.2"]);
        assert_eq!(
            bed.tcp("a", &to(CLUSTER_IP, 80)).expect("hairpin"),
            "a 10.42.0.1",
            "masked, or it would answer itself"
        );
        assert_eq!(
            bed.tcp("b", &to(CLUSTER_IP, 80)).expect("pod"),
            "a 10.42.0.3",
            "a pod's address is kept"
        );
        assert_eq!(
            bed.tcp("client", &to(NODE, 30080)).expect("client"),
            "a 10.42.0.1"
        );
        bed.service(
            |v| v["spec"]["externalTrafficPolicy"] = json!("Local"),
            &["10.42.0.2"],
        );
        assert_eq!(
            bed.tcp("client", &to(NODE, 30080)).expect("client"),
            format!("a {CLIENT}"),
            "policy Local keeps the client's"
        );
    }
}

#[test]
fn without_endpoints_refused_at_once() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        bed.service(|_| (), &[]);
        for (from, address) in [
            ("a", to(CLUSTER_IP, 80)),
            ("node", to(CLUSTER_IP, 80)),
            ("client", to(NODE, 30080)),
        ] {
            assert_eq!(
                bed.tcp(from, &address),
                Err(std::io::ErrorKind::ConnectionRefused),
                "{from}"
            );
        }
        bed.endpoints(&["10.42.0.3"]);
        assert_eq!(
            bed.tcp("node", &to(CLUSTER_IP, 80))
                .expect("back")
                .split(' ')
                .next(),
            Some("b")
        );
    }
}

#[test]
fn affinity_stays_with_one_endpoint() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        bed.service(|v| v["spec"]["sessionAffinity"] = json!("ClientIP"), BOTH);
        for from in ["a", "b", "node"] {
            assert_eq!(bed.counts(from, &to(CLUSTER_IP, 80), 12).len(), 1, "{from}");
        }
    }
}

#[test]
fn a_restart_writes_nothing_and_a_change_only_its_chains() {
    let mut bed = Bed::new(Backend::Iptables);
    bed.service(|_| (), BOTH);
    assert_eq!(bed.sync(), 0, "read back, nothing differs");
    let other = |i: u8| json!({"metadata": {"namespace": "d", "name": format!("s{i}")}, "spec": {"clusterIP": format!("10.43.1.{i}"), "ports": [{"port": 80}]}});
    for i in 1..=100 {
        bed.state
            .set_service(&serde_json::from_value(other(i)).expect("service"));
    }
    let cold = bed.sync();
    let slice = json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 8080, "protocol": "UDP"}], "endpoints": [{"addresses": ["10.42.0.3"]}]});
    bed.state
        .set_slice(&serde_json::from_value(slice).expect("slice"), &"me".into());
    let one = bed.sync();
    assert!(
        one * 5 < cold,
        "{one} bytes for one endpoint, {cold} for a hundred services"
    );
    // Somebody else's rules stay, ours go, nothing of ours is left.
    bed.in_node(async || {
        iptables::apply(
            Family::V4,
            "*nat\n:DOCKER - [0:0]\n-A OUTPUT -j DOCKER\nCOMMIT\n",
        )
        .await
        .expect("foreign");
        let have = iptables::read(Family::V4).await.expect("read");
        let text = Ruleset::default().transaction(&have).expect("ours");
        iptables::apply(Family::V4, &text).await.expect("remove");
        let left = Command::new("iptables-save")
            .output()
            .expect("iptables-save")
            .stdout;
        let left = String::from_utf8_lossy(&left).into_owned();
        assert!(
            !left.contains("KUBE-") && left.contains("-A OUTPUT -j DOCKER"),
            "{left}"
        );
    });
}

#[test]
fn a_udp_flow_moves_when_its_endpoint_goes() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        bed.service(|_| (), &["10.42.0.2"]);
        let socket = inside(&bed.ns("client"), || {
            let socket = UdpSocket::bind("0.0.0.0:5555").expect("bind");
            socket.connect((NODE, 30080)).expect("connect");
            socket
                .set_read_timeout(Some(Duration::from_millis(1500)))
                .expect("timeout");
            socket
        });
        let ask = || {
            let mut buffer = [0; 64];
            socket.send(b"?").expect("send");
            socket
                .recv(&mut buffer)
                .ok()
                .map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
        };
        assert_eq!(ask().as_deref(), Some("a 10.42.0.1"));
        bed.endpoints(&["10.42.0.3"]);
        assert_eq!(
            ask().as_deref(),
            Some("a 10.42.0.1"),
            "the flow goes on to the old endpoint"
        );
        let wanted = Wanted::new(&[(Family::V4, bed.state.served(Family::V4))]);
        let removed = inside(&bed.ns("node"), move || {
            (
                conntrack::clean(&wanted).expect("clean"),
                conntrack::clean(&wanted).expect("again"),
            )
        });
        assert_eq!(removed, (1, 0));
        assert_eq!(ask().as_deref(), Some("b 10.42.0.1"));
    }
}
