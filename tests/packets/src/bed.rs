//! The node of the sample and its neighbours, each a network namespace.
//!
//! ```text
//! pod2, pod4 -- cni0 (bridge) --+      +-- eth0 (bridge) -- outside (clients), pod3, pod5, pod7 (other nodes')
//! pod6 -------- cni1 -----------+ node +-- far0 ----------- far (where everything else is)
//! ```
//!
//! Clients and pods of other nodes speak with each other by way of the node, so that answers find back through it
//! whatever the sources are. On the node itself and in `far` somebody answers on every port of the sample: a packet
//! that no rule touches is answered too.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use keelson_proxy_plan::model::Family;
use keelson_proxy_plan::packet::{Outcome, Packet, Source};

use crate::room::{Room, sh};
use crate::talk::{Seen, answer_tcp, answer_udp, ask};
use crate::world::{ELSEWHERE, ENDPOINT_PORTS, PODS, PORTS, ip, nets};

/// So long is waited for those that are to be heard of; a machine that is busy or emulated takes its time.
const PATIENCE: Duration = Duration::from_secs(20);
/// So long after all others is waited for those of which nothing is to be heard.
const QUIET: Duration = Duration::from_millis(250);

/// The node and its neighbours. They go with this value.
pub struct Bed {
    node: Room,
    others: BTreeMap<&'static str, Room>,
    /// Each packet is sent from a port of its own: no connection of before is taken for it.
    port: AtomicU16,
}

/// Ports that packets are sent from begin here; those of who answers are below.
const FIRST_PORT: u16 = 32_000;

/// A packet, and what became of it.
pub type Asked = (Packet, Seen);

impl Bed {
    /// Makes all, with routes in place and everybody answering. The node has no rules.
    ///
    /// # Panics
    /// Where network namespaces can't be made.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |who: &str| format!("kp{}-{count}-{who}", std::process::id());
        let room = |who: &'static str| (who, Room::new(name(who)));
        let others = [
            "pod2", "pod3", "pod4", "pod5", "pod6", "pod7", "outside", "far",
        ];
        let bed = Self {
            node: Room::new(name("node")),
            others: others.map(room).into(),
            port: FIRST_PORT.into(),
        };
        bed.join();
        bed.answer();
        bed
    }

    /// The node's network namespace.
    pub fn node(&self) -> &str {
        self.node.name()
    }

    fn other(&self, who: &str) -> &Room {
        self.others.get(who).expect("somebody of the bed")
    }

    fn join(&self) {
        let mut script = format!("node={}\n{FUNCTIONS}{NODE}", self.node.name());
        for (who, room) in &self.others {
            script += &format!("{who}={}\n", room.name());
        }
        for (last, link) in PODS {
            let gateway = if link == "cni0" { 1 } else { 9 };
            script += &format!("pod $pod{last} {link} {last} {gateway}\n");
        }
        for last in ELSEWHERE {
            script += &format!("elsewhere $pod{last} {last}\n");
        }
        script += REST;
        sh(&script);
    }

    fn answer(&self) {
        let all = |net, lasts: &[u8]| -> Vec<IpAddr> {
            let both = [Family::V4, Family::V6].into_iter();
            let texts = both.flat_map(|f| lasts.iter().map(move |l| ip(f, net, *l)));
            texts.map(|t| t.parse().expect("address")).collect()
        };
        let here = PODS.map(|(last, _)| last);
        for last in here.into_iter().chain(ELSEWHERE) {
            let own = all(nets::POD, &[last]);
            listen(self.other(&format!("pod{last}")), &own, &ENDPOINT_PORTS);
        }
        let mut own = [all(nets::NODE, &[10]), all(nets::INNER, &[10])].concat();
        own.extend(["127.0.0.1", "::1"].map(|a| a.parse::<IpAddr>().expect("address")));
        listen(&self.node, &own, &PORTS);
        let lasts: Vec<u8> = (1..8).collect();
        let far = [all(nets::CLUSTER, &lasts), all(nets::EXTERNAL, &lasts)].concat();
        listen(self.other("far"), &far, &PORTS);
    }

    fn room_of(&self, packet: &Packet) -> &Room {
        let family = Family::of(&packet.source);
        let here = PODS.map(|(last, _)| last);
        let is = |last: &u8| ip(family, nets::POD, *last) == packet.source.to_string();
        let pod = here.into_iter().chain(ELSEWHERE).find(is);
        match (&packet.interface, pod) {
            (None, _) => &self.node,
            (_, Some(last)) => self.other(&format!("pod{last}")),
            _ => self.other("outside"),
        }
    }

    /// Sends packets, all at once, and gives those that did not meet what they were to, with what they met.
    pub fn differing(&self, wanted: &[(Packet, Outcome)]) -> Vec<(Packet, Outcome, Seen)> {
        let expected: Vec<Expected> = wanted.iter().map(|(p, o)| Expected::of(p, o)).collect();
        let packets: Vec<&Packet> = wanted.iter().map(|(p, _)| p).collect();
        let audible: Vec<bool> = expected.iter().map(|e| *e != Expected::Silence).collect();
        let seen = self.send(&packets, &audible);
        let all = wanted.iter().zip(expected).zip(seen);
        let other = all.filter(|((_, expected), seen)| !expected.is(seen));
        other
            .map(|(((packet, outcome), _), seen)| (packet.clone(), outcome.clone(), seen))
            .collect()
    }

    /// What became of packets; those marked are to be heard of.
    fn send(&self, packets: &[&Packet], audible: &[bool]) -> Vec<Seen> {
        let (tell, told) = mpsc::channel();
        let mut tasks = Vec::new();
        for (index, packet) in packets.iter().copied().cloned().enumerate() {
            let (tell, port) = (tell.clone(), self.port());
            let task = async move {
                let seen = ask(&packet, port).await;
                // Who waited too long is gone.
                let _ = tell.send((index, seen));
            };
            let room = self.room_of(packets[index]);
            tasks.push(room.tasks().spawn(task));
        }
        let mut seen = vec![None; packets.len()];
        let end = Instant::now() + PATIENCE;
        let missing = |seen: &[Option<Seen>]| {
            let mut all = seen.iter().zip(audible);
            all.any(|(s, audible)| *audible && s.is_none())
        };
        while missing(&seen)
            && let Ok((index, what)) =
                told.recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            seen[index] = Some(what);
        }
        std::thread::sleep(QUIET);
        for (index, what) in told.try_iter() {
            seen[index] = Some(what);
        }
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        seen.into_iter()
            .map(|s| s.unwrap_or(Seen::Silence))
            .collect()
    }

    fn port(&self) -> u16 {
        let port = self.port.fetch_add(1, Ordering::Relaxed);
        assert!(
            port >= FIRST_PORT,
            "a bed has {} ports",
            u16::MAX - FIRST_PORT
        );
        port
    }
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

