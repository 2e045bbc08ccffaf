//! Real packets against NetworkPolicies: a node with pods on a bridge and a client outside, each a network namespace of
//! its own, with the policies' table beside the services'.
#![allow(missing_docs)]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keelson_proxy_kernel::nft::Nftables;
use keelson_proxy_kernel::sysctl;
use keelson_proxy_plan::model::{Entry, Family};
use keelson_proxy_plan::nft::policies::{self, Live};
use keelson_proxy_plan::nft::services;
use keelson_proxy_plan::nft::transaction::Transaction;
use keelson_proxy_plan::options::{Options, Pods};
use keelson_proxy_plan::policy::state::State;
use keelson_proxy_plan::state::State as Services;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// Pods with their addresses' last part.
const PODS: [(&str, u8); 3] = [("a", 2), ("b", 3), ("c", 4)];
const PORTS: [u16; 4] = [80, 81, 90, 8080];
const CLUSTER_IP: &str = "10.43.0.9";
const NODE: &str = "192.168.9.1";
const CLIENT: &str = "192.168.9.2";
/// Nothing on this machine takes as long to answer.
const SILENCE: Duration = Duration::from_millis(1500);

fn ip(args: &str) {
    let out = Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .expect("ip (Debian: iproute2)");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "ip {args}: {error}");
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

/// A node with three pods on a bridge, and a client on another link, all with addresses of both families.
struct Bed {
    name: String,
    state: State,
    lives: [Live; 2],
}

