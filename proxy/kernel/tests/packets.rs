//! Real packets through the rules: a node, pods and a client outside, each a network namespace of its own.
#![allow(missing_docs)]

#[path = "packets/flows.rs"]
mod flows;
mod rules;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_kernel::sysctl;
use keelson_proxy_plan::iptables::variant::Variant;
use keelson_proxy_plan::iptables::{Live, Ruleset};
use keelson_proxy_plan::model::{Entry, Family};
use keelson_proxy_plan::options::{Options, Pods};
use keelson_proxy_plan::state::State;
use rules::{BACKENDS, Backend, inside, wait_inside};
use serde_json::{Value, json};

const CLIENT: &str = "192.168.9.2";
const NODE: &str = "192.168.9.1";
const CLUSTER_IP: &str = "10.43.0.9";
const CLIENT6: &str = "fd09::2";
const NODE6: &str = "fd09::1";
const CLUSTER_IP6: &str = "fd43::9";

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

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A node with two pods on a bridge, and a client on another link.
struct Bed {
    name: String,
    state: State,
    options: Options,
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
            options: Options {
                pods: Pods::Within(nets(&["10.42.0.0/16", "fd42::/16"])),
                ..Options::default()
            },
            backend,
        };
        for ns in ["node", "a", "b", "client"] {
            ip(&format!("netns add {}", bed.ns(ns)));
            ip(&format!("-n {} link set lo up", bed.ns(ns)));
            // While a link-local address is not sure of being the only one (DAD, two seconds), the kernel asks no
            // neighbour in its own name, and that is in whose it asks for a packet whose source is kept.
            inside(&bed.ns(ns), || {
                std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").expect("sysctl");
            });
        }
        let node = bed.ns("node");
        ip(&format!("-n {node} link add br0 type bridge"));
        ip(&format!("-n {node} addr add 10.42.0.1/24 dev br0"));
        ip(&format!("-n {node} addr add fd42::1/64 dev br0 nodad"));
        ip(&format!("-n {node} link set br0 up"));
        for (pod, last) in [("a", 2), ("b", 3)] {
            ip(&format!(
                "-n {node} link add port-{pod} type veth peer name eth0 netns {}",
                bed.ns(pod)
            ));
            ip(&format!("-n {node} link set port-{pod} master br0"));
            ip(&format!(
                "-n {node} link set port-{pod} type bridge_slave hairpin on"
            ));
            ip(&format!("-n {node} link set port-{pod} up"));
            bed.join(pod, &format!("10.42.0.{last}/24"), "10.42.0.1");
            bed.join(pod, &format!("fd42::{last}/64"), "fd42::1");
        }
        ip(&format!(
            "-n {node} link add out type veth peer name eth0 netns {}",
            bed.ns("client")
        ));
        ip(&format!("-n {node} addr add {NODE}/24 dev out"));
        ip(&format!("-n {node} addr add {NODE6}/64 dev out nodad"));
        ip(&format!("-n {node} link set out up"));
        bed.join("client", &format!("{CLIENT}/24"), NODE);
        bed.join("client", &format!("{CLIENT6}/64"), NODE6);
        // A cluster address is routed before it is translated: a node without any route to it has no services.
        // Not back to the client: the kernel's redirects would keep it from hearing that it is refused.
        ip(&format!("-n {node} link add away type bridge"));
        ip(&format!("-n {node} link set away up"));
        ip(&format!("-n {node} route add default dev away"));
        ip(&format!("-n {node} route add default via {CLIENT6}"));
        inside(&node, || {
            let forward = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
            for name in forward.into_iter().chain([sysctl::ROUTE_LOCALNET]) {
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
        let nodad = if address.contains(':') { "nodad" } else { "" };
        ip(&format!("-n {ns} addr add {address} dev eth0 {nodad}"));
        ip(&format!("-n {ns} link set eth0 up"));
        ip(&format!("-n {ns} route add default via {gateway}"));
    }

    /// Answers every TCP connection and UDP packet with the pod's name and the source it sees. The threads end with the test.
    fn serve(&self, pod: &'static str) {
        inside(&self.ns(pod), move || {
            let tcp = TcpListener::bind("[::]:8080").expect("listen");
            std::thread::spawn(move || {
                for mut stream in tcp.incoming().flatten() {
                    let peer = stream.peer_addr().expect("peer").ip().to_canonical();
                    let _ = write!(stream, "{pod} {peer}");
                }
            });
            let udp = UdpSocket::bind("[::]:8080").expect("bind");
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(
                        format!("{pod} {}", peer.ip().to_canonical()).as_bytes(),
                        peer,
                    );
                }
            });
        });
    }

    fn service(&mut self, change: impl Fn(&mut Value), endpoints: &[&str]) {
        let mut service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"type": "NodePort", "clusterIPs": [CLUSTER_IP, CLUSTER_IP6],
            "ports": [{"name": "t", "port": 80, "nodePort": 30080, "protocol": "TCP"}, {"name": "u", "port": 80, "nodePort": 30080, "protocol": "UDP"}]}});
        change(&mut service);
        self.state
            .set_service(&serde_json::from_value(service).expect("service"));
        self.endpoints(endpoints);
    }

    /// Those of another node have its name after an `@`.
    fn endpoints(&mut self, endpoints: &[&str]) {
        for (name, kind, colon) in [("web-4", "IPv4", false), ("web-6", "IPv6", true)] {
            let mine = endpoints.iter().filter(|e| e.contains(':') == colon);
            let list: Vec<Value> = mine
                .map(|e| e.split_once('@').unwrap_or((e, "me")))
                .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node}))
                .collect();
            let slice = json!({"metadata": {"namespace": "d", "name": name, "labels": {"kubernetes.io/service-name": "web"}}, "addressType": kind,
                "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 8080, "protocol": "UDP"}], "endpoints": list});
            let slice = serde_json::from_value(slice).expect("slice");
            self.state.set_slice(&slice, &"me".into());
        }
        self.sync();
    }

    fn entries(&self) -> Vec<Entry> {
        self.state.all().flatten().collect()
    }

    /// Makes the rules so; how much was written to the kernel.
    fn sync(&self) -> usize {
        let (node, entries) = (self.ns("node"), self.entries());
        let write = |family| self.backend.write(&node, &entries, family, &self.options);
        FAMILIES.into_iter().map(write).sum()
    }

    fn in_node<T: Send>(&self, f: impl AsyncFnOnce() -> T + Send) -> T {
        wait_inside(&self.ns("node"), f)
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
            let answer = self.tcp(from, to);
            let answer =
                answer.unwrap_or_else(|e| panic!("{:?}, {from} to {to}: {e}", self.backend));
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

fn nets(nets: &[&str]) -> Vec<IpNet> {
    nets.iter().map(|n| n.parse().expect("net")).collect()
}

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
        for from in ["a", "node", "client"] {
            assert_eq!(
                bed.tcp(from, &to(CLUSTER_IP, 81)),
                REFUSED,
                "{backend:?}, {from}: another port is no service"
            );
        }
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
    for variant in Variant::ALL {
        restart(variant);
    }
}

