//! Host ports beside Services on one node. Where both would take a packet, the Service has it, as upstream since
//! CVE-2019-9946: whoever may run a pod must not get what others send to Services. It is so whoever came first, the
//! pod's rules or the proxy's.

use keelson_tests::images::ECHO;
use keelson_tests::stream::{field, get};
use keelson_tests::wait::secs;
use keelson_tests::{Bed, Suite, eventually};

use super::dataplane::{NODE_PORT, switch};

/// Of its own, and taken by nobody else.
const OWN: &str = "10.88.0.11:8888";

pub(super) fn steps(bed: &Bed, suite: &mut Suite) {
    suite.step("host ports: Services keep their ports", || beside(bed));
}

fn beside(bed: &Bed) {
    start(bed);
    divided(bed, "the pod came last");
    bed.server().stop();
    super::again(bed);
    divided(bed, "keelson has started again");
    for mode in ["iptables", "nftables"] {
        switch(bed, mode);
        divided(bed, &format!("the rules of {mode} came last"));
    }
    end(bed);
    bed.server().sh("nft delete table ip keelson-hostports");
    start(bed);
    divided(bed, "the pod's rules are new");
    end(bed);
    let answer = bed.client.enter(|| get(NODE_PORT.parse()?, "/"));
    assert!(answer.is_ok_and(|a| field(&a, "pod").starts_with("web-")));
}

/// A pod that wants the node port, the Service's own port, one that is free, and that of the cluster's names, which each
/// node answers at an address of its own.
fn start(bed: &Bed) {
    let tcp = [30080, 80, 8888].map(|h| format!("{{containerPort: 8080, hostPort: {h}}}"));
    let names =
        ["UDP", "TCP"].map(|p| format!("{{containerPort: 8080, hostPort: 53, protocol: {p}}}"));
    let ports = [tcp.as_slice(), &names].concat();
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: hp}}\nspec: {{terminationGracePeriodSeconds: 0, \
        containers: [{{name: c, image: '{ECHO}', ports: [{}]}}]}}\n",
        ports.join(", ")
    ));
    bed.kubectl("wait pod hp --for=condition=Ready --timeout=60s");
}

fn end(bed: &Bed) {
    bed.kubectl("delete pod hp --timeout=60s");
    eventually("the host port is closed", secs(30), || {
        let answer = bed.client.enter(|| get(OWN.parse()?, "/"));
        anyhow::ensure!(answer.is_err(), "it answers");
        Ok(())
    });
}

/// Who answers: the Service's pods at its ports, from outside, from the node and from a pod, and the pod at its own.
fn divided(bed: &Bed, when: &str) {
    let told = bed.kubectl("exec ask -- /bin/busybox wget -qO- http://web/");
    assert!(told.contains("pod=web-"), "{when}: {told}");
    for (at, pod) in [(NODE_PORT, "web-"), (OWN, "hp")] {
        let ask = || get(at.parse()?, "/");
        for (who, answer) in [
            ("the client", bed.client.enter(ask)),
            ("the node", bed.server().space.enter(ask)),
        ] {
            let answer = answer.unwrap_or_else(|e| panic!("{when}: {who} at {at}: {e:#}"));
            let said = field(&answer, "pod");
            assert!(said.starts_with(pod), "{when}: {who} at {at}: {answer}");
        }
    }
}
