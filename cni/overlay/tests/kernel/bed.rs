//! Machines on segments with a router between, each with a pod: network namespaces, and the overlay run in them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keelson_overlay::{Facts, Mode, Node, Options, run};
use nix::sched::{CloneFlags, setns};
use tokio::sync::watch;

/// More than a slow machine needs; what must not come is waited for much shorter.
const PATIENCE: Duration = Duration::from_secs(20);

static BEDS: AtomicU32 = AtomicU32::new(0);

/// Runs bash in a namespace; its output.
#[track_caller]
pub(crate) fn sh(space: &str, script: &str) -> String {
    let (ok, text) = try_sh(space, script);
    assert!(ok, "{space}: {script}: {text}");
    text
}

pub(crate) fn try_sh(space: &str, script: &str) -> (bool, String) {
    let line = ["netns", "exec", space, "bash", "-ec", script];
    let out = Command::new("ip").args(line).output();
    let out = out.expect("ip (Debian: iproute2)");
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    (out.status.success(), text)
}

/// Runs in a network namespace, on a thread of its own: the namespace is the thread's.
pub(crate) fn inside<T: Send + 'static>(
    space: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let file = File::open(format!("/run/netns/{space}")).expect("namespace");
    std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).expect("run as root");
        f()
    })
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, holds: impl Fn() -> bool, tell: impl Fn() -> String) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never {what}: {}", tell());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The whole; its namespaces go with it.
pub(crate) struct Bed {
    id: String,
    spaces: Vec<String>,
    router: String,
}

/// A node's machine.
pub(crate) struct Machine {
    pub(crate) space: String,
    pub(crate) pod: String,
    pub(crate) node: Node,
    pub(crate) number: u8,
}

/// The overlay on a machine.
pub(crate) struct Running {
    nodes: Option<watch::Sender<Option<Vec<Node>>>>,
    pub(crate) facts: watch::Receiver<Facts>,
    thread: Option<JoinHandle<()>>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let number = BEDS.fetch_add(1, Ordering::Relaxed);
        let id = format!("overlay-{}-{number}", std::process::id());
        let mut bed = Self {
            id,
            spaces: Vec::new(),
            router: String::new(),
        };
        bed.router = bed.space("router");
        sh(
            &bed.router,
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        );
        bed
    }

    /// A new namespace.
    pub(crate) fn space(&mut self, name: &str) -> String {
        let space = format!("{}-{name}", self.id);
        let made = Command::new("ip").args(["netns", "add", &space]).status();
        assert!(made.is_ok_and(|s| s.success()), "ip netns add {space}");
        self.spaces.push(space.clone());
        sh(&space, "ip link set lo up");
        space
    }

    pub(crate) fn router(&self) -> &str {
        &self.router
    }

    /// A machine on a segment of the router's, and its pod. (A bridge that is given no Ethernet address changes its own
    /// with its ports.)
    pub(crate) fn machine(&mut self, number: u8, segment: u8) -> Machine {
        let name = format!("n{number}");
        let (space, router) = (self.space(&name), self.router.clone());
        sh(
            &router,
            &format!(
                "ip link show seg{segment} >/dev/null 2>&1 || {{ ip link add seg{segment} address 02:00:00:00:00:0{segment} type bridge; ip link set seg{segment} up
ip addr add 10.9.{segment}.1/24 dev seg{segment}; ip addr add fd09:{segment}::1/64 dev seg{segment} nodad; }}
ip link add {name} type veth peer name eth0 netns {space}
ip link set {name} master seg{segment} up"
            ),
        );
        let mut machine = Machine {
            pod: self.space(&format!("{name}-pod")),
            node: Node::default(),
            space,
            number,
        };
        machine.settle(segment);
        machine.plug();
        machine
    }

    /// The router translates the source of what tunnels send, and damages packets with that whose inner checksum was
    /// left to be computed later: Linux takes the outer one, which is complete, for one that is not.
    pub(crate) fn translate(&self) {
        let rule = |segment: u8| {
            format!(
                "nft add rule ip cloud post oifname seg{segment} udp dport 8472 snat to 10.9.{segment}.1\n"
            )
        };
        let chain = "nft add chain ip cloud post '{ type nat hook postrouting priority 100; }'";
        let rules = rule(1) + &rule(2);
        sh(
            &self.router,
            &format!("nft add table ip cloud\n{chain}\n{rules}"),
        );
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for space in &self.spaces {
            // Fails only when it is gone.
            let _ = Command::new("ip").args(["netns", "del", space]).status();
        }
    }
}

