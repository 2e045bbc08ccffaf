//! Certificates that last half a minute: all are renewed while everything runs, and nothing restarts for it.

use std::collections::BTreeMap;
use std::fs;

use keelson_tests::bed::{KUBECONFIG, quoted};
use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

/// Where the agent keeps what it shows and serves.
const KEPT: [&str; 2] = [
    "/var/lib/keelson/agent/pki/kubelet-client-current.pem",
    "/var/lib/keelson/agent/pki/kubelet-server-current.pem",
];
/// An address that n2 gets later.
const MOVED: &str = "10.88.0.77";

pub(crate) fn renewed() {
    let bed = Bed::pair(&["--cluster-signing-duration", "30s"]);
    pod(&bed, "before");
    let first = fs::read_to_string(bed.server().outside(KUBECONFIG)).unwrap();
    let (before, steady) = (certificates(&bed, "10.88.0.12"), steady(&bed));
    bed.nodes[1].sh(&format!(
        "ip address add {MOVED}/24 dev eth0; ip route replace 10.88.0.0/24 dev eth0 src {MOVED}"
    ));
    bed.wait_for(
        "get node n2 -o \"jsonpath={.status.addresses[?(@.type=='InternalIP')].address}\"",
        MOVED,
    );
    eventually("all certificates are others", secs(60), || {
        let now = certificates(&bed, MOVED);
        let same: Vec<_> = now.iter().filter(|(k, v)| before[*k] == **v).collect();
        anyhow::ensure!(same.is_empty(), "{:?}", same.iter().map(|s| s.0));
        Ok(())
    });
    // The server reaches the agent at its new address, and each takes the other's new certificate.
    assert_eq!(bed.kubectl("exec before -- /bin/echo said"), "said\n");
    // The first client certificates have ended: who is still watched and reported is so with another.
    eventually("the first kubeconfig has ended", secs(60), || {
        let file = bed.folder().join("first.kubeconfig");
        fs::write(&file, &first)?;
        let path = quoted(&file.display().to_string());
        let output = bed.try_kubectl(&format!("get nodes --kubeconfig {path}"));
        anyhow::ensure!(!output.ok, "{output:?}");
        Ok(())
    });
    pod(&bed, "after");
    assert_eq!(steady, self::steady(&bed), "something has restarted");
    let requests = bed.kubectl("get csr --no-headers");
    assert!(
        !requests.contains("Pending") && !requests.contains("Denied"),
        "{requests}"
    );
}

fn pod(bed: &Bed, name: &str) {
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: n2\n  containers: [{{name: c, image: {ECHO}, command: [/bin/sleep, infinity]}}]\n"
    ));
    bed.kubectl(&format!(
        "wait pod {name} --for=condition=Ready --timeout=60s"
    ));
}

/// What is served and kept, by name.
fn certificates(bed: &Bed, n2: &str) -> BTreeMap<String, String> {
    let served = [
        "10.88.0.11:6443",
        "10.88.0.11:10250",
        &format!("{n2}:10250"),
    ];
    // By their place: an address is another afterwards.
    let mut all: BTreeMap<String, String> = served
        .iter()
        .enumerate()
        .map(|(place, at)| {
            let text = bed.server().sh(&format!(
                "curl -sk -o /dev/null -w '%{{certs}}' https://{at}/ || true"
            ));
            assert!(text.contains("BEGIN CERTIFICATE"), "{at}: {text}");
            (format!("served {place}"), text)
        })
        .collect();
    for path in KEPT {
        let text = fs::read_to_string(bed.nodes[1].outside(path)).unwrap();
        all.insert(path.to_owned(), text);
    }
    let admin = fs::read_to_string(bed.server().outside(KUBECONFIG)).unwrap();
    all.insert("admin".to_owned(), admin);
    all
}

/// What must stay as it is: processes, containers, and since when nodes are ready.
fn steady(bed: &Bed) -> (Vec<u32>, String, String) {
    let ready = "jsonpath={range .items[*]}{.status.conditions[?(@.type=='Ready')].status}{.status.conditions[?(@.type=='Ready')].lastTransitionTime}{end}";
    (
        bed.nodes
            .iter()
            .map(keelson_tests::node::Node::pid)
            .collect(),
        bed.kubectl(&format!("get nodes -o \"{ready}\"")),
        bed.kubectl("get pod before -o jsonpath={.status.containerStatuses[0].containerID}"),
    )
}
