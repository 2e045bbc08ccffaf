//! What the kernel is asked for answers to people: routes, others' tables, states of connections.
#![allow(missing_docs)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use keelson_proxy_kernel::{conntrack, others, route};
use keelson_proxy_plan::explain::{Route, State};
use keelson_proxy_plan::model::{Family, Protocol};
use nix::sched::{CloneFlags, setns};

/// A fresh network namespace.
struct Machine {
    name: String,
}

impl Machine {
    fn new(setup: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let machine = Self {
            name: format!("kspa{}-{count}", std::process::id()),
        };
        assert!(machine.ip("add"));
        machine.sh(setup);
        machine
    }

    fn ip(&self, verb: &str) -> bool {
        let status = Command::new("ip")
            .args(["netns", verb, &self.name])
            .status();
        status.expect("ip (Debian: iproute2)").success()
    }

    fn sh(&self, script: &str) {
        let done = Command::new("ip")
            .args(["netns", "exec", &self.name, "sh", "-ec", script])
            .status();
        assert!(done.expect("ip").success(), "{script}");
    }

    fn run<T: Send + 'static>(&self, f: impl AsyncFnOnce() -> T + Send + 'static) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("namespace");
        let thread = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("run as root");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("runtime").block_on(f())
        });
        thread.join().expect("inside")
    }

    fn route(&self, to: &str, comes: Option<(&str, &str)>) -> Route {
        let to: IpAddr = to.parse().expect("address");
        let comes = comes.map(|(ip, by)| (ip.parse::<IpAddr>().expect("address"), by.to_owned()));
        self.run(async move || {
            let comes = comes.as_ref().map(|(ip, by)| (*ip, by.as_str()));
            route::to(to, comes).expect("a route or none")
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.ip("delete");
    }
}

const LINKS: &str = "ip link set lo up
    for link in out pods; do ip link add $link type veth peer name to-$link; ip link set $link up; ip link set to-$link up; done
    ip address add 192.168.9.1/24 dev out; ip address add 10.42.0.1/24 dev pods
    ip address add fd09::1/64 dev out nodad; ip address add fd42::1/64 dev pods nodad
    ip route add default via 192.168.9.254; ip route add 10.7.0.0/16 via inet6 fd09::7 dev out
    ip route add unreachable 10.9.0.0/16; ip route add blackhole 10.8.0.0/16; ip route add prohibit 10.6.0.0/16
    ip rule add from 10.42.0.66 lookup 66; ip route add unreachable default table 66
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=1";

#[test]
fn routes_are_the_kernels() {
    let machine = Machine::new(LINKS);
    let by = |interface: &str, gateway: Option<&str>, source: Option<&str>| Route::By {
        interface: interface.into(),
        gateway: gateway.map(|ip| ip.parse().expect("address")),
        source: source.map(|ip| ip.parse().expect("address")),
    };
    let own = Some("192.168.9.1");
    for (to, want) in [
        ("192.168.9.7", by("out", None, own)),
        ("203.0.113.1", by("out", Some("192.168.9.254"), own)),
        ("10.7.1.1", by("out", Some("fd09::7"), own)),
        ("fd42::2", by("pods", None, Some("fd42::1"))),
    ] {
        assert_eq!(machine.route(to, None), want, "{to}");
    }
    let here = machine.route("192.168.9.1", None);
    assert!(matches!(here, Route::Here { .. }), "{here:?}");
    let pod = Some(("10.42.0.2", "pods"));
    assert_eq!(
        machine.route("203.0.113.1", pod),
        by("out", Some("192.168.9.254"), None)
    );
    let nowhere = |to: &str, comes| match machine.route(to, comes) {
        Route::Nowhere(why) => why,
        other => panic!("{to}: {other:?}"),
    };
    for (to, want) in [
        ("10.9.0.1", "host is unreachable"),
        ("10.8.0.1", "black hole"),
        ("10.6.0.1", "prohibits"),
        ("fd99::1", "network is unreachable"),
    ] {
        let why = nowhere(to, None);
        assert!(why.contains(want), "{to}: {why}");
        let why = nowhere(
            to,
            Some((
                if to.contains(':') {
                    "fd42::2"
                } else {
                    "10.42.0.2"
                },
                "pods",
            )),
        );
        // What is sent on to a black hole is told apart from what is unreachable, which is all that counts.
        assert!(!why.is_empty(), "{to}: {why}");
    }
    // By rules for a source; and by an interface that the source is not behind.
    nowhere("203.0.113.1", Some(("10.42.0.66", "pods")));
    let why = nowhere("203.0.113.1", Some(("192.168.9.7", "pods")));
    assert!(why.contains("not behind this interface"), "{why}");
    machine.sh("sysctl -qw net.ipv4.ip_forward=0");
    let why = nowhere("203.0.113.1", pod);
    assert!(why.contains("does not forward"), "{why}");
}

#[test]
fn tables_of_others_are_read() {
    let machine = Machine::new(
        "nft add table inet admin; nft add chain inet admin fence '{ type filter hook forward priority 3; policy drop; }'
         nft add rule inet admin fence tcp dport 22 accept; nft add table ip mine; nft add table bridge odd",
    );
    let read =
        machine.run(async || others::tables(|family, name| (family, name) == ("ip", "mine")).await);
    let tables = read.expect("read").expect("nft (Debian: nftables)");
    let names: Vec<_> = tables
        .iter()
        .map(|t| (t.name.as_str(), t.unjudged.is_some()))
        .collect();
    assert_eq!(
        names,
        [
            ("nft table inet admin", false),
            ("nft table bridge odd", true)
        ]
    );
    let fence = tables[0].chains.get("fence").expect("chain");
    assert!(fence.hook.is_some_and(|h| h.drops && h.priority == 3));
    assert_eq!(fence.rules[0].text, "tcp dport 22 accept");
}

#[test]
fn connections_have_states() {
    let machine = Machine::new(
        "ip link set lo up; nft add table ip t; nft add chain ip t c '{ type filter hook output priority 0; }'
         nft add rule ip t c ct state new",
    );
    let found = machine.run(async || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let mut stream =
            TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (mut other, _) = listener.accept().expect("accept");
        stream.write_all(b"x").expect("write");
        other.read_exact(&mut [0]).expect("read");
        let silent = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let asks = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let to = silent.local_addr().expect("address");
        asks.send_to(b"x", to).expect("send");
        let states = |protocol| {
            let all = conntrack::connections(Family::V4).expect("connections");
            let mine = all.into_iter().filter(move |c| c.protocol == protocol);
            mine.map(|c| c.state).collect::<Vec<_>>()
        };
        let first = (states(Protocol::Tcp), states(Protocol::Udp));
        let from = asks.local_addr().expect("address");
        silent.send_to(b"y", from).expect("answer");
        (first, states(Protocol::Udp))
    });
    let established = vec![State::Tcp("established")];
    assert_eq!(found.0, (established, vec![State::Unanswered]));
    assert_eq!(found.1, [State::Answered]);
}