impl Machine {
    /// Gives the machine the addresses that it has on a segment, and no others.
    pub(crate) fn settle(&mut self, segment: u8) {
        self.settle_as(segment, 10 + self.number);
    }

    pub(crate) fn settle_as(&mut self, segment: u8, host: u8) {
        sh(
            &self.space,
            &format!(
                "ip addr flush dev eth0 scope global; ip link set eth0 up; ip addr add 10.9.{segment}.{host}/24 dev eth0
ip addr add fd09:{segment}::{host}/64 dev eth0 nodad; ip route replace default via 10.9.{segment}.1
ip route replace default via fd09:{segment}::1"
            ),
        );
        let n = self.number;
        let parse = |s: String| s.parse().expect("address");
        self.node = Node {
            name: format!("n{n}"),
            pod_cidrs: [format!("10.42.{n}.0/24"), format!("fd42:0:0:{n}::/64")]
                .map(|c| c.parse().expect("network"))
                .to_vec(),
            addresses: vec![
                parse(format!("10.9.{segment}.{host}")),
                parse(format!("fd09:{segment}::{host}")),
            ],
            key: self.node.key,
        };
    }

    /// A pod with a link of its own.
    fn plug(&self) {
        let (n, pod) = (self.number, &self.pod);
        sh(
            &self.space,
            &format!(
                "ip link add pod0 type veth peer name eth0 netns {pod}; ip link set pod0 up
ip addr add 10.42.{n}.1/24 dev pod0; ip addr add fd42:0:0:{n}::1/64 dev pod0 nodad"
            ),
        );
        sh(
            pod,
            &format!(
                "ip link set eth0 up; ip addr add 10.42.{n}.2/24 dev eth0; ip addr add fd42:0:0:{n}::2/64 dev eth0 nodad
ip route add default via 10.42.{n}.1; ip route add default via fd42:0:0:{n}::1"
            ),
        );
    }

    /// The pod's addresses.
    pub(crate) fn pods(&self) -> [IpAddr; 2] {
        let n = self.number;
        [format!("10.42.{n}.2"), format!("fd42:0:0:{n}::2")].map(|a| a.parse().expect("ip"))
    }

    /// The pod's link carries this much.
    pub(crate) fn pod_mtu(&self, mtu: u32) {
        sh(&self.space, &format!("ip link set pod0 mtu {mtu}"));
        sh(&self.pod, &format!("ip link set eth0 mtu {mtu}"));
    }

    pub(crate) fn options(&self, mode: Mode) -> Options {
        let cluster = ["10.42.0.0/16", "fd42::/48"].map(|c| c.parse().expect("network"));
        let key_file = std::env::temp_dir().join(format!("{}.key", self.space));
        Options {
            mode,
            key_file,
            ..Options::new(&self.node.name, cluster.to_vec())
        }
    }

    /// Starts the overlay; it knows no node yet.
    pub(crate) fn start(&self, options: Options) -> Running {
        let (nodes, told) = watch::channel(None);
        let (say, facts) = watch::channel(Facts::default());
        let thread = inside(&self.space, move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().expect("runtime");
            runtime
                .block_on(run(options, told, say))
                .expect("ends well");
        });
        Running {
            nodes: Some(nodes),
            facts,
            thread: Some(thread),
        }
    }

    /// The kernel's state of a machine, to be shown when something is wrong.
    pub(crate) fn tell(&self) -> String {
        let script = "ip -d -s link show keelson-vxlan; nstat -a; ip addr; ip route; ip -6 route; bridge fdb show; ip neigh; nft list ruleset; wg 2>/dev/null || true";
        let router = self
            .space
            .rsplit_once('-')
            .map(|(bed, _)| format!("{bed}-router"));
        let router = router.unwrap_or_default();
        let around = try_sh(
            &router,
            "ip addr; ip neigh; bridge link; bridge fdb | grep -v permanent; nstat -a",
        )
        .1;
        let own = try_sh(&self.space, script).1;
        format!("{}:\n{own}\nrouter:\n{around}", self.space)
    }
}

impl Running {
    pub(crate) fn know(&self, nodes: &[Node]) {
        let nodes = Some(nodes.to_vec());
        let sender = self.nodes.as_ref().expect("running");
        sender.send(nodes).expect("running");
    }

    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.nodes = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "it ends well");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends so many bytes from a namespace to an address in another by TCP; whether all arrived.
