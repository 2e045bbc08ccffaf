//! Runtimes that call the plugins: each on a machine of its own, where they are installed.

mod containerd;
mod cri;
mod podman;

use std::net::Ipv4Addr;
use std::path::Path;

use keelson_tests::bins::program;
use keelson_tests::node::Node;
use serde_json::Value;

/// The port that the image listens on, and the host's that leads there.
const PORT: u16 = 8080;
const HOST_PORT: u16 = 30080;

/// A machine on which a runtime finds only our plugins and this list of them, with its configuration at `at`.
fn machine(name: &str, dir: &Path, list: &Value, (at, conf): (&str, &str)) -> Node {
    let group = format!("keelson-{name}-{}", std::process::id());
    let ip = Ipv4Addr::new(10, 88, 0, 2);
    let node = Node::new(name, ip, group, dir.join("node")).expect("a node");
    std::fs::write(dir.join("list"), list.to_string()).expect("write");
    std::fs::write(dir.join("config"), conf).expect("write");
    node.sh(&format!(
        "mkdir -p /opt/cni/bin /etc/cni/net.d
        cp {dir}/config {at}; cp {dir}/list /etc/cni/net.d/10-ours.conflist
        cp {plugin} /opt/cni/bin/keelson-cni; cd /opt/cni/bin
        for n in bridge host-local loopback portmap keelson-portmap keelson-bandwidth; do ln -s keelson-cni $n; done",
        dir = dir.display(),
        plugin = program("keelson-cni").display()
    ));
    node
}

/// What is served at an address, asked from a namespace of the machine, or from itself.
fn fetch(node: &Node, from: Option<&str>, at: &str) -> String {
    let enter = from.map(|ns| format!("ip netns exec {ns} "));
    let enter = enter.unwrap_or_default();
    node.sh(&format!("{enter}curl -sS -g -m 10 http://{at}/"))
}

/// Neither links nor reservations nor rules have these words.
fn assert_nothing_left(node: &Node, words: &[&str]) {
    let left = node.sh("ip -br link; ls /run/netns /var/lib/cni/networks/*; nft list ruleset");
    for word in words {
        assert!(!left.contains(word), "{word} is left\n{left}");
    }
}
