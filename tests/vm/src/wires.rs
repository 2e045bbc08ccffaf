//! From a layout to its wires: a script that makes them, and what every virtual machine is told. Values only.
//!
//! One namespace, the room, has a bridge for each segment. A node of the cluster is a virtual machine with a tap on the
//! bridge for each interface; everybody else is a namespace with a veth there.

use std::fmt::Write;

use anyhow::ensure;
use ipnet::IpNet;
use keelson_tests::testbed::layout::{Kind, Layout, Machine, Nic};

/// What to make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wires {
    /// Makes the room and all in it; bash.
    pub(crate) make: String,
    /// Takes all of it away; bash. Repeatable, and after half of `make` too.
    pub(crate) unmake: String,
    /// The cluster's machines.
    pub(crate) nodes: Vec<Wired>,
}

/// A virtual machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wired {
    /// Its name.
    pub(crate) name: String,
    /// `KEELSON_VM_NICS` of `scripts/vm`.
    pub(crate) nics: String,
    /// Sets its addresses and routes, for good; bash.
    pub(crate) setup: String,
}

/// The namespace of the bridges.
pub(crate) fn room(layout: &Layout) -> String {
    format!("keelson-qemu-{}", layout.name)
}

/// The namespace of a machine that is no node.
pub(crate) fn space(layout: &Layout, machine: &str) -> String {
    format!("{}-{machine}", room(layout))
}

/// # Errors
/// When the layout wants what virtual machines don't have here.
pub(crate) fn plan(layout: &Layout) -> anyhow::Result<Wires> {
    let room = room(layout);
    let mut make = format!("set -e\nip netns add {room}\nip -n {room} link set lo up\n");
    let mut unmake = String::new();
    for (number, segment) in layout.segments.iter().enumerate() {
        let mtu = segment.mtu;
        // No group of our own is asked for: what is multicast goes everywhere, as on a plain switch.
        let _ = writeln!(
            make,
            "ip -n {room} link add s{number} mtu {mtu} type bridge mcast_snooping 0\nip -n {room} link set s{number} up"
        );
    }
    let mut nodes = Vec::new();
    for (number, machine) in layout.machines.iter().enumerate() {
        for nic in &machine.nics {
            ensure!(
                nic.quality.is_perfect(),
                "links: {}: a link of virtual machines has no quality here; scripts/testbed netns has",
                nic.link
            );
        }
        if machine.is_node() {
            make += &taps(layout, machine, number);
            nodes.push(wired(machine, number));
        } else {
            let space = space(layout, &machine.name);
            make += &namespace(layout, machine, number, &space);
            let _ = writeln!(unmake, "ip netns del {space} 2>/dev/null");
        }
    }
    let _ = writeln!(unmake, "ip netns del {room} 2>/dev/null\ntrue");
    Ok(Wires {
        make,
        unmake,
        nodes,
    })
}

/// The bridge of an interface.
fn bridge(layout: &Layout, nic: &Nic) -> usize {
    let segments = layout.segments.iter();
    // A layout's interfaces are on its segments.
    segments
        .take_while(|segment| segment.name != nic.segment)
        .count()
}

/// The end of a link that is in the room.
fn port(machine: usize, nic: usize) -> String {
    format!("m{machine}n{nic}")
}

fn mac(machine: usize, nic: usize) -> String {
    format!("52:54:00:4b:{machine:02x}:{nic:02x}")
}

fn taps(layout: &Layout, machine: &Machine, number: usize) -> String {
    let room = room(layout);
    let mut text = String::new();
    for (place, nic) in machine.nics.iter().enumerate() {
        let (port, bridge, mtu) = (port(number, place), bridge(layout, nic), nic.mtu);
        let _ = writeln!(
            text,
            "ip -n {room} tuntap add {port} mode tap\nip -n {room} link set {port} mtu {mtu} master s{bridge} up"
        );
    }
    text
}