fn restart(variant: Variant) {
    let mut bed = Bed::new(Backend::Iptables(variant));
    bed.service(|_| (), BOTH);
    assert_eq!(bed.sync(), 0, "read back, nothing differs");
    let other = |i: u8| json!({"metadata": {"namespace": "d", "name": format!("s{i}")}, "spec": {"clusterIP": format!("10.43.1.{i}"), "ports": [{"port": 80}]}});
    for i in 1..=100 {
        bed.state
            .set_service(&serde_json::from_value(other(i)).expect("service"));
    }
    let cold = bed.sync();
    // What is written bit by bit is what is read back.
    let mut live = Live::new(Family::V4, bed.options.clone());
    live.reset(bed.entries().iter());
    bed.state.forget_changes();
    let slice = json!({"metadata": {"namespace": "d", "name": "web-4", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 8080, "protocol": "UDP"}], "endpoints": [{"addresses": ["10.42.0.3"]}]});
    bed.state
        .set_slice(&serde_json::from_value(slice).expect("slice"), &"me".into());
    let one = live.update(&bed.state.take_changes()).expect("a change");
    assert!(
        one.len() * 5 < cold,
        "{} bytes for one endpoint, {cold} for a hundred services",
        one.len()
    );
    let programs = Programs::of(variant);
    bed.in_node(async move || programs.apply(Family::V4, &one).await.expect("apply"));
    assert_eq!(bed.sync(), 0, "nothing is left to write");
    // Somebody else's rules stay, ours go, nothing of ours is left.
    bed.in_node(async move || {
        let foreign =
            "*nat\n:DOCKER - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n-A OUTPUT -j DOCKER\nCOMMIT\n";
        programs.apply(Family::V4, foreign).await.expect("foreign");
        let have = programs.read(Family::V4).await.expect("read");
        let text = Ruleset::default().transaction(&have).expect("ours");
        programs.apply(Family::V4, &text).await.expect("remove");
        let program = match variant {
            Variant::Legacy => "iptables-legacy-save",
            Variant::Nft => "iptables-nft-save",
        };
        let left = Command::new(program).output().expect(program).stdout;
        let left = String::from_utf8_lossy(&left).replace(":KUBE-KUBELET-CANARY ", "");
        assert!(
            !left.contains("KUBE-") && left.contains("-A OUTPUT -j DOCKER"),
            "{left}"
        );
    });
}