fn listen(room: &Room, addresses: &[IpAddr], ports: &[u16]) {
    let (addresses, ports) = (addresses.to_vec(), ports.to_vec());
    room.run(async move {
        for port in ports {
            answer_tcp(port).await.expect("listen");
            for address in &addresses {
                let at = SocketAddr::new(*address, port);
                answer_udp(at).await.expect("listen");
            }
        }
    });
}

/// What is to be seen of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    Answer(BTreeMap<SocketAddr, (IpAddr, Source)>),
    Refusal,
    Silence,
}

impl Expected {
    fn of(packet: &Packet, outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Refused => Self::Refusal,
            Outcome::Dropped => Self::Silence,
            Outcome::Sent(to) => Self::Answer(
                to.iter()
                    .map(|((ip, port), source)| {
                        (SocketAddr::new(*ip, *port), (packet.source, *source))
                    })
                    .collect(),
            ),
            // By the kernel itself: nothing comes in for `::1`.
            Outcome::Pass if packet.interface.is_some() && is_loopback6(packet.destination) => {
                Self::Silence
            }
            Outcome::Pass => {
                let at = SocketAddr::new(packet.destination, packet.port);
                Self::Answer([(at, (packet.source, Source::Kept))].into())
            }
        }
    }

    fn is(&self, seen: &Seen) -> bool {
        match (self, seen) {
            (Self::Refusal, Seen::Refused) | (Self::Silence, Seen::Silence) => true,
            (Self::Answer(all), Seen::Answered { by, source }) => {
                all.get(by).is_some_and(|(sender, want)| match want {
                    Source::Kept => source == sender,
                    Source::Masked => source != sender && is_of_link(source),
                })
            }
            _ => false,
        }
    }
}

fn is_loopback6(ip: IpAddr) -> bool {
    ip.is_ipv6() && ip.is_loopback()
}