/// A router, a gateway or a client.
fn namespace(layout: &Layout, machine: &Machine, number: usize, space: &str) -> String {
    let room = room(layout);
    let mut text = format!("ip netns add {space}\nip -n {space} link set lo up\n");
    for (place, nic) in machine.nics.iter().enumerate() {
        let (port, bridge, mtu) = (port(number, place), bridge(layout, nic), nic.mtu);
        let device = &nic.device;
        let _ = writeln!(
            text,
            "ip -n {room} link add {port} mtu {mtu} type veth peer name {device} netns {space}
ip -n {room} link set {port} master s{bridge} up
ip -n {space} link set {device} mtu {mtu} up"
        );
        for address in &nic.addresses {
            let no_wait = if address.addr().is_ipv6() {
                " nodad"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "ip -n {space} address add {address} dev {device}{no_wait}"
            );
        }
    }
    for route in &machine.routes {
        let _ = writeln!(text, "ip -n {space} route add {} via {}", route.to, route.via);
    }
    if matches!(machine.kind, Kind::Router | Kind::Gateway) {
        let _ = writeln!(
            text,
            "ip netns exec {space} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
        );
    }
    if machine.kind == Kind::Gateway {
        let _ = writeln!(
            text,
            "ip netns exec {space} nft 'add table inet nat; add chain inet nat out {{ type nat hook postrouting priority srcnat; }}; add rule inet nat out oifname eth1 masquerade'"
        );
    }
    text
}

fn wired(machine: &Machine, number: usize) -> Wired {
    let nics = machine.nics.iter().enumerate();
    let pairs: Vec<String> = nics
        .clone()
        .map(|(place, _)| format!("{}={}", port(number, place), mac(number, place)))
        .collect();
    let mut setup = "set -e\n".to_owned();
    for (place, nic) in nics {
        let file = network_file(machine, nic, &mac(number, place));
        let _ = write!(
            setup,
            "cat >/etc/systemd/network/10-{}.network <<'END'\n{file}END\n",
            nic.device
        );
    }
    setup += "networkctl reload\n";
    Wired {
        name: machine.name.clone(),
        nics: pairs.join(" "),
        setup,
    }
}

/// An interface as systemd-networkd takes it.
fn network_file(machine: &Machine, nic: &Nic, mac: &str) -> String {
    let mut text = format!(
        "[Match]\nMACAddress={mac}\n[Link]\nMTUBytes={}\n[Network]\nIPv6AcceptRA=no\n",
        nic.mtu
    );
    for address in &nic.addresses {
        let _ = writeln!(text, "Address={address}");
    }
    let near: Vec<&IpNet> = nic.addresses.iter().chain(&nic.nat_gateway).collect();
    for route in &machine.routes {
        if near.iter().any(|net| net.contains(&route.via)) {
            let _ = write!(
                text,
                "[Route]\nDestination={}\nGateway={}\n",
                route.to, route.via
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use keelson_tests::testbed::Description;

    use super::*;

    fn of(text: &str) -> anyhow::Result<Wires> {
        plan(&Layout::of(&Description::parse(text)?)?)
    }

    #[test]
    fn a_machine_has_taps_files_and_routes() {
        let wires = of("nodes: [{name: n1}, {name: n2}]").expect("a plan");
        let names: Vec<&str> = wires.nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["n1", "n2"]);
        let first = &wires.nodes[0];
        let (tap, mac) = first.nics.split_once('=').expect("a pair");
        for (text, part) in [
            (&wires.make, format!("tuntap add {tap} mode tap")),
            (&first.setup, format!("MACAddress={mac}")),
            (&first.setup, "Address=10.88.0.11/24".into()),
            (&first.setup, "Destination=0.0.0.0/0".into()),
            (&wires.make, "add keelson-qemu-testbed-client".into()),
            (&wires.unmake, "del keelson-qemu-testbed-router".into()),
        ] {
            assert!(text.contains(&part), "no {part:?} in:\n{text}");
        }
        assert_ne!(first.nics, wires.nodes[1].nics);
    }

    #[test]
    fn a_degraded_link_is_refused() {
        let error = of("nodes: [{name: n1}]\nlinks: {n1/nodes: {loss: 5}}").expect_err("refused");
        assert!(error.to_string().contains("n1/nodes"), "{error}");
    }
}