/// Nobody answers, and nobody says so.
fn is_dropped(answer: &Result<String, std::io::ErrorKind>) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(answer, Err(TimedOut | WouldBlock))
}

const REFUSED: Result<String, std::io::ErrorKind> = Err(std::io::ErrorKind::ConnectionRefused);

#[test]
fn affinity_moves_when_its_endpoint_goes_and_stays_there() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        bed.service(|v| v["spec"]["sessionAffinity"] = json!("ClientIP"), BOTH);
        let service = to(CLUSTER_IP, 80);
        let first = bed.counts("node", &service, 4).into_keys().next();
        let (left, other) = match first.as_deref() {
            Some("a") => ("10.42.0.3", "b"),
            _ => ("10.42.0.2", "a"),
        };
        bed.endpoints(&[left]);
        let only = |bed: &Bed| {
            bed.counts("node", &service, 12)
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!(only(&bed), [other], "{backend:?}: its endpoint is gone");
        bed.endpoints(BOTH);
        assert_eq!(
            only(&bed),
            [other],
            "{backend:?}: it is back, and forgotten"
        );
    }
}

#[test]
fn load_balancer_addresses_are_for_their_source_ranges() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        let address = to("192.0.2.7", 80);
        let balanced = |range: &str| {
            let range = range.to_owned();
            move |v: &mut Value| {
                v["spec"]["type"] = json!("LoadBalancer");
                v["spec"]["loadBalancerSourceRanges"] = json!([range, "2001:db8::/32"]);
                v["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
            }
        };
        bed.service(balanced("192.168.9.2/32"), &["10.42.0.3"]);
        assert_eq!(
            bed.tcp("client", &address).as_deref(),
            Ok("b 10.42.0.1"),
            "{backend:?}"
        );
        assert!(
            is_dropped(&bed.tcp("a", &address)),
            "{backend:?}: a pod is in no range"
        );
        bed.service(balanced("10.42.0.0/24"), &["10.42.0.3"]);
        assert!(
            is_dropped(&bed.tcp("client", &address)),
            "{backend:?}: nor is the client now"
        );
        assert_eq!(
            bed.tcp("a", &address).as_deref(),
            Ok("b 10.42.0.1"),
            "{backend:?}"
        );
        bed.endpoints(&[]);
        assert_eq!(bed.tcp("a", &address), REFUSED, "{backend:?}: no endpoint");
        assert!(
            is_dropped(&bed.tcp("client", &address)),
            "{backend:?}: strangers learn nothing"
        );
    }
}

#[test]
fn external_addresses_with_both_policies() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        let address = to("192.0.2.9", 80);
        let policy = |policy: &'static str| {
            move |v: &mut Value| {
                v["spec"]["externalIPs"] = json!(["192.0.2.9"]);
                v["spec"]["externalTrafficPolicy"] = json!(policy);
            }
        };
        bed.service(policy("Cluster"), &["10.42.0.3@you"]);
        for from in ["client", "a", "node"] {
            assert_eq!(
                bed.tcp(from, &address).as_deref(),
                Ok("b 10.42.0.1"),
                "{backend:?}, {from}"
            );
        }
        bed.service(policy("Local"), &["10.42.0.3@you"]);
        assert!(
            is_dropped(&bed.tcp("client", &address)),
            "{backend:?}: no endpoint here"
        );
        assert_eq!(
            bed.tcp("a", &address).as_deref(),
            Ok("b 10.42.0.2"),
            "{backend:?}: a pod is inside"
        );
        assert_eq!(
            bed.tcp("node", &address).as_deref(),
            Ok("b 10.42.0.1"),
            "{backend:?}: so is the node"
        );
        bed.endpoints(&["10.42.0.3@you", "10.42.0.2"]);
        assert_eq!(
            bed.counts("client", &address, 12).len(),
            1,
            "{backend:?}: the one here"
        );
        bed.endpoints(&[]);
        for from in ["client", "a", "node"] {
            assert_eq!(bed.tcp(from, &address), REFUSED, "{backend:?}, {from}");
        }
    }
}

