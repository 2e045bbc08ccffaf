//! The overlay in network namespaces as machines: one and two segments with a router between, pods that send to pods.
#![allow(missing_docs)]

mod bed;

use std::process::{Child, Command, Stdio};

use bed::{
    Bed, Machine, Running, all_reach_all, fragments, inside, masked_outside, sh, tcp, try_sh, udp,
    until,
};
use keelson_overlay::{Mode, Node, Options, cleanup};

/// Starts the overlay on all of them, and tells them of each other.
fn start(machines: &[&Machine], mode: Mode) -> Vec<Running> {
    let nodes: Vec<Node> = machines.iter().map(|m| m.node.clone()).collect();
    let start = |m: &&Machine| {
        let running = m.start(m.options(mode));
        running.know(&nodes);
        running
    };
    machines.iter().map(start).collect()
}

/// The pods' links as the agent would have made them.
fn fit(machine: &Machine, running: &Running) -> u32 {
    until(
        "knows how large packets may be",
        || running.facts.borrow().mtu.is_some(),
        || machine.tell(),
    );
    let mtu = running.facts.borrow().mtu.expect("known");
    machine.pod_mtu(mtu);
    mtu
}

/// Much, and the largest packets, go through as they are.
fn carries(from: &Machine, to: &Machine, mtu: u32) {
    let before = fragments(&from.space) + fragments(&to.space);
    for address in to.pods() {
        let tell = || format!("{}\n{}", from.tell(), to.tell());
        until(
            &format!("a packet of {mtu} to {address}"),
            || udp(&from.pod, &to.pod, address, mtu as usize).is_some(),
            tell,
        );
        assert!(tcp(&from.pod, &to.pod, address, 8 << 20), "{}", tell());
    }
    let after = fragments(&from.space) + fragments(&to.space);
    assert_eq!(after, before, "nothing is cut into pieces");
}

fn clean(machines: &[&Machine]) {
    for machine in machines {
        for _ in 0..2 {
            let clean = inside(&machine.space, || {
                let runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = { runtime }.enable_all().build().expect("runtime");
                runtime.block_on(cleanup("keelson0"))
            });
            let errors = clean.join().expect("thread");
            assert!(errors.is_empty(), "{errors:?}");
        }
        let left = sh(
            &machine.space,
            "ip link; ip route; ip -6 route; nft list ruleset; iptables-save",
        );
        for word in ["keelson", "proto 107"] {
            assert!(!left.contains(word), "{word}: {left}");
        }
    }
}

#[test]
fn one_segment_by_routes_of_hosts() {
    let mut bed = Bed::new();
    let (a, b) = (bed.machine(1, 1), bed.machine(2, 1));
    sh(
        &a.space,
        "ip route add 10.42.9.0/24 via 10.9.1.9 proto static",
    );
    let running = start(&[&a, &b], Mode::HostGw);
    all_reach_all(&[&a, &b]);
    let mtu = fit(&a, &running[0]);
    assert_eq!((mtu, fit(&b, &running[1])), (1500, 1500));
    carries(&a, &b, mtu);
    drop(running);
    all_reach_all(&[&a, &b]);
    clean(&[&a, &b]);
    let routes = sh(&a.space, "ip route");
    assert!(
        routes.contains("10.42.9.0/24 via 10.9.1.9"),
        "not ours: {routes}"
    );
}

#[test]
fn two_segments_by_vxlan_and_routes() {
    let mut bed = Bed::new();
    let (a, b, c) = (bed.machine(1, 1), bed.machine(2, 1), bed.machine(3, 2));
    let all = [&a, &b, &c];
    let running = start(&all, Mode::Vxlan);
    all_reach_all(&all);
    let mtu = fit(&a, &running[0]);
    assert_eq!((mtu, fit(&c, &running[2])), (1450, 1450));
    carries(&a, &c, mtu);
    carries(&c, &a, mtu);
    let routes = sh(&a.space, "ip route");
    assert!(
        routes.contains("10.42.2.0/24 via 10.9.1.12 dev eth0"),
        "{routes}"
    );
    assert!(
        routes.contains("10.42.3.0/24 via 10.42.3.0 dev keelson-vxlan"),
        "{routes}"
    );
    // The machine itself reaches pods from an address that their answers find back to by the tunnel.
    for (address, own) in c.pods().into_iter().zip(["10.42.1.0", "fd42:0:0:1::"]) {
        let seen = udp(&a.space, &c.pod, address, 200);
        assert_eq!(seen, own.parse().ok(), "{}", a.tell());
    }
    // A pod whose link carries more than the tunnel learns what the tunnel carries.
    a.pod_mtu(1500);
    c.pod_mtu(1500);
    for address in c.pods() {
        assert!(tcp(&a.pod, &c.pod, address, 4 << 20), "{}", a.tell());
    }
    drop(running);
    all_reach_all(&all);
    clean(&all);
}

