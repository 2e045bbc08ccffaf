//! Runtimes that call the plugins: containerd's own CRI plugin, over its gRPC, as a kubelet would.

mod cri;

use std::net::Ipv4Addr;
use std::time::Duration;

use cri::{Config, Cri, Linux, Metadata, PortMapping};
use keelson_tests::bins::program;
use keelson_tests::images;
use keelson_tests::node::Node;
use keelson_tests::wait::eventually;
use serde_json::json;

/// The port that the sandbox's image listens on.
const PORT: i32 = 8080;

const CONTAINERD: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "keelson.test/echo:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#;

/// A machine on which containerd serves the CRI and finds only our plugins.
fn node(name: &str, plugins: serde_json::Value, dir: &std::path::Path) -> Node {
    let group = format!("keelson-{name}-{}", std::process::id());
    let ip = Ipv4Addr::new(10, 88, 0, 2);
    let node = Node::new(name, ip, group, dir.join("node")).expect("a node");
    let list = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins});
    std::fs::write(dir.join("list"), list.to_string()).expect("write");
    std::fs::write(dir.join("config"), CONTAINERD).expect("write");
    node.sh(&format!(
        "mkdir -p /opt/cni/bin /etc/cni/net.d
        cp {dir}/config /etc/containerd/config.toml; cp {dir}/list /etc/cni/net.d/10-ours.conflist
        cp {plugin} /opt/cni/bin/keelson-cni
        for n in loopback keelson-portmap keelson-bandwidth; do ln -s keelson-cni /opt/cni/bin/$n; done",
        dir = dir.display(),
        plugin = program("keelson-cni").display()
    ));
    node.start_containerd();
    eventually("containerd", Duration::from_secs(60), || {
        node.space.sh("ctr version").map(|_| ())
    });
    for archive in images::archives() {
        let archive = archive.display();
        node.sh(&format!("ctr -n k8s.io images import {archive}"));
    }
    node
}

fn pod(node: &Node, name: &str, host_port: Option<i32>) -> Config {
    let mapping = |host_port| PortMapping {
        protocol: 0,
        container_port: PORT,
        host_port,
    };
    Config {
        metadata: Some(Metadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
        }),
        hostname: name.into(),
        log_directory: "/var/log".into(),
        port_mappings: host_port.map(mapping).into_iter().collect(),
        linux: Some(Linux {
            cgroup_parent: format!("/{}", node.cgroup),
        }),
    }
}

fn bridge() -> serde_json::Value {
    json!({"type": "keelson-cni", "bridge": "cri0", "isGateway": true, "hairpinMode": true, "ipMasq": true,
        "ipam": {"ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}})
}

/// Two sandboxes reach each other by both families, the host's port leads to one, and nothing is left of them.
fn sandboxes(name: &str, plugins: serde_json::Value) {
    let dir = tempfile::tempdir().expect("a folder");
    let node = node(name, plugins, dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let socket = format!(
        "/proc/{}/root/run/containerd/containerd.sock",
        node.space.init()
    );
    let fetch = |from: &str, to: &str| node.sh(&format!("{from} curl -sS -g -m 10 http://{to}/"));
    runtime.block_on(async {
        let channel = containerd_client::connect(&socket).await.expect("connect");
        let cri = Cri::new(channel);
        let mut sandboxes = Vec::new();
        for (name, port) in [("a", None), ("b", Some(30080))] {
            let id = cri.run(pod(&node, name, port)).await.expect("a sandbox");
            let addresses = cri.addresses(&id).await.expect("its addresses");
            assert_eq!(addresses.len(), 2, "{addresses:?}");
            sandboxes.push((id, addresses));
        }
        let namespaces = node.sh("ls /run/netns");
        assert_eq!(namespaces.lines().count(), 2, "{namespaces}");
        for (_, addresses) in &sandboxes {
            for from in namespaces.lines() {
                let from = format!("ip netns exec {from}");
                fetch(&from, &format!("{}:{PORT}", addresses[0]));
                fetch(&from, &format!("[{}]:{PORT}", addresses[1]));
            }
        }
        let said = fetch("", "127.0.0.1:30080");
        assert!(said.contains(&sandboxes[1].1[0]), "{said}");
        for (id, _) in &sandboxes {
            cri.remove(id).await.expect("remove");
        }
    });
    let left =
        node.sh("ip -br link; ls /var/lib/cni/networks/pods 2>/dev/null || true; nft list ruleset");
    for what in ["ksn", "10.77.0.", "30080"] {
        assert!(!left.contains(what), "{what} is left\n{left}");
    }
}

#[test]
fn containerd_calls_the_bridge_alone() {
    let mut bridge = bridge();
    bridge["capabilities"] = json!({"portMappings": true});
    sandboxes("cri-alone", json!([bridge]));
}

#[test]
fn containerd_calls_a_chain() {
    let portmap = json!({"type": "keelson-portmap", "capabilities": {"portMappings": true}});
    let bandwidth = json!({"type": "keelson-bandwidth", "capabilities": {"bandwidth": true}});
    sandboxes("cri-chain", json!([bridge(), portmap, bandwidth]));
}
