//! A node with two pods on a bridge and a client on another link, each a network namespace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_kernel::ipvs::{Ipvs, Synced};
use keelson_proxy_kernel::nft::Nftables;
use keelson_proxy_plan::iptables::{self as chains, Ruleset};
use keelson_proxy_plan::ipvs::{self, Options, Timeouts, Wanted};
use keelson_proxy_plan::model::{Entry, Family};
use keelson_proxy_plan::nft::services;
use keelson_proxy_plan::nft::table::Table;
use keelson_proxy_plan::nft::transaction::Transaction;
use keelson_proxy_plan::options::{self, Pods};
use keelson_proxy_plan::state::State;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

pub(crate) const CLIENT: &str = "192.168.9.2";
pub(crate) const NODE: &str = "192.168.9.1";
pub(crate) const CLUSTER_IP: &str = "10.43.0.9";
pub(crate) const CLUSTER_IP6: &str = "fd43::9";
pub(crate) const POD_A: &str = "10.42.0.2";
pub(crate) const POD_B: &str = "10.42.0.3";
/// The node on the pods' bridge: what a masked source becomes.
pub(crate) const BRIDGE: &str = "10.42.0.1";
/// Long enough for an answer on a slow machine; what is dropped is waited for as long.
const PATIENCE: Duration = Duration::from_millis(2500);

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Endpoints: address and node.
pub(crate) const BOTH: &[(&str, &str)] = &[(POD_A, "me"), (POD_B, "me")];
pub(crate) const ONLY_A: &[(&str, &str)] = &[(POD_A, "me")];
pub(crate) const ONLY_B: &[(&str, &str)] = &[(POD_B, "me")];

pub(crate) fn sh(command: &str) -> String {
    let out = Command::new("bash")
        .args(["-c", command])
        .output()
        .expect("bash");
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "{command}: {text}");
    text.trim_end().to_owned()
}

/// Runs in a network namespace, on a thread of its own: the namespace is the thread's.
pub(crate) fn inside<T: Send>(ns: &str, f: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{ns}")).expect("namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("run as root");
            f()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Who carries out the rules beside IPVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    Nftables,
    Iptables,
}