impl Bed {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut bed = Self {
            name: format!("kspo{}{number}", std::process::id()),
            state: State::new("me"),
            lives: FAMILIES.map(Live::new),
        };
        for ns in ["node", "client", "a", "b", "c"] {
            ip(&format!("netns add {}", bed.ns(ns)));
            ip(&format!("-n {} link set lo up", bed.ns(ns)));
            // Addresses count at once: nobody is asked whether they have them already.
            inside(&bed.ns(ns), || {
                std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").expect("sysctl");
            });
        }
        let node = bed.ns("node");
        inside(&node, || {
            for name in [
                "net.ipv4.ip_forward",
                "net.ipv6.conf.all.forwarding",
                "net.bridge.bridge-nf-call-iptables",
                "net.bridge.bridge-nf-call-ip6tables",
            ] {
                sysctl::enable(name).expect("sysctl; br_netfilter is needed");
            }
        });
        ip(&format!("-n {node} link add br0 type bridge"));
        bed.addresses("node", "br0", ["10.42.0.1/24", "fd42::1/64"]);
        for (pod, last) in PODS {
            bed.link(pod, &format!("port-{pod}"));
            ip(&format!("-n {node} link set port-{pod} master br0"));
            let hairpin = format!("-n {node} link set port-{pod} type bridge_slave hairpin on");
            ip(&hairpin);
            ip(&format!("-n {node} link set port-{pod} up"));
            let own = [format!("10.42.0.{last}/24"), format!("fd42::{last}/64")];
            bed.join(pod, own, ["10.42.0.1", "fd42::1"]);
            bed.pod(pod, last, pod);
        }
        bed.link("client", "out");
        bed.addresses("node", "out", ["192.168.9.1/24", "fd09::1/64"]);
        let own = [format!("{CLIENT}/24"), "fd09::2/64".into()];
        bed.join("client", own, [NODE, "fd09::1"]);
        // A cluster address is routed before it is translated.
        ip(&format!("-n {node} route add default via {CLIENT}"));
        for who in ["a", "b", "c", "client"] {
            bed.serve(who);
        }
        let namespace = json!({"metadata": {"name": "d", "labels": {"team": "x"}}});
        (bed.state).set_namespace(&serde_json::from_value(namespace).expect("namespace"));
        bed.sync();
        bed
    }

    fn ns(&self, who: &str) -> String {
        format!("{}-{who}", self.name)
    }

    fn link(&self, who: &str, port: &str) {
        let (node, peer) = (self.ns("node"), self.ns(who));
        ip(&format!(
            "-n {node} link add {port} type veth peer name eth0 netns {peer}"
        ));
    }

    fn addresses<T: AsRef<str>>(&self, who: &str, link: &str, addresses: [T; 2]) {
        let ns = self.ns(who);
        let [v4, v6] = &addresses;
        ip(&format!("-n {ns} addr add {} dev {link}", v4.as_ref()));
        ip(&format!(
            "-n {ns} addr add {} dev {link} nodad",
            v6.as_ref()
        ));
        ip(&format!("-n {ns} link set {link} up"));
    }

    fn join(&self, who: &str, addresses: [String; 2], gateways: [&str; 2]) {
        self.addresses(who, "eth0", addresses);
        let ns = self.ns(who);
        for gateway in gateways {
            ip(&format!("-n {ns} route add default via {gateway}"));
        }
    }

    /// Tells of a pod: port 80 is its `http`.
    fn pod(&mut self, name: &str, last: u8, app: &str) {
        let pod = json!({"metadata": {"namespace": "d", "name": name, "labels": {"app": app}},
            "spec": {"nodeName": "me", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.42.0.{last}")}, {"ip": format!("fd42::{last}")}]}});
        self.state
            .set_pod(&serde_json::from_value(pod).expect("pod"));
    }

    /// Sends all that it is sent back, over TCP and UDP. The threads end with the test.
    fn serve(&self, who: &str) {
        inside(&self.ns(who), || {
            for port in PORTS {
                let tcp = TcpListener::bind(("::", port)).expect("listen");
                std::thread::spawn(move || {
                    for mut stream in tcp.incoming().flatten() {
                        std::thread::spawn(move || {
                            let mut buffer = [0; 64];
                            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                                let _ = stream.write_all(&buffer[..n]);
                            }
                        });
                    }
                });
                let udp = UdpSocket::bind(("::", port)).expect("bind");
                std::thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while let Ok((n, peer)) = udp.recv_from(&mut buffer) {
                        let _ = udp.send_to(&buffer[..n], peer);
                    }
                });
            }
        });
    }

    /// Sets a policy of namespace `d` for pods of an `app`.
    fn policy(&mut self, name: &str, app: &str, mut spec: Value) {
        spec["podSelector"] = match app {
            "" => json!({}),
            app => json!({"matchLabels": {"app": app}}),
        };
        let policy = json!({"metadata": {"namespace": "d", "name": name}, "spec": spec});
        self.state
            .set_policy(&serde_json::from_value(policy).expect("policy"));
        self.sync();
    }

    fn no_policy(&mut self, name: &str) {
        self.state.remove_policy("d", name);
        self.sync();
    }

    /// Writes what changed; how much that was. Then the kernel has what a start would want, and lists it.
    fn sync(&mut self) -> usize {
        let delta = self.state.sync();
        let compiled = self.state.compiled().clone();
        let forms = FAMILIES.map(|family| policies::forms(&delta, family));
        let transactions: Vec<Transaction> =
            self.lives.iter_mut().map(|l| l.update(&delta)).collect();
        inside(&self.ns("node"), move || {
            let kernel = Nftables::open().expect("socket");
            let mut written = 0;
            for (transaction, forms) in transactions.into_iter().zip(forms) {
                let family = transaction.family;
                let want = policies::table(&compiled, family);
                let read = || kernel.read(policies::TABLE, family).expect("read");
                if read().is_none() {
                    let empty = policies::table(&Default::default(), family);
                    let first = Transaction::between(None, &empty);
                    kernel.apply(&first, &empty).expect("the frame");
                }
                kernel.apply(&transaction, &forms).expect("apply");
                let now = read().expect("table");
                let left = Transaction::between(Some(&now), &want);
                assert!(left.is_empty(), "reads back: {}", left.render(&want));
                let (added, deleted, chains) = transaction.size();
                written += added + deleted + chains;
            }
            listed();
            written
        })
    }

    /// A NodePort service of port 80 with port 80 of these pods, by the services' own table.
    fn service(&self, pods: &[&str]) {
        let service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"type": "NodePort", "clusterIP": CLUSTER_IP,
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}});
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|p| json!({"addresses": [p], "nodeName": "me"}))
            .collect();
        let slice = json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 80}], "endpoints": endpoints});
        let mut state = Services::default();
        state.set_service(&serde_json::from_value(service).expect("service"));
        let slice = serde_json::from_value(slice).expect("slice");
        state.set_slice(&slice, &"me".into());
        let options = Options {
            pods: Pods::Within(vec!["10.42.0.0/16".parse().expect("cidr")]),
            ..Options::default()
        };
        let entries: Vec<Entry> = state.all().flatten().collect();
        let want = services::table(entries.iter(), Family::V4, &options);
        inside(&self.ns("node"), move || {
            let kernel = Nftables::open().expect("socket");
            let have = kernel.read(services::TABLE, Family::V4).expect("read");
            let transaction = Transaction::between(have.as_ref(), &want);
            kernel.apply(&transaction, &want).expect("apply");
        });
    }

    /// Whether a connection is made and answers.
    fn reaches(&self, from: &str, to: &str) -> bool {
        let to: SocketAddr = to.parse().expect("address");
        inside(&self.ns(from), move || {
            let Ok(mut stream) = TcpStream::connect_timeout(&to, SILENCE) else {
                return false;
            };
            stream.set_read_timeout(Some(SILENCE)).expect("timeout");
            stream.write_all(b"?").expect("write");
            stream.read(&mut [0]).is_ok_and(|n| n == 1)
        })
    }

    fn reaches_by_udp(&self, from: &str, to: &str) -> bool {
        let to: SocketAddr = to.parse().expect("address");
        inside(&self.ns(from), move || {
            let socket = UdpSocket::bind(("::", 0)).expect("bind");
            socket.set_read_timeout(Some(SILENCE)).expect("timeout");
            let to = match to.ip() {
                IpAddr::V4(a) => SocketAddr::new(a.to_ipv6_mapped().into(), to.port()),
                IpAddr::V6(_) => to,
            };
            // A refused one was sent all the same.
            let _ = socket.send_to(b"?", to);
            socket.recv_from(&mut [0]).is_ok()
        })
    }

    /// Asks of each whether it is so, and names those that aren't.
    fn expect(&self, what: &str, cases: &[(&str, &str, bool)]) {
        let other: Vec<_> = std::thread::scope(|scope| {
            let all = cases
                .iter()
                .map(|case| (case, scope.spawn(|| self.reaches(case.0, case.1))));
            // All begin before one is waited for.
            let all: Vec<_> = all.collect();
            let answers = all
                .into_iter()
                .map(|(case, t)| (case, t.join().expect("asked")));
            answers
                .filter(|(case, answer)| case.2 != *answer)
                .map(|(case, _)| case)
                .collect()
        });
        assert!(other.is_empty(), "{what}: not as wanted: {other:?}");
    }
}