#[test]
fn internal_policy_local_stays_on_the_node() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        let service = to(CLUSTER_IP, 80);
        let local = |v: &mut Value| v["spec"]["internalTrafficPolicy"] = json!("Local");
        bed.service(local, &["10.42.0.2", "10.42.0.3@you"]);
        for from in ["b", "node"] {
            let names: Vec<String> = bed.counts(from, &service, 12).into_keys().collect();
            assert_eq!(names, ["a"], "{backend:?}, {from}");
        }
        let names = bed.counts("client", &to(NODE, 30080), 24);
        assert_eq!(
            names.len(),
            2,
            "{backend:?}: node ports have another policy"
        );
        bed.endpoints(&["10.42.0.3@you"]);
        assert!(
            is_dropped(&bed.tcp("a", &service)),
            "{backend:?}: elsewhere only"
        );
        bed.endpoints(&[]);
        assert_eq!(bed.tcp("a", &service), REFUSED, "{backend:?}");
    }
}

#[test]
fn node_ports_only_on_addresses_within_the_networks() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        bed.options.node_port_nets = nets(&["192.168.9.0/24", "fd09::/64"]);
        bed.service(|_| (), BOTH);
        let (outer, inner) = (to(NODE, 30080), to("10.42.0.1", 30080));
        for from in ["client", "a", "node"] {
            assert_eq!(bed.counts(from, &outer, 24).len(), 2, "{backend:?}, {from}");
            assert_eq!(
                bed.tcp(from, &inner),
                REFUSED,
                "{backend:?}, {from}: nobody listens"
            );
        }
        assert_eq!(
            bed.tcp("node", &to("127.0.0.1", 30080)),
            REFUSED,
            "{backend:?}"
        );
        bed.options.node_port_nets = nets(&["10.0.0.0/8"]);
        bed.sync();
        assert_eq!(bed.tcp("client", &outer), REFUSED, "{backend:?}");
        assert_eq!(bed.counts("client", &inner, 24).len(), 2, "{backend:?}");
    }
}

#[test]
fn ipv6_is_as_ipv4() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        bed.service(|_| (), &["fd42::2"]);
        assert_eq!(
            bed.tcp("b", &to(CLUSTER_IP6, 80)).as_deref(),
            Ok("a fd42::3"),
            "{backend:?}: a pod's address is kept, and its first packet arrives"
        );
        let both = &["fd42::2", "fd42::3", "10.42.0.2", "10.42.0.3"];
        bed.service(|_| (), both);
        for (from, address) in [
            ("node", to(CLUSTER_IP6, 80)),
            ("client", to(CLUSTER_IP6, 80)),
            ("client", to(NODE6, 30080)),
            ("a", to(NODE6, 30080)),
            ("node", to(NODE6, 30080)),
        ] {
            let counts = bed.counts(from, &address, 24);
            assert_eq!(
                counts.len(),
                2,
                "{backend:?}, {from} to {address}: {counts:?}"
            );
        }
        assert_eq!(
            bed.tcp("a", &to(CLUSTER_IP6, 81)),
            REFUSED,
            "{backend:?}: no such port"
        );
        bed.endpoints(&["fd42::2"]);
        let answers = [
            ("a", to(CLUSTER_IP6, 80), "a fd42::1"),
            ("client", to(NODE6, 30080), "a fd42::1"),
        ];
        for (from, address, want) in answers {
            assert_eq!(
                bed.tcp(from, &address).as_deref(),
                Ok(want),
                "{backend:?}, {from}"
            );
        }
        assert_eq!(
            bed.tcp("a", &to(CLUSTER_IP, 80)),
            REFUSED,
            "{backend:?}: no IPv4 endpoint"
        );
        bed.service(
            |v| v["spec"]["externalTrafficPolicy"] = json!("Local"),
            &["fd42::2"],
        );
        let kept = format!("a {CLIENT6}");
        assert_eq!(
            bed.tcp("client", &to(NODE6, 30080)),
            Ok(kept),
            "{backend:?}"
        );
        bed.endpoints(&[]);
        assert_eq!(bed.tcp("client", &to(NODE6, 30080)), REFUSED, "{backend:?}");
    }
}
