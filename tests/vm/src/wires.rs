//! From a layout to its wires: a script that makes them, and what every virtual machine is told. Values only.
//!
//! One namespace, the room, has a bridge for each segment. A node of the cluster is a virtual machine with a tap on the
//! bridge for each interface; everybody else is a namespace with a veth there.

use std::fmt::Write;

use anyhow::ensure;
use ipnet::IpNet;
use keelson_tests::testbed::layout::{Layout, Machine, Nic};
use keelson_tests::testbed::scripts;

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
    let (mut inside, mut spaces, mut unmake) = (String::new(), String::new(), String::new());
    for (number, segment) in layout.segments.iter().enumerate() {
        inside += &scripts::bridge(&switch(number), &segment.name);
    }
    let mut nodes = Vec::new();
    for (number, machine) in layout.machines.iter().enumerate() {
        let space = space(layout, &machine.name);
        for (place, nic) in machine.nics.iter().enumerate() {
            ensure!(
                nic.quality.is_perfect(),
                "links: {}: a link of virtual machines has no quality here; scripts/testbed netns has",
                nic.link
            );
            inside += &link(machine, nic, &port(number, place), &space);
            inside += &scripts::port(&port(number, place), nic, &bridge(layout, nic));
        }
        if machine.is_node() {
            nodes.push(wired(machine, number));
        } else {
            let _ = writeln!(spaces, "ip netns add {space}");
            let devices = machine.nics.iter().map(|nic| nic.device.as_str());
            let up: String = devices
                .chain(["lo"])
                .map(|device| format!("ip link set {device} up\n"))
                .collect();
            let made = up + scripts::setup(machine.kind) + "\n" + &scripts::machine(machine);
            unmake += &format!("ip netns del {space} 2>/dev/null\n");
            inside += &format!("nsenter --net=/run/netns/{space} bash -e <<'SPACE'\n{made}SPACE\n");
        }
    }
    let make = format!(
        "set -e\nip netns add {room}\n{spaces}ip netns exec {room} bash -e <<'ROOM'\nip link set lo up\n{inside}ROOM\n"
    );
    let _ = writeln!(unmake, "ip netns del {room} 2>/dev/null\ntrue");
    Ok(Wires {
        make,
        unmake,
        nodes,
    })
}

fn switch(segment: usize) -> String {
    format!("s{segment}")
}

/// The switch of an interface.
fn bridge(layout: &Layout, nic: &Nic) -> String {
    let mut segments = layout.segments.iter();
    // A layout's interfaces are on its segments.
    switch(
        segments
            .position(|s| s.name == nic.segment)
            .unwrap_or_default(),
    )
}

/// The end of a link that is in the room.
fn port(machine: usize, nic: usize) -> String {
    format!("m{machine}n{nic}")
}

fn mac(machine: usize, nic: usize) -> String {
    format!("52:54:00:4b:{machine:02x}:{nic:02x}")
}

/// Both ends of a link: a virtual machine's is QEMU itself.
fn link(machine: &Machine, nic: &Nic, port: &str, space: &str) -> String {
    let made = match machine.is_node() {
        true => format!("ip tuntap add {port} mode tap"),
        false => format!(
            "ip link add {port} type veth peer name {} netns {space}",
            nic.device
        ),
    };
    format!("{made}\nip link set {port} up\n")
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
            (&wires.make, format!("link set {tap} alias n1/nodes")),
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
