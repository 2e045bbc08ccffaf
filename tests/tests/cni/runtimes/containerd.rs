//! containerd's own CRI plugin, over its gRPC, as a kubelet would.

use std::path::Path;
use std::time::Duration;

use keelson_tests::images;
use keelson_tests::node::Node;
use keelson_tests::wait::eventually;
use serde_json::{Value, json};

use super::cri::{Config, Cri, Linux, Metadata, PortMapping};
use super::{HOST_PORT, PORT, assert_nothing_left, fetch, machine};

const CONTAINERD: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "keelson.test/echo:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#;

/// A machine on which containerd serves the CRI.
fn node(name: &str, plugins: Value, dir: &Path) -> Node {
    let list = json!({"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "pods", "plugins": plugins});
    let node = machine(
        name,
        dir,
        &list,
        ("/etc/containerd/config.toml", CONTAINERD),
    );
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

fn pod(node: &Node, name: &str, host_port: Option<u16>) -> Config {
    let mapping = |host_port| PortMapping {
        protocol: 0,
        container_port: PORT.into(),
        host_port: u16::into(host_port),
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

fn bridge() -> Value {
    json!({"type": "keelson-cni", "bridge": "cri0", "isGateway": true, "hairpinMode": true, "ipMasq": true,
        "ipam": {"ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}})
}

/// Two sandboxes reach each other by both families, the host's port leads to one, and nothing is left of them.
fn sandboxes(name: &str, plugins: Value) {
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
    runtime.block_on(async {
        let channel = containerd_client::connect(&socket).await.expect("connect");
        let cri = Cri::new(channel);
        let mut sandboxes = Vec::new();
        for (name, port) in [("a", None), ("b", Some(HOST_PORT))] {
            let id = cri.run(pod(&node, name, port)).await.expect("a sandbox");
            let addresses = cri.addresses(&id).await.expect("its addresses");
            assert_eq!(addresses.len(), 2, "{addresses:?}");
            sandboxes.push((id, addresses));
        }
        let namespaces = node.sh("ls /run/netns");
        assert_eq!(namespaces.lines().count(), 2, "{namespaces}");
        for (_, addresses) in &sandboxes {
            for from in namespaces.lines() {
                fetch(&node, Some(from), &format!("{}:{PORT}", addresses[0]));
                fetch(&node, Some(from), &format!("[{}]:{PORT}", addresses[1]));
            }
        }
        let said = fetch(&node, None, &format!("127.0.0.1:{HOST_PORT}"));
        assert!(said.contains(&sandboxes[1].1[0]), "{said}");
        for (id, _) in &sandboxes {
            cri.remove(id).await.expect("remove");
        }
    });
    assert_nothing_left(&node, &["ksn", "10.77.0.", "fd77:", "30080"]);
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