/// Addresses of the node's links, by which it masks; what it sends itself has others.
fn is_of_link(ip: &IpAddr) -> bool {
    const ALL: [&str; 8] = [
        "10.42.0.1",
        "fd42::1",
        "10.42.0.9",
        "fd42::9",
        "10.99.0.1",
        "fd99::1",
        "10.98.0.1",
        "fd98::1",
    ];
    ALL.iter().any(|a| a.parse() == Ok(*ip))
}

const FUNCTIONS: &str = r#"
# address NAMESPACE LINK ADDRESS...
address() {
  local ns=$1 link=$2 a; shift 2
  for a; do if [[ $a == *:* ]]; then ip -n $ns addr add $a dev $link nodad; else ip -n $ns addr add $a dev $link; fi; done
}
# pair NAMESPACE LINK: the node's LINK and the namespace's eth0.
pair() { ip -n $node link add $2 type veth peer name eth0 netns $1; ip -n $node link set $2 up; ip -n $1 link set eth0 up; }
# to NAMESPACE LINK NETWORK...: they are on that link. way NAMESPACE GATEWAY NETWORK...: they are behind that gateway.
to() { local ns=$1 link=$2 n; shift 2; for n; do ip -n $ns route add $n dev $link; done; }
way() { local ns=$1 via=$2 n; shift 2; for n; do ip -n $ns route add $n via $via; done; }
# What is sent to a neighbour's 127.0.0.1 leaves, as an attacker has it.
loopback() { ip -n $1 route add 127.0.0.1 via $2 dev eth0; }
pod() {
  local ns=$1 link=$2 last=$3 gateway=$4
  if [ $link = cni0 ]; then
    port $ns port$last cni0
  else
    pair $ns $link
    address $node $link 10.42.0.$gateway/32 fd42::$gateway/128
  fi
  address $ns eth0 10.42.0.$last/32 fd42::$last/128
  to $node $link 10.42.0.$last fd42::$last
  to $ns eth0 10.42.0.$gateway fd42::$gateway
  way $ns 10.42.0.$gateway default
  way $ns fd42::$gateway default
  loopback $ns 10.42.0.$gateway
}
# port NAMESPACE NAME BRIDGE: what is sent back to where it came from leaves by the same port.
port() { pair $1 $2; ip -n $node link set $2 master $3; ip -n $node link set $2 type bridge_slave hairpin on; }
# outer NAMESPACE NAME LAST: behind eth0, and everything else by way of the node.
outer() {
  port $1 $2 eth0
  address $1 eth0 10.99.0.$3/24 fd99::$3/64
  way $1 10.99.0.1 default
  way $1 fd99::1 default
  loopback $1 10.99.0.1
}
elsewhere() {
  outer $1 port$2 1$2
  address $1 eth0 10.42.0.$2/32 fd42::$2/128
  way $node 10.99.0.1$2 10.42.0.$2
  way $node fd99::1$2 fd42::$2
}
"#;

/// The node's addresses that it is known by are on no link, so that masked sources are told from its own.
const NODE: &str = r#"
ip -n $node link set lo up
address $node lo 192.168.1.10/32 172.16.0.10/32 fd01::a/128 fd02::a/128
ip netns exec $node bash -c 'cd /proc/sys/net; echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding
  echo 1 >bridge/bridge-nf-call-iptables; echo 1 >bridge/bridge-nf-call-ip6tables'
for bridge in cni0 eth0; do ip -n $node link add $bridge type bridge; ip -n $node link set $bridge up; done
address $node cni0 10.42.0.1/32 fd42::1/128
address $node eth0 10.99.0.1/24 fd99::1/64
"#;

const REST: &str = r#"
# Pods of one bridge reach each other without the node.
to $pod2 eth0 10.42.0.4 fd42::4
to $pod4 eth0 10.42.0.2 fd42::2
outer $outside outside 2
ip -n $outside route add local 203.0.113.0/24 dev eth0
ip -n $outside route add local 2001:db8:2::/64 dev eth0
way $node 10.99.0.2 203.0.113.0/24
way $node fd99::2 2001:db8:2::/64
pair $far far0
address $node far0 10.98.0.1/24 fd98::1/64
address $far eth0 10.98.0.2/24 fd98::2/64
for net in 10.43.0.0/24 192.0.2.0/24 fd43::/64 2001:db8:1::/64; do ip -n $far route add local $net dev eth0; done
way $far 10.98.0.1 default
way $far fd98::1 default
way $node 10.98.0.2 default
way $node fd98::2 default
"#;