pub(crate) struct Bed {
    name: String,
    pub(crate) beside: Beside,
    pub(crate) state: State,
    pub(crate) options: Options,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let name = format!("kv{}", std::process::id());
        let mut bed = Self {
            name,
            beside: Beside::Nftables,
            state: State::default(),
            options: Options::default(),
        };
        let [node, a, b, client] = ["node", "a", "b", "client"].map(|n| bed.ns(n));
        let pods: String = [("a", &a, 2), ("b", &b, 3)]
            .map(|(pod, ns, i)| {
                format!(
                    "
                ip -n {node} link add port-{pod} type veth peer name eth0 netns {ns}
                ip -n {node} link set port-{pod} master br0
                ip -n {node} link set port-{pod} type bridge_slave hairpin on
                ip -n {node} link set port-{pod} up
                ip -n {ns} addr add 10.42.0.{i}/24 dev eth0
                ip -n {ns} addr add fd42::{i}/64 dev eth0 nodad
                ip -n {ns} link set eth0 up
                ip -n {ns} route add default via {BRIDGE}
                ip -n {ns} route add default via fd42::1"
                )
            })
            .concat();
        // The client is the way to everywhere else: a cluster address has no other route than ours.
        sh(&format!(
            "set -e
            # Packets between pods of a bridge pass the node's rules too, as every node of a cluster has it.
            modprobe br_netfilter
            for ns in {node} {a} {b} {client}; do ip netns add $ns; ip -n $ns link set lo up; done
            ip -n {node} link add br0 type bridge
            ip -n {node} addr add {BRIDGE}/24 dev br0
            ip -n {node} addr add fd42::1/64 dev br0 nodad
            ip -n {node} link set br0 up
            {pods}
            ip -n {node} link add out type veth peer name eth0 netns {client}
            ip -n {node} addr add {NODE}/24 dev out
            ip -n {node} link set out up
            ip -n {client} addr add {CLIENT}/24 dev eth0
            ip -n {client} link set eth0 up
            ip -n {client} route add default via {NODE}
            ip -n {node} route add default via {CLIENT}
            ip netns exec {node} sysctl -qw net.ipv6.conf.all.forwarding=1"
        ));
        bed.options = bed.in_node(|| {
            let own_addresses = Ipvs::open()
                .expect("open")
                .own_addresses()
                .expect("addresses");
            let nets = ["10.42.0.0/16", "fd42::/16"].map(|c| c.parse().expect("net"));
            let common = options::Options {
                pods: Pods::Within(nets.into()),
                node_port_nets: vec![IpAddr::from_str(NODE).expect("address").into()],
                ..options::Options::default()
            };
            Options {
                common,
                own_addresses,
                ..Options::default()
            }
        });
        bed.in_node(|| {
            Ipvs::open()
                .expect("open")
                .prepare(false, &Timeouts::default())
                .expect("prepare")
        });
        // Programs of the node's own: nobody gets to them by way of a service's address.
        bed.in_node(|| {
            for address in ["0.0.0.0:22", "0.0.0.0:80"] {
                let own = TcpListener::bind(address).expect("listen");
                std::thread::spawn(move || own.incoming().flatten().for_each(drop));
            }
        });
        bed.serve("a");
        bed.serve("b");
        bed
    }

    /// As it was at the beginning.
    pub(crate) fn clear(&mut self) {
        self.state = State::default();
        self.remove_rules();
        let errors = self.in_node(keelson_proxy_kernel::ipvs::cleanup);
        assert!(errors.is_empty(), "{errors:?}");
    }

    pub(crate) fn ns(&self, who: &str) -> String {
        format!("{}-{who}", self.name)
    }

    pub(crate) fn in_node<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        inside(&self.ns("node"), f)
    }

    /// Answers TCP and UDP with the pod's name and the source it sees, to each line anew. The threads end with the
    /// program.
    fn serve(&self, pod: &'static str) {
        inside(&self.ns(pod), move || {
            let tcp = TcpListener::bind("[::]:8080").expect("listen");
            std::thread::spawn(move || {
                for stream in tcp.incoming().flatten() {
                    std::thread::spawn(move || answer(stream, pod));
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

    /// A Service with a cluster address, a node port, TCP and UDP, changed as a case wants.
    pub(crate) fn service(
        &mut self,
        change: impl Fn(&mut Value),
        endpoints: &[(&str, &str)],
    ) -> Synced {
        let mut service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"type": "NodePort", "clusterIP": CLUSTER_IP,
            "clusterIPs": [CLUSTER_IP, CLUSTER_IP6], "ports": [{"name": "t", "port": 80, "nodePort": 30080, "protocol": "TCP"},
            {"name": "u", "port": 80, "nodePort": 30080, "protocol": "UDP"}]}});
        change(&mut service);
        self.state
            .set_service(&serde_json::from_value(service).expect("service"));
        self.endpoints(endpoints)
    }

    pub(crate) fn endpoints(&mut self, endpoints: &[(&str, &str)]) -> Synced {
        self.slices(endpoints);
        self.sync()
    }

    pub(crate) fn slices(&mut self, endpoints: &[(&str, &str)]) {
        for (name, kind, six) in [("web-4", "IPv4", false), ("web-6", "IPv6", true)] {
            let address = |a: &str| {
                if six {
                    a.replace("10.42.0.", "fd42::")
                } else {
                    a.to_owned()
                }
            };
            let list: Vec<Value> = endpoints
                .iter()
                .map(|(a, node)| json!({"addresses": [address(a)], "nodeName": node}))
                .collect();
            let slice = json!({"metadata": {"namespace": "d", "name": name, "labels": {"kubernetes.io/service-name": "web"}}, "addressType": kind,
                "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 8080, "protocol": "UDP"}], "endpoints": list});
            self.state
                .set_slice(&serde_json::from_value(slice).expect("slice"), &"me".into());
        }
    }

    pub(crate) fn wanted(&self) -> Wanted {
        ipvs::wanted(&self.entries(), &self.options)
    }

    fn entries(&self) -> Vec<Entry> {
        self.state.all().flatten().collect()
    }

    /// Makes rules and virtual servers so, from what is read back.
    pub(crate) fn sync(&self) -> Synced {
        let mut wanted = self.wanted();
        let bound = self.in_node(|| Ipvs::open().expect("open").bound().expect("addresses"));
        wanted.rules.bound.extend(bound);
        let node = self.ns("node");
        self.beside
            .write(&node, &wanted.rules, &self.options.common);
        self.sync_servers(&wanted)
    }

    /// Another backend's rules in place of those beside IPVS, which does without virtual servers.
    pub(crate) fn switch(&self) {
        let (entries, common) = (self.entries(), &self.options.common);
        for family in FAMILIES {
            match self.beside {
                Beside::Nftables => write(
                    &self.ns("node"),
                    services::table(entries.iter(), family, common),
                ),
                Beside::Iptables => {
                    let want = chains::ruleset(entries.iter(), family, common);
                    restore(&self.ns("node"), family, want);
                }
            };
        }
    }

    pub(crate) fn remove_rules(&self) {
        for family in FAMILIES {
            match self.beside {
                Beside::Nftables => {
                    self.in_node(|| nftables().remove(services::TABLE, family).expect("remove"))
                }
                Beside::Iptables => restore(&self.ns("node"), family, Ruleset::default()),
            }
        }
    }

    pub(crate) fn sync_servers(&self, wanted: &Wanted) -> Synced {
        self.in_node(|| Ipvs::open().expect("open").sync(wanted).expect("sync"))
    }

    /// Connects from a namespace and asks once; the answer, or the error's kind.
    pub(crate) fn tcp(&self, from: &str, to: &str) -> Result<String, ErrorKind> {
        let mut talk = self.connect(from, to)?;
        talk.ask()
    }

    pub(crate) fn connect(&self, from: &str, to: &str) -> Result<Talk, ErrorKind> {
        let to: SocketAddr = to.parse().expect("address");
        inside(&self.ns(from), || {
            let stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|e| e.kind())?;
            stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
            Ok(Talk(stream))
        })
    }

    /// One datagram, and what comes back.
    pub(crate) fn udp(&self, from: &str, to: &str) -> Result<String, ErrorKind> {
        inside(&self.ns(from), || {
            let any = if to.starts_with('[') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(any).expect("bind");
            socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
            socket.connect(to).map_err(|e| e.kind())?;
            ask(&socket).map_err(|e| e.kind())
        })
    }

    /// Who answers, how often, of so many new connections.
    pub(crate) fn counts(&self, from: &str, to: &str, n: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..n {
            let answer = self
                .tcp(from, to)
                .unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
            *counts
                .entry(answer.split(' ').next().expect("name").to_owned())
                .or_default() += 1;
        }
        counts
    }
}

impl Beside {
    /// Rules of both families, in place of those that are there.
    pub(crate) fn write(self, ns: &str, rules: &ipvs::Rules, common: &options::Options) {
        for family in FAMILIES {
            match self {
                Self::Nftables => write(ns, ipvs::table(rules, family, common)),
                Self::Iptables => restore(ns, family, ipvs::ruleset(rules, family, common)),
            };
        }
    }
}

fn write(ns: &str, want: Table) {
    inside(ns, || {
        let kernel = nftables();
        let have = kernel.read(services::TABLE, want.family).expect("read");
        let transaction = Transaction::between(have.as_ref(), &want);
        kernel
            .apply(&transaction, have.as_ref().unwrap_or(&want))
            .expect("apply");
        let now = kernel.read(services::TABLE, want.family).expect("read");
        let left = Transaction::between(now.as_ref(), &want);
        assert!(
            left.is_empty(),
            "reads back as it was written: {}",
            left.render(&want)
        );
    });
}

fn restore(ns: &str, family: Family, want: Ruleset) {
    inside(ns, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let programs = Programs::detect().await.programs;
            let have = programs.read(family).await.expect("read");
            let Some(text) = want.transaction(&have) else {
                return;
            };
            programs.apply(family, &text).await.expect("apply");
            let now = programs.read(family).await.expect("read");
            assert_eq!(want.transaction(&now), None, "reads back as it was written");
        });
    });
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

/// A connection on which a line is answered with a line.
pub(crate) struct Talk(TcpStream);

impl Talk {
    pub(crate) fn ask(&mut self) -> Result<String, ErrorKind> {
        self.0.write_all(b"?").map_err(|e| e.kind())?;
        let mut line = String::new();
        let mut byte = [0; 1];
        loop {
            match self.0.read(&mut byte) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof),
                Ok(_) if byte == *b"\n" => return Ok(line),
                Ok(_) => line.push(byte[0].into()),
                Err(e) => return Err(e.kind()),
            }
        }
    }

    /// Ends it with a reset, which the kernel forgets sooner than an orderly end.
    pub(crate) fn reset(self) {
        use nix::sys::socket::{setsockopt, sockopt::Linger};
        let now = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&self.0, Linger, &now).expect("linger");
    }
}

pub(crate) fn ask(socket: &UdpSocket) -> std::io::Result<String> {
    let mut buffer = [0; 64];
    socket.send(b"?")?;
    socket
        .recv(&mut buffer)
        .map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
}

fn answer(mut stream: TcpStream, pod: &str) {
    let Ok(peer) = stream.peer_addr() else { return };
    let mut byte = [0; 1];
    while stream.read(&mut byte).is_ok_and(|n| n > 0) {
        let line = format!("{pod} {}\n", peer.ip().to_canonical());
        if stream.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

fn nftables() -> Nftables {
    Nftables::open().expect("nftables")
}

pub(crate) fn to(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse::<IpAddr>().expect("ip"), port).to_string()
}