#[test]
fn a_tunnel_over_ipv6_alone() {
    let mut bed = Bed::new();
    let (mut a, mut b) = (bed.machine(1, 1), bed.machine(2, 2));
    for machine in [&mut a, &mut b] {
        machine.node.addresses.retain(|a| a.is_ipv6());
        sh(&machine.space, "ip -4 addr flush dev eth0");
    }
    let running = start(&[&a, &b], Mode::Vxlan);
    all_reach_all(&[&a, &b]);
    let mtu = fit(&a, &running[0]);
    assert_eq!((mtu, fit(&b, &running[1])), (1430, 1430));
    carries(&a, &b, mtu);
}

#[test]
fn always_in_a_tunnel() {
    let mut bed = Bed::new();
    let (a, b) = (bed.machine(1, 1), bed.machine(2, 1));
    let nodes = [a.node.clone(), b.node.clone()];
    let start = |m: &Machine| {
        let always = Options {
            always_encapsulate: true,
            ..m.options(Mode::Vxlan)
        };
        let running = m.start(always);
        running.know(&nodes);
        running
    };
    let _running = (start(&a), start(&b));
    // The network drops what comes from pods' addresses, as clouds do.
    sh(
        bed.router(),
        "nft add table bridge cloud
nft add chain bridge cloud forward '{ type filter hook forward priority 0; }'
nft add rule bridge cloud forward ip saddr 10.42.0.0/16 drop
nft add rule bridge cloud forward ip6 saddr fd42::/48 drop",
    );
    all_reach_all(&[&a, &b]);
}

