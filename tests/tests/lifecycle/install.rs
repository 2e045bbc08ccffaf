//! `install.sh` where there is no systemd: keelson is supervised, upgraded without a pod noticing, and taken away.

use std::fs;
use std::path::Path;

use keelson_tests::bins::program;
use keelson_tests::images::{self, ECHO};
use keelson_tests::node::CALM;
use keelson_tests::snapshot::Snapshot;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

const TASKS: &str = "ctr -n k8s.io tasks ls | awk '$3 == \"RUNNING\" {print $1, $2}' | sort";
const READY: &str = "kubectl get nodes --no-headers | grep -w Ready";
/// The child of who supervises it.
const PID: &str = "timeout 60 bash -c 'until pgrep -P $(cat /run/keelson/server.pid) -x keelson; do sleep 0.1; done'";

pub(crate) fn life() {
    let bed = Bed::bare();
    let node = bed.server();
    let folder = node.dir.join("release");
    let release = folder.display();
    fs::create_dir_all(folder.join("images")).expect("a folder");
    for name in ["keelson", "keelson-cni", "keelson-logger"] {
        fs::copy(program(name), folder.join(name)).expect("copy a program");
    }
    images::copy_into(&folder.join("images"));
    node.sh("mkdir -p $DIR/local $DIR/local.work
mount -t overlay overlay -o lowerdir=/usr/local,upperdir=$DIR/local,workdir=$DIR/local.work /usr/local
rm -f /var/lib/keelson/images/*"
        .replace("$DIR", &node.dir.display().to_string())
        .as_str());
    let before = Snapshot::of(node);
    node.sh(&format!(
        "mkdir -p /etc/keelson; printf '{}cgroupRoot: {}\\n' >/etc/keelson/config.yaml",
        CALM.replace('%', "%%").replace('\n', "\\n"),
        node.cgroup
    ));
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
    let install = format!(
        "{}/install.sh server --airgap {release} --node-name n1 --node-ip {}",
        scripts.display(),
        node.ip
    );
    node.sh(&install);
    eventually("the node is ready", secs(60), || {
        node.space.sh(&format!(
            "export KUBECONFIG=/etc/keelson/admin.kubeconfig; {READY}"
        ))
    });
    bed.kubectl(&format!(
        "run echo --image={ECHO} --image-pull-policy=Never"
    ));
    bed.kubectl("wait pod echo --for=condition=Ready --timeout=60s");
    let (tasks, pid) = (node.sh(TASKS), node.sh(PID));
    assert_eq!(tasks.lines().count(), 1, "{tasks}");
    node.sh(&install);
    assert_eq!(node.sh(PID), pid, "nothing was new");
    let other = node.sh(&format!("{install} --max-pods 50 2>&1"));
    assert!(other.contains("no systemd"), "{other}");
    assert_ne!(node.sh(PID), pid, "another flag");
    let pid = node.sh(PID);
    node.sh(&format!(
        "echo newer >>{release}/keelson; {install} --max-pods 50"
    ));
    assert_ne!(node.sh(PID), pid, "a newer program");
    bed.wait_contains(
        "get nodes -o jsonpath={.items[0].status.capacity.pods}",
        "50",
    );
    assert_eq!(node.sh(TASKS), tasks, "no container noticed");
    let refused = node
        .space
        .sh("keelson-setup agent --server https://192.0.2.1:6443 --token x");
    let refused = refused.expect_err("it is a server").to_string();
    assert!(refused.contains("set up as server"), "{refused}");
    node.sh("keelson-uninstall");
    assert_eq!(before.diff(&Snapshot::of(node), &["kubelet"]), "");
    let left = "find /usr/local /etc /var/lib -xdev -name '*keelson*' -not -path '/var/lib/dpkg/*'";
    assert_eq!(node.sh(&format!("{left} 2>/dev/null || true")), "");
}