/// People see all of it: `nft` ends with an error, or not at all, where it can't print.
fn listed() {
    let out = Command::new("nft")
        .args(["-nn", "list", "ruleset"])
        .output()
        .expect("nft (Debian: nftables)");
    let (text, error) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    assert!(out.status.success() && error.is_empty(), "{error}\n{text}");
    for table in ["table ip keelson-policy", "table ip6 keelson-policy"] {
        assert!(text.contains(table), "{text}");
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for ns in ["node", "client", "a", "b", "c"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.ns(ns)])
                .output();
        }
    }
}

#[test]
fn nobody_is_denied_without_a_policy_and_all_are_by_an_empty_one() {
    let mut bed = Bed::new();
    let all = |open| {
        [
            ("a", "10.42.0.3:80", open),
            ("a", "[fd42::3]:80", open),
            ("client", "10.42.0.2:80", open),
            ("client", "[fd42::2]:80", open),
            ("a", "192.168.9.2:80", open),
            ("a", "[fd09::2]:80", open),
            // The node to its own pods.
            ("node", "10.42.0.2:80", true),
            ("node", "[fd42::2]:80", true),
        ]
    };
    bed.expect("no policy", &all(true));
    let deny = json!({"policyTypes": ["Ingress", "Egress"]});
    bed.policy("deny", "", deny);
    bed.expect("denied", &all(false));
    assert!(!bed.reaches_by_udp("a", "10.42.0.3:80"));
    assert!(!bed.reaches_by_udp("a", "[fd42::3]:80"));
    bed.no_policy("deny");
    bed.expect("no policy again", &all(true));
    assert!(bed.reaches_by_udp("a", "10.42.0.3:80"));
}