#[test]
fn nodes_come_move_and_go() {
    let mut bed = Bed::new();
    let (a, mut b, c) = (bed.machine(1, 1), bed.machine(2, 1), bed.machine(3, 2));
    let running = start(&[&a, &b, &c], Mode::Vxlan);
    all_reach_all(&[&a, &b, &c]);
    let tell = |running: &[Running], nodes: &[Node]| running.iter().for_each(|r| r.know(nodes));
    // To another address, then to another segment.
    b.settle_as(1, 77);
    tell(&running, &[a.node.clone(), b.node.clone(), c.node.clone()]);
    all_reach_all(&[&a, &b, &c]);
    sh(bed.router(), "ip link set n2 master seg2");
    b.settle(2);
    tell(&running, &[a.node.clone(), b.node.clone(), c.node.clone()]);
    all_reach_all(&[&a, &b, &c]);
    let route = sh(&c.space, "ip route show 10.42.2.0/24");
    assert!(route.contains("via 10.9.2.12 dev eth0"), "{route}");
    // A link that is cut and plugged in again loses its routes.
    sh(&a.space, "ip link set eth0 down; ip link set eth0 up; ip route add default via 10.9.1.1
ip addr add fd09:1::11/64 dev eth0 nodad 2>/dev/null || true; ip route replace default via fd09:1::1");
    all_reach_all(&[&a, &b, &c]);
    // Gone.
    tell(&running, &[a.node.clone(), c.node.clone()]);
    let left = || {
        sh(
            &a.space,
            "ip route; ip -6 route; bridge fdb show; ip neigh show dev keelson-vxlan",
        )
    };
    until(
        "gone",
        || !left().contains("10.42.2.0") && !left().contains("fd42:0:0:2:"),
        left,
    );
    // Another mode leaves nothing of the tunnel.
    drop(running);
    let _running = start(&[&a, &b, &c], Mode::HostGw);
    until(
        "another mode",
        || !sh(&a.space, "ip link").contains("keelson"),
        left,
    );
}

#[test]
fn what_others_take_away_is_put_back() {
    let mut bed = Bed::new();
    let (a, c) = (bed.machine(1, 1), bed.machine(3, 2));
    // Of our name, and something else.
    sh(
        &a.space,
        "ip link add keelson-vxlan type bridge; ip link set keelson-vxlan up",
    );
    let _running = start(&[&a, &c], Mode::Vxlan);
    all_reach_all(&[&a, &c]);
    let mac = sh(
        &a.space,
        "ip neigh show 10.42.3.0 dev keelson-vxlan | cut -d' ' -f3",
    );
    let mac = mac.trim();
    let wrongs = [
        "ip link del keelson-vxlan".to_owned(),
        "ip link set keelson-vxlan down".to_owned(),
        "ip link set keelson-vxlan mtu 600".to_owned(),
        "ip link set keelson-vxlan address 02:00:00:00:00:01".to_owned(),
        "ip addr del 10.42.1.0/32 dev keelson-vxlan".to_owned(),
        "ip route del 10.42.3.0/24".to_owned(),
        "ip -6 route del fd42:0:0:3::/64".to_owned(),
        "ip neigh del 10.42.3.0 dev keelson-vxlan".to_owned(),
        "ip neigh replace 10.42.3.0 lladdr 02:00:00:00:00:02 dev keelson-vxlan".to_owned(),
        format!("bridge fdb del {mac} dev keelson-vxlan"),
        format!("bridge fdb replace {mac} dev keelson-vxlan dst 10.9.2.99 self permanent"),
        "nft delete table inet keelson-pods".to_owned(),
        "nft flush ruleset".to_owned(),
        "nft flush chain inet keelson-pods postrouting".to_owned(),
    ];
    let state = || {
        sh(&a.space, "ip -d addr show keelson-vxlan | grep -oE 'mtu [0-9]+|state [A-Z]+|link/ether [0-9a-f:]+|inet6? (10|fd)[0-9a-f.:/]+|vxlan id.*nolearning' | sort
ip route show proto 107; ip -6 route show proto 107 | sed 's/ metric.*//'; ip neigh show dev keelson-vxlan nud permanent | sort
ip -6 neigh show dev keelson-vxlan nud permanent | sort; bridge fdb show dev keelson-vxlan | grep -v 00:00:00:00:00:00 | sort
nft -s list table inet keelson-pods")
    };
    let before = state();
    for wrong in wrongs {
        sh(&a.space, &wrong);
        let tried = || {
            try_sh(&a.space, "ip link show keelson-vxlan").0
                && try_sh(&a.space, "nft list table inet keelson-pods").0
        };
        until(
            &format!("mended: {wrong}"),
            || tried() && state() == before,
            || format!("{before}\n{}", a.tell()),
        );
    }
    all_reach_all(&[&a, &c]);
}

#[test]
fn a_route_of_somebody_else_stays() {
    let mut bed = Bed::new();
    let (a, b) = (bed.machine(1, 1), bed.machine(2, 1));
    sh(
        &a.space,
        "ip route add 10.42.2.0/24 via 10.9.1.99 proto static",
    );
    let _running = start(&[&a, &b], Mode::HostGw);
    let routes = || sh(&a.space, "ip route; ip -6 route");
    until(
        "the other family's is set",
        || routes().contains("fd42:0:0:2::/64"),
        routes,
    );
    assert!(
        routes().contains("10.42.2.0/24 via 10.9.1.99 dev eth0 proto static"),
        "{}",
        routes()
    );
    sh(&a.space, "ip route del 10.42.2.0/24");
    until(
        "ours when it is gone",
        || routes().contains("10.42.2.0/24 via 10.9.1.12"),
        routes,
    );
}

#[test]
fn nothing_is_touched_before_nodes_are_known() {
    let mut bed = Bed::new();
    let a = bed.machine(1, 1);
    let running = a.start(a.options(Mode::HostGw));
    running.know(&[
        a.node.clone(),
        Node {
            name: "x".into(),
            addresses: vec!["10.9.1.5".parse().expect("ip")],
            pod_cidrs: vec!["10.42.7.0/24".parse().expect("cidr")],
            key: None,
        },
    ]);
    let routes = || sh(&a.space, "ip route; nft list ruleset");
    until(
        "set",
        || routes().contains("10.42.7.0/24") && routes().contains("keelson-pods"),
        routes,
    );
    running.stop();
    let before = routes();
    let unknowing = a.start(a.options(Mode::Vxlan));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(routes(), before);
    unknowing.stop();
    assert_eq!(routes(), before);
}

/// What Docker and careful people do to forwarded packets.
const DROPS: [(&str, &str); 7] = [
    // The last rules of firewalld's chain.
    (
        "nft, by a last rule",
        "nft add table inet fire; nft add chain inet fire through '{ type filter hook forward priority 10; policy accept; }'
nft 'add rule inet fire through ct state { established, related } accept'; nft add rule inet fire through ct state invalid drop
nft add rule inet fire through counter reject with icmpx admin-prohibited",
    ),
    (
        "iptables-nft, by a last rule",
        "for i in iptables-nft ip6tables-nft; do $i -A FORWARD -i lo -j ACCEPT; $i -A FORWARD -j REJECT; done",
    ),
    (
        "iptables-legacy, by a last rule",
        "for i in iptables-legacy ip6tables-legacy; do $i -A FORWARD -i lo -j ACCEPT; $i -A FORWARD -j REJECT; done",
    ),
    (
        "nft",
        "nft add table inet mine; nft add chain inet mine through '{ type filter hook forward priority 0; policy drop; }'",
    ),
    (
        "nft of IPv4 and IPv6",
        "for f in ip ip6; do nft add table $f filter; nft add chain $f filter FORWARD '{ type filter hook forward priority 0; policy drop; }'; done",
    ),
    (
        "iptables-nft",
        "for i in iptables-nft ip6tables-nft; do $i -N DOCKER-USER; $i -A FORWARD -j DOCKER-USER; $i -P FORWARD DROP; done",
    ),
    (
        "iptables-legacy",
        "for i in iptables-legacy ip6tables-legacy; do $i -N DOCKER-USER; $i -A FORWARD -j DOCKER-USER; $i -P FORWARD DROP; done",
    ),
];

#[test]
fn pods_get_through_where_others_drop() {
    for (name, drop) in DROPS {
        let mut bed = Bed::new();
        let (a, c) = (bed.machine(1, 1), bed.machine(3, 2));
        let rules = |m: &Machine| {
            sh(
                &m.space,
                "nft -s list ruleset; iptables-legacy -S; ip6tables-legacy -S; iptables-nft-save | grep -v '^#' || true",
            )
        };
        // Before us on one machine; after us on the other, but where nobody is told of it.
        sh(&a.space, drop);
        if name.starts_with("iptables-legacy") {
            sh(&c.space, drop);
        }
        let others = rules(&a);
        let running = start(&[&a, &c], Mode::Vxlan);
        all_reach_all(&[&a, &c]);
        if !name.starts_with("iptables-legacy") {
            sh(&c.space, drop);
            all_reach_all(&[&a, &c]);
        }
        println!("{name}: {}", rules(&a));
        // On a busy machine rules of the other family come after the first packet.
        let pause = || std::thread::sleep(std::time::Duration::from_millis(500));
        let stays = || {
            let before = rules(&a);
            pause();
            before == rules(&a)
        };
        until("settled", stays, || rules(&a));
        let settled = rules(&a);
        // Nothing is set twice, and what is taken away is put back.
        sh(&a.space, "nft add table ip other");
        pause();
        sh(&a.space, "nft delete table ip other");
        pause();
        until("as it was", || rules(&a) == settled, || rules(&a));
        drop_running(running);
        // Ours goes, theirs stays.
        clean_rules(&a);
        let left = rules(&a);
        assert_eq!(
            left.replace("\n\n", "\n").trim(),
            others.replace("\n\n", "\n").trim(),
            "{name}"
        );
    }
}

fn drop_running(running: Vec<Running>) {
    running.into_iter().for_each(Running::stop);
}

fn clean_rules(machine: &Machine) {
    clean(&[machine]);
}

#[test]
fn masquerade_is_for_what_leaves_the_cluster() {
    for iptables in [false, true] {
        let mut bed = Bed::new();
        let (a, c) = (bed.machine(1, 1), bed.machine(3, 2));
        let nodes = [a.node.clone(), c.node.clone()];
        let start = |m: &Machine| {
            let running = m.start(Options {
                iptables,
                ..m.options(Mode::Vxlan)
            });
            running.know(&nodes);
            running
        };
        let running = vec![start(&a), start(&c)];
        all_reach_all(&[&a, &c]);
        println!("iptables: {iptables}");
        masked_outside(&bed, &a, &c);
        drop_running(running);
        clean(&[&a, &c]);
    }
}

#[test]
fn strict_reverse_paths_do_not_stop_the_tunnel() {
    let mut bed = Bed::new();
    let (a, c) = (bed.machine(1, 1), bed.machine(3, 2));
    sh(
        &a.space,
        "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv6.conf.eth0.accept_ra=1",
    );
    let _running = start(&[&a, &c], Mode::Vxlan);
    all_reach_all(&[&a, &c]);
    let set = || {
        sh(
            &a.space,
            "cat /proc/sys/net/ipv4/{conf/keelson-vxlan/rp_filter,ip_forward} /proc/sys/net/ipv6/conf/{all/forwarding,eth0/accept_ra}",
        )
    };
    until("settings", || set() == "2\n1\n1\n2\n", set);
    // All traffic of the other way round: the machine's own, whose way back is not by the tunnel.
    for (to, _) in c.pods().into_iter().zip(0..) {
        assert!(udp(&a.space, &c.pod, to, 100).is_some());
    }
}

/// Ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_network_that_damages_packets_is_worked_around() {
    let mut bed = Bed::new();
    let (a, c) = (bed.machine(1, 1), bed.machine(3, 2));
    bed.translate();
    let running = start(&[&a, &c], Mode::Vxlan);
    // Without the workaround pings get through, which need no checksum of a card's, and no datagram does.
    all_reach_all(&[&a, &c]);
    // A new link is treated alike.
    sh(&a.space, "ip link del keelson-vxlan");
    all_reach_all(&[&a, &c]);
    // And by one that starts again, at once.
    drop(running);
    let _again = start(&[&a, &c], Mode::Vxlan);
    all_reach_all(&[&a, &c]);
}

#[test]
fn a_change_of_one_node_is_a_handful_of_messages() {
    let mut bed = Bed::new();
    let a = bed.machine(1, 1);
    let node = |n: u8, at: u8| Node {
        name: format!("far{n}"),
        pod_cidrs: vec![format!("10.42.{n}.0/24").parse().expect("cidr")],
        addresses: vec![format!("10.9.2.{at}").parse().expect("ip")],
        key: None,
    };
    let mut nodes: Vec<Node> = (2..202).map(|n| node(n, n)).collect();
    nodes.push(a.node.clone());
    let running = a.start(a.options(Mode::Vxlan));
    running.know(&nodes);
    let count = |what: &str| {
        sh(&a.space, &format!("{what} | wc -l"))
            .trim()
            .parse::<usize>()
            .expect("a number")
    };
    let routes = || count("ip route show proto 107");
    until("all have a route", || routes() == 200, || a.tell());
    let monitor = Command::new("ip")
        .args(["-n", &a.space, "-o", "monitor", "route", "neigh"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut monitor = Program(monitor.expect("ip"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    nodes[5] = node(7, 250);
    nodes.remove(0);
    nodes.push(node(210, 210));
    running.know(&nodes);
    until(
        "the new one has a route",
        || sh(&a.space, "ip route").contains("10.42.210.0"),
        || a.tell(),
    );
    until(
        "the moved one is where it is",
        || sh(&a.space, "bridge fdb show dev keelson-vxlan").contains("dst 10.9.2.250"),
        || a.tell(),
    );
    std::thread::sleep(std::time::Duration::from_millis(500));
    let _ = monitor.0.kill();
    let mut text = String::new();
    let mut out = monitor.0.stdout.take().expect("piped");
    std::io::Read::read_to_string(&mut out, &mut text).expect("text");
    // One moved, one gone (3 pieces), one new (3 pieces).
    let ours = text
        .lines()
        .filter(|l| l.contains("keelson-vxlan") && !l.contains("table local"));
    assert!((7..=10).contains(&ours.count()), "{text}");
}
