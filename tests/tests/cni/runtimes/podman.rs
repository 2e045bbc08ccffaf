//! Debian's podman: the network that its package has, and one that it makes itself, both by our plugins, since those are
//! found first under the names that podman writes; what else is in its chains is Debian's.

use keelson_tests::images::{self, ECHO};
use keelson_tests::node::Node;
use serde_json::Value;

use super::{HOST_PORT, PORT, assert_nothing_left, fetch, machine};

/// The network that comes with the package.
const DEBIANS_NETWORK: &str = "/etc/cni/net.d/87-podman-bridge.conflist";

const CONTAINERS: &str = r#"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
[engine]
cgroup_manager = "cgroupfs"
"#;

/// Runs podman with a storage of the test's own, which may be on any file system; what it prints.
fn podman(node: &Node, args: &str) -> String {
    node.sh(&format!(
        "podman --root /var/lib/keelson/podman --storage-driver vfs {args}"
    ))
}

/// How podman says a container is attached to a network.
fn attachment(node: &Node, name: &str, network: &str) -> Value {
    let told = podman(
        node,
        &format!("inspect {name} --format '{{{{json .NetworkSettings.Networks}}}}'"),
    );
    let told: Value = serde_json::from_str(&told).expect("JSON of podman");
    told[network].clone()
}

/// The containers' addresses.
fn addresses(node: &Node, network: &str) -> Vec<String> {
    let all = ["a", "b"].map(|name| attachment(node, name, network));
    let of = |a: &Value| {
        ["IPAddress", "GlobalIPv6Address"].map(|f| a[f].as_str().unwrap_or_default().to_owned())
    };
    let texts = all.iter().flat_map(of).filter(|a| !a.is_empty());
    texts.collect()
}

/// The containers reach each other, and the host's port leads to the second.
fn assert_reached(node: &Node, addresses: &[String]) {
    let namespaces = node.sh("ls /run/netns");
    assert_eq!(namespaces.lines().count(), 2, "{namespaces}");
    for address in addresses {
        let at = if address.contains(':') {
            format!("[{address}]:{PORT}")
        } else {
            format!("{address}:{PORT}")
        };
        for from in namespaces.lines() {
            let said = fetch(node, Some(from), &at);
            assert!(said.contains("pod="), "{said}");
        }
    }
    let said = fetch(node, None, &format!("127.0.0.1:{HOST_PORT}"));
    let second = addresses.iter().rfind(|a| !a.contains(':'));
    assert!(said.contains(second.expect("an address")), "{said}");
}

/// It was our plugins that did it, and as it was asked for.
fn assert_ours(node: &Node, asked: &[(&str, &str)]) {
    let links = node.sh("ip -br link");
    assert_eq!(links.matches("ksn").count(), 2, "{links}");
    let ports = node.sh("nft list map ip keelson-hostports ports");
    assert!(ports.contains(&format!("tcp . {HOST_PORT}")), "{ports}");
    let inside = node.sh("for n in $(ls /run/netns); do ip -n $n addr; done");
    for (option, value) in asked {
        assert!(inside.contains(value), "{option} {value}\n{inside}");
    }
}

/// Two containers come, lose their rules, are started anew, and go. The second has a port of the host, and what it is
/// asked for by options.
fn containers(node: &Node, network: &str, families: usize, asked: &[(&str, &str)]) {
    let options: Vec<String> = asked.iter().map(|(o, v)| format!("{o} {v}")).collect();
    let second = format!("-p {HOST_PORT}:{PORT} {}", options.join(" "));
    for (name, more) in [("a", ""), ("b", &*second)] {
        let group = &node.cgroup;
        let own = format!("--name {name} --cgroup-parent /{group} --network {network} {more}");
        podman(node, &format!("run -d {own} {ECHO}"));
    }
    let first = addresses(node, network);
    assert_eq!(first.len(), 2 * families, "{first:?}");
    assert_reached(node, &first);
    assert_ours(node, asked);
    // As when another firewall is loaded: podman sets the network up anew, with the addresses that there are.
    node.sh("nft flush ruleset");
    podman(node, "network reload a b");
    assert_eq!(addresses(node, network), first);
    assert_reached(node, &first);
    podman(node, "restart -t 0 a b");
    assert_reached(node, &addresses(node, network));
    assert_ours(node, asked);
    podman(node, "rm -f -t 0 a b");
    let port = HOST_PORT.to_string();
    let words = ["ksn", "netns-", "10.88.0.", "10.77.0.", "fd77:", &port];
    assert_nothing_left(node, &words);
}

/// From version 5 (Debian 13) podman has networks of its own making only, and calls no plugin.
fn calls_plugins() -> bool {
    let told = std::process::Command::new("podman")
        .arg("--version")
        .output();
    let told = told.expect("podman (Debian: podman)").stdout;
    let told = String::from_utf8_lossy(&told);
    let number = told.rsplit(' ').next().and_then(|v| v.split('.').next());
    let major: u32 = number
        .and_then(|n| n.parse().ok())
        .expect("podman's version");
    major < 5
}

#[test]
fn podman_has_its_networks_by_our_plugins() {
    if !calls_plugins() {
        println!("this podman calls no CNI plugins: there is nothing to see");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(DEBIANS_NETWORK);
    let text = text.unwrap_or_else(|e| panic!("{DEBIANS_NETWORK} (Debian 12: podman): {e}"));
    let list = serde_json::from_str(&text).expect("a network");
    let conf = ("/etc/containers/containers.conf", CONTAINERS);
    let node = machine("podman", dir.path(), &list, conf);
    for archive in images::archives() {
        podman(&node, &format!("load -q -i {}", archive.display()));
    }
    containers(&node, "podman", 1, &[]);
    let subnets = "--subnet 10.77.0.0/24 --ipv6 --subnet fd77::/64";
    podman(&node, &format!("network create {subnets} own"));
    let asked = [
        ("--ip", "10.77.0.77"),
        ("--mac-address", "02:11:22:33:44:55"),
    ];
    containers(&node, "own", 2, &asked);
    podman(&node, "network rm own");
}