pub(crate) fn tcp(from: &str, to: &str, address: IpAddr, bytes: usize) -> bool {
    const PORT: u16 = 4000;
    let listening = inside(to, move || TcpListener::bind((address, PORT)));
    let Ok(listener) = listening.join().expect("thread") else {
        return false;
    };
    listener.set_nonblocking(true).expect("set");
    let end = Instant::now() + PATIENCE;
    let serving = inside(to, move || {
        while Instant::now() < end {
            if let Ok((mut stream, _)) = listener.accept() {
                stream.set_nonblocking(false).expect("set");
                stream.set_read_timeout(Some(PATIENCE)).expect("set");
                let mut all = vec![0; bytes];
                return stream.read_exact(&mut all).is_ok()
                    && all.iter().enumerate().all(|(n, b)| *b == pattern(n))
                    && stream.write_all(b"!").is_ok();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    });
    let sending = inside(from, move || {
        let to = SocketAddr::new(address, PORT);
        let Ok(mut stream) = TcpStream::connect_timeout(&to, PATIENCE) else {
            return false;
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let all: Vec<u8> = (0..bytes).map(pattern).collect();
        stream.write_all(&all).is_ok() && stream.read_exact(&mut [0]).is_ok()
    });
    let (sent, served) = (sending.join(), serving.join());
    sent.expect("thread") && served.expect("thread")
}

fn pattern(n: usize) -> u8 {
    (n % 251) as u8
}

/// Sends a datagram that makes an IP packet of this size, and waits a little for it to arrive. Linux says of datagrams
/// that they must not be fragmented. Who sent it, as the receiver sees it.
pub(crate) fn udp(from: &str, to: &str, address: IpAddr, size: usize) -> Option<IpAddr> {
    const PORT: u16 = 4001;
    let head = if address.is_ipv4() { 28 } else { 48 };
    let any: IpAddr = if address.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let receiving = inside(to, move || {
        let socket = UdpSocket::bind((address, PORT)).ok()?;
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .ok()?;
        Some(socket)
    });
    let socket = receiving.join().expect("thread")?;
    let sending = inside(from, move || {
        let sender = UdpSocket::bind((any, 0))?;
        sender.send_to(&vec![7; size - head], (address, PORT))
    });
    let _ = sending.join().expect("thread");
    let mut all = vec![0; size];
    let (got, who) = socket.recv_from(&mut all).ok()?;
    (got == size - head).then(|| who.ip())
}

/// What `a`'s pod sends out of the cluster has the machine's address; what it sends to `c`'s has its own.
pub(crate) fn masked_outside(bed: &Bed, a: &Machine, c: &Machine) {
    for (to, seen) in [("10.9.1.1", "10.9.1.11"), ("fd09:1::1", "fd09:1::11")] {
        let (to, seen) = (to.parse().expect("ip"), seen.parse().ok());
        let who = || udp(&a.pod, bed.router(), to, 100);
        until(
            &format!("masked to {to}"),
            || who() == seen,
            || format!("{:?} {}", who(), a.tell()),
        );
    }
    for (to, own) in c.pods().into_iter().zip(a.pods()) {
        assert_eq!(udp(&a.pod, &c.pod, to, 100), Some(own), "not masked within");
    }
}

/// Waits until each pod reaches each other one, by both families.
#[track_caller]
pub(crate) fn all_reach_all(machines: &[&Machine]) {
    for from in machines {
        for to in machines.iter().filter(|m| m.number != from.number) {
            for address in to.pods() {
                until(
                    &format!("n{} reaches {address}", from.number),
                    || udp(&from.pod, &to.pod, address, 100).is_some(),
                    || format!("{}\n{}", from.tell(), to.tell()),
                );
            }
        }
    }
}

/// Packets that a machine has cut into pieces, since it was made.
pub(crate) fn fragments(space: &str) -> u64 {
    let text = sh(space, "cat /proc/self/net/snmp /proc/self/net/snmp6");
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let v4 = lines.windows(2).find_map(|w| {
        let at = w[0].iter().position(|f| *f == "FragCreates")?;
        w[1].get(at)?.parse::<u64>().ok()
    });
    let v6 = lines.iter().find(|l| l.first() == Some(&"Ip6FragCreates"));
    let v6 = v6.and_then(|l| l.get(1)?.parse::<u64>().ok());
    v4.expect("a figure") + v6.expect("a figure")
}
