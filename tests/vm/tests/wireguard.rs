//! WireGuard between machines, in a machine whose kernel has it: that runs this very program, which finds itself inside,
//! with network namespaces as machines on two segments and their pods.

#[path = "../../../cni/overlay/tests/kernel/bed.rs"]
#[allow(dead_code)]
mod bed;

use std::os::unix::fs::PermissionsExt;

use bed::{Bed, Machine, Running, all_reach_all, fragments, sh, tcp, udp, until};
use keelson_overlay::{Mode, Node, PublicKey};
use keelson_tests_vm::in_machine;

#[test]
fn pods_reach_each_other_by_wireguard() {
    in_machine("pods_reach_each_other_by_wireguard", "", inside);
}

/// As the agent shows it in the Node.
fn key(running: &Running) -> PublicKey {
    until(
        "has a key",
        || running.facts.borrow().key.is_some(),
        String::new,
    );
    running.facts.borrow().key.expect("it has one")
}

fn inside() {
    let mut bed = Bed::new();
    let (mut a, mut b, mut c) = (bed.machine(1, 1), bed.machine(2, 1), bed.machine(3, 2));
    let start = |m: &Machine| m.start(m.options(Mode::WireGuard));
    let running = [start(&a), start(&b), start(&c)];
    let tell = |running: &[Running], all: [&Machine; 3]| {
        let nodes: Vec<Node> = all.map(|m| m.node.clone()).to_vec();
        running.iter().for_each(|r| r.know(&nodes));
    };
    // Nobody knows a key yet: a node's own is made when nodes are known.
    tell(&running, [&a, &b, &c]);
    for (machine, running) in [
        (&mut a, &running[0]),
        (&mut b, &running[1]),
        (&mut c, &running[2]),
    ] {
        machine.node.key = Some(key(running));
        let file = machine.options(Mode::WireGuard).key_file;
        let mode = std::fs::metadata(file).expect("kept").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    tell(&running, [&a, &b, &c]);
    all_reach_all(&[&a, &b, &c]);
    println!("all reach all");
    carries(&a, &c, &running);
    println!("it carries much");
    nothing_is_seen(&bed, &a, &c);
    println!("nothing is seen");

    // What others take away.
    for wrong in [
        "ip link del keelson-wg",
        "ip link set keelson-wg down",
        "ip route flush proto 107",
    ] {
        sh(&a.space, wrong);
        all_reach_all(&[&a, &c]);
    }
    println!("mended");

    // To another segment; then one that is set up anew, with another key.
    sh(bed.router(), "ip link set n2 master seg2");
    b.settle(2);
    tell(&running, [&a, &b, &c]);
    all_reach_all(&[&a, &b, &c]);
    let [one, two, three] = running;
    three.stop();
    sh(&c.space, "ip link del keelson-wg");
    std::fs::remove_file(c.options(Mode::WireGuard).key_file).expect("removed");
    let running = [one, two, start(&c)];
    tell(&running, [&a, &b, &c]);
    until(
        "has another key",
        || running[2].facts.borrow().key.is_some(),
        || c.tell(),
    );
    let new = key(&running[2]);
    assert_ne!(c.node.key, Some(new));
    c.node.key = Some(new);
    tell(&running, [&a, &b, &c]);
    all_reach_all(&[&a, &b, &c]);
    println!("moved and made anew");
}

/// Much, and the largest packets, go through as they are.
fn carries(from: &Machine, to: &Machine, running: &[Running]) {
    let mtu = running[0].facts.borrow().mtu.expect("known");
    assert_eq!(mtu, 1420, "the smaller of both families");
    from.pod_mtu(mtu);
    to.pod_mtu(mtu);
    let before = fragments(&from.space) + fragments(&to.space);
    for address in to.pods() {
        let tell = || format!("{}\n{}", from.tell(), to.tell());
        let largest = || udp(&from.pod, &to.pod, address, mtu as usize).is_some();
        until("the largest packet", largest, tell);
        assert!(tcp(&from.pod, &to.pod, address, 2 << 20), "{}", tell());
    }
    assert_eq!(fragments(&from.space) + fragments(&to.space), before);
}

/// The router between has only seen WireGuard's port.
fn nothing_is_seen(bed: &Bed, a: &Machine, c: &Machine) {
    sh(
        bed.router(),
        "nft add table inet look; nft add chain inet look fwd1 '{ type filter hook forward priority 0; }'
nft add rule inet look fwd1 udp dport 51820 counter; nft add rule inet look fwd1 ip saddr 10.42.0.0/16 counter
nft add rule inet look fwd1 ip6 saddr fd42::/48 counter",
    );
    for address in c.pods() {
        assert!(udp(&a.pod, &c.pod, address, 200).is_some());
    }
    let rules = sh(bed.router(), "nft list table inet look");
    let counts: Vec<bool> = rules
        .lines()
        .filter(|l| l.contains("counter"))
        .map(|l| !l.contains("packets 0 "))
        .collect();
    assert_eq!(counts, [true, false, false], "{rules}");
}