#[test]
fn pods_of_one_bridge_by_their_labels() {
    let mut bed = Bed::new();
    let from_a = json!({"policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}]});
    bed.policy("in", "b", from_a);
    bed.expect(
        "ingress of b from a",
        &[
            ("a", "10.42.0.3:80", true),
            ("a", "[fd42::3]:80", true),
            ("c", "10.42.0.3:80", false),
            ("c", "[fd42::3]:80", false),
            ("client", "10.42.0.3:80", false),
            ("b", "10.42.0.4:80", true),
            ("c", "10.42.0.2:80", true),
        ],
    );
    let to_b = json!({"policyTypes": ["Egress"],
        "egress": [{"to": [{"namespaceSelector": {"matchLabels": {"team": "x"}}, "podSelector": {"matchLabels": {"app": "b"}}}]}]});
    bed.policy("out", "c", to_b);
    bed.expect(
        "egress of c to b, which b does not allow",
        &[
            ("c", "10.42.0.3:80", false),
            ("c", "10.42.0.2:80", false),
            ("c", "192.168.9.2:80", false),
            ("a", "10.42.0.4:80", true),
        ],
    );
    // The label is all that changes.
    bed.pod("c", 4, "a");
    let policy = json!({"policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]});
    bed.policy("out", "a", policy);
    bed.expect(
        "c is an a now",
        &[
            ("c", "10.42.0.3:80", true),
            ("c", "[fd42::3]:80", true),
            ("c", "10.42.0.2:80", false),
        ],
    );
}

#[test]
fn blocks_ports_ranges_and_names() {
    let mut bed = Bed::new();
    let block = |cidr, except: &[&str], ports: Value| json!({"from": [{"ipBlock": {"cidr": cidr, "except": except}}], "ports": ports});
    let spec = json!({"policyTypes": ["Ingress"], "ingress": [
        block("192.168.0.0/16", &["192.168.8.0/24"], json!([{"port": "http"}, {"port": 81, "protocol": "UDP"}])),
        block("0.0.0.0/0", &["192.168.0.0/16", "10.42.0.4/32"], json!([{"port": 85, "endPort": 95}])),
        block("fd00::/8", &["fd42::4/128"], json!([{"port": 8080}])),
    ]});
    bed.policy("p", "b", spec);
    bed.expect(
        "blocks",
        &[
            ("client", "10.42.0.3:80", true),
            ("client", "10.42.0.3:81", false),
            ("client", "10.42.0.3:90", false),
            ("a", "10.42.0.3:80", false),
            ("a", "10.42.0.3:90", true),
            ("c", "10.42.0.3:90", false),
            ("client", "[fd42::3]:8080", true),
            ("client", "[fd42::3]:80", false),
            ("a", "[fd42::3]:8080", true),
            ("c", "[fd42::3]:8080", false),
        ],
    );
    for (from, to, want) in [
        ("client", "10.42.0.3:81", true),
        ("client", "10.42.0.3:80", false),
        ("a", "10.42.0.3:81", false),
    ] {
        assert_eq!(bed.reaches_by_udp(from, to), want, "{from} to {to}");
    }
    let spec = json!({"policyTypes": ["Ingress"], "ingress": [block("192.168.9.2/32", &["192.168.9.2/32"], json!([{"port": 80}]))]});
    bed.policy("p", "b", spec);
    bed.expect("a block of nobody", &[("client", "10.42.0.3:80", false)]);
}

#[test]
fn what_goes_by_a_service_is_judged_by_its_endpoint() {
    let mut bed = Bed::new();
    let service = format!("{CLUSTER_IP}:80");
    let node_port = format!("{NODE}:30080");
    bed.service(&["10.42.0.3"]);
    let from_a = json!({"policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": [{"port": "http"}]}]});
    bed.policy("in", "b", from_a);
    let to_b = json!({"policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "b"}}}], "ports": [{"port": 80}]}]});
    bed.policy("out", "a", to_b);
    bed.expect(
        "a to b",
        &[
            ("a", &service, true),
            ("c", &service, false),
            ("client", &node_port, false),
            // Its own node's address, and from there to the endpoint.
            ("a", &node_port, true),
            ("node", &service, true),
        ],
    );
    // The client's address is the client's, though the endpoint sees the node's.
    let block = json!({"policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": "192.168.9.2/32"}}]}]});
    bed.policy("in", "b", block);
    bed.expect(
        "client to b",
        &[
            ("client", &node_port, true),
            ("a", &service, false),
            ("node", &service, true),
        ],
    );
    bed.no_policy("out");
    bed.policy("in", "b", json!({"policyTypes": ["Ingress", "Egress"]}));
    bed.expect(
        "b to itself, by its service",
        &[("b", &service, true), ("b", "10.42.0.2:80", false)],
    );
}

