//! `scripts/Vagrantfile`: that Vagrant takes it, and that its provisioning makes a cluster of machines as Vagrant's are.

use std::path::{Path, PathBuf};
use std::process::Command;

use keelson_tests::testbed::Layout;
use keelson_tests_vm::{Bed, Dist, bed};

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts")
}

#[test]
fn vagrant_takes_the_file() {
    let home = tempfile::tempdir().expect("a folder");
    let validate = |agents: &str| {
        let done = Command::new("vagrant")
            // None is installed here: what is left out is whether it has these options.
            .args(["validate", "--ignore-provider"])
            .current_dir(scripts())
            .env("VAGRANT_HOME", home.path())
            .env("VAGRANT_DOTFILE_PATH", home.path())
            .env("KEELSON_DIST", home.path())
            .env("AGENTS", agents)
            .output()
            .expect("run vagrant (Debian: vagrant)");
        let said = [done.stdout, done.stderr].concat();
        (
            done.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (taken, said) = validate("2");
    assert!(taken, "{said}");
    for name in ["server", "agent1", "agent2"] {
        assert!(said.contains(&format!("==> {name}:")), "no {name}: {said}");
    }
    let (taken, said) = validate("81");
    assert!(!taken && said.contains("allowed are 0 to 80"), "{said}");
}

/// The first interface of each leads to a NAT of its own, as with `VirtualBox`: nodes are to be found by the second.
#[test]
fn provisioning_makes_a_cluster() {
    let description = "name: vagrant
networks:
- {name: nat, cidrs: [10.0.2.0/24], nat: each}
- {name: nodes, cidrs: [192.168.56.0/24]}
nodes:
- {name: server, role: server, networks: [nat, nodes]}
- {name: agent1, networks: [nat, nodes]}";
    let description = keelson_tests::testbed::Description::parse(description).expect("YAML");
    let dist = Dist::make().expect("what is installed");
    let mut bed = Bed::boot(Layout::of(&description).expect("a layout"), &dist).expect("a bed");
    let server = bed::addresses(&bed.layout, "server");
    let provision = "/opt/keelson/scripts/vagrant.d/provision";
    for (name, role) in [("server", "server"), ("agent1", "agent")] {
        let ip = bed::addresses(&bed.layout, name);
        let token = match role {
            "agent" => bed.server().sh("keelson token create"),
            _ => String::new(),
        };
        let machine = bed.node(name);
        machine.until(120, "systemctl is-active containerd");
        machine.sh(&format!(
            "mkdir /tmp/keelson-dist; tar -C {}/release -cz --transform 's,^,keelson/,' . -f /tmp/keelson-dist/keelson-0-amd64.tar.gz
echo {token} >/tmp/keelson-token
{provision} {role} {ip} {server}",
            keelson_tests_vm::dist::INSIDE
        ));
    }
    let nodes = bed.server().until(
        200,
        "kubectl get nodes --no-headers -o wide | awk '$2 == \"Ready\" {print $1, $6}' | sort | tee /dev/stderr | [ $(wc -l) = 2 ]",
    );
    let want = ["agent1", "server"].map(|n| format!("{n} {}", bed::addresses(&bed.layout, n)));
    assert_eq!(nodes, want.join("\n"));
}