#[test]
fn an_open_connection_is_judged_anew_when_policies_change() {
    let mut bed = Bed::new();
    for to in ["10.42.0.3:80", "[fd42::3]:80"] {
        let to: SocketAddr = to.parse().expect("address");
        let mut stream = inside(&bed.ns("a"), move || {
            TcpStream::connect_timeout(&to, SILENCE).expect("connected")
        });
        stream.set_read_timeout(Some(SILENCE)).expect("timeout");
        let mut ask = || {
            stream.write_all(b"?").expect("write");
            stream.read(&mut [0; 8]).map_err(|e| e.kind())
        };
        assert_eq!(ask(), Ok(1));
        bed.policy("deny", "b", json!({"policyTypes": ["Ingress"]}));
        assert_eq!(ask(), Err(ErrorKind::WouldBlock), "cut");
        let from_a = json!({"policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}]});
        bed.policy("deny", "b", from_a);
        // TCP sends again what was lost.
        let wait = Duration::from_secs(30);
        stream.set_read_timeout(Some(wait)).expect("timeout");
        assert_eq!(
            stream.read(&mut [0]).map_err(|e| e.kind()),
            Ok(1),
            "goes on"
        );
        bed.no_policy("deny");
    }
}

#[test]
fn a_restart_writes_nothing_and_a_change_its_own() {
    let mut bed = Bed::new();
    for i in 0..20 {
        let peers = json!([{"podSelector": {"matchLabels": {"app": format!("x{i}")}}}, {"ipBlock": {"cidr": format!("10.{i}.0.0/16"), "except": [format!("10.{i}.1.0/24")]}}]);
        let spec = json!({"policyTypes": ["Ingress", "Egress"], "ingress": [{"from": peers, "ports": [{"port": "http"}, {"port": 80, "endPort": 81}]}]});
        bed.policy(&format!("p{i}"), "b", spec);
    }
    // One pod's address in one set of each family.
    bed.pod("c", 4, "x3");
    let one = bed.sync();
    assert!((2..=4).contains(&one), "{one}");
    let compiled = bed.state.compiled().clone();
    inside(&bed.ns("node"), move || {
        let kernel = Nftables::open().expect("socket");
        let before = kernel.generation().expect("generation");
        for family in FAMILIES {
            let have = kernel.read(policies::TABLE, family).expect("read");
            let want = policies::table(&compiled, family);
            assert!(Transaction::between(have.as_ref(), &want).is_empty());
            assert_eq!(have.as_ref(), Some(&want), "nothing more and nothing less");
        }
        assert_eq!(kernel.generation().expect("generation"), before);
        // Somebody takes the table away: changes to it are refused, each by itself, and the next look tells the truth.
        kernel.remove(policies::TABLE, Family::V4).expect("remove");
        let want = policies::table(&compiled, Family::V4);
        let mut change = Transaction::between(None, &want);
        (change.add_sets, change.add_chains) = Default::default();
        let refused = kernel.apply(&change, &want);
        assert!(refused.is_err(), "there are no such sets");
        let have = kernel.read(policies::TABLE, Family::V4).expect("read");
        assert_eq!(have, None);
        let whole = Transaction::between(None, &want);
        kernel.apply(&whole, &want).expect("made again");
        let have = kernel.read(policies::TABLE, Family::V4).expect("read");
        assert_eq!(have, Some(want));
        for family in FAMILIES {
            kernel.remove(policies::TABLE, family).expect("remove");
            let have = kernel.read(policies::TABLE, family).expect("read");
            assert_eq!(have, None);
        }
    });
    bed.expect("nothing is left", &[("a", "10.42.0.3:80", true)]);
}
